#!/usr/bin/env python3
"""Writes an HTML report about one or several runs: scores, curves, class weights, images.

    uv run tools/report.py output/toy/panoptic_gbw
    uv run tools/report.py output/toy/panoptic_source_only output/toy/panoptic_gbw --out report.html

The page is one file that needs no server and no network: report.html in the first OUTPUT_DIR, or
--out. The other runs are compared with the first. It shows the images with the first run's lowest
and highest scores; each run's last checkpoint predicts them again. If checkpoint or dataset are
missing, the page says so. Exit code 2: there is nothing to report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

import cv2
import numpy as np
from matplotlib.figure import Figure
from plot_run import common_protocol, draw_classes, draw_losses, draw_weights
from reporting import page, tables
from reporting.pictures import RIGHT, UNKNOWN, WRONG, Ranked, Row, draw_rows, rank_images
from tqdm import tqdm

from gbw_d2.commands import finish
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import write_atomically
from gbw_d2.results.reader import (
    CONFUSION,
    Run,
    read_confusion,
    read_results,
    read_run,
    run_names,
)
from gbw_d2.visualization import COLORS

CONFIG = "config.yaml"
# Wider pictures are reduced to this width.
_MAX_WIDTH = 640


def report(folders: Sequence[Path], protocol: str | None, images: int, device: str) -> str:
    """Makes the page.

    Args:
        folders: OUTPUT_DIRs of runs; the others are compared with the first.
        protocol: of the scores; None for the first that all runs share.
        images: number of worst and of best images that are shown.
        device: on which they are predicted.

    Raises:
        UserError: a folder is not that of a finished run, or the runs share no protocol.
    """
    if len(folders) > len(COLORS):
        raise UserError(
            f"{len(folders)} runs are too many for one page; name at most {len(COLORS)}"
        )
    names = run_names(folders)
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    results = [read_results(folder) for folder in folders]
    shared = common_protocol(runs, protocol)
    beside = f" In brackets: the difference from {names[0]}." if len(names) > 1 else ""
    parts = [
        page.section("Runs", _runs(names, results)),
        page.section(
            f"Scores, protocol {shared}",
            tables.means(names, results, shared),
            note="Means over the classes of the protocol, in per cent.",
        ),
        page.section(
            "Classes",
            tables.classes(runs, shared),
            _figure(draw_classes(runs, shared), "IoU, recall and PQ of each class"),
            note=f"On {next(iter(results[0]['datasets']))}. Bold: classes with less than 1 % of "
            f"the labelled pixels.{beside}",
        ),
        *_curves(runs, shared),
        *_confusions(folders, names),
        *_images(folders, names, images, device),
        page.section("Configs", *_configs(folders, names)),
    ]
    return page.page(f"Report: {', '.join(names)}", parts)


def _runs(names: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name, result in zip(names, results, strict=True):
        run, config = result["run"], result["run"]["config"]
        cells = (
            *(name, config["UDA"]["NAME"], config["WEIGHTING"]["NAME"]),
            *(str(run["iterations"]), str(run["seed"])),
            *(f"{run['wall_seconds'] / 60:.1f} min", str(run.get("selection", "-"))),
        )
        rows.append(("", [("", cell) for cell in cells]))
    return page.table(
        ["run", "strategy", "class weighting", "iterations", "seed", "time", "checkpoint"], rows
    )


def _curves(runs: Sequence[Run], protocol: str) -> list[str]:
    parts = []
    for head in dict.fromkeys(head for run in runs for head in run.weights):
        drawn = _figure(draw_weights(runs, head, protocol), f"class weights of head {head}")
        parts.append(page.section(f"Class weights over time, head {head}", drawn))
    if any(run.losses for run in runs):
        parts.append(page.section("Losses", _figure(draw_losses(runs), "losses over time")))
    return parts


def _confusions(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    drawn = [
        _figure(draw_confusion(*read_confusion(folder / CONFUSION)), f"confusion of {name}", name)
        for folder, name in zip(folders, names, strict=True)
        if (folder / CONFUSION).is_file()
    ]
    note = "Rows: true class; columns: predicted class, in per cent of the row's pixels."
    missing = page.paragraph(f"No {CONFUSION}: the run was evaluated by an older version.")
    return [page.section("Confusion matrix", *(drawn or [missing]), note=note)]


def draw_confusion(names: Sequence[str], predicted: Sequence[str], pixels: np.ndarray) -> Figure:
    """Draws a confusion matrix, each row as shares.

    Args:
        names: classes of the rows.
        predicted: classes of the columns.
        pixels: (K, C) counts, truth x prediction.
    """
    share = 100 * pixels / np.maximum(pixels.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(2.2 + 0.42 * len(predicted), 1.8 + 0.36 * len(names)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(predicted)), predicted, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    for i, j in zip(*np.nonzero(share >= 1), strict=True):
        color = "white" if share[i, j] > 55 else "black"
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=color)
    return figure


def _images(folders: Sequence[Path], names: Sequence[str], count: int, device: str) -> list[str]:
    if not count:
        return []
    try:
        first, *others = [rank_images(folder) for folder in folders]
        chosen = list(dict.fromkeys(each.file_name for each in (*first[:count], *first[-count:])))
        rows = [draw_rows(folder, chosen, device) for folder in tqdm(folders, "images")]
    except UserError as error:
        return [page.section("Images", page.paragraph(f"None: {error}"))]
    scores = [{each.file_name: each for each in ranked} for ranked in (first, *others)]
    parts = []
    for title, part in (("Worst images", chosen[:count]), ("Best images", chosen[count:])):
        if not part:
            continue
        note = f"By {first[0].score_name} of {names[0]}: image, truth, prediction and errors."
        figures = [
            _four(of_run[chosen.index(file)], f"{Path(file).name}, {name}: {_said(file, score)}")
            for file in part
            for name, score, of_run in zip(names, scores, rows, strict=True)
        ]
        parts.append(page.section(title, *figures, note=note))
    key = [("right", RIGHT), ("wrong", WRONG), ("no truth", UNKNOWN)]
    return [*parts, page.color_key(key)]


def _said(file: str, score: Mapping[str, Ranked]) -> str:
    """Returns an image's score in words; a run has none where nothing of it is labelled."""
    return score[file].words if file in score else "no score"


