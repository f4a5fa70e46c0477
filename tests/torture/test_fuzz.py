"""A few hundred damaged files of fuzz.py are refused in one line, or accepted if they are valid.

`uv run tests/torture/fuzz.py` damages ten thousand; docs/reliability.md has the counts.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from random import Random

import mutations
import pytest
from fuzz import Kind, Tally, in_folder, make_kinds, run, trial
from kind import NonsenseError
from kinds_data import own_colours, own_numbers, pseudo_labels, scored_files
from kinds_runs import results, studies

# Kinds whose reading takes a millisecond; the slow test has the others, too.
QUICK = (own_numbers, own_colours, pseudo_labels, scored_files, results, studies)


def test_three_hundred_damaged_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.MAKERS", QUICK)
    tally = run(300, 0)
    assert tally.faults == {}
    # Every kind was reached, and most damaged files are refused.
    with in_folder() as folder:
        names = {kind.name for kind in make_kinds(folder / "files")}
    assert {*tally.refused, *tally.taken} == names
    assert sum(tally.refused.values()) > sum(tally.taken.values())


@pytest.mark.slow
def test_two_thousand_damaged_files_of_every_kind() -> None:
    assert run(2000, 1).faults == {}


def read_with(fault: object, tmp_path: Path) -> Tally:
    """Runs one trial of a reader that does something forbidden."""
    (tmp_path / "a").write_text("whole")

    def read() -> None:
        if isinstance(fault, BaseException):
            raise fault
        assert callable(fault)
        fault()

    kind = Kind("a", 1, {tmp_path / "a": [lambda draw, data: b"damaged"]}, read)
    tally = Tally()
    tally.add(0, trial([kind], 0, 0))
    assert (tmp_path / "a").read_text() == "whole"
    return tally


def test_what_counts_as_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gbw_d2.errors import UserError

    monkeypatch.chdir(tmp_path)
    assert read_with(UserError("one line"), tmp_path).refused == {"a": 1}
    assert read_with(lambda: None, tmp_path).taken == {"a": 1}
    runs_code = pickle.dumps(mutations.MakesAFolder())
    for fault, word in (
        (UserError("two\nlines"), "several lines"),
        (KeyError("x"), "KeyError"),
        (NonsenseError("size"), "cannot be: size"),
        (lambda: pickle.loads(runs_code), "code was run"),
    ):
        ((_, verdict),) = read_with(fault, tmp_path).faults
        assert word in verdict
    monkeypatch.setattr("fuzz.SECONDS", 1)

    def hang() -> None:
        while True:
            pass

    ((_, verdict),) = read_with(hang, tmp_path).faults
    assert "not done" in verdict


def test_a_trial_is_the_same_file_every_time() -> None:
    data = b"classes: {road: 1, car: [4, 5]}\nthings: [car]\n"
    for change in mutations.YAML:
        assert change(Random(3), data) == change(Random(3), data)
