"""The three examples of docs/your_own_data.md, from their data.yaml to scores, and the polygons."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from own_data import draw, write_coco, write_png

from gbw_d2.catalog import get_dataset
from gbw_d2.config import load_config
from gbw_d2.data.formats.own.palette import distinct_colors
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.label_spaces import LABEL_SPACES, training_table

SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "UDA.WARM_UP", 0.0),
    *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 32, "DATALOADER.NUM_WORKERS", 0, "EVAL.PICTURES", 1),
    *("INPUT.CROP_SIZE", "(48, 64)", "SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_PERIOD", 0),
    *("SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 1, "SOLVER.LOG_PERIOD", 1),
)


@pytest.fixture
def blocks(repository: Path) -> list[str]:
    page = (repository / "docs/your_own_data.md").read_text(encoding="utf-8")
    found = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    # The first data.yaml is the toy layout's; the examples begin with the second.
    descriptions = [i for i, block in enumerate(found) if "splits:" in block]
    return found[descriptions[1] :]


def run(repository: Path, keys: str, out: Path) -> dict[str, float]:
    """Trains two steps of the config that the page shows."""
    out.mkdir()
    leaf = out / "leaf.yaml"
    base = repository / "configs/toy/panoptic_gbw.yaml"
    leaf.write_text(f"_BASE_: {base}\nVERSION: 2\n{keys}", encoding="utf-8")
    cfg = load_config(str(leaf), [*map(str, SMALL), "OUTPUT_DIR", str(out)])
    resolve(cfg)
    cfg.freeze()
    return train(cfg, False)


def check(repository: Path, name: str) -> str:
    command = [sys.executable, str(repository / "datasets/prepare_own.py"), name, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def photos(folder: Path, count: int = 2) -> None:
    for seed in range(count):
        write_png(folder / f"{seed}.png", draw(5, 90 + seed)[0])


def test_three_classes_in_coco_panoptic(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[str]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "harbour"
    root.mkdir()
    write_coco(root, 3)
    photos(root / "photos")
    (root / "data.yaml").write_text(blocks[0], encoding="utf-8")
    assert "3 classes, 1 of them things" in check(repository, "harbour/data.yaml")
    metrics = run(repository, blocks[1], tmp_path / "out")
    assert metrics["PQ_classes_all"] == 3 and {"PQ_all", "mIoU_all", "recall_all"} <= {*metrics}


def test_forty_classes_in_colours(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[str]
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "rooms"
    content = yaml.safe_load(blocks[2])
    # The page shows the first classes; there is one more colour than classes.
    shown = [[120, 120, 120], [180, 120, 120], [6, 230, 230], [80, 50, 50]]
    more = distinct_colors(37, [tuple(c) for c in shown])
    content["classes"] |= {f"Class {i}": list(c) for i, c in enumerate(more)}
    colors = np.zeros((256, 3), np.uint8)
    colors[:41] = [*shown, *more]
    for seed in range(3):
        image, classes, _ = draw(41, seed)
        write_png(root / f"images/{seed}.png", image)
        write_png(root / f"colours/{seed}.png", colors[classes][..., ::-1])
    photos(root / "photos")
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    (root / "data.yaml").write_text(text, encoding="utf-8")
    assert "40 classes, 0 of them things" in check(repository, "rooms/data.yaml")
    metrics = run(repository, blocks[3], tmp_path / "out")
    assert metrics["mIoU_classes_all"] == 40 and "PQ_all" not in metrics
    assert "mIoU_rare" in metrics and "recall_rare" in metrics


def test_photos_with_coarser_classes(
    repository: Path, toy_datasets: Path, tmp_path: Path, blocks: list[str]
) -> None:
    root = toy_datasets / "photos"
    (root / "photos").mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(blocks[4], encoding="utf-8")
    test = get_dataset("toy_cityscapes_panoptic_val")
    write_png(root / "labelled/x.png", np.zeros((4, 4, 3), np.uint8))
    write_png(root / "labels/x.png", np.zeros((4, 4), np.uint8))
    write_png(root / "instances/x.png", np.zeros((4, 4), np.uint8))
    table = training_table(test.classes, get_dataset("photos/data.yaml:val").classes)
    assert test.read_panoptic is not None and test.read_semantic is not None
    for i, record in enumerate(test.load()):
        image = cv2.imread(record["file_name"])
        write_png(root / f"photos/{i}.png", image)
        write_png(root / f"labelled/{i}.png", image)
        label = table[test.read_semantic(record)]
        write_png(root / f"labels/{i}.png", np.where(label == 255, 0, label + 1).astype(np.uint8))
        segments, info = test.read_panoptic(record)
        numbers = np.zeros(segments.shape, np.uint16)
        for number, segment in enumerate(info, start=1):
            numbers[segments == segment["id"]] = 0 if segment["iscrowd"] else number
        write_png(root / f"instances/{i}.png", numbers)
    for kind in ("labelled", "labels", "instances"):
        (root / kind / "x.png").unlink()
    assert "6 classes, 2 of them things" in check(repository, "photos/data.yaml")
    metrics = run(repository, blocks[5], tmp_path / "own")
    assert metrics["mIoU_classes_all"] == 6
    # A network of the 16 classes is scored on the six, and keeps rows of the hood out.
    fine = blocks[5].replace("photos/data.yaml\n", "cityscapes_16\n")
    assert "LABEL_SPACE: cityscapes_16" in fine
    assert "mIoU_all" in run(repository, fine, tmp_path / "fine")
    kept: Any = yaml.safe_load((tmp_path / "fine/results.json").read_text())
    assert kept["run"]["config"]["UDA"]["SELF_TRAINING"]["IGNORE_BOTTOM"] == 0.1
    assert LABEL_SPACES.get("photos/data.yaml").num_classes == 6


def test_polygons(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (repository / "docs/your_own_data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    square = [[2, 2, 12, 2, 12, 8, 2, 8]]
    rows = [(1, [[0, 0, 20, 0, 20, 10, 0, 10]]), (2, square), (2, [[14, 2, 18, 2, 18, 8, 14, 8]])]
    content = {
        "images": [{"id": 1, "file_name": "folder/p0.jpg", "height": 10, "width": 20}],
        "categories": [{"id": 1, "name": "ground"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "segmentation": s, "iscrowd": 0}
            for i, (c, s) in enumerate(rows, start=1)
        ],
    }
    (tmp_path / "my_data").mkdir()
    (tmp_path / "my_data/dataset.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    labels, instances = (
        cv2.imread(f"my_data/{kind}/p0.png", cv2.IMREAD_UNCHANGED)
        for kind in ("labels", "instances")
    )
    assert labels.dtype == np.uint16 and np.unique(labels).tolist() == [1, 2]
    assert (labels[2:8, 2:12] == 2).all() and (instances[2:8, 2:12] == 2).all()
    assert (instances[2:8, 14:18] == 3).all() and instances[0, 0] == 1
