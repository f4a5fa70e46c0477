"""gbw_studies/plot_weights_by_share.py on weights that are a power of the share by construction."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbw_studies import plot_weights_by_share as tool

PIXELS = {"road": 6400, "car": 400, "bus": 100}
HEAD = "iteration,head,term,class,weight,measure,pixels"


def write(folder: Path, powers: dict[int, float]) -> Path:
    folder.mkdir()
    rows = [
        f"{iteration},semantic,source,{name},{3 * (count / 6900) ** power},1,{count}"
        for iteration, power in powers.items()
        for name, count in PIXELS.items()
    ]
    # A batch without the class, another term, another head.
    rows += [
        "5,semantic,source,bus,1,1,0",
        "10,semantic,mixed,bus,9,1,5",
        "10,center,source,bus,9,1,5",
    ]
    (folder / "class_weights.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


def test_the_exponent_of_each_phase(tmp_path: Path) -> None:
    weights, shares = tool.read_values([write(tmp_path / "run", {10: -0.5, 20: -0.25})], "source")
    assert list(shares) == ["road", "car", "bus"]
    assert shares["car"] == pytest.approx(400 / 6900)
    early, late = tool.phases(weights, shares, 2)
    assert (early.start, early.end, late.start, late.end) == (1, 10, 11, 20)
    assert (early.exponent, late.exponent) == (pytest.approx(-0.5), pytest.approx(-0.25))
    assert early.determination == pytest.approx(1)
    assert early.values["bus"] == pytest.approx(3 * 69**0.5)


def test_runs_are_averaged_and_a_bad_fit_is_said(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", {10: -0.5}), write(tmp_path / "b", {10: 0.5})]
    weights, shares = tool.read_values(folders, "source")
    (phase,) = tool.phases(weights, shares, 1)
    # (x^-1/2 + x^1/2) / 2 rises to both sides of its least value at 1.
    assert phase.values["car"] == pytest.approx(1.5 * (17.25**0.5 + 17.25**-0.5))
    assert phase.determination is not None and phase.determination < 1


def test_two_classes_have_no_fit(tmp_path: Path) -> None:
    weights, shares = tool.read_values([write(tmp_path / "run", {10: -0.5})], "source")
    del weights["car"]
    (phase,) = tool.phases(weights, shares, 1)
    assert (phase.exponent, phase.determination) == (None, None)
    assert "| exponent of the share | | - |" in tool.report(tool.Group("", [phase], shares))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", {10: -0.5, 20: -0.25, 30: -0.25})
    assert tool.main([str(run), "--phases", "3"]) == 0
    assert "| bus | 1.45 | 24.92 | 8.65 | 8.65 |" in capsys.readouterr().out
    assert (run / "plots/weights_by_share.png").read_bytes().startswith(b"\x89PNG")
    assert tool.main([str(run), "--term", "pseudo"]) == 2
    assert "term 'pseudo'" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "nothing")]) == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/class_weights.csv").write_text(f"{HEAD}\n10,semantic,source,bus,1,1,0\n")
    assert tool.main([str(tmp_path / "empty")]) == 2
    assert "no logged batch shows a class" in capsys.readouterr().err


def test_measures_and_gradient_shares(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    # Weight, measure and pixels; the bus is not measured in the second batch.
    rows = ["10,semantic,source,road,0.5,2,96", "10,semantic,source,bus,1.5,8,2"]
    rows += ["20,semantic,source,road,0.5,4,100", "20,semantic,source,bus,1.5,nan,2"]
    (run / "class_weights.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    measures, shares = tool.read_values([run], "source", "measure")
    assert shares == {"road": 0.98, "bus": 0.02}
    assert {name: table[:, 1].tolist() for name, table in measures.items()} == {
        "road": [2, 4],
        "bus": [8],
    }
    parts, _ = tool.read_values([run], "source", "gradient_share")
    (phase,) = tool.phases(parts, shares, 1)
    assert phase.values["road"] == pytest.approx(0.5 * 3 * 0.98)
    assert phase.values["bus"] == pytest.approx(1.5 * 8 * 0.02)


def test_runs_by_name_have_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (
        write(tmp_path / "a", {10: -0.5, 20: -0.5}),
        write(tmp_path / "b", {10: 0.5, 20: 1}),
    )
    out = tmp_path / "x.png"
    runs = [str(one), str(other)]
    assert tool.main([*runs, "--names", "down", "up", "--phases", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    order = ["down\n", "| exponent of the share | | -0.50 | -0.50 |", "up\n", "| 0.50 | 1.00 |"]
    places = [said.index(part) for part in order]
    assert places == sorted(places) and out.is_file()
    with pytest.raises(SystemExit):
        tool.main([*runs, "--names", "down"])


def test_a_scheme_without_a_measure_has_no_pull(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "class_weights.csv").write_text(f"{HEAD}\n10,semantic,source,road,1,nan,5\n")
    assert tool.main([str(run), "--of", "gradient_share"]) == 2
    assert "no gradient share was logged" in capsys.readouterr().err
