"""Confusion matrix, IoU, recall and precision on arrays of class ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbw_d2.evaluation.protocols import Protocol
from gbw_d2.label_spaces import IGNORE_LABEL, LabelSpace


class ConfusionMatrix:
    """Counts pixels by ground truth (rows) and prediction (columns).

    The last column holds predictions outside the classes: false negatives of their row, and false
    positives of no class. Equal to Cityscapes' ``evalPixelLevelSemanticLabeling`` on the 19
    classes.

    Args:
        space: the classes.
    """

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.num_classes = space.num_classes
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._state = np.zeros((self.num_classes, self.num_classes + 1), dtype=np.int64)

    @property
    def state(self) -> np.ndarray:
        """The accumulated counts, (num_classes, num_classes + 1) int64, which are additive."""
        return self._state.copy()

    def merge(self, state: np.ndarray) -> None:
        """Adds the ``state`` of another matrix with the same classes."""
        if state.shape != self._state.shape:
            raise ValueError(
                f"cannot merge a confusion matrix of shape {state.shape} into one of shape "
                f"{self._state.shape}"
            )
        self._state += state

    def update(self, pred: np.ndarray, gt: np.ndarray) -> np.ndarray:
        """Adds one image.

        Args:
            pred: (H, W) integer class ids; anything outside 0..num_classes-1 is "no class".
            gt: (H, W) integer class ids, 255 = ignore.

        Returns:
            The state of this image alone; :meth:`compute` takes it.

        Raises:
            ValueError: arrays of different shape or not of integers, or a ground truth label that
                is neither a class id nor 255.
        """
        pred, gt = np.asarray(pred), np.asarray(gt)
        for kind, array in (("prediction", pred), ("ground truth", gt)):
            if not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"the {kind} must hold integer class ids, got {array.dtype}")
        if pred.shape != gt.shape:
            raise ValueError(
                f"the prediction has shape {pred.shape}, the ground truth {gt.shape}; predict at "
                "the size of the ground truth"
            )
        # Labels outside 0..255 are counted as an invalid label, and the check reports them.
        pairs = _count_pairs(
            _as_bytes(gt, otherwise=self.num_classes), _as_bytes(pred, otherwise=self.num_classes)
        )
        if pairs[self.num_classes : IGNORE_LABEL].any():
            labels = np.unique(gt)
            strange = labels[(labels != IGNORE_LABEL) & ~np.isin(labels, range(self.num_classes))]
            raise ValueError(
                f"the ground truth holds labels {strange.tolist()}; expected class ids 0 to "
                f"{self.num_classes - 1} and {IGNORE_LABEL} (are these raw label ids?)"
            )
        image = np.empty_like(self._state)
        image[:, :-1] = pairs[: self.num_classes, : self.num_classes]
        image[:, -1] = pairs[: self.num_classes, self.num_classes :].sum(axis=1)
        self._state += image
        return image

    def compute(self, protocol: Protocol, state: np.ndarray | None = None) -> dict[str, Any]:
        """Computes the scores of a protocol.

        Args:
            protocol: the classes to average, and those whose ground truth becomes void.
            state: counts to use in place of those of all images, such as one image's.

        Returns:
            ``mIoU``, ``recall``, ``precision``: means over classes, 0-100, None over no class;
            ``classes``: the number of classes in mIoU; ``per_class``: class id -> ``IoU``,
            ``recall``, ``precision``, ``share`` (per cent of the labelled pixels). IoU is None for
            a class with neither ground truth nor prediction, recall for one without ground truth;
            precision is None where IoU is, so a class that is never predicted has precision 0 and
            does not raise the mean by being left out. Means leave out None.

        Raises:
            ValueError: the label space lacks a class of the protocol.
        """
        lacking = {*protocol.classes, *protocol.void_classes} - self.space.id_of.keys()
        if lacking:
            raise ValueError(
                f"protocol {protocol.name} has {', '.join(sorted(lacking))}, label space "
                f"'{self.space.name}' has not"
            )
        matrix = (self._state if state is None else state).copy()
        matrix[list(protocol.void_ids(self.space))] = 0
        hit = np.diagonal(matrix).astype(np.float64)
        actual = matrix.sum(axis=1).astype(np.float64)
        predicted = matrix[:, : self.num_classes].sum(axis=0).astype(np.float64)
        total = actual.sum()
        per_class: dict[int, dict[str, float | None]] = {}
        for t in protocol.ids(self.space):
            union = actual[t] + predicted[t] - hit[t]
            per_class[t] = {
                "IoU": _percent(hit[t], union),
                "recall": _percent(hit[t], actual[t]),
                "precision": _percent(hit[t], max(predicted[t], 1.0)) if union else None,
                "share": _percent(actual[t], total),
            }
        result: dict[str, Any] = {
            name: _mean([row[key] for row in per_class.values()])
            for name, key in (("mIoU", "IoU"), ("recall", "recall"), ("precision", "precision"))
        }
        result["classes"] = sum(row["IoU"] is not None for row in per_class.values())
        result["per_class"] = per_class
        return result


def _as_bytes(ids: np.ndarray, otherwise: int) -> np.ndarray:
    """Returns ids as uint8; ids outside 0..255 become ``otherwise``."""
    if ids.dtype == np.uint8:
        return ids
    return np.where((ids < 0) | (ids > IGNORE_LABEL), otherwise, ids).astype(np.uint8)


def _count_pairs(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Counts each pair of two uint8 arrays: (256, 256) int64.

    Runs of pixels with the same pair are counted at once, unless most runs have a single pixel.
    """
    pairs = np.left_shift(gt, 8, dtype=np.uint16).reshape(-1)
    pairs |= pred.reshape(-1)
    ends = np.flatnonzero(pairs[1:] != pairs[:-1])
    if ends.size > pairs.size // 4:
        return np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    last = np.append(ends, pairs.size - 1) if pairs.size else ends
    length = np.diff(last, prepend=-1)
    counts = np.bincount(pairs.take(last), weights=length, minlength=1 << 16)
    return counts.astype(np.int64).reshape(256, 256)


def _percent(part: float, whole: float) -> float | None:
    return float(100 * part / whole) if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
