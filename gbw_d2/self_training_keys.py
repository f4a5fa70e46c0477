"""The keys of UDA.SELF_TRAINING; see gbw_d2/config.py."""

from __future__ import annotations

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.config import CfgNode


def add_self_training_keys(cfg: CfgNode) -> None:
    """Adds the keys of the strategy ``self_training`` to ``cfg``, in place."""
    keys = cfg.UDA.SELF_TRAINING = CfgNode()
    # Maximum decay of the teacher's running mean: min(1 - 1 / (t + 1), EMA_DECAY) at step t.
    keys.EMA_DECAY = 0.999
    # True: also average buffers (statistics of batch norm); False: the teacher copies the
    # student's.
    keys.EMA_BUFFERS = False
    # Weight of the loss on mixed images.
    keys.LOSS_WEIGHT = 1.0
    # Pseudo-labels are weighted by the share of pixels whose confidence reaches this threshold ...
    keys.CONFIDENCE_THRESHOLD = 0.968
    # ... in the whole batch (batch, as in DACS and DAFormer), in their own image (image), or in
    # their own connected region of one label (segment).
    keys.CONFIDENCE_PER = "batch"
    # fixed: CONFIDENCE_THRESHOLD for all classes; adaptive: one per class, starting at 0, a running
    # mean of its most confident region (MC-PanDA++). Maximum momentum (on short runs the mean
    # covers a twentieth of the run), and the quantile of a region's confidence.
    keys.THRESHOLDS = "fixed"
    keys.THRESHOLD_MOMENTUM = 0.999
    keys.THRESHOLD_QUANTILE = 0.75
    # Share of the rows of a whole target image, at its top and bottom, whose pseudo-labels have
    # weight 0: the ego vehicle's hood has no class, and its wrong labels would spread. None = the
    # value of DATASETS.TARGET's dataset (ignore_rows).
    keys.IGNORE_TOP = None
    keys.IGNORE_BOTTOM = None
    # Probability and strength of colour jitter on a mixed image.
    keys.JITTER_PROBABILITY = 0.8
    keys.JITTER_STRENGTH = 0.2
    # Probability of blur, and the range of its standard deviation, pixels.
    keys.BLUR_PROBABILITY = 0.5
    keys.BLUR_SIGMA = (0.15, 1.15)
    # Weight of the distance to the initial encoder's features on the source; 0 = off.
    keys.FEATURE_DISTANCE_WEIGHT = 0.0
    # Feature map to compare; "" = the encoder's last one.
    keys.FEATURE_DISTANCE_MAP = ""
    # Classes to compare, those of DAFormer; names that the network lacks are skipped.
    keys.FEATURE_DISTANCE_CLASSES = (
        *("traffic light", "traffic sign", "person", "rider", "car"),
        *("truck", "bus", "train", "motorcycle", "bicycle"),
    )
    # Minimum share of a feature cell that one of these classes must cover.
    keys.FEATURE_DISTANCE_SHARE = 0.75
    # Whether the teacher's instances are targets where it is confident (panoptic networks only).
    keys.INSTANCE_PSEUDO_LABELS = False
    # Weight of the instance losses on source images onto which the teacher's target things are
    # pasted (LIDAPS' instance mixing); 0 = off, 1 in the paper.
    keys.INSTANCE_MIX_WEIGHT = 0.0
    # Minimum score of such a thing, and share of the run, 0..1, at its end, with instance mixing.
    keys.INSTANCE_MIX_SCORE = 0.75
    keys.INSTANCE_MIX_SHARE = 0.2
