"""Mappers from records to samples: labelled (source), unlabelled (target) and for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from gbw_d2 import keys
from gbw_d2.data.augmentation import (
    AugmentationSettings,
    ClassesOf,
    WantedPixels,
    augment,
    resize_image,
)
from gbw_d2.data.formats.files import check_size, read_array, read_ids, read_image
from gbw_d2.data.spec import DatasetError, PanopticReader, Record, SegmentsInfo, SemanticReader
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace
from gbw_d2.ops.segments import class_map, distinct

Sample = dict[str, Any]
# Makes a network's own label entries of class map, segment map or None, and segments_info; see
# gbw_d2.modeling.protocol.TargetGenerator.
TargetGenerator = Callable[
    [np.ndarray, np.ndarray | None, SegmentsInfo], Mapping[str, torch.Tensor]
]
# Reads the image (H, W, 3) uint8 of a path as "RGB" or "BGR".
ImageReader = Callable[[str, str], np.ndarray]

# The only entries that a training sample takes over from its record, so that it contains no label.
RECORD_KEYS = (keys.FILE_NAME, keys.IMAGE_ID, keys.HEIGHT, keys.WIDTH)

# Instances are written as (class id + 1) x this number + 1, 2, ...
INSTANCES_PER_CLASS = 1000
_REMEDY = "delete the round's folder, whose labels are then made again"


def _read_checked_image(
    record: Record, image_format: str, read: ImageReader = read_image
) -> np.ndarray:
    image = read(record[keys.FILE_NAME], image_format)
    check_size(image, record[keys.HEIGHT], record[keys.WIDTH], record[keys.FILE_NAME])
    return image


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    # Always a copy: NumPy calls a flipped image of one column contiguous, but PyTorch rejects it.
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


class SourceMapper:
    """Reads an image with its labels and makes a training sample.

    Args:
        read_semantic: the dataset's semantic reader, in class ids of ``label_space``
            (``DatasetSpec.in_space``).
        read_panoptic: its panoptic reader; None for semantic-only training. If given, the semantic
            map is taken from the segments, which saves decoding a second file.
        label_space: classes of the network.
        augmentation: augmentation of image and labels.
        generate_targets: makes the network's own label entries.
        image_format: ``"RGB"`` or ``"BGR"``.
        read: reads the image.

    Raises:
        UserError: there is no reader, because the dataset has no labels.
    """

    def __init__(
        self,
        read_semantic: SemanticReader | None,
        read_panoptic: PanopticReader | None,
        label_space: LabelSpace,
        augmentation: AugmentationSettings,
        generate_targets: TargetGenerator,
        image_format: str = "RGB",
        read: ImageReader = read_image,
    ) -> None:
        if read_semantic is None and read_panoptic is None:
            raise UserError("the source has no labels; DATASETS.TRAIN needs a labelled dataset")
        self.read_semantic = read_semantic
        self.read_panoptic = read_panoptic
        self.label_space = label_space
        self.augmentation = augmentation
        self.image_format = image_format
        self.read = read
        self.generate_targets = generate_targets

    def __call__(
        self, record: Record, rng: np.random.Generator, wanted: WantedPixels | None = None
    ) -> Sample:
        """Makes the sample of a record.

        Args:
            record: one of the dataset's records.
            rng: the only source of randomness.
            wanted: a class (class id) that the crop should show.

        Returns:
            The record's ``file_name``, ``image_id``, ``height``, ``width``; the image (3, H, W)
            uint8; ``sem_seg`` (H, W) int64 class ids; with a panoptic reader ``segments`` (H, W)
            int32 and ``segments_info``; and the network's own label entries.
        """
        image = _read_checked_image(record, self.image_format, self.read)
        semantic, segment_map, segments = self._labels(record)
        label_maps = [(semantic, IGNORE_LABEL)] if semantic is not None else []
        classes_of: ClassesOf = np.asarray
        if segment_map is not None:
            label_maps.append((segment_map, 0))
        if semantic is None:
            # Class ids are computed from segments for the crop only.
            classes_of = partial(class_map, segments_info=segments)
        image, maps, _ = augment(image, label_maps, self.augmentation, rng, wanted, classes_of)

        sample: Sample = {key: record[key] for key in RECORD_KEYS}
        sample[keys.IMAGE] = _to_tensor(image)
        classes = classes_of(maps[0])
        sample[keys.SEM_SEG] = torch.from_numpy(classes.astype(np.int64))
        shown = None
        if segment_map is not None:
            shown = maps[-1].astype(np.int32)
            sample[keys.SEGMENTS] = torch.from_numpy(shown)
            sample[keys.SEGMENTS_INFO] = segments
        sample.update(self.generate_targets(classes, shown, segments))
        return sample

    def _labels(self, record: Record) -> tuple[np.ndarray | None, np.ndarray | None, SegmentsInfo]:
        """Returns the semantic map in class ids, the map of the segments, and their list.

        One of the maps may be None; without a semantic map the classes are those of the segments.
        """
        if self.read_panoptic is not None:
            return None, *self.read_panoptic(record)
        assert self.read_semantic is not None
        return self.read_semantic(record), None, []


class TargetMapper:
    """Makes a training sample without labels: it has no label reader and drops all label entries.

    Args:
        augmentation: augmentation of the image.
        image_format: ``"RGB"`` or ``"BGR"``.
        read: reads the image.
    """

    def __init__(
        self,
        augmentation: AugmentationSettings,
        image_format: str = "RGB",
        read: ImageReader = read_image,
    ) -> None:
        self.augmentation = augmentation
        self.image_format = image_format
        self.read = read

    def __call__(
        self, record: Record, rng: np.random.Generator, wanted: WantedPixels | None = None
    ) -> Sample:
        """Makes the sample of a record: ``RECORD_KEYS``, the image (3, H, W) uint8, its rows.

        Raises:
            ValueError: a wanted class is given, which requires labels.
        """
        if wanted is not None:
            raise ValueError("rare class sampling needs labels, which the target does not have")
        image = _read_checked_image(record, self.image_format, self.read)
        image, _, rows = augment(image, [], self.augmentation, rng)
        sample: Sample = {key: record[key] for key in RECORD_KEYS}
        sample[keys.IMAGE], sample[keys.IMAGE_ROWS] = _to_tensor(image), torch.from_numpy(rows)
        return sample


class _WrittenLabels(SourceMapper):
    """Reads the pseudo-labels that a strategy wrote; arguments as in the next class.

    Stuff pixels are labelled for the centre head, as stuff has no centres; things without a kept
    instance are void for the instance heads but keep their semantic label.
    """

    def __init__(
        self, folder: Path, instance_folder: Path | None, label_space: LabelSpace, **kwargs: Any
    ) -> None:
        super().__init__(self._read, None, label_space, **kwargs)
        self.folder = folder
        self.instance_folder = instance_folder

    def _read(self, record: Record) -> np.ndarray:
        path = self.folder / f"{record[keys.IMAGE_ID]}.png"
        labels = read_array(path, cv2.IMREAD_UNCHANGED, _REMEDY)
        count = self.label_space.num_classes
        if labels.ndim != 2 or labels.dtype != np.uint8 or not _are_classes(labels, count):
            raise DatasetError(
                f"'{path}' holds other values than class ids 0..{count - 1} and 255; {_REMEDY}"
            )
        return labels

    def _labels(self, record: Record) -> tuple[np.ndarray | None, np.ndarray | None, SegmentsInfo]:
        semantic = self._read(record)
        if self.instance_folder is None:
            return semantic, None, []
        path = self.instance_folder / f"{record[keys.IMAGE_ID]}.png"
        instances = read_ids(path, _REMEDY)
        _check_instances(instances, semantic.shape, self.label_space, path)
        # Numbers of stuff segments: class id + 1, below those of the first thing's instances.
        stuff = np.isin(semantic, self.label_space.stuff_ids) * (semantic.astype(np.int32) + 1)
        segment_map = np.where(instances > 0, instances, stuff)
        segments = [
            {
                "id": number,
                "category_id": number // INSTANCES_PER_CLASS - 1
                if number >= INSTANCES_PER_CLASS
                else number - 1,
                "iscrowd": 0,
            }
            for number in distinct(segment_map).tolist()
            if number > 0
        ]
        return semantic, segment_map, segments


def _are_classes(labels: np.ndarray, count: int) -> bool:
    return all(c < count or c == IGNORE_LABEL for c in distinct(labels).tolist())


def _check_instances(
    instances: np.ndarray, size: tuple[int, ...], space: LabelSpace, path: Path
) -> None:
    if instances.shape != size:
        raise DatasetError(f"'{path}' is of another size than its labels; {_REMEDY}")
    strange = [
        number
        for number in distinct(instances).tolist()
        if number and number // INSTANCES_PER_CLASS - 1 not in space.thing_ids
    ]
    if strange:
        raise DatasetError(
            f"'{path}' holds {strange[:3]}, which number no instance of a thing; {_REMEDY}"
        )


class PseudoLabelMapper:
    """Makes a training sample of a target image and its pseudo-labels.

    Args:
        folder: folder of ``<image id>.png``, 8-bit class ids, 255 = ignore, at any size.
        label_space: classes of the network.
        augmentation: augmentation of image and labels.
        image_format: ``"RGB"`` or ``"BGR"``.
        entry: name of the sample's entry for the label entries, a separate dictionary.
        instance_folder: folder of ``<image id>.png`` of the same size, a colour PNG file whose R +
            256 G + 65536 B is (class id + 1) x 1000 + number of the instance, from 1; 0 = none.
            None for semantic labels alone.
        generate_targets: as in :class:`SourceMapper`.
        read: reads the image.
    """

    def __init__(
        self,
        folder: Path,
        label_space: LabelSpace,
        augmentation: AugmentationSettings,
        image_format: str,
        entry: str,
        generate_targets: TargetGenerator,
        instance_folder: Path | None = None,
        read: ImageReader = read_image,
    ) -> None:
        self.entry = entry
        self.mapper = _WrittenLabels(
            folder,
            instance_folder,
            label_space,
            augmentation=augmentation,
            image_format=image_format,
            generate_targets=generate_targets,
            read=read,
        )

    def __call__(
        self, record: Record, rng: np.random.Generator, wanted: WantedPixels | None = None
    ) -> Sample:
        """Makes the sample of a record: ``RECORD_KEYS``, the image, and the pseudo-labels' entry.

        Args:
            record: a record of the target; its label entries are not used.
            rng: the only source of randomness.
            wanted: a class (class id) that the crop should show.
        """
        sample = self.mapper({key: record[key] for key in RECORD_KEYS}, rng, wanted)
        image = {key: sample.pop(key) for key in (*RECORD_KEYS, keys.IMAGE)}
        return {**image, self.entry: sample}


class TestMapper:
    """Adds the image to a record; evaluators read the labels themselves.

    Args:
        image_format: ``"RGB"`` or ``"BGR"``.
        resize: (rows, columns) of the network's input; None keeps the image's size. ``height``
            and ``width`` stay those of the file, so that Detectron2 models scale back to them.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, image_format: str = "RGB", resize: tuple[int, int] | None = None) -> None:
        self.image_format = image_format
        self.resize = resize

    def __call__(self, record: Record) -> Sample:
        """Returns the record and the image (3, H, W) uint8."""
        image = _read_checked_image(record, self.image_format)
        if self.resize is not None:
            image = resize_image(image, self.resize)
        return {**record, keys.IMAGE: _to_tensor(image)}
