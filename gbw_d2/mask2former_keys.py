"""The keys of MODEL.MASK2FORMER and of UDA.MASK_TEACHER; see gbw_d2/config.py."""

from __future__ import annotations

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.config import CfgNode


def add_mask2former_keys(cfg: CfgNode) -> None:
    """Adds the keys of ``GBWMask2Former`` to ``cfg``, in place."""
    keys = cfg.MODEL.MASK2FORMER = CfgNode()
    # Maps of the encoder, the finest first, which is the masks' resolution; all others are decoded.
    keys.IN_FEATURES = ("res2", "res3", "res4", "res5")
    # Number of queries, the maximum number of segments of an image, stuff included.
    keys.NUM_QUERIES = 100
    # Channels of both decoders, a multiple of 32 and of NUM_HEADS.
    keys.HIDDEN_DIM = 256
    keys.NUM_HEADS = 8
    keys.DROPOUT = 0.0
    # The pixel decoder: layers of deformable attention, points per head and level, feed-forward
    # channels.
    keys.ENCODER_LAYERS = 6
    keys.ENCODER_POINTS = 4
    keys.ENCODER_FEEDFORWARD = 1024
    # The transformer decoder.
    keys.DECODER_LAYERS = 9
    keys.DECODER_FEEDFORWARD = 2048
    # Factors of the losses, and of the costs for assigning segments to queries.
    keys.CLASS_WEIGHT = 2.0
    keys.MASK_WEIGHT = 5.0
    keys.DICE_WEIGHT = 5.0
    # Weight of "no object" in the class loss; it does not share the class weights' budget.
    keys.NO_OBJECT_WEIGHT = 0.1
    # Further factor of the source's mask losses (MC-PanDA++: 2).
    keys.SOURCE_MASK_FACTOR = 1.0
    # Points per mask, candidates per point, and the share of points chosen by uncertainty.
    keys.POINTS = 12544
    keys.OVERSAMPLE_RATIO = 3.0
    keys.IMPORTANCE_SAMPLE_RATIO = 0.75
    # True: each prediction of the decoder has its own class weights; False: all share them.
    keys.WEIGHTS_PER_LAYER = False
    # Inference: minimum probability of a query's class, and minimum share of its mask that it wins.
    keys.CLASS_THRESHOLD = 0.8
    keys.OVERLAP_THRESHOLD = 0.8


def add_mask_teacher_keys(cfg: CfgNode) -> None:
    """Adds the keys of the strategy ``mask_teacher`` to ``cfg``, in place."""
    keys = cfg.UDA.MASK_TEACHER = CfgNode()
    # Share of the run, 0..1, of a separate stage of source training; 0 = one stage only.
    keys.SOURCE_SHARE = 0.0
    # Share of the run that follows with a frozen teacher, the result of the source stage; without
    # such a stage MODEL.WEIGHTS must be a trained network.
    keys.BURN_IN_SHARE = 0.0
    # True: after the source stage the student is reset to its initial weights (MC-PanDA).
    keys.RESTART = True
    # Decay of the teacher's running mean, min(1 - 1 / (t + 1), EMA_DECAY), also of buffers.
    keys.EMA_DECAY = 0.999
    keys.EMA_BUFFERS = True
    # Weight of the losses on target images.
    keys.LOSS_WEIGHT = 1.0
    # A mask's loss is weighted by the share of its pixels whose confidence exceeds a threshold
    # (mask-wide loss scaling). fixed: CONFIDENCE_THRESHOLD for all classes; adaptive: one per
    # class, starting at 0.
    keys.MASK_SCALING = True
    keys.THRESHOLDS = "adaptive"
    keys.CONFIDENCE_THRESHOLD = 0.99
    # Adaptive thresholds: maximum momentum (on short runs they average over a twentieth of the
    # run), and the quantile of a segment's confidence.
    keys.THRESHOLD_MOMENTUM = 0.999
    keys.THRESHOLD_QUANTILE = 0.75
    # Masks are trained at points where some segment has at least this confidence.
    keys.POINT_FILTERING = True
    keys.POINT_THRESHOLD = 0.8
    # Smaller segments are dropped, pixels.
    keys.LEAST_AREA = 26
    # "No object" on target images: all (as published) | confident: weighted by the share of pixels
    # where some segment reaches POINT_THRESHOLD, so that objects that the teacher misses are
    # penalised less.
    keys.NO_OBJECT = "all"
    # Colour jitter and blur of target images, as in UDA.SELF_TRAINING.
    keys.JITTER_PROBABILITY = 0.8
    keys.JITTER_STRENGTH = 0.2
    keys.BLUR_PROBABILITY = 0.5
    keys.BLUR_SIGMA = (0.1, 2.0)
