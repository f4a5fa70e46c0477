"""Panoptic quality of arrays, by the rules of panopticapi."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VOID = 0
_MAX_ID = 2**31 - 1
# Ids below this are looked up in a table; those of three-byte PNG files are.
_TABLE_IDS = 1 << 24
# Up to so many pairs of segments are counted in a table.
_TABLE_PAIRS = 1 << 22
# Up to so many they are counted in a table for each piece of the image.
_FEW_PAIRS = 1 << 14
# Number of words compared at a time, so that they stay in the processor's cache.
_BLOCK = 1 << 17
# Number of runs encoded at a time: above 128 kB each array is allocated by the operating system.
_RUNS = 1 << 14
# IoUs are summed as integers in units of 2^-40, so that sums do not depend on the order.
_IOU_UNIT = 1 << 40
# Replacements of an index into a list of segments.
_VOID_POSITION = -1
_UNLISTED = -2

Segments = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _SegmentTable:
    """Segments_info as arrays: ids, indices of categories (-1: unknown), and crowd flags."""

    ids: np.ndarray
    category: np.ndarray
    crowd: np.ndarray


class PanopticQuality:
    """Accumulates PQ, SQ and RQ over images (Kirillov et al., Panoptic Segmentation, CVPR 2019).

    PQ_c = (sum of IoU over matches) / (TP + FP/2 + FN/2) = SQ_c * RQ_c, where a match has IoU > 0.5
    and void pixels are taken out of the prediction. Equal to ``panopticapi`` on the same maps:

    * an unmatched prediction that lies by more than half on void plus the crowd segment of its own
      class is no false positive, and an unmatched crowd segment is no false negative;
    * ground truth pixels whose segment is not listed, or whose category is unknown, are neither
      void nor a segment: predictions there are false positives;
    * a listed ground truth segment without a pixel is a false negative.

    Areas are counted in the maps; an ``area`` in ``segments_info`` is not read.

    Args:
        categories: COCO categories, dicts with ``id`` and ``isthing``.

    Raises:
        ValueError: there is no category, or an id occurs twice.
    """

    def __init__(self, categories: Iterable[Mapping[str, Any]]) -> None:
        rows = list(categories)
        self.category_ids = np.array([int(row["id"]) for row in rows], dtype=np.int64)
        self._is_thing = np.array([bool(row["isthing"]) for row in rows], dtype=bool)
        if not rows or np.unique(self.category_ids).size != len(rows):
            raise ValueError(
                f"PanopticQuality needs categories with different ids, got "
                f"{self.category_ids.tolist()}"
            )
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._state = np.zeros((self.category_ids.size, 4), dtype=np.int64)

    @property
    def state(self) -> np.ndarray:
        """The accumulated counts, (categories, 4) int64: sum of IoU in 2^-40, TP, FP, FN.

        States add up exactly, in any order and over any number of processes.
        """
        return self._state.copy()

    def merge(self, state: np.ndarray) -> None:
        """Adds the ``state`` of another accumulator of the same categories."""
        if state.shape != self._state.shape:
            raise ValueError(
                f"cannot merge a state of shape {state.shape} into one of shape "
                f"{self._state.shape}: the categories differ"
            )
        self._state += state

    def update(
        self,
        pred_map: np.ndarray,
        pred_segments: Segments,
        gt_map: np.ndarray,
        gt_segments: Segments,
    ) -> np.ndarray:
        """Adds one image.

        Args:
            pred_map: (H, W) integer segment ids below 2**31, 0 = void.
            pred_segments: COCO ``segments_info`` of the prediction: ``id``, ``category_id``.
            gt_map: (H, W) integer segment ids below 2**31, 0 = void.
            gt_segments: COCO ``segments_info`` of the ground truth, with ``iscrowd``.

        Returns:
            The state of this image alone, (categories, 4); :meth:`compute` takes it.

        Raises:
            ValueError: maps of different shape or not of integers, an id out of range or listed
                twice, a predicted segment in the map but not in the list or the other way round,
                or an unknown predicted category.
        """
        gt_map, pred_map = _as_id_map(gt_map, "ground truth"), _as_id_map(pred_map, "predicted")
        if gt_map.shape != pred_map.shape:
            raise ValueError(
                f"the predicted map has shape {pred_map.shape}, the ground truth {gt_map.shape}; "
                "predict at the size of the ground truth"
            )
        gt = self._segment_table(gt_segments, "ground truth")
        pred = self._segment_table(pred_segments, "predicted")
        gt_index, pred_index, counts = _count_pairs(gt_map, gt.ids, pred_map, pred.ids)
        # Ids out of range are never listed, so all pixels are checked only if unlisted ids occur.
        if np.any(gt_index == _UNLISTED):
            _check_range(gt_map.view(np.int32), "ground truth")
        if np.any(pred_index == _UNLISTED):
            _check_range(pred_map.view(np.int32), "predicted")
        gt_area = _sum_at(gt_index, counts, gt.ids.size)
        pred_area = _sum_at(pred_index, counts, pred.ids.size)
        void_area = _sum_at(
            np.where(gt_index == _VOID_POSITION, pred_index, -1), counts, pred.ids.size
        )
        _check_prediction(pred, pred_segments, pred_area, pred_map, pred_index)

        pairs = np.flatnonzero((gt_index >= 0) & (pred_index >= 0))
        g, p, overlap = gt_index[pairs], pred_index[pairs], counts[pairs]
        iou = overlap / (pred_area[p] + gt_area[g] - overlap - void_area[p])
        same_class = gt.category[g] == pred.category[p]
        match = same_class & ~gt.crowd[g] & (iou > 0.5)

        # A class with several crowd segments keeps the last one listed, as in panopticapi.
        crowd_of_class = np.full(self.category_ids.size, -1)
        crowds = np.flatnonzero(gt.crowd & (gt.category >= 0))
        crowd_of_class[gt.category[crowds]] = crowds
        own_crowd = g == crowd_of_class[pred.category[p]]
        forgiven = void_area + _sum_at(np.where(own_crowd, p, -1), overlap, pred.ids.size)

        missed = ~gt.crowd & (gt.category >= 0)
        missed[g[match]] = False
        wrong = forgiven / pred_area <= 0.5
        wrong[p[match]] = False

        n = self.category_ids.size
        hit = gt.category[g[match]]
        iou_sum = np.zeros(n, dtype=np.int64)
        np.add.at(iou_sum, hit, np.rint(iou[match] * _IOU_UNIT).astype(np.int64))
        image = np.stack(
            [
                iou_sum,
                np.bincount(hit, minlength=n),
                np.bincount(pred.category[wrong], minlength=n),
                np.bincount(gt.category[missed], minlength=n),
            ],
            axis=1,
        )
        self._state += image
        return image

    def compute(
        self, category_ids: Iterable[int] | None = None, state: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Averages over classes.

        Args:
            category_ids: the categories to average; None for all.
            state: counts to average in place of those of all images, such as one image's.

        Returns:
            ``PQ``, ``SQ``, ``RQ``, 0-100, the same with ``_th`` and ``_st`` for things and stuff,
            ``classes``, ``classes_th``, ``classes_st``, the number of classes averaged, and
            ``per_class``: category id -> PQ, SQ, RQ, TP, FP, FN. A class with TP + FP + FN = 0 is
            in no mean (its own scores are 0, as in panopticapi); a mean over no class is None.

        Raises:
            ValueError: an unknown category id.
        """
        wanted = np.ones(self.category_ids.size, dtype=bool)
        if category_ids is not None:
            asked = np.array(list(category_ids), dtype=np.int64)
            unknown = asked[~np.isin(asked, self.category_ids)]
            if unknown.size:
                raise ValueError(
                    f"no category {unknown.tolist()} (known: {self.category_ids.tolist()})"
                )
            wanted = np.isin(self.category_ids, asked)
        iou, tp, fp, fn = (self._state if state is None else state).T.astype(np.float64)
        iou = iou / _IOU_UNIT
        weight = tp + 0.5 * fp + 0.5 * fn
        seen = weight > 0
        scores = 100 * np.stack(
            [
                np.divide(iou, weight, out=np.zeros_like(iou), where=seen),
                np.divide(iou, tp, out=np.zeros_like(iou), where=tp > 0),
                np.divide(tp, weight, out=np.zeros_like(iou), where=seen),
            ]
        )
        result: dict[str, Any] = {}
        for suffix, group in (("", True), ("_th", self._is_thing), ("_st", ~self._is_thing)):
            averaged = scores[:, wanted & seen & group]
            for name, values in zip(("PQ", "SQ", "RQ"), averaged, strict=True):
                result[name + suffix] = float(values.mean()) if values.size else None
            result["classes" + suffix] = averaged.shape[1]
        result["per_class"] = {
            int(self.category_ids[i]): {
                "PQ": float(scores[0, i]),
                "SQ": float(scores[1, i]),
                "RQ": float(scores[2, i]),
                "TP": int(tp[i]),
                "FP": int(fp[i]),
                "FN": int(fn[i]),
            }
            for i in np.flatnonzero(wanted)
        }
        return result

    def _segment_table(self, segments: Segments, kind: str) -> _SegmentTable:
        ids = np.array([s["id"] for s in segments], dtype=np.int64)
        categories = np.array([s["category_id"] for s in segments], dtype=np.int64)
        crowd = np.array([bool(s.get("iscrowd", 0)) for s in segments], dtype=bool)
        if np.any(ids == VOID):
            raise ValueError(f"a {kind} segment has id {VOID}, which is void; give it another id")
        if np.any((ids < 0) | (ids > _MAX_ID)):
            raise ValueError(
                f"{kind} segments have ids from {ids.min()} to {ids.max()}; expected 1 to {_MAX_ID}"
            )
        values, counts = np.unique(ids, return_counts=True)
        if np.any(counts > 1):
            raise ValueError(f"{kind} segment ids {values[counts > 1].tolist()} are listed twice")
        return _SegmentTable(ids, _locate(self.category_ids, categories), crowd)


def _check_prediction(
    pred: _SegmentTable,
    segments: Segments,
    pred_area: np.ndarray,
    pred_map: np.ndarray,
    pred_index: np.ndarray,
) -> None:
    if np.any(pred_index == _UNLISTED):
        unlisted = np.setdiff1d(pred_map, [VOID, *pred.ids])
        raise ValueError(
            f"predicted segments {unlisted.tolist()} are in the map but not in segments_info"
        )
    empty = pred.ids[pred_area == 0]
    if empty.size:
        raise ValueError(
            f"predicted segments {empty.tolist()} are in segments_info but not in the map"
        )
    if np.any(pred.category < 0):
        first = segments[int(np.argmin(pred.category))]
        raise ValueError(
            f"predicted segment {first['id']} has category_id {first['category_id']}, which is "
            "not among the categories"
        )


def _as_id_map(array: np.ndarray, kind: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"the {kind} map must be (H, W) of integers, got shape {array.shape} of {array.dtype}"
        )
    if array.dtype not in (np.int32, np.uint32):
        _check_range(array, kind)
        array = array.astype(np.int32)
    # As an unsigned number, an id below 0 is a large one, which no list contains.
    return np.ascontiguousarray(array).view(np.uint32)


def _check_range(values: np.ndarray, kind: str) -> None:
    if values.size and (values.min() < 0 or values.max() > _MAX_ID):
        raise ValueError(
            f"the {kind} map holds ids from {values.min()} to {values.max()}; expected 0 to "
            f"{_MAX_ID}"
        )


