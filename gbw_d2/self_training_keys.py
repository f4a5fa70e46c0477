"""The keys of UDA.SELF_TRAINING; see gbw_d2/config.py."""

from __future__ import annotations

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.config import CfgNode


def add_self_training_keys(cfg: CfgNode) -> None:
    """Adds the keys of the strategy ``self_training`` to ``cfg``, in place."""
    keys = cfg.UDA.SELF_TRAINING = CfgNode()
    # Highest decay of the teacher's running mean: min(1 - 1 / (t + 1), EMA_DECAY) at step t.
    keys.EMA_DECAY = 0.999
    # Average the buffers (statistics of batch norm) too; False = the teacher takes the student's.
    keys.EMA_BUFFERS = False
    # Weight of the loss on mixed images.
    keys.LOSS_WEIGHT = 1.0
    # Pseudo-labels weigh as much as the share of pixels whose confidence reaches this ...
    keys.CONFIDENCE_THRESHOLD = 0.968
    # ... in the whole batch (batch, as in the references), in their own image (image), or in their
    # own connected region of one label (segment).
    keys.CONFIDENCE_PER = "batch"
    # fixed: CONFIDENCE_THRESHOLD for all classes; adaptive: one per class, from 0 on, that follows
    # the surest of its regions (MC-PanDA++). Highest momentum (on short runs the memory is a
    # twentieth of the run), and the quantile of a region's confidence.
    keys.THRESHOLDS = "fixed"
    keys.THRESHOLD_MOMENTUM = 0.999
    keys.THRESHOLD_QUANTILE = 0.75
    # Share of a target image's rows, of the whole wherever the crop is, at its top and bottom whose
    # pseudo-labels have weight 0: the own car's hood has no class, and what it is called spreads.
    # None = what DATASETS.TARGET says of its own images (ignore_rows).
    keys.IGNORE_TOP = None
    keys.IGNORE_BOTTOM = None
    # Probability, and strength, of colour jitter on a mixed image.
    keys.JITTER_PROBABILITY = 0.8
    keys.JITTER_STRENGTH = 0.2
    # Probability of blur, and the range of its standard deviation, pixels.
    keys.BLUR_PROBABILITY = 0.5
    keys.BLUR_SIGMA = (0.15, 1.15)
    # Weight of the distance to the initial encoder's features on the source; 0 = off.
    keys.FEATURE_DISTANCE_WEIGHT = 0.0
    # Feature map that is compared; "" = the encoder's last one.
    keys.FEATURE_DISTANCE_MAP = ""
    # Classes that are compared, those of DAFormer; names that the network lacks are passed over.
    keys.FEATURE_DISTANCE_CLASSES = (
        *("traffic light", "traffic sign", "person", "rider", "car"),
        *("truck", "bus", "train", "motorcycle", "bicycle"),
    )
    # Share of a feature cell that one of these must cover to be compared.
    keys.FEATURE_DISTANCE_SHARE = 0.75
    # Centres and offsets of the teacher as targets where it is confident (panoptic networks only).
    keys.INSTANCE_PSEUDO_LABELS = False
    # Weight of the instance losses on source pictures with the teacher's things of the target
    # pasted on them (LIDAPS' instance mixing); 0 = off, 1 in the paper.
    keys.INSTANCE_MIX_WEIGHT = 0.0
    # Least score of such a thing, and share of the run, 0..1, at its end in which that is done.
    keys.INSTANCE_MIX_SCORE = 0.75
    keys.INSTANCE_MIX_SHARE = 0.2
