"""gbw_studies/plot_label_shares.py on a log written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gbw_d2.errors import UserError
from gbw_studies import plot_label_shares as tool
from gbw_studies.results.class_log import read_class_log

HEAD = "iteration,head,term,class,weight,measure,pixels"


def write(folder: Path) -> Path:
    folder.mkdir()
    rows = ["0,semantic,source,road,1,1,90", "0,semantic,source,bus,1,1,10"]
    rows += ["0,center,mixed,bus,1,1,9"]
    # Iterations 12 to 120: the bus has 10 % of the first half and all of the second.
    for iteration in range(12, 121, 12):
        bus = 10 if iteration <= 60 else 100
        rows += [
            f"{iteration},semantic,mixed,road,1,nan,{100 - bus}",
            f"{iteration},semantic,mixed,bus,2,nan,{bus}",
        ]
    (folder / "class_weights.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


def test_the_log_as_arrays(tmp_path: Path) -> None:
    log = read_class_log(write(tmp_path / "run"), "mixed")
    assert log.names == ("road", "bus")
    assert log.iterations.tolist() == list(range(12, 121, 12))
    assert log.weights.shape == log.pixels.shape == (10, 2)
    assert log.pixels[0].tolist() == [90, 10]
    assert log.weights[3].tolist() == [1, 2]
    with (tmp_path / "run/class_weights.csv").open("a") as file:
        file.write("132,semantic,mixed,ro")
    assert len(read_class_log(tmp_path / "run", "mixed").iterations) == 10
    with pytest.raises(UserError, match=r"term 'pseudo' \(there are: source, mixed"):
        read_class_log(tmp_path / "run", "pseudo")


def test_shares_of_the_parts_of_a_run(tmp_path: Path) -> None:
    log = read_class_log(write(tmp_path / "run"), "mixed")
    iterations, shares = tool.shares_over_time(log, "bus")
    # Parts of ten iterations; those without a logged batch are left out.
    assert (np.diff(iterations) > 0).all() and len(iterations) == len(shares) == 10
    assert shares[iterations < 60].tolist() == pytest.approx([10] * int((iterations < 60).sum()))
    assert shares[iterations > 60].tolist() == pytest.approx([100] * int((iterations > 60).sum()))
    assert tool.shares_over_time(log, "tram")[1].tolist() == [0] * len(shares)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run")
    assert tool.main([str(run), str(run), "--names", "a", "b", "--classes", "bus"]) == 0
    assert (run / "plots/label_shares.png").read_bytes().startswith(b"\x89PNG")
    assert tool.main([str(run), "--classes", "tram"]) == 2
    assert "no class tram (there are: bus, road)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([str(run), "--names", "a", "b"])
