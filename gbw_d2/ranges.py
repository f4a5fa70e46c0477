"""The table of allowed values of config keys, checked before a run starts.

The keys of WEIGHTING are declared with their schemes (gbw_d2/settings.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gbw_d2.composition import ConfigError
from gbw_d2.settings import Declaration


def _range(low: float | None = None, high: float | None = None, **more: Any) -> Declaration:
    return Declaration("", low, high, **more)


def _one_of(*numbers: int) -> Declaration:
    return Declaration("", choices=lambda: numbers)


_SHARE = _range(0, 1)
_POSITIVE = _range(0, math.inf, low_excluded=True, high_excluded=True)
_NOT_NEGATIVE = _range(0, math.inf, high_excluded=True)
_SHARE_BELOW_ONE = _range(0, 1, high_excluded=True)
_SHARE_ABOVE_NONE = _range(0, 1, low_excluded=True)
_FROM_ONE = _range(1, whole=True)
_COUNT = _range(0, whole=True)
# None: the value of another key.
_NOT_NEGATIVE_OR_NONE = _range(0, math.inf, high_excluded=True, also=(None,))
_SHARE_OR_NONE = _range(0, 1, also=(None,))


def _of_decoder(node: str) -> dict[str, Declaration]:
    """Returns the keys of a DeepLabV3+ decoder below ``node``."""
    keys = {
        "COMMON_STRIDE": _FROM_ONE,
        "PROJECT_CHANNELS": _FROM_ONE,
        "ASPP_CHANNELS": _FROM_ONE,
        "ASPP_DILATIONS": _FROM_ONE,
        "ASPP_DROPOUT": _SHARE_BELOW_ONE,
        "CONVS_DIM": _FROM_ONE,
        "HEAD_CHANNELS": _FROM_ONE,
    }
    return {f"{node}.{key}": declared for key, declared in keys.items()}


# Keys of Detectron2's RPN and RoI heads, which GBWPanopticFPN uses.
_DETECTOR: Mapping[str, Declaration] = {
    "MODEL.FPN.OUT_CHANNELS": _FROM_ONE,
    "MODEL.ANCHOR_GENERATOR.SIZES": _POSITIVE,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _POSITIVE,
    "MODEL.ANCHOR_GENERATOR.OFFSET": _SHARE_BELOW_ONE,
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _COUNT,
    # -1: anchors that leave the image are anchors too.
    "MODEL.RPN.BOUNDARY_THRESH": _range(-1, whole=True),
    "MODEL.RPN.IOU_THRESHOLDS": _SHARE,
    "MODEL.RPN.IOU_LABELS": _one_of(-1, 0, 1),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": _FROM_ONE,
    "MODEL.RPN.POSITIVE_FRACTION": _SHARE,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.RPN.BBOX_REG_WEIGHTS": _POSITIVE,
    "MODEL.RPN.SMOOTH_L1_BETA": _NOT_NEGATIVE,
    "MODEL.RPN.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": _FROM_ONE,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": _FROM_ONE,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": _FROM_ONE,
    "MODEL.RPN.POST_NMS_TOPK_TEST": _FROM_ONE,
    "MODEL.RPN.NMS_THRESH": _SHARE,
    # -1: as many as come in.
    "MODEL.RPN.CONV_DIMS": _range(1, whole=True, also=(-1,)),
    "MODEL.ROI_HEADS.NUM_CLASSES": _COUNT,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": _SHARE,
    "MODEL.ROI_HEADS.IOU_LABELS": _one_of(-1, 0, 1),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": _FROM_ONE,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _SHARE,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": _POSITIVE,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": _NOT_NEGATIVE,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": _FROM_ONE,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": _COUNT,
    "MODEL.ROI_BOX_HEAD.NUM_FC": _COUNT,
    "MODEL.ROI_BOX_HEAD.FC_DIM": _FROM_ONE,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": _COUNT,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": _FROM_ONE,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": _FROM_ONE,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": _COUNT,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": _COUNT,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": _FROM_ONE,
    "TEST.DETECTIONS_PER_IMAGE": _FROM_ONE,
}

# The range of each key's number, or of each of its numbers.
RANGES: Mapping[str, Declaration] = {
    "SEED": _range(None, 2**32 - 1, whole=True),
    "DATALOADER.NUM_WORKERS": _COUNT,
    "DATASETS.RARE_CLASS_SAMPLING.TEMPERATURE": _POSITIVE,
    "DATASETS.RARE_CLASS_SAMPLING.MIN_PIXELS": _COUNT,
    "DATASETS.RARE_CLASS_SAMPLING.CROP_RATIO": _NOT_NEGATIVE,
    "EVAL.LABEL_FREE_IMAGES": _COUNT,
    "INPUT.CROP_SIZE": _FROM_ONE,
    "INPUT.SOURCE_SIZE": _FROM_ONE,
    "INPUT.TARGET_SIZE": _FROM_ONE,
    "INPUT.TEST_SIZE": _FROM_ONE,
    "INPUT.SCALE_RANGE": _POSITIVE,
    "INPUT.SOURCE_SHORT_SIDES": _FROM_ONE,
    "INPUT.TARGET_SHORT_SIDES": _FROM_ONE,
    "INPUT.FLIP_PROBABILITY": _SHARE,
    "INPUT.MAX_CLASS_SHARE": _SHARE_ABOVE_NONE,
    "INPUT.COLOR_JITTER": _SHARE,
    "INPUT.GAUSSIAN_SIGMA": _POSITIVE,
    "INPUT.MIN_INSTANCE_AREA": _COUNT,
    "MODEL.PIXEL_MEAN": _range(0, 255),
    "MODEL.PIXEL_STD": _POSITIVE,
    "MODEL.BACKBONE.FREEZE_AT": _range(0, 5, whole=True),
    "MODEL.RESNETS.DEPTH": _one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.NUM_GROUPS": _FROM_ONE,
    "MODEL.RESNETS.WIDTH_PER_GROUP": _FROM_ONE,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _FROM_ONE,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _FROM_ONE,
    "MODEL.RESNETS.RES4_DILATION": _one_of(1, 2),
    "MODEL.RESNETS.RES5_DILATION": _one_of(1, 2, 4),
    "MODEL.RESNETS.RES5_MULTI_GRID": _FROM_ONE,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _FROM_ONE,
    # How many there are the encoder knows.
    "MODEL.TIMM.OUT_INDICES": _range(whole=True),
    "MODEL.TIMM.PYRAMID_CHANNELS": _FROM_ONE,
    "MODEL.TIMM.FREEZE_STAGES": _COUNT,
    "MODEL.AUXILIARY_HEAD.CHANNELS": _FROM_ONE,
    "MODEL.AUXILIARY_HEAD.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.HRDA.DETAIL_SIZE": _FROM_ONE,
    "MODEL.HRDA.DETAIL_LOSS_SHARE": _SHARE,
    "MODEL.HRDA.ATTENTION_CHANNELS": _FROM_ONE,
    # 0 = the label space's number.
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _range(0, 254, whole=True),
    **_of_decoder("MODEL.SEM_SEG_HEAD"),
    **_of_decoder("MODEL.INS_EMBED_HEAD"),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA": _COUNT,
    "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD": _SHARE,
    "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL": _FROM_ONE,
    "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE": _FROM_ONE,
    "MODEL.MASK2FORMER.NUM_QUERIES": _FROM_ONE,
    "MODEL.MASK2FORMER.HIDDEN_DIM": _FROM_ONE,
    "MODEL.MASK2FORMER.NUM_HEADS": _FROM_ONE,
    "MODEL.MASK2FORMER.DROPOUT": _SHARE_BELOW_ONE,
    "MODEL.MASK2FORMER.ENCODER_LAYERS": _COUNT,
    "MODEL.MASK2FORMER.ENCODER_POINTS": _FROM_ONE,
    "MODEL.MASK2FORMER.ENCODER_FEEDFORWARD": _FROM_ONE,
    "MODEL.MASK2FORMER.DECODER_FEEDFORWARD": _FROM_ONE,
    "MODEL.MASK2FORMER.DECODER_LAYERS": _FROM_ONE,
    "MODEL.MASK2FORMER.CLASS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.MASK_WEIGHT": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.DICE_WEIGHT": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.NO_OBJECT_WEIGHT": _POSITIVE,
    "MODEL.MASK2FORMER.SOURCE_MASK_FACTOR": _NOT_NEGATIVE,
    "MODEL.MASK2FORMER.POINTS": _FROM_ONE,
    "MODEL.MASK2FORMER.OVERSAMPLE_RATIO": _range(1, math.inf, high_excluded=True),
    "MODEL.MASK2FORMER.IMPORTANCE_SAMPLE_RATIO": _SHARE,
    "MODEL.MASK2FORMER.CLASS_THRESHOLD": _SHARE,
    "MODEL.MASK2FORMER.OVERLAP_THRESHOLD": _SHARE,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": _NOT_NEGATIVE,
    "MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE": _SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": _COUNT,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": _SHARE,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": _SHARE,
    **_DETECTOR,
    "SOLVER.MAX_ITER": _FROM_ONE,
    "SOLVER.IMS_PER_BATCH": _FROM_ONE,
    "SOLVER.GRADIENT_ACCUMULATION": _FROM_ONE,
    "SOLVER.LOG_PERIOD": _FROM_ONE,
    "SOLVER.CHECKPOINT_PERIOD": _FROM_ONE,
    "SOLVER.CHECKPOINTS_KEPT": _COUNT,
    "SOLVER.LR_ITERS": _COUNT,
    "SOLVER.BASE_LR": _NOT_NEGATIVE,
    "SOLVER.MOMENTUM": _SHARE_BELOW_ONE,
    "SOLVER.WEIGHT_DECAY": _NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": _NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_BIAS": _NOT_NEGATIVE_OR_NONE,
    "SOLVER.WEIGHT_DECAY_TABLES": _NOT_NEGATIVE_OR_NONE,
    "SOLVER.WEIGHT_DECAY_EMBEDDINGS": _NOT_NEGATIVE_OR_NONE,
    "SOLVER.GAMMA": _NOT_NEGATIVE,
    "SOLVER.STEPS": _COUNT,
    "SOLVER.POLY_LR_POWER": _NOT_NEGATIVE,
    "SOLVER.POLY_LR_CONSTANT_ENDING": _SHARE,
    "SOLVER.HEAD_LR_FACTOR": _NOT_NEGATIVE,
    "SOLVER.LAYER_DECAY": _SHARE_ABOVE_NONE,
    "SOLVER.WARMUP_ITERS": _COUNT,
    "SOLVER.WARMUP_FACTOR": _SHARE,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
    # Infinite: the greatest of all.
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _range(0, low_excluded=True),
    "EVAL.PICTURES": _COUNT,
    "TEST.EVAL_PERIOD": _COUNT,
    "UDA.WARM_UP": _SHARE,
    "UDA.MASKED_CONSISTENCY.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.MASKED_CONSISTENCY.BLOCK": _FROM_ONE,
    "UDA.MASKED_CONSISTENCY.RATIO": _SHARE_BELOW_ONE,
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
    "UDA.ADVERSARIAL.BETAS": _SHARE_BELOW_ONE,
    "UDA.ADVERSARIAL.DECAY_POWER": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.EMA_DECAY": _SHARE,
    "UDA.SELF_TRAINING.LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD": _SHARE,
    "UDA.SELF_TRAINING.THRESHOLD_MOMENTUM": _SHARE,
    "UDA.SELF_TRAINING.THRESHOLD_QUANTILE": _SHARE,
    "UDA.SELF_TRAINING.IGNORE_TOP": _SHARE_OR_NONE,
    "UDA.SELF_TRAINING.IGNORE_BOTTOM": _SHARE_OR_NONE,
    "UDA.SELF_TRAINING.JITTER_PROBABILITY": _SHARE,
    "UDA.SELF_TRAINING.JITTER_STRENGTH": _SHARE,
    "UDA.SELF_TRAINING.BLUR_PROBABILITY": _SHARE,
    "UDA.SELF_TRAINING.BLUR_SIGMA": _POSITIVE,
    "UDA.SELF_TRAINING.FEATURE_DISTANCE_WEIGHT": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.FEATURE_DISTANCE_SHARE": _SHARE,
    "UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT": _NOT_NEGATIVE,
    "UDA.SELF_TRAINING.INSTANCE_MIX_SCORE": _SHARE,
    "UDA.SELF_TRAINING.INSTANCE_MIX_SHARE": _SHARE,
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
    "UDA.CVRN.CONSISTENCY_SHARE": _SHARE,
    "UDA.CVRN.SCALE_RANGE": _POSITIVE,
    "UDA.CVRN.SEMANTIC_WEIGHT": _NOT_NEGATIVE,
    "UDA.CVRN.CLASS_WEIGHT": _NOT_NEGATIVE,
    "UDA.CVRN.MASK_WEIGHT": _NOT_NEGATIVE,
    "UDA.CVRN.PROPOSALS": _FROM_ONE,
    "UDA.CVRN.PORTION": _SHARE,
    "UDA.CVRN.PSEUDO_LOSS_WEIGHT": _NOT_NEGATIVE,
    "UDA.CVRN.MRKLD_WEIGHT": _NOT_NEGATIVE,
    "UDA.CVRN.LR_FACTOR": _NOT_NEGATIVE,
    "UDA.CBST.WARM_UP": _SHARE_BELOW_ONE,
    "UDA.CBST.ROUNDS": _FROM_ONE,
    "UDA.CBST.PORTION_START": _SHARE,
    "UDA.CBST.PORTION_STEP": _SHARE,
    "UDA.CBST.PORTION_MAX": _SHARE,
    "UDA.CBST.SOURCE_PORTION_START": _SHARE_ABOVE_NONE,
    "UDA.CBST.SOURCE_PORTION_STEP": _SHARE,
    "UDA.CBST.SOURCE_PORTION_MAX": _SHARE_ABOVE_NONE,
    "UDA.CBST.TARGET_PORTION": _SHARE_ABOVE_NONE,
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

# Names that Detectron2 looks up only after data have been made; names of this project are checked
# where they are read.
NAMES: Mapping[str, tuple[str, ...]] = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "MODEL.RESNETS.STEM_TYPE": ("basic", "deeplab"),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
}

# The allowed numbers of values of a key; sizes may also be ().
_BLURS = ("UDA.SELF_TRAINING.BLUR_SIGMA", "UDA.MASK_TEACHER.BLUR_SIGMA")
_SCALES = ("INPUT.SCALE_RANGE", "UDA.CVRN.SCALE_RANGE")
_SIZES = (
    *("INPUT.CROP_SIZE", "INPUT.SOURCE_SIZE", "INPUT.TARGET_SIZE", "INPUT.TEST_SIZE"),
    "MODEL.HRDA.DETAIL_SIZE",
)
LENGTHS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_SIZES, (0, 2)),
    **dict.fromkeys((*_SCALES, *_BLURS, "UDA.ADVERSARIAL.BETAS"), (2,)),
    **dict.fromkeys(("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.RES5_MULTI_GRID"), (3,)),
    **dict.fromkeys(("MODEL.RPN.BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"), (4,)),
}
_NUMBER_WORDS = ("no", "one", "two", "three", "four")
# Keys that hold (minimum, maximum) in this order.
_ORDERED = (*_SCALES, *_BLURS)


def check_ranges(cfg: Any) -> None:
    """Checks every number of :data:`RANGES` and every name of :data:`NAMES`.

    Raises:
        ConfigError: a value is out of range; the message names key, value and range in one line.
    """
    for key, names in NAMES.items():
        if _value(cfg, key) not in names:
            raise ConfigError(f"{key} is {_value(cfg, key)!r}; expected one of {', '.join(names)}")
    for key, declared in RANGES.items():
        value = _value(cfg, key)
        many = isinstance(value, (list, tuple))
        lengths = LENGTHS.get(key)
        if lengths and (not many or len(value) not in lengths):
            sizes = 0 in lengths
            words = f"{_NUMBER_WORDS[lengths[-1]]} numbers"
            expected = "(rows, columns), or () for none" if sizes else words
            raise ConfigError(f"{key} is {value}; expected {expected}")
        if not all(_is_number(n, declared) and declared.allows(n) for n in _flat(value)):
            each = "numbers, each of them " if many else ""
            raise ConfigError(f"{key} is {value!r}; expected {each}{declared.expected()}")
        if key in _ORDERED and value[0] > value[1]:
            raise ConfigError(f"{key} is {value}; expected (least, greatest)")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _is_number(value: Any, declared: Declaration) -> bool:
    if value is None:
        return None in declared.also
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
