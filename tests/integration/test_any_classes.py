"""Own data with 3, 40, 150 and 254 classes: from data.yaml to PQ_all, demo and ONNX."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from own_data import class_names, things_of, write_own_data

from gbw_d2.config import load_config
from gbw_d2.engine.distributed import default_argument_parser
from gbw_d2.engine.setup import resolve, setup
from gbw_d2.engine.train import evaluate_only, train

SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "UDA.WARM_UP", 0.0),
    *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32, "DATALOADER.NUM_WORKERS", 0, "EVAL.PICTURES", 1),
    *("INPUT.CROP_SIZE", "(48, 64)", "SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_PERIOD", 0),
    *("SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 1, "SOLVER.LOG_PERIOD", 2),
)
OWN = (
    *("DATASETS.LABEL_SPACE", "own/data.yaml", "DATASETS.TRAIN", "('own/data.yaml:source',)"),
    *("DATASETS.TARGET", "('own/data.yaml:target',)", "DATASETS.TEST", "('own/data.yaml:val',)"),
)


def run(repository: Path, choices: tuple[str, ...], out: Path, *more: Any) -> dict[str, float]:
    words = [*choices, *SMALL, *OWN, "OUTPUT_DIR", str(out), *more]
    cfg = load_config(str(repository / "configs/toy/panoptic_gbw.yaml"), [*map(str, words)])
    resolve(cfg)
    cfg.freeze()
    out.mkdir(parents=True)
    (out / "config.yaml").write_text(cfg.dump())
    return train(cfg, False)


def tensorboard_tags(file: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return {v.tag for event in EventFileLoader(str(file)).Load() for v in event.summary.value}


def tool(repository: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, repository / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "count", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 150, 254))]
)
def test_from_data_yaml_to_scores_demo_and_export(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_own_data(tmp_path / "own", count)
    out = tmp_path / "self"
    metrics = run(repository, (), out)
    assert metrics["mIoU_classes_all"] == metrics["PQ_classes_all"] == count
    assert {"PQ_all", "mIoU_all", "recall_all", "mIoU_first", "PQ_first"} <= metrics.keys()
    assert not any(key.endswith("_16") for key in metrics)
    with open(out / "per_class.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["protocol"] == "all"]
    assert [row["class"] for row in rows] == class_names(count)
    results = json.loads((out / "results.json").read_text())
    assert set(results["per_class"]["first"]) == set(class_names(count)[:2])
    # Rows that the data say are none of a class have no pseudo-labels.
    assert results["run"]["config"]["UDA"]["SELF_TRAINING"]["IGNORE_TOP"] == 0.05

    cbst = tmp_path / "cbst"
    metrics = run(
        repository,
        ("uda/cbst", "weighting/none"),
        cbst,
        *("UDA.CBST.ROUNDS", 1, "UDA.CBST.PORTION_START", 1.0, "UDA.CBST.PORTION_MAX", 1.0),
    )
    assert "PQ_all" in metrics
    labels = [
        cv2.imread(str(p), cv2.IMREAD_UNCHANGED)
        for p in sorted((cbst / "pseudo_labels/round_0/labels").iterdir())
    ]
    found = {int(i) for label in labels for i in np.unique(label)} - {255}
    assert found and max(found) < count

    # TensorBoard's names keep the letters, and no two classes share one.
    tags = {
        tag
        for file in (out / "tensorboard").iterdir()
        for tag in tensorboard_tags(file)
        if tag.startswith("class_weights/")
    }
    assert len({tag.rpartition("/")[2] for tag in tags}) == count

    # The training data are gone: the checkpoint knows the classes, here and below.
    shutil.copytree(tmp_path / "own", tmp_path / "elsewhere")
    shutil.move(tmp_path / "own", tmp_path / "moved")
    words = [*SMALL, *OWN, "OUTPUT_DIR", out, "DATASETS.TEST", "('elsewhere/data.yaml:val',)"]
    command = ["--config-file", str(repository / "configs/toy/panoptic_gbw.yaml"), "--eval-only"]
    args = default_argument_parser("").parse_args([*command, "--resume", *map(str, words)])
    again = evaluate_only(setup(args), resume=True)
    assert again["PQ_all"] == pytest.approx(results["metrics"]["PQ_all"], abs=1e-6)
    shutil.move(tmp_path / "moved", tmp_path / "own")

    shutil.copytree(tmp_path / "own/images", tmp_path / "photos")
    for name in ("own", "elsewhere"):
        shutil.rmtree(tmp_path / name)
    arguments = ["--config-file", str(out / "config.yaml"), "--weights", str(out)]
    pictures = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "seen")]
    assert tool(repository, "demo").main([*arguments, *pictures, "--device", "cpu"]) == 0
    written = json.loads((tmp_path / "seen/panoptic.json").read_text())
    assert [c["name"] for c in written["categories"]] == class_names(count)
    assert [c["name"] for c in written["categories"] if c["isthing"]] == things_of(count)
    path = tmp_path / "network.pt2"
    size = ["--size", "32", "32"]
    assert tool(repository, "export").main([*arguments, "--output", str(path), *size]) == 0
    held = {"label_space.json": ""}
    torch.export.load(path, extra_files=held)
    space = json.loads(held["label_space.json"])
    assert [c["name"] for c in space["classes"]] == class_names(count)
    if find_spec("onnxruntime") is None:
        return  # uv run --group export
    import onnxruntime

    path = tmp_path / "network.onnx"
    assert tool(repository, "export").main([*arguments, "--output", str(path), *size]) == 0
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    space = json.loads(session.get_modelmeta().custom_metadata_map["label_space"])
    assert [c["name"] for c in space["classes"]] == class_names(count)
    images = torch.zeros(1, 3, 32, 32).numpy()
    assert session.run(None, {"images": images})[0].shape == (1, count, 32, 32)
