"""tools/plot_run.py and the reader behind it, on small runs of 19 classes written by hand."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from gbw_d2.cityscapes_classes import CLASSES
from gbw_d2.errors import UserError
from gbw_d2.evaluation.report import RARE_SHARE
from gbw_d2.results.reader import read_losses, read_run, read_scores, read_weights, run_names

NAMES = [c.name for c in CLASSES]
HEADER = "iteration,head,term,class,weight,measure,pixels\n"


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    path = repository / "tools/plot_run.py"
    spec = importlib.util.spec_from_file_location("plot_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(folder: Path, shift: float = 0.0, iterations: Sequence[int] = (20, 40, 60)) -> Path:
    """Class k has weight 1 + shift + k / 100 at the first iteration, and the double thereafter."""
    folder.mkdir(parents=True)
    rows = [
        f"{i},{head},source,{name},{(1 + shift + k / 100) * (1 + (i > 20))},nan,7\n"
        for i in iterations
        for head in ("semantic", "center")
        for k, name in enumerate(NAMES)
        if head == "semantic" or CLASSES[k].is_thing
    ]
    (folder / "class_weights.csv").write_text(HEADER + "".join(rows))
    lines = [
        {"iteration": i - 1, "loss_semantic": i / 10, "total_loss": i / 5, "lr": 0.1}
        for i in iterations
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines))
    scores = [f"19,{n},{k},{40 + k},{50 + k},{k / 10}\n" for k, n in enumerate(NAMES)]
    scores[3] = "19,wall,3,,,\n"
    (folder / "per_class.csv").write_text(
        "protocol,class,train_id,IoU,recall,share\n" + "".join(scores) + "13,road,0,90,91,30\n"
    )
    return folder


def test_reads_what_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a"), "a")
    assert list(run.weights) == ["semantic", "center"]
    assert list(run.weights["semantic"]["source"]) == NAMES
    assert list(run.weights["center"]["source"]) == [c.name for c in CLASSES if c.is_thing]
    iterations, values = run.weights["semantic"]["source"]["bicycle"]
    assert iterations.tolist() == [20, 40, 60]
    assert values.tolist() == pytest.approx([1.18, 2.36, 2.36])
    # The learning rate is no loss, and iterations are counted from 1.
    assert list(run.losses) == ["total_loss", "loss_semantic"]
    assert run.losses["loss_semantic"][0].tolist() == [20, 40, 60]
    assert run.losses["loss_semantic"][1].tolist() == [2, 4, 6]
    assert list(run.scores) == ["19", "13"]
    assert run.scores["19"]["rider"]["recall"] == 62
    assert run.scores["19"]["wall"]["IoU"] is None


def test_resumed_and_killed_runs(tmp_path: Path) -> None:
    losses = tmp_path / "metrics.json"
    lines = [(0, 9.0), (1, 8.0), (2, 7.0), (1, 5.0)]
    text = "".join(json.dumps({"iteration": i, "loss_a": v}) + "\n" for i, v in lines)
    losses.write_text(text + '{"iteration": 2, "lo')
    assert [a.tolist() for a in read_losses(losses)["loss_a"]] == [[1, 2], [9, 5]]
    weights = tmp_path / "class_weights.csv"
    weights.write_text(HEADER + "20,semantic,source,road,1.5,2,3\n20,semantic,source,sidew")
    assert list(read_weights(weights)["semantic"]["source"]) == ["road"]


def test_the_losses_of_target_images_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    row = {"iteration": 0, "gradient_norm": 3.0, "mixed_loss_semantic": 2.0, "loss_semantic": 1.0}
    path.write_text(json.dumps(row | {"total_loss": 3.0, "lr": 0.1, "mIoU_16": 5.0}) + "\n")
    names = ["total_loss", "mixed_loss_semantic", "loss_semantic", "gradient_norm"]
    assert list(read_losses(path)) == names


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('nonsense\n{"iteration": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.json, line 1"):
        read_losses(path)
    path = tmp_path / "class_weights.csv"
    path.write_text(HEADER + "20,semantic,source,road,heavy,2,3\n20,semantic,source,bus,1,2,3\n")
    with pytest.raises(UserError, match="line 2: 'heavy' is no number"):
        read_weights(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column iteration, head"):
        read_weights(path)
    with pytest.raises(UserError, match="has no column protocol"):
        read_scores(path)


def test_the_legend_of_long_names_fits(tool: ModuleType, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    runs = [read_run(folder, f"day_to_dusk_self_training-inverse_frequency-{i}") for i in range(5)]
    figure = tool.draw_weights(runs, "semantic")
    figure.set_dpi(20)
    figure.savefig(tmp_path / "a.png", dpi="figure")
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1


def test_run_names(tmp_path: Path) -> None:
    a, b = tmp_path / "x/run", tmp_path / "y/run"
    assert run_names([a, tmp_path / "x/other"]) == ["run", "other"]
    assert run_names([a, b]) == ["x/run", "y/run"]
    with pytest.raises(UserError, match="twice"):
        run_names([a, a])


def test_running_quantiles(tool: ModuleType) -> None:
    # 60 values: windows of five, of three at the ends. One outlier does not move the median.
    values = np.arange(60.0)
    values[30] = 1000
    iterations, (low, median, high) = tool.smooth((np.arange(60.0), values))
    assert iterations.tolist() == list(range(60))
    assert median[10] == 10 and median[30] == 31 and median[0] == 1
    assert low[10] == pytest.approx(8.4) and high[10] == pytest.approx(11.6)
    few, bands = tool.smooth((np.arange(5000.0), np.ones(5000)))
    assert len(few) == 300 and few[0] == 0 and few[-1] == 4999 and bands.shape == (3, 300)


def test_means_and_rare_classes(tool: ModuleType, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a"), "a")
    table = run.scores["19"]
    assert tool.group_mean(table, ["road", "wall", "fence"], "IoU") == 42
    assert math.isnan(tool.group_mean(table, ["wall"], "IoU"))
    # Shares are 0, 0.1, 0.2 ... per cent; wall's is not known, and protocol 13 says 30 for road.
    assert tool.rare_classes([run], "19") == set(NAMES[:10]) - {"wall"}
    assert tool.rare_classes([run], "13") == set()
    assert tool.RARE_SHARE == RARE_SHARE


@pytest.mark.slow
def test_two_runs_of_19_classes(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "gbw"), write_run(tmp_path / "none", shift=0.5)]
    assert tool.main(list(map(str, runs))) == 0
    printed = capsys.readouterr()
    names = ("weights", "weights_center", "losses", "classes")
    expected = {runs[0] / f"plots/{n}.{kind}" for n in names for kind in ("png", "svg")}
    assert set(map(Path, printed.out.split())) == expected
    # Nothing is left of the temporary files.
    assert set((runs[0] / "plots").iterdir()) == expected
    for path in expected:
        if path.suffix == ".png":
            picture = cv2.imread(str(path))
            assert picture.shape[1] > 800 and picture.std() > 5
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
            assert path.stat().st_size > 10_000
    assert printed.err == ""


def test_what_the_figures_hold(tool: ModuleType, tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / n, s), n) for n, s in (("a", 0.0), ("b", -0.99))]
    figure = tool.draw_weights(runs, "semantic", "19")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [a.get_title(loc="left") for a in panels[:4]] == [
        "road *",
        "sidewalk *",
        "building *",
        "wall",
    ]
    assert len(panels) == 19
    assert [1.18, 2.36, 2.36] in [
        np.round(line.get_ydata(), 6).tolist() for line in panels[18].get_lines()
    ]
    assert [t.get_text() for t in panels[18].texts] == ["68", "68", "recall"]
    # Weights of 0.01 are drawn at the floor, and the title says so.
    assert [1 / 16] * 3 in [np.asarray(x.get_ydata()).tolist() for x in panels[0].get_lines()]
    assert "below 0.0625" in figure.get_suptitle()
    bars = tool.draw_classes(runs, "19").axes
    assert [a.get_ylabel() for a in bars] == ["IoU (%)", "recall (%)"]
    # Most frequent first; two runs, 19 classes and two means.
    assert bars[1].get_xticklabels()[0].get_text() == "bicycle"
    heights = [bar.get_height() for bar in bars[1].patches if bar.get_width() < 0.9]
    assert len(heights) == 2 * 21 and heights[0] == 68


@pytest.mark.slow
def test_unfinished_run_and_protocols(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, early = write_run(tmp_path / "done"), write_run(tmp_path / "early", iterations=[20])
    (early / "per_class.csv").unlink()
    out = tmp_path / "pictures"
    assert tool.main([str(early), str(done), "--out", str(out), "--protocol", "13"]) == 0
    assert "early: nothing in per_class.csv yet" in capsys.readouterr().err
    assert (out / "classes.png").is_file() and not (early / "plots").exists()
    assert tool.main([str(done), "--protocol", "7"]) == 2
    assert "done: 19, 13" in capsys.readouterr().err


def test_no_runs(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(tmp_path)]) == 2
    assert "is no run: it holds none of class_weights.csv" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "missing")]) == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("")
    assert tool.main([str(tmp_path)]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert tool.main([str(tmp_path / str(i)) for i in range(8)]) == 2
    assert "at most 7" in capsys.readouterr().err


def test_starts_without_torch(repository: Path) -> None:
    code = (
        "import sys, runpy; runpy.run_path('tools/plot_run.py');"
        "print([m for m in ('torch', 'detectron2', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True)
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()
