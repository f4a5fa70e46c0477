"""A cache of decoded images and labels on disk, of which crops are read by memory mapping.

An entry is one file: a header with a stamp of its source files, then the array's bytes. It is made
when an image is first drawn, written atomically, and made again if its source has changed or the
entry is damaged; so any number of processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2 import keys
from gbw_d2.data.formats.files import read_image, warn_once
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record, SegmentsInfo
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import replacing
from gbw_d2.label_spaces import LabelSpace, training_table

ImageReader = Callable[[str, str], np.ndarray]
# An array and, for panoptic labels, the list of its segments.
Decoded = tuple[np.ndarray, SegmentsInfo | None]

# The version, to be raised whenever the same files would give another array, or the format of an
# entry changes.
VERSION = 2
SUFFIX = ".decoded"
_MAGIC = b"gbw_d2.d"
# Magic bytes, the header's length, and its checksum.
_START = 16
# The array begins at a multiple of this, so that it can be memory-mapped.
_PAGE = 4096
_KEY = "DATALOADER.DECODED_CACHE"
_PANOPTIC, _SEMANTIC = "panoptic", "semantic"
# Bytes per pixel; segment ids above 65535 need four.
_BYTES = {_PANOPTIC: 2, _SEMANTIC: 1}

logger = logging.getLogger(__name__)


class DecodedCache:
    """A folder of decoded images and labels.

    Args:
        folder: the folder, made if it is missing; several datasets may share it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        # Entries whose checksum this process has already verified.
        self._sound: set[Path] = set()

    def read_image(self, path: str, image_format: str) -> np.ndarray:
        """Reads an image as :func:`gbw_d2.data.formats.files.read_image` does; read-only."""
        decode = partial(_decode_image, path, image_format)
        return self._get(self._entry(f"image {image_format}", path), _stamp([path]), decode)[0]

    def kept(self, spec: DatasetSpec, space: LabelSpace) -> DatasetSpec:
        """Returns a dataset in the class ids of ``space`` whose labels are cached here.

        Its maps are read-only, with the smallest unsigned type that holds their ids.

        Args:
            spec: a labelled dataset.
            space: as in :meth:`gbw_d2.data.spec.DatasetSpec.in_space`.
        """
        learned = spec.in_space(space)
        kind = _kind(spec, space, _PANOPTIC), _kind(spec, space, _SEMANTIC)
        panoptic, semantic = learned.read_panoptic, learned.read_semantic
        return replace(
            learned,
            read_panoptic=panoptic and partial(self._read_panoptic, kind[0], panoptic),
            read_semantic=semantic and partial(self._read_semantic, kind[1], semantic),
        )

    def announce(
        self,
        records: Sequence[Record],
        image_format: str,
        labels: tuple[DatasetSpec, LabelSpace, bool] | None = None,
    ) -> None:
        """Logs how much disk space a dataset will need in the cache.

        Args:
            records: its images.
            image_format: ``"RGB"`` or ``"BGR"``.
            labels: the dataset, the network's label space, and whether panoptic labels are read;
                None for images alone.

        Raises:
            DatasetError: the disk has too little free space, or the folder cannot be made.
        """
        parts = [(f"image {image_format}", 3)]
        if labels is not None:
            form = _PANOPTIC if labels[2] else _SEMANTIC
            parts.append((_kind(labels[0], labels[1], form), _BYTES[form]))
        missing = sum(
            size * record[keys.HEIGHT] * record[keys.WIDTH] + _PAGE
            for record in records
            for kind, size in parts
            if not self._entry(kind, record[keys.FILE_NAME]).is_file()
        )
        if not missing:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self._unwritable(error) from error
        words = (
            f"{_KEY} '{self.folder}': what is not there yet of {len(records)} images"
            f"{' and their labels' if labels else ''} takes about {missing / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free"
        )
        if missing > free:
            raise DatasetError(f"{words}; give a folder on a larger disk, or '' for no cache")
        logger.info("%s; it is made as images are drawn", words)

    def _read_semantic(
        self, kind: str, read: Callable[[Record], np.ndarray], record: Record
    ) -> np.ndarray:
        decode = partial(_decode_semantic, read, record)
        return self._get(self._entry(kind, record[keys.FILE_NAME]), _labels_of(record), decode)[0]

    def _read_panoptic(
        self, kind: str, read: Callable[[Record], Any], record: Record
    ) -> tuple[np.ndarray, SegmentsInfo]:
        decode = partial(_decode_panoptic, read, record)
        entry = self._entry(kind, record[keys.FILE_NAME])
        segment_map, segments = self._get(entry, _labels_of(record), decode)
        assert segments is not None
        return segment_map, segments

    def _entry(self, kind: str, image: str) -> Path:
        name = hashlib.sha256(f"{VERSION} {kind} {os.path.abspath(image)}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:32]}{SUFFIX}"

    def _get(self, entry: Path, stamp: str, decode: Callable[[], Decoded]) -> Decoded:
        found = self._load(entry, stamp)
        if found is None:
            found = decode()
            self._save(entry, stamp, *found)
        return found

    def _load(self, entry: Path, stamp: str) -> Decoded | None:
        """Maps an entry into memory; None if it is missing, outdated or damaged."""
        try:
            with entry.open("rb") as file:
                head = _read_head(file)
                if head["stamp"] != stamp:
                    return None
                shape, begin = tuple(head["shape"]), head["begin"]
                # This raises ValueError if the file is too short.
                mapped = np.memmap(file, np.dtype(head["dtype"]), "r", begin, shape)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return _damaged(entry, error)
        array = mapped.view(np.ndarray)
        if entry not in self._sound:
            if zlib.crc32(array.data) != head["sum"]:
                return _damaged(entry, "its bytes have changed")
            self._sound.add(entry)
        return array, head["segments"]

    def _save(
        self, entry: Path, stamp: str, array: np.ndarray, segments: SegmentsInfo | None
    ) -> None:
        array = np.ascontiguousarray(array)
        head = {
            "stamp": stamp,
            "shape": array.shape,
            "dtype": array.dtype.str,
            "sum": zlib.crc32(array.data),
            "segments": segments,
        }
        try:
            with replacing(entry) as temporary, temporary.open("wb") as file:
                file.write(_head_bytes(head))
                file.write(array.data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return DatasetError(
            f"{_KEY} '{self.folder}' cannot be written to ({error.strerror}); give a folder with "
            "room that you may write to, or '' for no cache"
        )


def _decode_image(path: str, image_format: str) -> Decoded:
    return read_image(path, image_format), None


def _decode_semantic(read: Callable[[Record], np.ndarray], record: Record) -> Decoded:
    return read(record), None


def _decode_panoptic(
    read: Callable[[Record], tuple[np.ndarray, SegmentsInfo]], record: Record
) -> Decoded:
    segment_map, segments = read(record)
    return segment_map.astype(np.min_scalar_type(int(segment_map.max(initial=0)))), segments


def _kind(spec: DatasetSpec, space: LabelSpace, form: str) -> str:
    """Describes what labels depend on in addition to their files: reader, settings and classes."""
    read = spec.read_panoptic if form == _PANOPTIC else spec.read_semantic
    reader = getattr(read, "func", read)  # of a partial
    table = training_table(spec.classes, space)
    classes = hashlib.sha256(table.tobytes() + space.is_thing.tobytes()).hexdigest()
    return f"{form} {getattr(reader, '__module__', '')} {spec.label_key} {classes}"


def _labels_of(record: Record) -> str:
    """Returns a stamp of a record's label files and of its other label entries."""
    files = sorted(k for k in record if k.endswith(keys.FILE_NAME) and k != keys.FILE_NAME)
    rest = {k: v for k, v in record.items() if k not in (keys.FILE_NAME, *files)}
    return _stamp([record[key] for key in files], json.dumps(rest, sort_keys=True, default=str))


def _stamp(paths: Sequence[str], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for path in paths:
        try:
            found = os.stat(path)
        except OSError as error:
            raise DatasetError(f"cannot read '{path}': {error.strerror}") from error
        digest.update(f"{os.path.abspath(path)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _head_bytes(head: dict[str, Any]) -> bytes:
    # Converts NumPy's numbers to Python's.
    text = json.dumps(head, default=int).encode()
    start = _MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little")
    return (start + text).ljust(_array_begin(len(text)), b"\0")


def _array_begin(length: int) -> int:
    return -(-(_START + length) // _PAGE) * _PAGE


def _read_head(file: Any) -> dict[str, Any]:
    start = file.read(_START)
    length, checksum = (int.from_bytes(start[i : i + 4], "little") for i in (8, 12))
    # A damaged length may have any value, so it is limited to the file's size.
    text = file.read(min(length, os.fstat(file.fileno()).st_size))
    if start[:8] != _MAGIC or zlib.crc32(text) != checksum:
        raise ValueError("its head is damaged")
    return {**json.loads(text), "begin": _array_begin(length)}


def _damaged(entry: Path, why: object) -> None:
    warn_once(f"'{entry}' is made again: {why}")
