"""Detectron2's config keys without effect in this project, which are reported if set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError, add_gbw_config

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

_NO_DETECTOR = "this network does not have it"
_NO_SCALES = "INPUT.SCALE_RANGE, INPUT.SOURCE_SIZE and INPUT.TARGET_SIZE set the size"
_TEST_SIZE = "INPUT.TEST_SIZE sets the size at test time"
_ORDER = "images come in the order of SEED; DATASETS.RARE_CLASS_SAMPLING draws rare classes"
_PLAIN_TEST = "nothing like it exists here; demo.py averages views, evaluation does not"

# What to do instead, by key or by prefix of several keys.
UNREAD: Mapping[str, str] = {
    "MODEL.LOAD_PROPOSALS": _NO_DETECTOR,
    "MODEL.MASK_ON": _NO_DETECTOR,
    "MODEL.KEYPOINT_ON": _NO_DETECTOR,
    "MODEL.ANCHOR_GENERATOR": _NO_DETECTOR,
    "MODEL.PROPOSAL_GENERATOR": _NO_DETECTOR,
    "MODEL.RPN": _NO_DETECTOR,
    "MODEL.ROI_HEADS": _NO_DETECTOR,
    "MODEL.ROI_BOX_HEAD": _NO_DETECTOR,
    "MODEL.ROI_BOX_CASCADE_HEAD": _NO_DETECTOR,
    "MODEL.ROI_MASK_HEAD": _NO_DETECTOR,
    "MODEL.ROI_KEYPOINT_HEAD": _NO_DETECTOR,
    "MODEL.RETINANET": _NO_DETECTOR,
    "MODEL.FPN": _NO_DETECTOR,
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": _NO_DETECTOR,
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": _NO_DETECTOR,
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": _NO_DETECTOR,
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": _NO_DETECTOR,
    "MODEL.PANOPTIC_FPN.COMBINE.ENABLED": "panoptic networks always merge",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": "void is always 255; a data.yaml says which labels are void",
    "MODEL.SEM_SEG_HEAD.LOSS_TOP_K": "the semantic loss takes all pixels; WEIGHTING weights them",
    "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY": "images are padded to what the backbone needs",
    "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED": "tools/benchmark.py measures",
    "INPUT.MIN_SIZE_TRAIN": _NO_SCALES,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _NO_SCALES,
    "INPUT.MAX_SIZE_TRAIN": _NO_SCALES,
    "INPUT.MIN_SIZE_TEST": _TEST_SIZE,
    "INPUT.MAX_SIZE_TEST": _TEST_SIZE,
    "INPUT.RANDOM_FLIP": "INPUT.FLIP_PROBABILITY sets flips",
    "INPUT.CROP": "INPUT.CROP_SIZE sets the crop, INPUT.MAX_CLASS_SHARE what one class may cover",
    "INPUT.MASK_FORMAT": "instances are read from label maps",
    "INPUT.IGNORE_STUFF_IN_OFFSET": "stuff never has offsets here",
    "INPUT.SMALL_INSTANCE_AREA": "WEIGHTING.HEADS weights instances by class",
    "INPUT.SMALL_INSTANCE_WEIGHT": "WEIGHTING.HEADS weights instances by class",
    "INPUT.IGNORE_CROWD_IN_SEMANTIC": "crowds keep their class in the semantic labels",
    "DATASETS.PROPOSAL_FILES_TRAIN": _NO_DETECTOR,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _NO_DETECTOR,
    "DATASETS.PROPOSAL_FILES_TEST": _NO_DETECTOR,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _NO_DETECTOR,
    "DATALOADER.ASPECT_RATIO_GROUPING": _ORDER,
    "DATALOADER.SAMPLER_TRAIN": _ORDER,
    "DATALOADER.REPEAT_THRESHOLD": _ORDER,
    "DATALOADER.REPEAT_SQRT": _ORDER,
    "DATALOADER.RANDOM_SUBSET_RATIO": _ORDER,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": _ORDER,
    "SOLVER.REFERENCE_WORLD_SIZE": "SOLVER.GRADIENT_ACCUMULATION makes a batch fit fewer GPUs",
    "SOLVER.BIAS_LR_FACTOR": "SOLVER.HEAD_LR_FACTOR and SOLVER.LAYER_DECAY scale learning rates",
    "TEST.EXPECTED_RESULTS": "results.json holds the results",
    "TEST.KEYPOINT_OKS_SIGMAS": _NO_DETECTOR,
    "TEST.DETECTIONS_PER_IMAGE": "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE limits instances",
    "TEST.AUG": _PLAIN_TEST,
    "TEST.PRECISE_BN": "statistics of batch norms are frozen",
    "VIS_PERIOD": "EVAL.PICTURES draws pictures at each evaluation",
    "GLOBAL": "nothing here has hacks",
}


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (full name, value) of every key of a config."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def advice(key: str) -> str | None:
    """Returns what to do instead of setting a key, or None if the key has an effect."""
    while key:
        if key in UNREAD:
            return UNREAD[key]
        key = key.rpartition(".")[0]
    return None


def check_unread(cfg: CfgNode) -> None:
    """Checks that no key without effect is set.

    An external architecture lists the keys that it reads in ``detectron2_keys``.

    Raises:
        ConfigError: such a key is set; the message names what to use instead.
    """
    defaults = get_cfg()
    add_gbw_config(defaults)
    values = dict(leaves(defaults))
    name = cfg.MODEL.META_ARCHITECTURE
    network = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    read = tuple(getattr(network, "detectron2_keys", ()))
    for key, value in leaves(cfg):
        instead = advice(key)
        default = values.get(key, value)
        same = _plain(value) == _plain(default)
        if instead is not None and not same and not key.startswith(read):
            raise ConfigError(
                f"{key} is {value!r}, but nothing here reads this key of Detectron2, so it would "
                f"change nothing; leave it at {default!r}: {instead}"
            )


def _plain(value: Any) -> Any:
    """Converts tuples to lists, because YAML has no tuples."""
    return list(value) if isinstance(value, tuple) else value
