"""Rules for config keys that may change when a run is resumed from its checkpoint.

A checkpoint holds the config of the run that wrote it. Each key belongs to one of three kinds
(:class:`Change`), so that results.json never silently holds a config that the network was not
trained with.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.errors import UserError
from gbw_d2.plain_files import ContentError, parse_yaml

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

# Entry of a checkpoint that holds the config as YAML.
CONFIG = "config"
CONFIG_HASH = "config_hash"
# Entry of a checkpoint with the first iterations of the run's parts
# (gbw_d2.uda.strategy.Strategy.marks).
MARKS = "marks"


class Change(Enum):
    """The effect of changing a config key when a run is resumed."""

    FREE = "may change: the trained network does not depend on it"
    FROM_HERE = "may change and acts from there on; the log says so"
    REFUSED = "may not change: start a run of its own"


# The longest matching prefix of a key decides; docs/training.md shows the same table.
ON_RESUME: Mapping[str, Change] = {
    "": Change.REFUSED,
    "OUTPUT_DIR": Change.FREE,
    "EVAL": Change.FREE,
    "TEST": Change.FREE,
    "INPUT.TEST_SIZE": Change.FREE,
    "DATASETS.TEST": Change.FREE,
    "DATALOADER.NUM_WORKERS": Change.FREE,
    "DATALOADER.DECODED_CACHE": Change.FREE,
    "MODEL.DEVICE": Change.FREE,
    "MODEL.WEIGHTS": Change.FREE,
    "MODEL.TRUST_WEIGHTS": Change.FREE,
    "MODEL.REINITIALISE_MISMATCHED": Change.FREE,
    "MODEL.TIMM.CHECKPOINTING": Change.FREE,
    "CUDNN_BENCHMARK": Change.FREE,
    "SOLVER.LOG_PERIOD": Change.FREE,
    "SOLVER.CHECKPOINT_PERIOD": Change.FREE,
    "SOLVER.CHECKPOINTS_KEPT": Change.FREE,
    # A negative seed is drawn anew.
    "SEED": Change.FROM_HERE,
    "SOLVER.MAX_ITER": Change.FROM_HERE,
    "SOLVER.LR_ITERS": Change.FROM_HERE,
    "SOLVER.BASE_LR": Change.FROM_HERE,
    "SOLVER.LR_SCHEDULER_NAME": Change.FROM_HERE,
    "SOLVER.GAMMA": Change.FROM_HERE,
    "SOLVER.STEPS": Change.FROM_HERE,
    "SOLVER.WARMUP_FACTOR": Change.FROM_HERE,
    "SOLVER.WARMUP_ITERS": Change.FROM_HERE,
    "SOLVER.WARMUP_METHOD": Change.FROM_HERE,
    "SOLVER.POLY_LR_POWER": Change.FROM_HERE,
    "SOLVER.POLY_LR_CONSTANT_ENDING": Change.FROM_HERE,
    # Keys of Detectron2's main branch, which version 0.6 does not have.
    "SOLVER.BASE_LR_END": Change.FROM_HERE,
    "SOLVER.NUM_DECAYS": Change.FROM_HERE,
    "SOLVER.RESCALE_INTERVAL": Change.FROM_HERE,
    "SOLVER.CLIP_GRADIENTS": Change.FROM_HERE,
    "SOLVER.IMS_PER_BATCH": Change.FROM_HERE,
    "SOLVER.GRADIENT_ACCUMULATION": Change.FROM_HERE,
    "SOLVER.AMP": Change.FROM_HERE,
    "INPUT": Change.FROM_HERE,
    "INPUT.FORMAT": Change.REFUSED,
    "DATASETS.RARE_CLASS_SAMPLING": Change.FROM_HERE,
    "UDA": Change.FROM_HERE,
    "UDA.NAME": Change.REFUSED,
    "WEIGHTING": Change.FROM_HERE,
    "WEIGHTING.NAME": Change.REFUSED,
}


def change_of(key: str) -> Change:
    """Returns the rule for a config key."""
    while key not in ON_RESUME:
        key = key.rpartition(".")[0]
    return ON_RESUME[key]


def config_entries(cfg: CfgNode) -> dict[str, str]:
    """Returns the entries of a checkpoint that describe the config of its run."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    text = cfg.dump()
    return {CONFIG: text, CONFIG_HASH: hashlib.sha256(text.encode()).hexdigest()}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def differences(before: str, now: str) -> dict[str, tuple[Any, Any]]:
    """Returns the differing keys of two configs, given as YAML, with both values.

    A key that only one config has belongs to another version of this project, and is left out.
    """
    old, new = _flat(parse_yaml(before)), _flat(parse_yaml(now))
    return {k: (old[k], new[k]) for k in sorted(old.keys() & new.keys()) if old[k] != new[k]}


