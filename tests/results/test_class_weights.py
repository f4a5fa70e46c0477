"""class_weights.csv is continued when a run is resumed, also after an incomplete line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbw_d2.results.class_weights import ClassWeightsFile
from gbw_d2.results.reader import read_weight_rows


@pytest.mark.parametrize("left", ["", "3", "30,semantic,source,road,0.5,0.1,12", "30,sem"])
def test_a_row_that_is_cut_off_is_none(tmp_path: Path, left: str) -> None:
    file = ClassWeightsFile(tmp_path / "class_weights.csv")
    file.start(0)
    for iteration in (10, 20, 30):
        file.append([[iteration, "semantic", "source", "road", 0.5, 0.1, 1234]])
    with file.path.open("a") as opened:
        opened.write(left)
    file.start(20)
    file.append([[30, "semantic", "source", "road", 0.7, 0.1, 1234]])
    rows = read_weight_rows(file.path)
    assert [(row["iteration"], row["weight"]) for row in rows] == [
        *(("10", "0.5"), ("20", "0.5"), ("30", "0.7"))
    ]
    assert all(row["pixels"] == "1234" for row in rows)
