"""Sampling of images; draw ``i`` depends on (seed, ``i``) only, so that resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gbw_d2.data.augmentation import WantedPixels
from gbw_d2.errors import UserError
from gbw_d2.keyed_random import keyed_rng


class Draw(NamedTuple):
    """One draw: an index into the list of records, and a class that the crop should show."""

    image: int
    wanted: WantedPixels | None = None


class Stream(Protocol):
    """An endless sequence of draws with random access."""

    def __call__(self, index: int) -> Draw:
        """Returns draw number ``index`` (0, 1, 2, ...)."""
        ...


class EpochPermutation:
    """Draws every image once per epoch, in a new random order in each epoch.

    Args:
        num_images: length of the list of records.
        seed: the run's seed, >= 0.
        name: streams with different names ("source", "target") are independent.
    """

    def __init__(self, num_images: int, seed: int, name: str) -> None:
        if num_images < 1:
            raise UserError(f"the {name} dataset is empty")
        self.num_images = num_images
        self.seed = seed
        self.name = name
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __call__(self, index: int) -> Draw:
        epoch, position = divmod(index, self.num_images)
        if epoch != self._epoch:
            rng = keyed_rng(self.seed, self.name, "permutation", epoch)
            self._order = rng.permutation(self.num_images)
            self._epoch = epoch
        return Draw(int(self._order[position]))


def nested_subset(num_images: int, portion: float, seed: int, name: str) -> np.ndarray:
    """Draws a portion of the images; a larger portion includes the images of a smaller one.

    Args:
        num_images: length of the list of records.
        portion: share of the images, in (0, 1]; at least one image is drawn.
        seed: the run's seed, >= 0.
        name: name of the stream.

    Returns:
        Indices into the list, ascending.
    """
    order = keyed_rng(seed, name, "subset").permutation(num_images)
    return np.sort(order[: max(1, round(portion * num_images))])


def rare_class_probabilities(class_pixels: np.ndarray, temperature: float) -> np.ndarray:
    """Returns P(c) = softmax((1 - f_c) / T) over the classes that occur, 0 for the others.

    Rare class sampling, DAFormer (Hoyer et al., CVPR 2022), equation 9 and 10.

    Args:
        class_pixels: (K,) labelled pixels of each class in the whole dataset.
        temperature: T > 0; for smaller T the rarest class dominates more.
    """
    if temperature <= 0:
        raise UserError(f"the temperature of rare class sampling is {temperature}, expected > 0")
    occurs = class_pixels > 0
    if not occurs.any():
        raise UserError("no labelled pixels: the class statistics of the source are empty")
    logits = np.where(occurs, (1 - class_pixels / class_pixels.sum()) / temperature, -np.inf)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


class RareClassSampling:
    """Draws a class, rare classes more often, and then an image that contains it.

    Args:
        image_class_pixels: (images, K) labelled pixels by class id, in the order of the records.
        seed: the run's seed, >= 0.
        name: name of the stream.
        temperature: T of :func:`rare_class_probabilities`.
        min_pixels: images with more pixels of the class than this are candidates.
        crop_ratio: a crop should show more than ``min_pixels * crop_ratio`` pixels of the class.

    Raises:
        ValueError: a class occurs, but in no image with more than ``min_pixels`` pixels.
    """

    def __init__(
        self,
        image_class_pixels: np.ndarray,
        seed: int,
        name: str = "source",
        temperature: float = 0.01,
        min_pixels: int = 3000,
        crop_ratio: float = 0.5,
    ) -> None:
        self.seed = seed
        self.name = name
        self.wanted_pixels = min_pixels * crop_ratio
        totals = image_class_pixels.sum(axis=0)
        self.probabilities = rare_class_probabilities(totals, temperature)
        self.candidates = [np.flatnonzero(row > min_pixels) for row in image_class_pixels.T]
        hidden = [c for c, rows in enumerate(self.candidates) if totals[c] > 0 and not rows.size]
        if hidden:
            best = image_class_pixels[:, hidden].max(axis=0).min()
            raise UserError(
                f"no image shows more than {min_pixels} pixels of class id(s) {hidden}; lower "
                f"DATASETS.RARE_CLASS_SAMPLING.MIN_PIXELS below {best}"
            )

    def __call__(self, index: int) -> Draw:
        rng = keyed_rng(self.seed, self.name, "rare class", index)
        class_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        image = int(rng.choice(self.candidates[class_id]))
        return Draw(image, WantedPixels(class_id, self.wanted_pixels))


class RareClassMining:
    """Requests crops that show a rare class of their image (CBST; Zou et al., ECCV 2018).

    The authors centre the crop at a pixel of the class; here it is redrawn until it shows one.

    Args:
        stream: draws the images.
        image_class_pixels: (images, K) labelled pixels by class id, in the order of the records.
        first: class ids that are requested if the image contains one of them.
        second: class ids that are requested otherwise.
        probability: probability of a request for an image, 0..1.
        seed: the run's seed, >= 0.
        name: name of the stream.
    """

    def __init__(
        self,
        stream: Stream,
        image_class_pixels: np.ndarray,
        first: Sequence[int],
        second: Sequence[int],
        probability: float,
        seed: int,
        name: str,
    ) -> None:
        self.stream = stream
        self.present = image_class_pixels > 0
        self.choices = (first, second)
        self.probability = probability
        self.seed = seed
        self.name = name

    def __call__(self, index: int) -> Draw:
        draw = self.stream(index)
        rng = keyed_rng(self.seed, self.name, "mining", index)
        if draw.wanted is not None or rng.random() >= self.probability:
            return draw
        for classes in self.choices:
            candidates = [c for c in classes if self.present[draw.image, c]]
            if candidates:
                return Draw(draw.image, WantedPixels(int(rng.choice(candidates)), 0.0))
        return draw