def check_resumed(
    checkpoint: Mapping[str, Any], cfg: CfgNode, marks: Mapping[str, int] | None = None
) -> None:
    """Compares the config of a checkpoint with that of the run that resumes from it.

    Args:
        checkpoint: the file's content; a file without a config, from an older version, is only
            logged.
        cfg: the current config.
        marks: the current strategy's marks, or None without a strategy.

    Raises:
        ConfigError: a key differs that must not change, or changed keys move the beginning of a
            part of the run across the current iteration.
    """
    text = checkpoint.get(CONFIG)
    if not isinstance(text, str):
        logger.warning("The checkpoint holds no config, so no key is compared with it")
        return
    try:
        changed = differences(text, cfg.dump())
    except (ContentError, AttributeError) as error:
        raise ConfigError(f"its config cannot be read ({error})") from error
    refused = [k for k in changed if change_of(k) is Change.REFUSED]
    if refused:
        raise ConfigError(
            f"--resume: the run in OUTPUT_DIR '{cfg.OUTPUT_DIR}' was begun with "
            f"{_words(refused, changed)}; set them back, or give a fresh OUTPUT_DIR "
            "(docs/training.md lists what may change)"
        )
    from_here = [k for k in changed if change_of(k) is Change.FROM_HERE]
    done = int(checkpoint.get("iteration", -1)) + 1
    moving = [k for k in from_here if k.startswith("UDA.") or k == "SOLVER.MAX_ITER"]
    if moving and MARKS in checkpoint:
        _check_marks(checkpoint[MARKS], marks or {}, done, _words(moving, changed))
    if from_here:
        logger.warning(
            "Resumed with other values, which act from iteration %d on: %s",
            done,
            _words(from_here, changed),
        )


def _check_marks(before: Mapping[str, int], now: Mapping[str, int], done: int, keys: str) -> None:
    """Checks that the same parts of the run have begun after ``done`` iterations."""
    for what in [*before, *(name for name in now if name not in before)]:
        was, is_now = before.get(what), now.get(what)
        begun = was is not None and was < done
        if begun != (is_now is not None and is_now < done):
            raise ConfigError(
                f"--resume: the run stands at iteration {done}, and {keys} would move {what} from "
                f"{_when(was)} to {_when(is_now)}; set that back, or begin a run of its own "
                "(MODEL.WEIGHTS can take this checkpoint)"
            )


def _when(first: int | None) -> str:
    return "never" if first is None else f"iteration {first}"


def _words(names: list[str], changed: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{k} {changed[k][0]!r} (now {changed[k][1]!r})" for k in names)


def check_unused(folder: str, resume: bool) -> None:
    """Checks that a new run does not mix its files with those of another run.

    Args:
        folder: OUTPUT_DIR.
        resume: whether the run is resumed.

    Raises:
        UserError: OUTPUT_DIR holds a checkpoint and the run is not resumed.
    """
    used = Path(folder)
    if resume or not ((used / "last_checkpoint").is_file() or any(used.glob("model_*.pth"))):
        return
    raise UserError(
        f"OUTPUT_DIR '{folder}' holds the checkpoints of another run; --resume goes on from them, "
        "a fresh OUTPUT_DIR begins anew"
    )
