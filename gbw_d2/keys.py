"""Names of batch, output and loss entries: each string is spelt here and nowhere else."""

# Records and mapped samples (Detectron2's own names where it has one).
FILE_NAME = "file_name"
IMAGE_ID = "image_id"
DRAW = "draw"  # int, number of a training sample in its stream; keys the strategies' random draws
IMAGE = "image"  # (3, H, W) uint8, in INPUT.FORMAT order
# (H,) float32, place of each row in the whole image: 0 upper edge, 1 lower edge, more on padding
IMAGE_ROWS = "image_rows"
HEIGHT = "height"  # pixels of the file on disk
WIDTH = "width"
# In a sample: (H, W) int64 class ids, 255 = ignore. In an inference output: (K, H, W) logits.
SEM_SEG = "sem_seg"
CENTER = "center"  # (H, W) float32 heat map, 0..1
CENTER_WEIGHTS = "center_weights"  # (H, W) float32: 1 where the centre loss applies, 0 elsewhere
OFFSET = "offset"  # (2, H, W) float32, (dy, dx) in pixels from the pixel to its instance's centre
OFFSET_WEIGHTS = "offset_weights"  # (H, W) float32: 1 on non-crowd thing pixels
INSTANCE_CLASS = "instance_class"  # (H, W) int64 class id of the pixel's thing, 255 elsewhere
PANOPTIC_SEG = "panoptic_seg"  # inference output: ((H, W) int32 segment ids, segments_info)
INSTANCES = "instances"  # inference output: detectron2 Instances

# Model outputs in training.
SEMANTIC_LOGITS = "semantic_logits"  # (N, K, H, W) at input resolution
AUXILIARY_LOGITS = "auxiliary_logits"  # (N, K, H, W) at input resolution
AUXILIARY_FEATURES = "auxiliary_features"  # (N, D', h', w'): the auxiliary classifier's input
AUXILIARY_CLASSIFIER_LOGITS = "auxiliary_classifier_logits"  # (N, K, h', w')
CLASSIFIER_FEATURES = "classifier_features"  # (N, D, h, w): the classifier's input
CLASSIFIER_LOGITS = "classifier_logits"  # (N, K, h, w): logits at classifier resolution

# Loss terms: which images a loss comes from. Weighting keeps its running state per (head, term).
TERM_SOURCE = "source"
TERM_MIXED = "mixed"
TERM_PSEUDO = "pseudo"

# Losses.
LOSS_SEMANTIC = "loss_semantic"
LOSS_AUXILIARY = "loss_auxiliary"
LOSS_CENTER = "loss_center"
LOSS_OFFSET = "loss_offset"
