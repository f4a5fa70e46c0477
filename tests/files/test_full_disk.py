"""A full disk, for every kind of file that is written: one line, and nothing half-written."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gbw_d2.commands import finish
from gbw_d2.data.statistics import save_counts
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.evaluation.prediction_files import PanopticFiles
from gbw_d2.files.atomic import write_atomically
from gbw_d2.inference.results import ResultWriter
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.results.run_info import RUN_KEYS
from gbw_d2.results.writer import write_per_class_csv, write_results_json
from gbw_d2.toyworld import ToyWorldSettings, write_toy_world
from gbw_d2.uda.parts.pseudo_label_files import RoundFiles
from gbw_d2.visualization import write_png
from gbw_studies.results.plots import write_png as write_figure

ROOM = 200  # bytes of the largest file
NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
IDS = np.arange(1024, dtype=np.int32).reshape(32, 32)
RUN = dict.fromkeys(RUN_KEYS, "x")
SPACE = LABEL_SPACES.get("cityscapes_16")


TOY = ToyWorldSettings(
    image_size=(32, 64), num_source=1, num_target_train=1, num_target_val=1, num_source_val=0
)


def figure() -> Any:
    from matplotlib.figure import Figure

    drawn = Figure()
    drawn.subplots().plot([0, 1])
    return drawn


def plots_of_a_run(folder: Path) -> None:
    script = Path(__file__).parents[2] / "tools/plot_run.py"
    spec = importlib.util.spec_from_file_location("plot_run", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_figure(figure(), folder / "losses")


def pseudo_labels(folder: Path) -> None:
    RoundFiles(folder).write_labels("a", NOISE[..., 0], IDS)


def prediction(folder: Path) -> None:
    PanopticFiles(folder, SPACE).add("a", IDS, [])


def demo_picture(folder: Path) -> None:
    result = {"sem_seg": torch.zeros(16, 32, 32), "panoptic_seg": (torch.from_numpy(IDS), [])}
    ResultWriter(folder, SPACE).add("a", NOISE, result, {})


def checkpoint(folder: Path) -> None:
    Checkpointer(nn.Linear(100, 100), str(folder)).save("model_final")


def rows() -> dict[str, Any]:
    return {"16": {f"class {number}": {"IoU": 1.0} for number in range(19)}}


WRITES: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: write_atomically(folder / "a.json", json.dumps(IDS.tolist())),
    "results.json": lambda folder: write_results_json(folder / "a.json", {}, {}, rows(), RUN),
    "per_class.csv": lambda folder: write_per_class_csv(folder / "per_class.csv", rows()),
    "picture": lambda folder: write_png(folder / "a.png", NOISE),
    "figure of a study": lambda folder: write_figure(figure(), folder / "a.png"),
    "plots of a run": plots_of_a_run,
    "class statistics": lambda folder: save_counts(folder / "a.npz", np.array(NOISE, np.int64)),
    "pseudo-labels": pseudo_labels,
    "prediction": prediction,
    "demo": demo_picture,
    "checkpoint": checkpoint,
    "toy world": lambda folder: write_toy_world(folder / "toy", TOY, 1),
}


@pytest.mark.parametrize("kind", WRITES)
def test_nothing_is_left_half_written(
    kind: str, tmp_path: Path, small_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write = WRITES[kind]
    with small_disk(ROOM):
        code = finish(lambda: write(tmp_path))
    shown = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert shown.startswith("error: ") and "room" in shown and str(tmp_path) in shown
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > ROOM - 1] == []
    # Where there is room again, the same is written as if nothing had been.
    write(tmp_path)
    assert any(p.is_file() for p in tmp_path.rglob("*"))
    assert not list(tmp_path.rglob("*.tmp*"))
