"""Hashes of the package and of the config, on which a result depends."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import gbw_d2
from gbw_d2.config import add_gbw_config
from gbw_d2.errors import UserError
from gbw_d2.settings import config_keys, merge_settings
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode, get_cfg

# Keys about a run's output and its evaluation period, without influence on the trained network.
_WITHOUT_EFFECT = (
    *("OUTPUT_DIR", "TEST.EVAL_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD"),
    "SOLVER.CHECKPOINTS_KEPT",
    *("EVAL.PICTURES", "EVAL.LABEL_FREE_IMAGES", "EVAL.BEST_ON"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.DECODED_CACHE"),
)
# Defaults at the time of the first results, on which their hashes are based.
_FIRST_DEFAULTS = {
    "WEIGHTING.HEADS": ["semantic"],
    "UDA.SELF_TRAINING.IGNORE_TOP": 0.0,
    "UDA.SELF_TRAINING.IGNORE_BOTTOM": 0.0,
}
_FIRST_SETTINGS = {"frequency_power": 1.0}
# Classes of schemes that had other names at that time.
_FIRST_CLASSES = {"BalancedScheme": "EqualPullScheme"}
# Parts of gbw_d2 without influence on training: prediction, evaluation, plots, readers, and code
# whose result is in the config's hash. Everything else counts, including new files.
_NOT_TRAINING = (
    *("inference", "evaluation", "results", "engine/evaluation.py", "engine/pictures.py"),
    "engine/label_free.py",
    *("visualization.py", "catalog/preflight.py", "composition.py"),
    *("former_names.py", "paths.py", "ranges.py", "unread_keys.py", "engine/resume.py"),
)


@cache
def package_hash() -> str:
    """Returns 12 digits for the code of gbw_d2 that trains; comments and layout do not count.

    Raises:
        UserError: gbw_d2 is imported from another clone, so that its code would run with this
            clone's configs.
    """
    root = Path(gbw_d2.__file__).resolve().parent
    here = Path(__file__).resolve().parents[2]
    if root.parent != here:
        raise UserError(
            f"gbw_d2 is imported from {root.parent}, but this study is in {here}; run it with "
            "'uv run' there, which installs the clone's own"
        )
    digest = hashlib.sha256()
    for path in training_files(root):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(_code(path.read_text()).encode())
    return digest.hexdigest()[:12]


def training_files(root: Path) -> list[Path]:
    """Lists the files of the package at ``root`` that influence training, in a fixed order."""
    others = {root / name for name in _NOT_TRAINING}
    files = sorted(root.rglob("*.py"))
    return [path for path in files if others.isdisjoint((path, *path.parents))]


def _code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            del body[0]
    return _dump(tree)


def _dump(node: Any) -> str:
    """Writes a tree like ``ast.dump``, without empty fields, which depend on Python's version."""
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{type(node).__name__}({','.join(f'{name}={_dump(value)}' for name, value in fields)})"


def config_hash(cfg: CfgNode) -> str:
    """Returns 12 digits for all differences of a config from the defaults that have an effect.

    Adding a key to the project later does not change it as long as the key has its default.
    Weighting counts by its settings and not by its name, because a scheme's defaults may change.
    """
    default = get_cfg()
    add_gbw_config(default)
    defaults = _flat(default) | _FIRST_DEFAULTS
    changed = {
        key: value
        for key, value in _flat(cfg).items()
        if key not in _WITHOUT_EFFECT
        and not _is_scheme_key(key)
        and (key not in defaults or defaults[key] != value)
    }
    # At the time of the first results, each pair was a separate key.
    for head, other in changed.pop("WEIGHTING.WEIGHTS_FROM", []):
        changed[f"WEIGHTING.{head.upper()}_WEIGHTS_FROM"] = other
    changed |= _weighting(cfg)
    # Results on different devices differ by rounding only; the first results were hashed with this
    # device.
    changed["MODEL.DEVICE"] = "cpu"
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def _weighting(cfg: CfgNode) -> dict[str, Any]:
    """Returns the scheme's class, and those of its settings that are not the class's defaults."""
    entry = SCHEMES.get(cfg.WEIGHTING.NAME)
    cls = entry.scheme.Settings
    given = {field: cfg.WEIGHTING[key] for key, field in config_keys(cls).items()}
    settings = asdict(merge_settings(cls, cfg.WEIGHTING.NAME, entry.defaults, given))
    default = asdict(cls()) | _FIRST_SETTINGS
    changed = {key: value for key, value in settings.items() if value != default[key]}
    name = entry.scheme.__name__
    return {"weighting": [_FIRST_CLASSES.get(name, name), changed]}


def _is_scheme_key(key: str) -> bool:
    section, _, name = key.partition(".")
    return section == "WEIGHTING" and name not in ("HEADS", "WEIGHTS_FROM")


def _flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, CfgNode):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat
