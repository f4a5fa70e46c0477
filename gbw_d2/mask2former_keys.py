"""The keys of MODEL.MASK2FORMER; see gbw_d2/config.py."""

from __future__ import annotations

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

from detectron2.config import CfgNode


def add_mask2former_keys(model: CfgNode) -> None:
    """Adds the keys of ``GBWMask2Former`` to the node ``MODEL``, in place."""
    keys = model.MASK2FORMER = CfgNode()
    # Maps of the encoder, the finest first: masks have its resolution, all others are decoded.
    keys.IN_FEATURES = ("res2", "res3", "res4", "res5")
    # Segments that an image can have, stuff included.
    keys.NUM_QUERIES = 100
    # Channels of both decoders, a multiple of 32 and of NUM_HEADS.
    keys.HIDDEN_DIM = 256
    keys.NUM_HEADS = 8
    keys.DROPOUT = 0.0
    # The pixel decoder: layers of deformable attention, places per head and level, channels inside.
    keys.ENCODER_LAYERS = 6
    keys.ENCODER_POINTS = 4
    keys.ENCODER_FEEDFORWARD = 1024
    # The transformer decoder.
    keys.DECODER_LAYERS = 9
    keys.DECODER_FEEDFORWARD = 2048
    # Factors of the losses, and of the costs by which segments are assigned to queries.
    keys.CLASS_WEIGHT = 2.0
    keys.MASK_WEIGHT = 5.0
    keys.DICE_WEIGHT = 5.0
    # Weight of "no object" within the class loss; it is outside the class weights' budget.
    keys.NO_OBJECT_WEIGHT = 0.1
    # Points per mask, candidates per point, and share that is chosen where masks are uncertain.
    keys.POINTS = 12544
    keys.OVERSAMPLE_RATIO = 3.0
    keys.IMPORTANCE_SAMPLE_RATIO = 0.75
    # True: each prediction of the decoder has class weights of its own; False: all share them.
    keys.WEIGHTS_PER_LAYER = False
    # Inference: least probability of a query's class, and least share of its mask that it wins.
    keys.CLASS_THRESHOLD = 0.8
    keys.OVERLAP_THRESHOLD = 0.8
