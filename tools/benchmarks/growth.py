"""How time grows with pixels, classes and segments, as a table and a chart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.evaluation import panoptic_pair
from benchmarks.upsampled import gbw_norm_loss
from matplotlib.figure import Figure

from gbw_d2.evaluation import ConfusionMatrix, PanopticQuality
from gbw_d2.evaluation.evaluators import panoptic_categories
from gbw_d2.files.atomic import replacing
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.losses.upsampled import upsampled_cross_entropy
from gbw_d2.modeling.targets.centers import center_and_offset_targets

Candidate = Callable[[], object]
# benchmark.measure_seconds: candidates, repetitions, device -> seconds of each repetition.
Measure = Callable[[dict[str, Candidate], int, torch.device], dict[str, list[float]]]
Rows = dict[str, dict[str, float]]

SIZES = ((128, 256), (256, 512), (512, 1024), (1024, 2048))
CLASSES = (2, 8, 19, 64, 150, 254)
SEGMENTS = (10, 30, 100, 300, 1000)


def losses(classes: int, size: tuple[int, int]) -> dict[str, Candidate]:
    """Makes forward and backward passes of losses; logits have a quarter of the labels' size."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, classes, size[0] // 4, size[1] // 4)
    logits = torch.randn(shape, generator=generator).requires_grad_()
    labels = torch.randint(0, classes, (1, *size), generator=generator)
    weights = torch.ones(classes)

    def both_ways(loss: Callable[[], torch.Tensor]) -> Candidate:
        return lambda: torch.autograd.grad(loss(), logits)

    return {
        "loss": both_ways(lambda: upsampled_cross_entropy(logits, labels, weights)),
        "loss, norms": both_ways(lambda: gbw_norm_loss(logits, labels)),
    }


def of_maps(segments: int, size: tuple[int, int]) -> dict[str, Candidate]:
    """Makes PQ, the confusion matrix and the targets of centres of one image."""
    truth, guess = panoptic_pair(0.0, size, segments)
    classes = [(m % CITYSCAPES_19.num_classes).astype(np.uint8) for m in (guess[0], truth[0])]
    quality = PanopticQuality(panoptic_categories(CITYSCAPES_19))
    matrix = ConfusionMatrix(CITYSCAPES_19)
    return {
        "PQ": lambda: quality.update(*guess, *truth),
        "mIoU": lambda: matrix.update(*classes),
        "targets": lambda: center_and_offset_targets(*truth, CITYSCAPES_19.thing_ids),
    }


def cases() -> dict[str, dict[str, dict[str, Candidate]]]:
    """Returns quantity that grows -> its value -> candidates."""
    return {
        "pixels": {f"{r}x{c}": losses(19, (r, c)) | of_maps(60, (r, c)) for r, c in SIZES},
        "classes": {str(n): losses(n, (256, 512)) for n in CLASSES},
        "segments": {str(n): of_maps(n, (512, 1024)) for n in SEGMENTS},
    }


def run_growth(measure: Measure, repetitions: int, picture: Path) -> dict[str, Rows]:
    """Measures all cases; times are in ms, the minimum over the repetitions.

    Args:
        measure: from ``benchmark.py``.
        repetitions: of each candidate.
        picture: PNG file of the chart.
    """
    tables: dict[str, Rows] = {}
    for title, rows in cases().items():
        flat = {f"{row}|{name}": c for row, cs in rows.items() for name, c in cs.items()}
        seconds = measure(flat, repetitions, torch.device("cpu"))
        tables[title] = {
            row: {name: 1000 * min(seconds[f"{row}|{name}"]) for name in cs}
            for row, cs in rows.items()
        }
    draw(tables, picture)
    return tables


def draw(tables: dict[str, Rows], picture: Path) -> None:
    """Draws one panel per table, with logarithmic axes."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(tables)), tables.items(), strict=True):
        places = [_place(row) for row in rows]
        for name in next(iter(rows.values())):
            axes.loglog(places, [row[name] for row in rows.values()], marker="o", label=name)
        axes.set_xticks(places, list(rows), rotation=30, fontsize=7)
        axes.minorticks_off()
        axes.set(xlabel=title, ylabel="ms, one core")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def _place(row: str) -> float:
    return float(np.prod([int(part) for part in row.split("x")]))
