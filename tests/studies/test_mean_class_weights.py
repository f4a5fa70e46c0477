"""gbw_studies/mean_class_weights.py on a file written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbw_studies import mean_class_weights
from gbw_studies.mean_class_weights import mean_weights

ROWS = """iteration,head,term,class,weight,measure,pixels
10,semantic,source,road,0.5,1,100
10,semantic,source,bus,9,1,0
10,semantic,source,pole,1,1,0
10,center,source,bus,7,1,5
10,semantic,mixed,road,1,1,50
10,semantic,mixed,bus,1,1,0
10,semantic,mixed,pole,1,1,0
20,semantic,source,road,0.25,1,100
20,semantic,source,bus,2,1,3
20,semantic,source,pole,1,1,0
20,semantic,mixed,bus,4,1,3
"""


def test_means_over_time_then_over_terms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "class_weights.csv").write_text(ROWS)
    # road (0.375 + 1) / 2, bus (2 + 4) / 2, pole never seen: 1; their sum is 4.6875.
    expected = [round(w * 3 / 4.6875, 3) for w in (0.6875, 3.0, 1.0)]
    assert mean_weights([tmp_path], ["source", "mixed"]) == expected
    assert mean_class_weights.main([str(tmp_path), "--terms", "source", "mixed"]) == 0
    assert f"ACTS_ON: all, WEIGHTING.CLASS_WEIGHTS: {expected}" in capsys.readouterr().out
    # The source alone: road 0.375, bus 2; their sum with 1 is 3.375. A second run has the road at
    # 1.125 and the bus at 2: road 0.75, sum 3.75.
    assert mean_weights([tmp_path], ["source"]) == [0.333, 1.778, 0.889]
    (tmp_path / "second").mkdir()
    second = ROWS.replace("road,0.5", "road,1.5").replace("road,0.25", "road,0.75")
    (tmp_path / "second/class_weights.csv").write_text(second)
    assert mean_weights([tmp_path, tmp_path / "second"], ["source"]) == [0.6, 1.6, 0.8]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/class_weights.csv").write_text(ROWS.replace("bus", "tram"))
    assert mean_class_weights.main([str(tmp_path), str(tmp_path / "other")]) == 2
    assert "the runs' classes differ" in capsys.readouterr().err
    assert mean_class_weights.main([str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
