"""The keys of UDA.CVRN; see gbw_d2/config.py."""

from __future__ import annotations

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.config import CfgNode


def add_cvrn_keys(cfg: CfgNode) -> None:
    """Adds the keys of the strategy ``cvrn`` to ``cfg``, in place."""
    keys = cfg.UDA.CVRN = CfgNode()
    # Share of the run, 0..1, of the consistency stage, after which the target is labelled.
    keys.CONSISTENCY_SHARE = 0.8
    # Whether source and target images take on the colours of the previous target image.
    keys.RESTYLE = True
    # Range of the factor by which target images are resized for the second view.
    keys.SCALE_RANGE = (0.8, 1.2)
    # Weights of the distances between probabilities of pixels, and of proposals' classes and masks.
    keys.SEMANTIC_WEIGHT = 1.0
    keys.CLASS_WEIGHT = 0.005
    keys.MASK_WEIGHT = 0.001
    # Number of proposals per image to compare, by descending score (1000 in the released code).
    keys.PROPOSALS = 256
    # Portion of the pixels predicted as each class that are labelled, 0..1.
    keys.PORTION = 0.2
    # Weight of the losses on pseudo-labels, and of MRKLD on labelled pixels; 0 = off.
    keys.PSEUDO_LOSS_WEIGHT = 1.0
    keys.MRKLD_WEIGHT = 0.01
    # Whether accepted detections are instance pseudo-labels.
    keys.INSTANCE_PSEUDO_LABELS = True
    # Learning rate of the second stage as a multiple of BASE_LR; the schedule starts anew in it.
    keys.LR_FACTOR = 0.2
