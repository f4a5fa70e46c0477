"""PQ from files, compared with decoding alone and other tools; mIoU's matrix and bincount."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import panopticapi.evaluation as panopticapi
import torch
from benchmarks.evaluation import Panoptic, Report, Results, panoptic_pair

from gbw_d2.class_tables import colors_of_ids
from gbw_d2.data.formats.files import read_ids
from gbw_d2.evaluation import ConfusionMatrix
from gbw_d2.evaluation.evaluators import panoptic_categories
from gbw_d2.evaluation.panoptic_files import score_files
from gbw_d2.label_spaces import CITYSCAPES_19

Candidate = Callable[[], None]
SPECKLES = (0.0, 0.03)
_SEVERAL = 16


def write_pair(folder: Path, truth: Panoptic, guess: Panoptic, copies: int = 1) -> None:
    """Writes a true and a predicted map as COCO panoptic files, ``copies`` times."""
    size = dict(zip(("height", "width"), truth[0].shape, strict=True))
    for name, (ids, segments) in {"gt": truth, "pred": guess}.items():
        (folder / name).mkdir(parents=True)
        area = np.bincount(ids.ravel())
        info = [s | {"area": int(area[s["id"]])} for s in segments]
        files = [{"id": n, "image_id": n, "file_name": f"{n}.png"} for n in range(copies)]
        for row in files:
            cv2.imwrite(str(folder / name / row["file_name"]), colors_of_ids(ids))
        content = {
            "images": [row | size for row in files],
            "annotations": [row | {"segments_info": info} for row in files],
            "categories": panoptic_categories(CITYSCAPES_19),
        }
        (folder / f"{name}.json").write_text(json.dumps(content))


def file_candidates(folder: Path) -> dict[str, Candidate]:
    """Makes PQ of one pair of files; decoding alone, by OpenCV, is first.

    hotcoco is left out if its package is not installed.
    """
    files = [folder / name / "0.png" for name in ("gt", "pred")]
    names = [str(folder / name) for name in ("gt", "pred")]
    jsons = [folder / f"{name}.json" for name in ("gt", "pred")]

    def opencv() -> None:
        for file in files:
            cv2.imread(str(file), cv2.IMREAD_UNCHANGED)

    def ids() -> None:
        for file in files:
            read_ids(file)

    def official() -> None:
        contents = [json.loads(path.read_text()) for path in jsons]
        pair = tuple(content["annotations"][0] for content in contents)
        categories = {c["id"]: c for c in contents[0]["categories"]}
        with contextlib.redirect_stdout(io.StringIO()):
            panopticapi.pq_compute_single_core(0, [pair], *names, categories)

    candidates = {"OpenCV, bare": opencv, "read_ids": ids, "panopticapi": official}
    with contextlib.suppress(ImportError):
        import hotcoco.panoptic

        def other() -> None:
            # It prints a table, not through Python's standard output.
            hotcoco.panoptic.PanopticEval(
                *map(str, jsons), gt_folder=names[0], pred_folder=names[1]
            ).evaluate()

        candidates["hotcoco"] = other
    candidates["score_files"] = lambda: _drop(score_files(jsons[0], jsons[1], 1))
    return candidates


def set_candidates(folder: Path) -> dict[str, Candidate]:
    """Makes scores of several pairs on all cores; reading alone, by OpenCV and ours, is first."""
    files = [*(folder / "gt").iterdir(), *(folder / "pred").iterdir()]

    def on_all_cores(read: Callable[[Path], Any]) -> Candidate:
        def run() -> None:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                for _ in pool.map(lambda file: _drop(read(file)), files):
                    pass

        return run

    return {
        "OpenCV, bare": on_all_cores(lambda file: cv2.imread(str(file), cv2.IMREAD_UNCHANGED)),
        "read_ids": on_all_cores(read_ids),
        "score_files": lambda: _drop(score_files(folder / "gt.json", folder / "pred.json")),
    }


def matrix_candidates(speckle: float, size: tuple[int, int] = (1024, 2048)) -> dict[str, Candidate]:
    """Makes the confusion matrix of one image; ``np.bincount`` of ready codes is first."""
    truth, guess = panoptic_pair(speckle, size, 60)
    gt, pred = ((m % 19).astype(np.uint8) for m in (truth[0], guess[0]))
    codes = (gt.astype(np.int64) * 20 + pred).ravel()
    matrix = ConfusionMatrix(CITYSCAPES_19)
    return {
        "np.bincount": lambda: _drop(np.bincount(codes, minlength=380)),
        "ConfusionMatrix": lambda: _drop(matrix.update(pred, gt)),
    }


def run_pq_files(report: Report, repetitions: int) -> Results:
    """Benchmarks one pair of files, several pairs on all cores, and the confusion matrix."""
    results: Results = {}
    cpu = torch.device("cpu")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        for speckle in SPECKLES:
            words = f"{speckle:.0%} speckle"
            with tempfile.TemporaryDirectory() as name:
                pair = panoptic_pair(speckle, (1024, 2048), 60)
                write_pair(one := Path(name, "one"), *pair)
                write_pair(several := Path(name, "several"), *pair, copies=_SEVERAL)
                results[f"one pair of files, {words}"] = report(
                    file_candidates(one), repetitions, cpu, False
                )
                results[f"{_SEVERAL} pairs on all cores, {words}"] = report(
                    set_candidates(several), repetitions, cpu, False
                )
            results[f"mIoU's matrix, {words}"] = report(
                matrix_candidates(speckle), repetitions, cpu, False
            )
    finally:
        cv2.setNumThreads(threads)
    return results


def _drop(_: object) -> None:
    """Discards the result of a candidate."""