def _four(row: Row, caption: str) -> str:
    drawn = {"truth": row.truth, "prediction": row.prediction, "errors": row.errors}
    pictures = [page.image(_png(picture), "png", words) for words, picture in drawn.items()]
    return page.four([page.image(_jpeg(row.image), "jpeg", "image"), *pictures], caption)


def _configs(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    return [
        page.folded(name, (folder / CONFIG).read_text(encoding="utf-8"))
        for folder, name in zip(folders, names, strict=True)
        if (folder / CONFIG).is_file()
    ]


def _figure(figure: Figure, words: str, caption: str = "") -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return page.figure(page.image(buffer.getvalue(), "png", words), caption)


def _shrunk(picture: np.ndarray, interpolation: int) -> np.ndarray:
    rows, columns = picture.shape[:2]
    if columns <= _MAX_WIDTH:
        return picture
    size = (_MAX_WIDTH, round(rows * _MAX_WIDTH / columns))
    return cv2.resize(picture, size, interpolation=interpolation)


def _png(picture: np.ndarray) -> bytes:
    shown = _shrunk(picture, cv2.INTER_NEAREST)
    return cv2.imencode(".png", shown[..., ::-1])[1].tobytes()


def _jpeg(picture: np.ndarray) -> bytes:
    shown = _shrunk(picture, cv2.INTER_AREA)
    return cv2.imencode(".jpg", shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="output folders")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the first run")
    parser.add_argument("--protocol", help="protocol of the scores; default: the first they share")
    parser.add_argument(
        "--images", type=int, default=3, help="worst and best images shown, 0 for none (3)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    args = parser.parse_args(arguments)
    out = args.out or args.runs[0] / "report.html"

    def work() -> None:
        text = report(args.runs, args.protocol, max(0, args.images), args.device)
        write_atomically(out, text.encode())
        print(out)

    return finish(work)


if __name__ == "__main__":
    sys.exit(main())
