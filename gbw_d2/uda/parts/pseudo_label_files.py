"""The files of a round of self-training: one PNG file per image, and files about all of them.

    <folder>/thresholds.json     written first: the network that made the labels, their thresholds
    <folder>/labels/<id>.png     8 bit class ids, 255 = ignore
    <folder>/instances/<id>.png  of panoptic networks: a colour PNG file, as COCO codes segments:
                                 R + 256 G + 65536 B = (class id + 1) x 1000 + number, 0 = none
    <folder>/pixels.npy          number of labelled pixels (images, K) by class id, in image order
    <folder>/round.json          written last: the labels are complete

Every file is written under a temporary name and then renamed, so that existing files are complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from gbw_d2.class_tables import colors_of_ids
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.plain_files import ContentError, read_json


class PseudoLabelError(UserError):
    """Pseudo-labels are missing, or cannot be read or written."""


def weights_digest(network: nn.Module) -> str:
    """Returns a short digest of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().cpu().flatten()
        # NumPy has no bfloat16, so the bytes are looked at.
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return digest.hexdigest()[:24]


class RoundFiles:
    """The files of one round; all of them belong to one key.

    Args:
        folder: the round's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labels = folder / "labels"
        self.instances = folder / "instances"
        self._thresholds = folder / "thresholds.json"
        self._summary = folder / "round.json"
        self._pixels = folder / "pixels.npy"

    def start(self, key: Mapping[str, Any]) -> None:
        """Makes the folder, and empties it if its files belong to another key."""
        try:
            if self.folder.exists() and self.thresholds().get("key") != dict(key):
                shutil.rmtree(self.folder)
            self.labels.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def thresholds(self) -> dict[str, Any]:
        """Returns what :meth:`write_thresholds` wrote, or {} if there is nothing."""
        return _read_json(self._thresholds)

    def write_thresholds(self, content: Mapping[str, Any]) -> None:
        """Writes the first file; ``content`` holds the key."""
        _write(self._thresholds, _as_json(content))

    def summary(self) -> dict[str, Any]:
        """Returns the last file's content, or {} if the labels are not complete."""
        return _read_json(self._summary)

    def chosen(self, num_classes: int) -> dict[str, Any]:
        """Returns what :meth:`write_thresholds` wrote, after checking that a round can use it.

        Args:
            num_classes: K.

        Raises:
            PseudoLabelError: an entry is missing or invalid.
        """
        content = self.thresholds()
        try:
            for name in ("thresholds", "predicted", "instance_thresholds", "instances"):
                _check_numbers(name, content[name], num_classes)
            shift = content["key"]["logit_shift"]
            _check_numbers("logit_shift", shift, num_classes if shift else 0)
            images = content["images"]
            if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
                raise ContentError("images are no names")
        except (ContentError, LookupError, TypeError) as error:
            raise PseudoLabelError(
                f"'{self._thresholds}' is damaged ({error}); delete its folder"
            ) from error
        return content

    def pixels(self, images: int, num_classes: int) -> np.ndarray:
        """Returns the labelled pixels (images, K) of :meth:`finish`.

        Raises:
            PseudoLabelError: the file cannot be read, or does not fit the images and classes.
        """
        try:
            found = np.load(self._pixels, allow_pickle=False)
        # For a damaged header NumPy passes on any error of Python's parser or of an archive.
        except Exception as error:
            raise PseudoLabelError(
                f"cannot read '{self._pixels}' ({_first_line(error)}); delete its folder"
            ) from error
        shape = getattr(found, "shape", None)
        if shape != (images, num_classes) or found.dtype.kind not in "iu" or (found < 0).any():
            raise PseudoLabelError(
                f"'{self._pixels}' does not hold the pixels of {images} images and {num_classes} "
                "classes; delete its folder"
            )
        return found

    def finish(self, pixels: np.ndarray, summary: Mapping[str, Any]) -> None:
        """Writes the labelled pixels (images, K) and, last of all, the summary."""
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        _write(self._pixels, buffer.getvalue())
        _write(self._summary, _as_json(summary))

    def path_of(self, image_id: str) -> Path:
        """Returns where an image's labels are, or would be."""
        return self.labels / f"{image_id}.png"

    def write_labels(
        self, image_id: str, labels: np.ndarray, instances: np.ndarray | None = None
    ) -> None:
        """Writes an image's labels, after its instances, so that labels never exist without them.

        Args:
            image_id: of the image.
            labels: (H, W) uint8 class ids, 255 = ignore.
            instances: (H, W) int32, (class id + 1) x 1000 + number, 0 = none; or None for no
                instances.
        """
        assert labels.dtype == np.uint8
        if instances is not None:
            _write_png(self.instances / f"{image_id}.png", colors_of_ids(instances))
        _write_png(self.path_of(image_id), labels)

    def read_labels(self, image_id: str) -> np.ndarray:
        """Returns the labels of an image as they were written."""
        path = self.path_of(image_id)
        try:
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            labels = None
        if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
            raise PseudoLabelError(f"cannot read '{path}' as labels of 8 bits; delete it")
        return labels


def _as_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ContentError(f"found a {type(content).__name__}")
    except (OSError, ContentError) as error:
        raise PseudoLabelError(f"cannot read '{path}' ({error}); delete its folder") from error
    return content


def _check_numbers(name: str, found: Any, count: int) -> None:
    right = isinstance(found, list) and len(found) == count
    if not right or not all(type(v) in (int, float) and math.isfinite(v) for v in found):
        raise ContentError(f"{name} are not {count} numbers")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _write_png(path: Path, array: np.ndarray) -> None:
    _write(path, cv2.imencode(".png", array)[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> PseudoLabelError:
    return PseudoLabelError(
        f"cannot write '{path}' ({error.strerror}); make room on the disk and go on with --resume"
    )
