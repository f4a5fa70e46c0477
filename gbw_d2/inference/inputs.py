"""Input images and videos, given by file, folder or pattern, and read one frame at a time."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from gbw_d2.data.formats.files import is_clutter, read_image
from gbw_d2.data.spec import DatasetError
from gbw_d2.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class InputError(UserError):
    """An input is missing or cannot be read; the message names it."""


@dataclass(frozen=True)
class Source:
    """An input file.

    Args:
        path: the path as given.
        name: name of its results: the path below the inputs' common folder, without suffix.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file is a video."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(inputs: Sequence[str], output: Path) -> tuple[list[Source], list[str]]:
    """Lists the files that inputs name.

    Args:
        inputs: files, folders (searched with their subfolders) and patterns such as ``"*.png"``.
        output: a folder whose files are results, not inputs.

    Returns:
        the files without duplicates, in order; and one message per input without any file.
    """
    found: dict[str, Path] = {}
    problems = []
    for text in inputs:
        # A file whose name contains brackets takes precedence over a pattern.
        hits = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))
        paths = [p for hit in hits for p in _files(Path(hit)) if not _is_below(p, output)]
        if not paths:
            problems.append(f"'{text}' names no image or video; give a file, folder or pattern")
        found |= {os.path.abspath(p): p for p in paths}
    return _named(found), problems


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    known = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    return sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in known
        and not any(map(is_clutter, p.relative_to(path).parts))
        and p.is_file()
    )


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _named(found: dict[str, Path]) -> list[Source]:
    if not found:
        return []
    root = os.path.commonpath([os.path.dirname(p) for p in found])
    full = [Path(p).relative_to(root).as_posix() for p in found]
    names = [Path(name).with_suffix("").as_posix() for name in full]
    taken = Counter(names)
    names = [f if taken[n] > 1 else n for f, n in zip(full, names, strict=True)]
    # The frames of a video go to a folder of its name.
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}
    if len(set(names)) < len(names) or folders & set(names):
        names = full
    return [Source(path, name) for path, name in zip(found.values(), names, strict=True)]


def read_photo(path: Path) -> np.ndarray:
    """Reads an image, rotated by its EXIF orientation.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: it cannot be opened, is truncated or is no image.
    """
    try:
        # OpenCV fills the rest of a truncated JPEG file with grey, without an error.
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read '{path}': {reason}") from error
    try:
        return read_image(path, "RGB")
    except DatasetError as error:
        raise InputError(str(error)) from error


class Video:
    """The frames of a video file, in order.

    Args:
        path: the file.

    Attributes:
        announced: number of frames by the file's header; an estimate, 0 = unknown.
        count: frames read so far.
        fps: frames per second; 25 if unknown.

    Raises:
        InputError: it cannot be opened as a video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"cannot read '{path}': it is not a video that OpenCV can open")
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields frames (H, W, 3) uint8 RGB, once."""
        try:
            while (read := self._capture.read())[0]:
                self.count += 1
                yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()

    def check_complete(self) -> None:
        """Checks, after the last frame, that the file had as many frames as announced.

        Raises:
            InputError: there was no frame, or the file ends early.
        """
        # The announced number is an estimate, correct to about a second.
        if self.count == 0 or self.count + self.fps < self.announced:
            raise InputError(f"'{self.path}' ends after {self.count} of {self.announced} frames")
