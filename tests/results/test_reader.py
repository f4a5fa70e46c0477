"""Damaged files of a run are reported in one line that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbw_d2.errors import UserError
from gbw_d2.results.class_weights import COLUMNS, ClassWeightsFile
from gbw_d2.results.reader import (
    read_confusion,
    read_losses,
    read_results,
    read_scores,
    read_weight_rows,
)

HEAD = ",".join(COLUMNS) + "\n"
ROW = "20,semantic,source,road,1.5,0.2,99\n"
READERS = {
    "metrics.json": read_losses,
    "per_class.csv": read_scores,
    "confusion.csv": read_confusion,
    "results.json": read_results,
    "class_weights.csv": read_weight_rows,
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b'{"iteration": "5"}\n{"iteration": 6}\n'),
        ("metrics.json", b'{"iteration": 5, "total_loss": "x"}\n{"iteration": 6}\n'),
        ("metrics.json", b"\xff\xfe\n"),
        ("per_class.csv", b"protocol,class,IoU\n16,road,nan\n"),
        ("per_class.csv", b"protocol,class,IoU\n16,road,1,2\n"),
        ("per_class.csv", b"protocol,class,IoU,IoU\n16,road,1,2\n"),
        ("per_class.csv", b"protocol,class,IoU\n16,road," + b"9" * 200_000 + b"\n"),
        ("confusion.csv", b"truth,road,no class\nroad,1\n"),
        ("confusion.csv", b"truth,road,no class\nroad,-1,0\n"),
        ("confusion.csv", b"truth,road,no class\nroad,inf,0\n"),
        ("results.json", b"[]"),
        ("results.json", b"{"),
        ("results.json", b'{"run": {}, "datasets": {"val": {"mIoU_16": "25"}}}'),
        ("class_weights.csv", (HEAD + "20,semantic\n" + ROW).encode()),
    ],
)
def test_what_is_damaged_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        READERS[name](tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_confusion_without_rows(tmp_path: Path) -> None:
    (tmp_path / "confusion.csv").write_text("truth,road,no class\n")
    truth, _, counts = read_confusion(tmp_path / "confusion.csv")
    assert truth == [] and counts.size == 0 and counts.dtype == np.int64


def test_a_resumed_run_drops_a_row_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "class_weights.csv"
    path.write_text(HEAD + ROW + "20,semantic,sou")
    ClassWeightsFile(path).start(20)
    assert path.read_text().splitlines() == (HEAD + ROW).splitlines()
    path.write_text(HEAD + ROW.replace("20", "x"))
    with pytest.raises(UserError, match=r"class_weights\.csv: iteration 'x' is no number"):
        ClassWeightsFile(path).start(20)
