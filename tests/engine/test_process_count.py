"""How many processes a command line asks for, without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from gbw_d2.engine import process_count
from gbw_d2.engine.process_count import count_processes, usable_cores, with_loading
from gbw_d2.errors import UserError

TOY = ("--config-file", "configs/toy/panoptic_gbw.yaml")
LARGE = ("--config-file", "configs/toy_large/panoptic_gbw.yaml")  # eight images per batch


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """A machine of six cores without a GPU, whatever this one is."""
    monkeypatch.chdir(repository)
    on(monkeypatch, 6, gpu=False)


def on(monkeypatch: pytest.MonkeyPatch, cores: int, gpu: bool) -> None:
    monkeypatch.setattr(process_count, "usable_cores", lambda: cores)
    monkeypatch.setattr(process_count, "_sees_gpu", lambda: gpu)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (TOY, 2),
        ((*TOY, "SOLVER.IMS_PER_BATCH", "6"), 6),
        ((*TOY, "SOLVER.IMS_PER_BATCH", "5"), 5),
        ((*TOY, "SOLVER.IMS_PER_BATCH", "7"), 1),
        (LARGE, 4),  # five and six do not divide eight
        # Each process needs as many images as it has parts.
        ((*LARGE, "SOLVER.GRADIENT_ACCUMULATION", "4"), 2),
        ((*LARGE, "SOLVER.GRADIENT_ACCUMULATION", "3"), 1),
        ((*TOY, "--with", "schedules/toy_large"), 4),
        ((*TOY, "--eval-only", "--resume"), 2),
        (("--eval-only", "--config-file=configs/toy/panoptic_gbw.yaml"), 2),
        # One is enough, or somebody else says how many.
        ((*TOY, "--check"), 1),
        ((*TOY, "--help"), 1),
        ((*TOY, "--num-gpus", "2"), 1),
        ((*TOY, "--num-machines=2"), 1),
        ((*TOY, "--none"), 1),
        ((), 1),
        # A batch norm's statistics would be those of a part of the batch.
        ((*TOY, "MODEL.RESNETS.NORM", "BN"), 1),
        ((*TOY, "MODEL.INS_EMBED_HEAD.NORM", "SyncBN"), 1),
        ((*TOY, "MODEL.RESNETS.NORM", "FrozenBN"), 2),
        ((*TOY, "MODEL.DEVICE", "cuda"), 1),
        # What is wrong is left to those who say it better.
        ((*TOY, "SOLVER.IMS_PER_BATCH", "two"), 1),
        ((*TOY, "SOLVER.IMS_PER_BATCH", "0"), 1),
        # As asked.
        ((*TOY, "--num-processes", "1"), 1),
        ((*TOY, "--num-processes=3", "SOLVER.IMS_PER_BATCH", "6"), 3),
        ((*TOY, "--eval-only", "--num-processes", "3"), 3),
        ((*TOY, "--check", "--num-processes", "2"), 2),
        ((*TOY, "--num-processes", "1", "--num-gpus", "2"), 1),
    ],
)
def test_six_cores(arguments: Sequence[str], number: int) -> None:
    assert count_processes(arguments, {}) == number


def test_a_config_that_leaves_the_batch_open(tmp_path: Path) -> None:
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("VERSION: 2\n")
    assert count_processes(["--config-file", str(leaf)], {}) == 1


@pytest.mark.parametrize(
    ("number", "batch", "most"), [("99", "2", 2), ("3", "2", 2), ("4", "6", 3), ("8", "7", 7)]
)
def test_more_processes_than_the_batch_can_be_shared_by(number: str, batch: str, most: int) -> None:
    words = [*TOY, "--num-processes", number, "SOLVER.IMS_PER_BATCH", batch]
    expected = f"--num-processes {number} does not divide the {batch} images .*; {most} would"
    with pytest.raises(UserError, match=expected):
        count_processes(words, {})


def test_threads_that_are_asked_for_take_cores() -> None:
    found = [count_processes(LARGE, {"OMP_NUM_THREADS": n}) for n in ("1", "2", "3", "4", "0", "x")]
    assert found == [4, 2, 2, 1, 4, 4]


def test_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 1, gpu=False)
    assert count_processes(TOY, {}) == 1


def test_who_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four cores are left for loaders, none is, or the command line says how many there are.
    assert with_loading(TOY, 2, {}) == [*TOY]
    assert with_loading(TOY, 2, {"OMP_NUM_THREADS": "3"}) == [*TOY, "DATALOADER.NUM_WORKERS", "0"]
    on(monkeypatch, 2, gpu=False)
    assert with_loading(TOY, 2, {}) == [*TOY, "DATALOADER.NUM_WORKERS", "0"]
    asked = [*TOY, "DATALOADER.NUM_WORKERS", "2"]
    assert with_loading(asked, 2, {}) == asked


def test_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 6, gpu=True)
    assert count_processes(TOY, {}) == 1
    assert count_processes([*TOY, "MODEL.DEVICE", "cpu"], {}) == 2
    with pytest.raises(UserError, match=r"--num-processes 2 is for the CPU.*MODEL.DEVICE cpu"):
        count_processes([*TOY, "--num-processes", "2"], {})
    assert count_processes([*TOY, "MODEL.DEVICE", "cpu", "--num-processes", "2"], {}) == 2


def test_torchrun_is_honoured() -> None:
    torchrun = {"LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    assert count_processes(TOY, torchrun) == 1
    assert count_processes([*TOY, "--num-processes", "1"], torchrun) == 1
    with pytest.raises(UserError, match="--num-processes 2 and torchrun both"):
        count_processes([*TOY, "--num-processes", "2"], torchrun)
    with pytest.raises(UserError, match="--num-processes 2 and --num-gpus both"):
        count_processes([*TOY, "--num-processes", "2", "--num-gpus", "2"], {})


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_no_number(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--num-processes is '{text}'; expected")):
        count_processes([*TOY, f"--num-processes={text}"], {})


def test_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(process_count, "_QUOTA", file)
    assert usable_cores() == 8
    for text, cores in (("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)):
        file.write_text(text)
        assert usable_cores() == cores


def test_every_command_of_a_test_says_how_many(repository: Path) -> None:
    """Tests run side by side; two processes each would be an accident."""
    starts = re.compile(r'"train_net.py", (?!"--help")')
    ends_at_once = {"test_composition.py", "test_passive_waiting.py", "test_process_count.py"}
    files = [
        path
        for path in (repository / "tests").rglob("*.py")
        if starts.search(path.read_text()) and path.name not in ends_at_once
    ]
    assert len(files) >= 5
    assert [path.name for path in files if "--num-processes" not in path.read_text()] == []
