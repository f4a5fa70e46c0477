"""The candidates of `tools/benchmark.py evaluation` and `postprocessing`, reference first."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import panopticapi.evaluation as panopticapi
import torch
import torch.nn.functional as F

from gbw_d2.evaluation import PanopticQuality
from gbw_d2.evaluation.evaluators import panoptic_categories
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.modeling.postprocessing import PanopticSettings, panoptic_from_centers

from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation

Candidate = Callable[[], None]
Results = dict[str, dict[str, dict[str, float]]]
# benchmark.report: candidates, repetitions, device, with memory or without -> rows of a table.
Report = Callable[[dict[str, Candidate], int, torch.device, bool], dict[str, dict[str, float]]]


def run_evaluation(report: Report, repetitions: int) -> Results:
    """Benchmarks PQ on smooth maps and on noisy ones."""
    return {
        f"PQ, {speckle:.0%} speckle": report(
            evaluation_candidates(speckle), repetitions, torch.device("cpu"), False
        )
        for speckle in (0.0, 0.03)
    }


def run_postprocessing(report: Report, repetitions: int, device: torch.device) -> Results:
    """Benchmarks post-processing; at most three times on a CPU, where Detectron2's is slow."""
    repetitions = repetitions if device.type == "cuda" else min(repetitions, 3)
    results: Results = {}
    for rows, columns in ((512, 1024), (1024, 2048)):
        candidates = postprocessing_candidates(device, (rows, columns))
        results[f"{rows}x{columns}"] = report(candidates, repetitions, device, True)
    return results


Panoptic = tuple[np.ndarray, list[dict[str, Any]]]


def evaluation_candidates(
    speckle: float, size: tuple[int, int] = (1024, 2048), segments: int = 60
) -> dict[str, Candidate]:
    """Makes PQ of one image by panopticapi's function for one core and by ours, on equal arrays.

    panopticapi's function reads PNG files. Here its ``Image.open`` returns the array of ids and its
    ``rgb2id`` returns its argument, so that neither decoding nor unpacking of colours is timed.
    Its matching, and one copy of 8 MB per map, remain.

    Args:
        speckle: share of the pixels of either map that are moved to a random segment.
        size: (rows, columns).
        segments: segments per map.
    """
    gt, pred = panoptic_pair(speckle, size, segments)
    maps = {"gt/0": gt[0], "pred/0": pred[0]}
    entry = {"image_id": 0, "file_name": "0"}
    areas = np.bincount(gt[0].ravel())
    truth = [s | {"area": int(areas[s["id"]])} for s in gt[1]]
    categories = {c["id"]: c for c in panoptic_categories(CITYSCAPES_19)}

    def theirs() -> None:
        # It writes areas into the prediction.
        guess = copy.deepcopy(pred[1])
        pair = (entry | {"segments_info": truth}, entry | {"segments_info": guess})
        arrays = {"Image": mock.Mock(open=maps.__getitem__), "rgb2id": lambda ids: ids}
        quiet = contextlib.redirect_stdout(io.StringIO())
        with mock.patch.multiple(panopticapi, **arrays), quiet:
            panopticapi.pq_compute_single_core(0, [pair], "gt", "pred", categories)

    quality = PanopticQuality(panoptic_categories(CITYSCAPES_19))
    return {"panopticapi": theirs, "PanopticQuality": lambda: _drop(quality.update(*pred, *gt))}


def panoptic_pair(
    speckle: float, size: tuple[int, int], segments: int
) -> tuple[Panoptic, Panoptic]:
    """Draws a true map of convex segments with Cityscapes' ids, and a slightly shifted copy."""
    rng = np.random.default_rng(0)
    rows, columns = size
    centers = rng.integers(0, size, (segments, 2))
    train_ids = np.arange(segments) % CITYSCAPES_19.num_classes
    raw_ids = np.array([c.raw_id for c in CITYSCAPES_19.classes])
    true_ids = raw_ids[train_ids] * 1000 + np.arange(segments)
    grid = np.stack(np.mgrid[0:rows, 0:columns], axis=-1).astype(np.float32)
    maps: list[Panoptic] = []
    for shift, ids in (((0, 0), true_ids), ((5, -4), np.arange(segments) + 1)):
        squared = np.full(size, np.inf, dtype=np.float32)
        owner = np.zeros(size, dtype=np.int64)
        for i, center in enumerate(centers + shift):
            away = ((grid - center.astype(np.float32)) ** 2).sum(axis=-1)
            owner[away < squared] = i
            np.minimum(away, squared, out=squared)
        noise = rng.random(size) < speckle
        owner[noise] = rng.integers(0, segments, int(noise.sum()))
        info = [
            {"id": int(ids[i]), "category_id": int(train_ids[i]), "iscrowd": 0}
            for i in np.unique(owner)
        ]
        maps.append((ids[owner].astype(np.int32), info))
    return maps[0], maps[1]


def postprocessing_candidates(
    device: torch.device, size: tuple[int, int] = (1024, 2048), peaks: int = 300
) -> dict[str, Candidate]:
    """Makes a panoptic map from logits, heat map and offsets, by Detectron2 and by ours.

    Ours also computes the segments' scores, which Detectron2 computes elsewhere.

    Args:
        device: where the maps are.
        size: (rows, columns).
        peaks: local maxima of the heat map; at most 199 of them become centres.
    """
    space = CITYSCAPES_19
    rows, columns = size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, space.num_classes, 16, 32, generator=generator)
    logits = F.interpolate(coarse, size=size, mode="bilinear")[0].contiguous()
    center = torch.zeros(rows * columns)
    where = torch.randperm(rows * columns, generator=generator)[:peaks]
    center[where] = torch.rand(peaks, generator=generator) * 0.8 + 0.15
    offset = torch.randn(2, rows, columns, generator=generator) * 8
    logits, center, offset = (
        part.to(device) for part in (logits, center.view(rows, columns), offset)
    )
    settings = PanopticSettings()

    def theirs() -> None:
        get_panoptic_segmentation(
            logits.argmax(dim=0, keepdim=True),
            # It writes into the heat map.
            center[None].clone(),
            offset,
            thing_ids=set(space.thing_ids),
            label_divisor=1000,
            stuff_area=settings.stuff_area,
            void_label=-1,
            threshold=settings.center_threshold,
            nms_kernel=settings.nms_kernel,
            top_k=settings.top_k,
        )

    def ours() -> None:
        panoptic_from_centers(logits, center, offset, thing_ids=space.thing_ids, settings=settings)

    return {"Detectron2": theirs, "panoptic_from_centers": ours}


def _drop(_: object) -> None:
    """Discards the result of a candidate."""
