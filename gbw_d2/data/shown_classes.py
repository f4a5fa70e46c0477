"""Statistics, once per epoch, of whether crops show the classes that were requested."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from gbw_d2 import keys
from gbw_d2.data.augmentation import WantedPixels
from gbw_d2.data.mappers import Sample
from gbw_d2.label_spaces import IGNORE_LABEL

Batch = list[Sample]

logger = logging.getLogger(__name__)


def note_shown(sample: Sample, wanted: WantedPixels) -> None:
    """Adds ``class_pixels`` and ``asked`` to a labelled sample."""
    if keys.SEM_SEG not in sample:
        return
    pixels = torch.bincount(sample[keys.SEM_SEG].flatten(), minlength=IGNORE_LABEL + 1).tolist()
    sample[keys.CLASS_PIXELS] = pixels
    sample[keys.ASKED] = (wanted.class_id, pixels[wanted.class_id] > wanted.pixels)


class ShownClasses:
    """Accumulates the statistics of samples of :func:`note_shown`.

    Args:
        class_names: name of each class id.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = class_names
        self.crops = 0
        self.asked, self.met, self.shown, self.pixels = np.zeros((4, len(class_names)), np.int64)

    def add(self, sample: Sample) -> None:
        """Adds a sample's statistics."""
        class_id, met = sample[keys.ASKED]
        pixels = np.array(sample[keys.CLASS_PIXELS][: len(self.class_names)])
        self.crops += 1
        self.asked[class_id] += 1
        self.met[class_id] += met
        self.shown += pixels > 0
        self.pixels += pixels

    def table(self) -> str:
        """Returns one line per class.

        It gives the number of crops for which the class was requested, the number of these with as
        many pixels as requested, the number of crops with the class, and its share of the labelled
        pixels.
        """
        width = max(map(len, self.class_names))
        lines = [
            f"{'class':{width}} {'drawn for':>9} {'of these':>9} {'shown in':>9} {'pixels':>9}"
        ]
        share = 100 * self.pixels / max(1, self.pixels.sum())
        for i, name in enumerate(self.class_names):
            counts = f"{self.asked[i]:9d} {self.met[i]:9d} {self.shown[i]:9d}"
            lines.append(f"{name:{width}} {counts} {share[i]:8.3f}%")
        return "\n".join(lines)


def log_shown(
    batches: Iterable[Batch], num_images: int, class_names: Sequence[str]
) -> Iterator[Batch]:
    """Yields the batches, and logs the statistics of each epoch if classes were requested.

    Args:
        batches: batches of the source.
        num_images: draws per epoch.
        class_names: name of each class id.
    """
    epoch, seen = -1, ShownClasses(class_names)
    for batch in batches:
        for sample in batch:
            if keys.ASKED not in sample:
                continue
            now = sample[keys.DRAW] // num_images
            if now != epoch and seen.crops:
                logger.info(
                    "What the %d crops of epoch %d showed that were drawn for a class%s:\n%s",
                    *(seen.crops, epoch + 1, _share(seen.crops, num_images), seen.table()),
                )
                seen = ShownClasses(class_names)
            epoch = now
            seen.add(sample)
        yield batch


def _share(crops: int, num_images: int) -> str:
    # Other processes draw the rest, or the run was resumed within this epoch.
    return "" if crops == num_images else f" (of {num_images}, in this process)"
