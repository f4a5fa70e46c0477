"""tools/report.py on runs of three classes written by hand, and on a run that was evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

HEADER = "iteration,head,term,class,weight,measure,pixels\n"


def write_run(folder: Path, iou: float) -> Path:
    folder.mkdir(parents=True)
    rows = [f"{i},semantic,source,{n},1.5,nan,7\n" for i in (20, 40) for n in ("road", "car")]
    (folder / "class_weights.csv").write_text(HEADER + "".join(rows))
    lines = [{"iteration": i - 1, "loss_semantic": 1.0, "total_loss": 2.0} for i in (20, 40)]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "per_class.csv").write_text(
        f"protocol,class,train_id,IoU,recall,share\nall,road,0,90,91,99.5\nall,car,1,{iou},50,0.5\n"
    )
    metrics = {"mIoU_all": (90 + iou) / 2, "recall_all": 70.5}
    run = {"iterations": 40, "seed": 3, "wall_seconds": 90.0, "selection": "last iteration"}
    run["config"] = {"UDA": {"NAME": "cbst"}, "WEIGHTING": {"NAME": "gbw"}}
    content = {"metrics": metrics, "datasets": {"photos": metrics}, "per_class": {}, "run": run}
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "confusion.csv").write_text("truth,road,car,no class\nroad,90,9,1\ncar,3,1,0\n")
    (folder / "config.yaml").write_text("UDA: {NAME: cbst}  # <kept>\n")
    return folder


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Callable[..., int]:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    import report

    return lambda *arguments: report.main([str(argument) for argument in arguments])


class Reader(HTMLParser):
    """Collects what a page refers to and its tables' cells, and that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_a_page_of_two_runs(tmp_path: Path, main: Callable[..., int]) -> None:
    first, second = write_run(tmp_path / "none", 40.0), write_run(tmp_path / "gbw", 45.25)
    assert main(first, second, "--images", 0) == 0
    text = (first / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    # One file: every picture is in the page, and nothing is fetched.
    assert reader.sources and all(s.startswith("data:image/") for s in reader.sources)
    assert not re.search(r"https?://|@import|url\(", text)
    assert {"45.2 (+5.2)", "50.0 (+0.0)", "90.0 (+0.0)", "0.50 %", "cbst", "1.5 min"} <= {
        *reader.cells
    }
    assert re.search(r'<td class="better">45.2', text)
    assert '<tr class="rare"><td>car' in text and "<tr><td>road" in text
    assert "&lt;kept&gt;" in text


def test_pictures_that_cannot_be_made_are_told(tmp_path: Path, main: Callable[..., int]) -> None:
    folder = write_run(tmp_path / "run", 40.0)
    out = tmp_path / "page.html"
    assert main(folder, "--out", out) == 0
    assert "None: no scores per image" in out.read_text()


@pytest.mark.parametrize("missing", ["results.json", "per_class.csv"])
def test_an_unfinished_run_is_an_error(
    tmp_path: Path, missing: str, main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", 40.0)
    (folder / missing).unlink()
    assert main(folder) == 2
    words = capsys.readouterr().err
    assert words.startswith("error: ") and words.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_images_are_ranked_and_errors_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    from reporting.pictures import RIGHT, UNKNOWN, WRONG, error_map, rank_images

    (tmp_path / "semantic_per_image.csv").write_text(
        "file_name,image_id,mIoU_all\nb.png,b,50\na.png,a,\nc.png,c,20.5\n"
    )
    assert [(r.file_name, r.words) for r in rank_images(tmp_path)] == [
        ("c.png", "mIoU_all 20.5"),
        ("b.png", "mIoU_all 50.0"),
    ]
    drawn = error_map(np.array([[0, 1, 2]], np.uint8), np.array([[0, 2, 255]], np.uint8))
    assert [tuple(c) for c in drawn[0].tolist()] == [RIGHT, WRONG, UNKNOWN]
