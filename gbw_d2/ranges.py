"""Which numbers config keys may hold, in one table, checked in one place before anything runs.

Keys of WEIGHTING are declared with their schemes (gbw_d2/settings.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gbw_d2.composition import ConfigError
from gbw_d2.settings import Declaration


def _range(low: float | None = None, high: float | None = None, **more: bool) -> Declaration:
    return Declaration("", low, high, **more)


_SHARE = _range(0, 1)
_POSITIVE = _range(0, math.inf, low_excluded=True, high_excluded=True)
_NOT_NEGATIVE = _range(0, math.inf, high_excluded=True)
_FROM_ONE = _range(1)
_COUNT = _range(0)

# Key -> range of its number, or of each of its numbers.
RANGES: Mapping[str, Declaration] = {
    "SEED": _range(None, 2**32 - 1),
    "DATALOADER.NUM_WORKERS": _COUNT,
    "DATASETS.RARE_CLASS_SAMPLING.TEMPERATURE": _POSITIVE,
    "DATASETS.RARE_CLASS_SAMPLING.MIN_PIXELS": _COUNT,
    "DATASETS.RARE_CLASS_SAMPLING.CROP_RATIO": _NOT_NEGATIVE,
    "INPUT.CROP_SIZE": _FROM_ONE,
    "INPUT.SOURCE_SIZE": _FROM_ONE,
    "INPUT.TARGET_SIZE": _FROM_ONE,
    "INPUT.TEST_SIZE": _FROM_ONE,
    "INPUT.SCALE_RANGE": _POSITIVE,
    "INPUT.FLIP_PROBABILITY": _SHARE,
    "INPUT.MAX_CLASS_SHARE": _range(0, 1, low_excluded=True),
    "INPUT.COLOR_JITTER": _SHARE,
    "INPUT.GAUSSIAN_SIGMA": _POSITIVE,
    "INPUT.MIN_INSTANCE_AREA": _COUNT,
    "MODEL.AUXILIARY_HEAD.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.HRDA.DETAIL_SIZE": _FROM_ONE,
    "MODEL.HRDA.DETAIL_LOSS_SHARE": _SHARE,
    "MODEL.HRDA.ATTENTION_CHANNELS": _FROM_ONE,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": _range(0, 1, high_excluded=True),
    "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD": _SHARE,
    "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL": _FROM_ONE,
    "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE": _FROM_ONE,
    "MODEL.MASK2FORMER.NUM_QUERIES": _FROM_ONE,
    "MODEL.MASK2FORMER.HIDDEN_DIM": _FROM_ONE,
    "MODEL.MASK2FORMER.NUM_HEADS": _FROM_ONE,
    "MODEL.MASK2FORMER.DROPOUT": _range(0, 1, high_excluded=True),
    "MODEL.MASK2FORMER.ENCODER_LAYERS": _COUNT,
    "MODEL.MASK2FORMER.ENCODER_POINTS": _FROM_ONE,
    "MODEL.MASK2FORMER.DECODER_LAYERS": _FROM_ONE,
    "MODEL.MASK2FORMER.CLASS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.MASK_WEIGHT": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.DICE_WEIGHT": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.NO_OBJECT_WEIGHT": _POSITIVE,
    "MODEL.MASK2FORMER.SOURCE_MASK_FACTOR": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.POINTS": _FROM_ONE,
    "MODEL.MASK2FORMER.OVERSAMPLE_RATIO": _FROM_ONE,
    "MODEL.MASK2FORMER.IMPORTANCE_SAMPLE_RATIO": _SHARE,
    "MODEL.MASK2FORMER.CLASS_THRESHOLD": _SHARE,
    "MODEL.MASK2FORMER.OVERLAP_THRESHOLD": _SHARE,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE": _SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": _SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": _SHARE,
    "MODEL.PIXEL_STD": _POSITIVE,
    "SOLVER.MAX_ITER": _FROM_ONE,
    "SOLVER.IMS_PER_BATCH": _FROM_ONE,
    "SOLVER.GRADIENT_ACCUMULATION": _FROM_ONE,
    "SOLVER.LOG_PERIOD": _FROM_ONE,
    "SOLVER.CHECKPOINT_PERIOD": _FROM_ONE,
    "SOLVER.CHECKPOINTS_KEPT": _COUNT,
    "SOLVER.LR_ITERS": _COUNT,
    "SOLVER.BASE_LR": _NOT_NEGATIVE,
    "SOLVER.MOMENTUM": _range(0, 1, high_excluded=True),
    "SOLVER.WEIGHT_DECAY": _NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": _NOT_NEGATIVE,
    "SOLVER.HEAD_LR_FACTOR": _NOT_NEGATIVE,
    "SOLVER.LAYER_DECAY": _range(0, 1, low_excluded=True),
    "SOLVER.WARMUP_ITERS": _COUNT,
    "SOLVER.WARMUP_FACTOR": _SHARE,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
    "EVAL.PICTURES": _COUNT,
    "TEST.EVAL_PERIOD": _COUNT,
    "UDA.WARM_UP": _SHARE,
    "UDA.MASKED_CONSISTENCY.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.MASKED_CONSISTENCY.BLOCK": _FROM_ONE,
    "UDA.MASKED_CONSISTENCY.RATIO": _range(0, 1, high_excluded=True),
    "UDA.MIN_ENTROPY.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.MIN_ENTROPY.AUXILIARY_LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.MAX_SQUARES.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.MAX_SQUARES.IMAGE_WEIGHTING_RATIO": _range(None, 1),
    "UDA.MAX_SQUARES.THRESHOLD": _SHARE,
    "UDA.MAX_SQUARES.AUXILIARY_FACTOR": _NOT_NEGATIVE,
    "UDA.ADVERSARIAL.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.ADVERSARIAL.AUXILIARY_LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.ADVERSARIAL.CHANNELS": _FROM_ONE,
    "UDA.ADVERSARIAL.BASE_LR": _NOT_NEGATIVE,
    "UDA.ADVERSARIAL.BETAS": _range(0, 1, high_excluded=True),
    "UDA.ADVERSARIAL.DECAY_POWER": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.EMA_DECAY": _SHARE,
    "UDA.SELF_TRAINING.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD": _SHARE,
    "UDA.SELF_TRAINING.THRESHOLD_MOMENTUM": _SHARE,
    "UDA.SELF_TRAINING.THRESHOLD_QUANTILE": _SHARE,
    "UDA.SELF_TRAINING.JITTER_PROBABILITY": _SHARE,
    "UDA.SELF_TRAINING.JITTER_STRENGTH": _SHARE,
    "UDA.SELF_TRAINING.BLUR_PROBABILITY": _SHARE,
    "UDA.SELF_TRAINING.BLUR_SIGMA": _POSITIVE,
    "UDA.SELF_TRAINING.FEATURE_DISTANCE_WEIGHT": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.FEATURE_DISTANCE_SHARE": _SHARE,
    "UDA.MASK_TEACHER.SOURCE_SHARE": _SHARE,
    "UDA.MASK_TEACHER.BURN_IN_SHARE": _SHARE,
    "UDA.MASK_TEACHER.EMA_DECAY": _SHARE,
    "UDA.MASK_TEACHER.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.MASK_TEACHER.CONFIDENCE_THRESHOLD": _SHARE,
    "UDA.MASK_TEACHER.THRESHOLD_MOMENTUM": _SHARE,
    "UDA.MASK_TEACHER.THRESHOLD_QUANTILE": _SHARE,
    "UDA.MASK_TEACHER.POINT_THRESHOLD": _SHARE,
    "UDA.MASK_TEACHER.LEAST_AREA": _COUNT,
    "UDA.MASK_TEACHER.JITTER_PROBABILITY": _SHARE,
    "UDA.MASK_TEACHER.JITTER_STRENGTH": _SHARE,
    "UDA.MASK_TEACHER.BLUR_PROBABILITY": _SHARE,
    "UDA.MASK_TEACHER.BLUR_SIGMA": _POSITIVE,
    "UDA.CBST.LR_FACTOR": _NOT_NEGATIVE,
    "UDA.CBST.LR_DECAY": _NOT_NEGATIVE,
    "UDA.CBST.MIN_PIXELS_PER_CLASS": _COUNT,
    "UDA.CBST.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.CBST.PRIOR_KERNEL": _POSITIVE,
    "UDA.CBST.MINING_PROBABILITY": _SHARE,
    "UDA.CBST.MINING_SHARE": _SHARE,
    "UDA.CBST.MINING_CLASSES": _COUNT,
    "UDA.CBST.MRKLD_WEIGHT": _NOT_NEGATIVE,
    "UDA.CBST.LRENT_ALPHA": _POSITIVE,
}

# Keys that hold two numbers; those of sizes may be () too.
_BLURS = ("UDA.SELF_TRAINING.BLUR_SIGMA", "UDA.MASK_TEACHER.BLUR_SIGMA")
_PAIRS = ("INPUT.SCALE_RANGE", *_BLURS, "UDA.ADVERSARIAL.BETAS")
_SIZES = (
    *("INPUT.CROP_SIZE", "INPUT.SOURCE_SIZE", "INPUT.TARGET_SIZE", "INPUT.TEST_SIZE"),
    "MODEL.HRDA.DETAIL_SIZE",
)
# (least, greatest) in this order.
_ORDERED = ("INPUT.SCALE_RANGE", *_BLURS)


def check_ranges(cfg: Any) -> None:
    """Checks every number of :data:`RANGES`.

    Raises:
        ConfigError: the first that is out of its range, with key, value and range in one line.
    """
    for key, declared in RANGES.items():
        value = _value(cfg, key)
        many = isinstance(value, (list, tuple))
        if (key in _PAIRS and len(value) != 2) or (key in _SIZES and len(value) not in (0, 2)):
            expected = "(rows, columns), or () for none" if key in _SIZES else "two numbers"
            raise ConfigError(f"{key} is {value}; expected {expected}")
        numbers = value if many else (value,)
        if not all(_is_number(n) and declared.allows(n) for n in numbers):
            each = ", each of them " if many else ""
            raise ConfigError(f"{key} is {value!r}; expected {each}{declared.expected()}")
        if key in _ORDERED and value[0] > value[1]:
            raise ConfigError(f"{key} is {value}; expected (least, greatest)")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def _value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
