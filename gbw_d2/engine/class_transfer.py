"""Transfer of weights between networks of different classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LabelSpace, space_from_dict
from gbw_d2.modeling.capabilities import ClassRows

# The entry of a checkpoint that holds its label space.
LABEL_SPACE = "label_space"


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint that ``last_checkpoint`` in an OUTPUT_DIR names, or None.

    Raises:
        UserError: ``last_checkpoint`` names no file.
    """
    path = folder / "last_checkpoint"
    if not path.is_file():
        return None
    try:
        name = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        name = ""
    if not name or not name.isprintable() or Path(name).name != name:
        raise UserError(
            f"'{path}' should name a checkpoint in its folder and holds {name[:40]!r}; write the "
            "name of one into it"
        )
    return folder / name


def checkpoint_space(weights: str) -> LabelSpace | None:
    """Returns the label space that a checkpoint holds.

    Args:
        weights: a checkpoint file, or a run's OUTPUT_DIR for its last checkpoint.

    Returns:
        The label space; None if there is none or the file cannot be read, which loading will
        report.
    """
    path = last_checkpoint(Path(weights)) or Path(weights)
    if path.suffix != ".pth" or not path.is_file():
        return None
    try:
        # The file is memory-mapped, so that tensors are not read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return None
    if not isinstance(content, Mapping) or LABEL_SPACE not in content:
        return None
    return space_from_dict(content[LABEL_SPACE])


def difference(theirs: LabelSpace, ours: LabelSpace) -> str:
    """Describes the difference between a checkpoint's and a network's classes, or returns ""."""
    if theirs.class_names == ours.class_names:
        return ""
    lonely = [
        f"only {who} has {', '.join(names)}"
        for who, names in (
            ("the checkpoint", [n for n in theirs.class_names if n not in ours.id_of]),
            ("this network", [n for n in ours.class_names if n not in theirs.id_of]),
        )
        if names
    ]
    return "; ".join(lonely) or "they have the same classes in another order"


def with_shared_rows(
    weights: Mapping[str, Any],
    state: Mapping[str, Tensor],
    theirs: LabelSpace,
    ours: LabelSpace,
    class_rows: Mapping[str, ClassRows],
) -> dict[str, Any]:
    """Reorders the rows of classifiers to the order of this network's classes.

    Rows of classes that the checkpoint lacks keep their random initial values.

    Args:
        weights: the checkpoint's tensors by name.
        state: this network's tensors by name.
        theirs: label space of the checkpoint.
        ours: label space of this network.
        class_rows: the network's classifiers.
    """
    result = dict(weights)
    for name, value in weights.items():
        rows = rows_of(name, class_rows)
        if rows is None or name not in state:
            continue
        drawn, old, new = state[name], _row_names(theirs, rows), _row_names(ours, rows)
        if value.shape[:1] != (len(old),) or drawn.shape[:1] != (len(new),):
            continue
        shared = [row for row in new if row in old]
        kept = drawn.detach().clone().to(value)
        kept[[new.index(row) for row in shared]] = value[[old.index(row) for row in shared]]
        result[name] = kept
    return result


def rows_of(name: str, class_rows: Mapping[str, ClassRows]) -> ClassRows | None:
    """Returns the rows of the parameter ``name``, None where it is of no classifier."""
    found = [part for part in class_rows if f".{part}." in f".{name}."]
    return class_rows[max(found, key=len)] if found else None


def _row_names(space: LabelSpace, rows: ClassRows) -> list[tuple[str, int]]:
    """Returns class name and number of each row of a classifier; further rows have no class."""
    ids = space.thing_ids if rows.things else range(space.num_classes)
    named = [(space.class_names[i], number) for i in ids for number in range(rows.each)]
    return named + [("", number) for number in range(rows.more)]
