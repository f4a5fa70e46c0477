"""Names of the entries of batches and results, defined only here."""

# Entries of records and samples (with Detectron2's names where it has one).
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
SEGMENTS = "segments"  # (H, W) int32 segment ids, 0 = void
# COCO dicts of these segments: id, category_id (class id, 255 = not a class), iscrowd
SEGMENTS_INFO = "segments_info"
# Of crops drawn for a class: pixels per class id 0..255, and (class id, whether the crop has as
# many pixels of it as requested).
CLASS_PIXELS = "class_pixels"
ASKED = "asked"
PANOPTIC_SEG = "panoptic_seg"  # inference output: ((H, W) int32 segment ids, segments_info)
INSTANCES = "instances"  # inference output: detectron2 Instances

# Loss terms: the images that a loss comes from. Weighting keeps its state per (head, term).
TERM_SOURCE = "source"
TERM_MIXED = "mixed"
TERM_PSEUDO = "pseudo"
TERM_MASKED = "masked"
TERM_PASTED = "pasted"
TERMS = (TERM_SOURCE, TERM_MIXED, TERM_PSEUDO, TERM_MASKED, TERM_PASTED)
