"""Files of scores: their shape, no NaN, nothing half-written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scores import METRICS, PER_CLASS

from gbw_d2.files import atomic
from gbw_d2.results.run_info import RUN_KEYS, run_info
from gbw_d2.results.writer import write_per_class_csv, write_results_json


def run():
    return run_info({"SEED": 1, "SOLVER": {"STEPS": (1, 2)}}, 1, 20, 3.5, "cpu")


def test_per_class_csv(tmp_path):
    path = tmp_path / "new" / "per_class.csv"
    write_per_class_csv(path, PER_CLASS)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["protocol"], r["class"]) for r in rows] == [
        ("16", "road"),
        ("16", "rider"),
        ("16_void", "road"),
    ]
    assert rows[1]["PQ"] == ""
    assert float(rows[1]["IoU"]) == 12.345


def test_results_json(tmp_path):
    path = tmp_path / "results.json"
    datasets = {"toy_val": METRICS, "other": {"PQ_16": np.inf, "n": np.int64(3)}}
    write_results_json(path, METRICS, datasets, PER_CLASS, run())
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    content = json.loads(text)
    assert list(content) == ["metrics", "datasets", "per_class", "run"]
    assert content["metrics"]["mIoU_16"] == 51.17
    assert content["metrics"]["mIoU_16_void"] is None
    assert content["datasets"]["other"] == {"PQ_16": None, "n": 3}
    assert content["per_class"]["16"]["rider"]["PQ"] is None
    assert content["run"]["config"]["SOLVER"]["STEPS"] == [1, 2]
    assert list(content["run"]) == list(RUN_KEYS)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results_json(path, {"PQ_16": 1.0}, {}, {}, run())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results_json(path, {"PQ_16": 2.0}, {}, {}, run())
    assert json.loads(path.read_text())["metrics"]["PQ_16"] == 1.0


def test_results_json_wants_the_whole_run_entry(tmp_path):
    with pytest.raises(ValueError, match="config_hash"):
        write_results_json(tmp_path / "results.json", {}, {}, {}, {"config": {}})
