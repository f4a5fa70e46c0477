"""What may change when a run is resumed; a used OUTPUT_DIR is refused."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gbw_d2.config import ConfigError
from gbw_d2.engine.checkpoint import Checkpointer
from gbw_d2.engine.resume import (
    CONFIG,
    CONFIG_HASH,
    MARKS,
    ON_RESUME,
    Change,
    change_of,
    check_resumed,
    check_unused,
    config_entries,
)
from gbw_d2.errors import UserError
from gbw_d2.uda import STRATEGIES
from gbw_d2.uda.strategy import RunSettings

from detectron2.config import CfgNode

# By hand: what the optimiser's state, or the split of parameters into groups, was made with.
FREE = ("LOG_PERIOD", "CHECKPOINT_PERIOD", "CHECKPOINTS_KEPT")
REFUSED = [
    *(
        "OPTIMIZER",
        "MOMENTUM",
        "NESTEROV",
        "WEIGHT_DECAY",
        "WEIGHT_DECAY_NORM",
        "WEIGHT_DECAY_BIAS",
    ),
    *(
        "WEIGHT_DECAY_TABLES",
        "WEIGHT_DECAY_EMBEDDINGS",
        "HEAD_LR_FACTOR",
        "LAYER_DECAY",
        "BIAS_LR_FACTOR",
    ),
    "REFERENCE_WORLD_SIZE",
]


def leaves(node: CfgNode, prefix: str) -> list[str]:
    names: list[str] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        names += leaves(value, f"{name}.") if isinstance(value, CfgNode) else [name]
    return names


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return (7,) if isinstance(value, (tuple, list)) else (value or 0) + 1


def test_every_key_of_the_solver(tiny_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    before = tiny_config()
    saved = {**config_entries(before), "iteration": 4}
    for key in leaves(before.SOLVER, "SOLVER."):
        now = before.clone()
        node = now
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = other(node[last])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gbw_d2"):
            if key.removeprefix("SOLVER.") in REFUSED:
                with pytest.raises(ConfigError, match=rf"begun with {key} .*fresh OUTPUT_DIR"):
                    check_resumed(saved, now)
                continue
            check_resumed(saved, now)
        warned = "from iteration 5 on" in caplog.text and key in caplog.text
        assert warned == (key.removeprefix("SOLVER.") not in FREE), key


def test_the_hash_is_that_of_the_keys_and_not_of_the_folder(tiny_config: Any) -> None:
    one, two, three = (
        config_entries(tiny_config(*words))[CONFIG_HASH]
        for words in (("OUTPUT_DIR", "a"), ("OUTPUT_DIR", "b"), ("SEED", 5))
    )
    assert one == two != three


def test_an_equal_config_says_nothing(tiny_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    cfg = tiny_config()
    check_resumed(config_entries(cfg), cfg)
    assert not caplog.records


def test_an_older_checkpoint_holds_no_config(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        check_resumed({"model": {}}, tiny_config())
    assert "holds no config" in caplog.text


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("MODEL.RESNETS.DEPTH", Change.REFUSED),
        ("DATASETS.TRAIN", Change.REFUSED),
        ("SEED", Change.FROM_HERE),
        ("INPUT.TEST_SIZE", Change.FREE),
        ("INPUT.CROP_SIZE", Change.FROM_HERE),
        ("UDA.NAME", Change.REFUSED),
        ("UDA.SELF_TRAINING.EMA_DECAY", Change.FROM_HERE),
    ],
)
def test_the_longest_part_decides(key: str, expected: Change) -> None:
    assert change_of(key) is expected


def test_the_docs_show_the_table(repository: Path) -> None:
    text = (repository / "docs" / "training.md").read_text()
    for change in Change:
        assert change.value.split(":")[0].split(" and")[0] in text
    assert [key for key in ON_RESUME if f"`{key}" not in text and key] == []


def test_a_checkpoint_knows_its_config(tiny_config: Any, tmp_path: Path) -> None:
    cfg = tiny_config()
    model = nn.Conv2d(1, 1, 1)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.entries = config_entries(cfg)
    checkpointer.save("model_a", iteration=3)
    saved = torch.load(tmp_path / "model_a.pth", weights_only=True)
    assert "MOMENTUM" in saved[CONFIG]
    assert len(saved[CONFIG_HASH]) == 64
    seen: list[Any] = []
    checkpointer.check_entries = seen.append
    checkpointer.strict = True
    checkpointer.resume_or_load("", resume=True)
    assert seen[0][CONFIG] == saved[CONFIG]


# Strategy, iterations done, SOLVER.MAX_ITER before and now, and the mark that it would move.
MOVED = [
    # Of 8 iterations cbst's warm-up has 2, its rounds 3 each; of 16: 4, 6 and 6.
    ("cbst", 8, (8, 16), "stage round_1 from iteration 5 to iteration 10"),
    ("cbst", 4, (8, 16), "stage round_0 from iteration 2 to iteration 4"),
    # Those labels have not been made.
    ("cbst", 3, (16, 8), "stage round_0 from iteration 4 to iteration 2"),
    ("cbst", 2, (8, 16), ""),
    ("cbst", 8, (8, 9), ""),
    # A quarter of the run is without target.
    ("min_entropy", 3, (8, 16), "target (UDA.WARM_UP) from iteration 2 to iteration 4"),
    ("min_entropy", 5, (8, 16), ""),
    ("source_only", 3, (8, 16), ""),
]


def test_a_stage_that_has_begun_stays_begun(tiny_config: Any) -> None:
    shares = ("UDA.CBST.WARM_UP", 0.25, "UDA.CBST.ROUNDS", 2, "UDA.WARM_UP", 0.25)
    loaded = tiny_config(*shares)
    network: Any = None  # it is not asked for anything

    def run_of(name: str, length: int) -> tuple[CfgNode, dict[str, int]]:
        cfg = loaded.clone()
        cfg.UDA.NAME, cfg.SOLVER.MAX_ITER = name, length
        run = RunSettings(max_iter=length, warm_up=cfg.UDA.WARM_UP)
        return cfg, STRATEGIES.get(name)(network, cfg.UDA.get(name.upper()), run).marks()

    for name, done, (length, new_length), refused in MOVED:
        before, marks = run_of(name, length)
        saved = {**config_entries(before), MARKS: marks, "iteration": done - 1}
        now, new_marks = run_of(name, new_length)
        told = f"iteration {done}, and SOLVER.MAX_ITER {length}.*{re.escape(refused)}"
        with pytest.raises(ConfigError, match=told) if refused else nullcontext():
            check_resumed(saved, now, new_marks)
    # Older checkpoints know of no marks.
    before, _ = run_of("cbst", 8)
    now, marks = run_of("cbst", 16)
    check_resumed({**config_entries(before), "iteration": 7}, now, marks)


@pytest.mark.parametrize("name", ["last_checkpoint", "model_0000001.pth", "model_final.pth"])
def test_a_used_folder_is_refused(tmp_path: Path, name: str) -> None:
    check_unused(str(tmp_path), resume=False)
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"holds the checkpoints .*--resume .*fresh OUTPUT_DIR"):
        check_unused(str(tmp_path), resume=False)
    check_unused(str(tmp_path), resume=True)