def _count_pairs(
    gt_map: np.ndarray, gt_ids: np.ndarray, pred_map: np.ndarray, pred_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts the pixels of each pair of overlapping segments.

    Runs of pixels with the same pair are counted at once, because there are few runs.

    Returns:
        Index in ``gt_ids``, index in ``pred_ids`` and number of pixels of each pair; an index is -1
        for void and -2 for ids that are not listed.
    """
    width = pred_ids.size + 2
    size = (gt_ids.size + 2) * width
    dtype = np.int32 if size <= _TABLE_PAIRS else np.int64
    gt_code, pred_code = _coder(gt_ids, width, dtype), _coder(pred_ids, 1, dtype)
    runs = _runs(gt_map.reshape(-1), pred_map.reshape(-1))
    coded = ((gt_code(gt) + pred_code(pred), length) for gt, pred, length in runs)
    pairs, counts = _sum_runs(coded, size)
    return pairs // width - 2, pairs % width - 2, counts


def _sum_runs(
    runs: Iterable[tuple[np.ndarray, np.ndarray]], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums the lengths of runs by their pair's code, 0 .. ``size`` - 1: codes found, and sums."""
    listed: Iterable[Any] = ((code, length) for codes, length in runs for code in codes.T)
    if size <= _TABLE_PAIRS:
        if size > _FEW_PAIRS:
            listed = [_joined(listed)]
        table = np.zeros(size)
        for code, length in listed:
            table += np.bincount(code, weights=length, minlength=size)
        found = np.flatnonzero(table)
        return found, table[found]
    code, length = _joined(listed)
    order = code.argsort()
    begins = np.flatnonzero(np.diff(code[order], prepend=-1))
    return code[order[begins]], np.add.reduceat(length[order], begins)


def _joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    columns = list(zip(*parts, strict=True)) or [(np.zeros(0, np.int64),)] * 2
    return np.concatenate(columns[0]), np.concatenate(columns[1])


def _runs(gt: np.ndarray, pred: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the runs of all pixels in portions.

    If the number of pixels is even, two neighbours are compared as one word of 64 bits, which
    halves the comparisons; a run of equal words then consists of two interleaved runs of pixels.

    Returns:
        Ids in either map (runs, pixels of a word), and length in words (runs,).
    """
    pixels = 1 + (gt.size + 1) % 2
    gt_words, pred_words = gt, pred
    if pixels == 2:
        gt_words, pred_words = gt.view(np.uint64), pred.view(np.uint64)
    begins, other = np.ones(_BLOCK, dtype=bool), np.empty(_BLOCK, dtype=bool)
    for start in range(0, gt_words.size, _BLOCK):
        part, second = gt_words[start : start + _BLOCK], pred_words[start : start + _BLOCK]
        here, there = begins[1 : part.size], other[1 : part.size]
        np.not_equal(part[1:], part[:-1], out=here)
        np.not_equal(second[1:], second[:-1], out=there)
        np.logical_or(here, there, out=here)
        first = np.flatnonzero(begins[: part.size])
        length = np.diff(first, append=part.size)
        for piece in range(0, first.size, _RUNS):
            some = first[piece : piece + _RUNS]
            gt_ids = part.take(some).view(gt.dtype).reshape(-1, pixels)
            pred_ids = second.take(some).view(pred.dtype).reshape(-1, pixels)
            yield gt_ids, pred_ids, length[piece : piece + _RUNS]


def _coder(ids: np.ndarray, factor: int, dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from ids in a map to codes.

    The code is 2 + the index in ``ids``, 1 for void, 0 for ids that are not listed; times
    ``factor``.
    """
    largest = int(ids.max(initial=0))
    codes = (np.arange(ids.size) + 2) * factor
    if largest >= _TABLE_IDS:
        known, codes = np.append(ids, VOID), np.append(codes, [factor, 0])
        # Position -1, "not there", takes the last code.
        return lambda values: codes[_locate(known, values.astype(np.int64))]
    # Pages of zeros are allocated lazily: only the pages of occurring ids need memory.
    table = np.zeros(largest + 2, dtype=dtype)
    table[ids] = codes
    table[VOID] = factor
    # Larger ids take the last entry, which stays 0.
    return lambda values: table.take(values, mode="clip")


def _locate(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the index in ``ids`` of each value, or -1."""
    if ids.size == 0:
        return np.full(values.shape, -1, dtype=np.int64)
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids, values, sorter=order), ids.size - 1)
    found = order[place]
    return np.where(ids[found] == values, found, -1)


def _sum_at(index: np.ndarray, amounts: np.ndarray, size: int) -> np.ndarray:
    """Sums the amounts by index, skipping negative indices: (size,) float64."""
    kept = index >= 0
    return np.bincount(index[kept], weights=amounts[kept], minlength=size).astype(np.float64)
