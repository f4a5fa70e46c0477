"""Finds datasets and label spaces by the names that configs give them."""

from __future__ import annotations

from functools import partial

# Importing these modules registers their datasets. A new dataset needs one file and one line here.
from gbw_d2.catalog import (  # noqa: F401
    acdc,
    camvid,
    cityscapes,
    crosscity,
    foggy_cityscapes,
    gta5,
    mapillary_vistas,
    synthia,
    toy,
    urbansyn,
)
from gbw_d2.catalog.registration import DATASETS, register_dataset
from gbw_d2.data.formats.own import (
    describes_own_data,
    is_description,
    own_dataset,
    own_label_space,
)
from gbw_d2.data.spec import DatasetSpec, Record
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES, LabelSpace


def get_dataset(name: str) -> DatasetSpec:
    """Returns the dataset called ``name``.

    Args:
        name: a registered name, or ``file.yaml:split``, a split of your own data
            (:mod:`gbw_d2.data.formats.own`), which this call registers.

    Raises:
        UnknownNameError: no such dataset; the message lists the known ones.
        DatasetError: the file cannot be read or has no such split.
    """
    if not describes_own_data(name):
        return DATASETS.get(name)
    spec = own_dataset(name)
    return spec if name in DATASETS else register_dataset(spec)


def find_label_space(name: str) -> LabelSpace:
    """Returns the label space that a config names, and registers it in ``LABEL_SPACES``.

    Args:
        name: a built-in label space, or the path of a data.yaml relative to the datasets' root.

    Raises:
        UnknownNameError: it is neither; the message lists the built-in label spaces.
        DatasetError: the file cannot be read.
    """
    return (
        LABEL_SPACES.adopt(own_label_space(name))
        if is_description(name)
        else LABEL_SPACES.get(name)
    )


def _load(name: str) -> list[Record]:
    return get_dataset(name).load()


def register_with_detectron2() -> None:
    """Registers every dataset in Detectron2's ``DatasetCatalog`` and ``MetadataCatalog``, once."""
    from gbw_d2 import compat  # noqa: F401, I001  (repairs must come before Detectron2)
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in DATASETS:
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, partial(_load, name))
        space = DATASETS.get(name).label_space
        classes = () if space is None else space.classes
        MetadataCatalog.get(name).set(
            ignore_label=IGNORE_LABEL,
            stuff_classes=[c.name for c in classes],
            stuff_colors=[c.color for c in classes],
            thing_classes=[c.name for c in classes if c.is_thing],
            thing_colors=[c.color for c in classes if c.is_thing],
            evaluator_type="gbw_d2",
        )
