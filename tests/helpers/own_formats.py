"""Writes descriptions of own data, and compares labels that are read with those written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from own_data import class_names, draw

from gbw_d2.catalog import get_dataset
from gbw_d2.data.spec import DatasetSpec

ROOT = Path(__file__).resolve().parents[2]


def describe(root: Path, **content: Any) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    (root / "data.yaml").write_text(text, encoding="utf-8")


def spec_of(split: str) -> DatasetSpec:
    return get_dataset(f"own/data.yaml:{split}")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "datasets/prepare_own.py"), "own/data.yaml", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def same_segments(spec: DatasetSpec, record: dict, count: int, seed: int, crowd: int = 0) -> None:
    """Compares the panoptic label with the written one; the instance ``crowd`` is a crowd."""
    assert spec.read_panoptic is not None
    _, classes, instances = draw(count, seed)
    segments, info = spec.read_panoptic(record)
    things = np.isin(classes, np.arange(count)[1::3])
    names = spec.classes.class_names
    expected = {
        (int(classes[here][0]), int(number == crowd), int(here.sum()))
        for number in np.unique(instances[things])
        for here in [things & (instances == number)]
    }
    expected |= {
        (int(c), 0, int((classes == c).sum())) for c in np.unique(classes[~things]) if c != 255
    }
    order = [names.index(name) for name in class_names(count)]
    found = {(s["category_id"], s["iscrowd"], s["area"]) for s in info}
    assert found == {(order[c], crowded, area) for c, crowded, area in expected}
    assert ((segments == 0) == (classes == 255)).all()
    assert {s["id"] for s in info} == set(np.unique(segments)) - {0}
