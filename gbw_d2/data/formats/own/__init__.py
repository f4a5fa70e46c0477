"""Your own data: folders of images, labels and instances, described by one YAML or JSON file.

    label_space: own               # or cityscapes: the names are of Cityscapes' 19 classes
    classes:                       # class -> its value(s) in the label files
      road: 1
      car: [4, 5]
      void: [0, 255]
    things: [car]
    splits:
      source: {images: synthetic/images, labels: synthetic/labels, instances: synthetic/instances}
      target: {images: real/images}                  # images are all that a target needs

Paths are relative to the file. In a config, a split is called ``file.yaml:split``, and the file's
path is relative to the datasets' root; ``DATASETS.LABEL_SPACE`` may be the path of such a file.
docs/your_own_data.md walks through examples.
"""

from gbw_d2.data.formats.own.dataset import own_dataset, own_label_space
from gbw_d2.data.formats.own.description import (
    OwnData,
    OwnSplit,
    describes_own_data,
    is_description,
    read_description,
)
from gbw_d2.data.formats.own.listing import load_split

__all__ = [
    "OwnData",
    "OwnSplit",
    "describes_own_data",
    "is_description",
    "load_split",
    "own_dataset",
    "own_label_space",
    "read_description",
]
