"""Old periodic checkpoints are deleted, also those from before a run was resumed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.engine.hooks import periodic_checkpointer


@pytest.mark.parametrize(
    ("kept", "left"),
    [(2, ["0000004", "0000005"]), (0, [f"{i:07d}" for i in range(6)])],
)
def test_the_newest_are_kept(tmp_path: Path, kept: int, left: list[str]) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    checkpointer.save("model_best_on_target_labels", last=False)
    for first, last in ((0, 3), (3, 6)):  # a run, and the one that goes on from it
        hook = periodic_checkpointer(checkpointer, 1, kept, ends=[6])
        for iteration in range(first, last):
            hook.max_iter = 6
            hook.step(iteration)
    names = {p.name for p in tmp_path.glob("*.pth")}
    assert names == {
        *(f"model_{n}.pth" for n in left),
        *("model_final.pth", "model_best_on_target_labels.pth"),
    }
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize(
    ("period", "left"), [(10, ["0000001", "0000004"]), (2, ["0000001", "0000003", "0000004"])]
)
def test_the_end_of_the_run_alone_is_called_final(
    tmp_path: Path, period: int, left: list[str]
) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    for first, last in ((0, 2), (2, 5), (5, 6)):  # three stages
        hook = periodic_checkpointer(checkpointer, period, kept=0, ends=[2, 5, 6])
        hook.trainer = SimpleNamespace(max_iter=last)
        hook.before_train()
        for iteration in range(first, last):
            assert not (tmp_path / "model_final.pth").exists()
            hook.step(iteration)
    numbered = {f"model_{n}.pth" for n in left} | ({"model_0000005.pth"} if period == 2 else set())
    assert {p.name for p in tmp_path.glob("*.pth")} == numbered | {"model_final.pth"}


@pytest.mark.parametrize(
    ("period", "left"),
    [
        (2, ["0000003", "0000011", "0000021", "0000023"]),
        (5, ["0000003", "0000011", "0000014", "0000019"]),
    ],
)
def test_the_ends_of_stages_are_kept(tmp_path: Path, period: int, left: list[str]) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    for first, last in ((0, 4), (4, 12), (12, 24)):
        hook = periodic_checkpointer(checkpointer, period, kept=2, ends=[4, 12, 24])
        hook.trainer = SimpleNamespace(max_iter=last)
        hook.before_train()
        for iteration in range(first, last):
            hook.step(iteration)
    names = {p.name for p in tmp_path.glob("*.pth")}
    assert names == {*(f"model_{n}.pth" for n in left), "model_final.pth"}
