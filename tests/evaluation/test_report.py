"""Tables and files: their shape, no NaN, nothing half-written."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch

from gbw_d2.evaluation import (
    format_table,
    merge_per_class,
    report,
    run_info,
    write_per_class_csv,
    write_results_json,
)

PER_CLASS = {
    "16": {
        "road": {"train_id": 0, "share": 40.0, "IoU": 90.0, "PQ": 80.0, "TP": 3},
        "rider": {"train_id": 12, "share": 0.2, "IoU": 12.345, "PQ": None, "TP": 0},
    },
    "16_void": {"road": {"train_id": 0, "share": 41.0, "IoU": 91.0, "PQ": 80.0, "TP": 3}},
}
METRICS = {
    "PQ_16": 40.0,
    "mIoU_16": 51.17,
    "mIoU_16_void": np.float64("nan"),
    "mIoU_classes_16": 2.0,
}


def run():
    return run_info({"SEED": 1, "SOLVER": {"STEPS": (1, 2)}}, 1, 20, 3.5, "cpu")


def test_table():
    lines = format_table(METRICS, PER_CLASS, title="toy_val").splitlines()
    assert lines[0] == "toy_val"
    assert lines[1].split() == ["protocol", "PQ", "mIoU", "mIoU_classes"]
    assert lines[2].split() == ["16", "40.00", "51.17", "2"]
    assert lines[3].split() == ["16_void", "-", "-", "-"]
    assert lines[5].split() == ["class", "(16)", "share", "IoU", "PQ", "TP"]
    assert lines[6].split() == ["road", "40.00", "90.00", "80.00", "3"]
    assert lines[7].split() == ["rider", "*", "0.20", "12.35", "-", "0"]
    assert lines[8].startswith("* below 1 %")
    assert len({len(line) for line in lines[1:4]}) == 1
    assert "class (16_void)" in format_table(METRICS, PER_CLASS, "16_void")
    with pytest.raises(ValueError, match=r"'19' .*16, 16_void"):
        format_table(METRICS, PER_CLASS, "19")
    assert format_table({}, {}) == "protocol"


def test_merge_joins_rows_and_leaves_its_arguments_alone():
    panoptic = {"16": {"road": {"PQ": 1.0}}}
    merged = merge_per_class({"16": {"road": {"IoU": 2.0}}, "13": {}}, panoptic)
    assert merged["16"]["road"] == {"IoU": 2.0, "PQ": 1.0}
    assert panoptic == {"16": {"road": {"PQ": 1.0}}}


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
    assert list(content["run"]) == list(report.RUN_KEYS)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results_json(path, {"PQ_16": 1.0}, {}, {}, run())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results_json(path, {"PQ_16": 2.0}, {}, {}, run())
    assert json.loads(path.read_text())["metrics"]["PQ_16"] == 1.0


def test_results_json_wants_the_whole_run_entry(tmp_path):
    with pytest.raises(ValueError, match="config_hash"):
        write_results_json(tmp_path / "results.json", {}, {}, {}, {"config": {}})


def test_run_info():
    info = run()
    assert tuple(info) == report.RUN_KEYS
    assert (info["seed"], info["iterations"], info["wall_seconds"]) == (1, 20, 3.5)
    assert info["device"] == "cpu"
    assert info["torch"] == torch.__version__
    # A process that has imported torch holds tens of MiB and less than a TiB: the unit is right.
    assert 50 < info["peak_memory_mb"] < 2**20
    assert re.fullmatch("[0-9a-f]{16}", info["config_hash"])
    assert run()["config_hash"] == info["config_hash"]
    assert run_info("SEED: 2", 2, 0, 0, "cpu")["config_hash"] != info["config_hash"]


def test_git_commit_of_no_clone_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "__file__", str(tmp_path / "report.py"))
    assert report.git_commit() is None
