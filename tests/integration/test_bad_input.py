"""Bad input from end to end: one message, exit status 2, nothing written over or half-written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset
from gbw_d2.catalog.preflight import check_data
from gbw_d2.config import ConfigError, load_config
from gbw_d2.data.spec import DatasetError, DatasetSpec
from gbw_d2.engine import run_data
from gbw_d2.engine.checkpoint import CheckpointError
from gbw_d2.errors import UserError
from gbw_d2.evaluation import PROTOCOLS
from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, scoring
from gbw_d2.registry import UnknownNameError
from gbw_d2.results.run_info import RUN_KEYS
from gbw_d2.results.writer import write_per_class_csv, write_results_json
from gbw_d2.visualization import write_png


def test_what_train_net_shows_without_a_traceback() -> None:
    for error in (ConfigError, DatasetError, CheckpointError, UnknownNameError):
        assert issubclass(error, UserError)


def evil_yaml(folder: Path) -> str:
    return f"SEED: !!python/object/apply:os.mkdir ['{folder}/made']\n"


@pytest.mark.parametrize("place", ["leaf", "base"])
def test_yaml_runs_no_code_wherever_it_is_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "base.yaml").write_text(evil_yaml(tmp_path) if place == "base" else "SEED: 1\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("_BASE_: base.yaml\n" + (evil_yaml(tmp_path) if place == "leaf" else ""))
    for read in (lambda: check_data(["--config-file", str(leaf)]), lambda: load_config(str(leaf))):
        with pytest.raises(ConfigError, match="could not determine a constructor"):
            read()
    assert not (tmp_path / "made").exists()


def test_an_override_runs_no_code(tmp_path: Path, repository: Path) -> None:
    code = f"__import__('os').mkdir('{tmp_path}/made')"
    toy = str(repository / "configs/toy/panoptic_gbw.yaml")
    check_data(["--config-file", toy, "DATASETS.TRAIN", code])
    with pytest.raises(ConfigError, match="of type str; expected a value of type int"):
        load_config(toy, ["SEED", code])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_a_key_that_takes_one_dataset(tiny_config: Any, names: tuple[str, ...]) -> None:
    cfg = tiny_config()
    cfg.defrost()
    cfg.DATASETS.TRAIN = names
    with pytest.raises(DatasetError, match=r"DATASETS\.TRAIN is .* exactly one dataset"):
        _ = run_data.RunData(cfg).source


def test_a_dataset_without_images(tiny_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "get_dataset", lambda name: DatasetSpec(name, list))
    with pytest.raises(DatasetError, match=r"DATASETS\.TEST: dataset 'mine' has no images"):
        run_data.RunData(tiny_config()).test_set("mine")


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_label_that_breaks_during_evaluation(
    toy_datasets: Path, tmp_path: Path, kind: str
) -> None:
    spec = get_dataset("toy_cityscapes_panoptic_val")
    assert spec.read_panoptic is not None and spec.read_semantic is not None
    record = dict(spec.load()[0])
    key = "pan_seg_file_name" if kind == "panoptic" else "sem_seg_file_name"
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(record[key]).read_bytes()[:-50])
    record[key] = str(broken)
    met = scoring(LABEL_SPACES.get("cityscapes_16"), CITYSCAPES_19)
    protocols = [PROTOCOLS.get("16")]
    size = (record[keys.HEIGHT], record[keys.WIDTH])
    output = {"sem_seg": torch.zeros(16, *size), "panoptic_seg": (torch.zeros(size).int(), [])}
    evaluator: Any = (
        PanopticEvaluator(spec.read_panoptic, met, protocols)
        if kind == "panoptic"
        else SemanticEvaluator(spec.read_semantic, met, protocols)
    )
    with pytest.raises(DatasetError, match=r"broken\.png' is a truncated PNG"):
        evaluator.process([record], [output])


def write_results(path: Path, value: int) -> None:
    rows = {"16": {f"class {i}": {"IoU": value} for i in range(20)}}
    write_results_json(path, {"mIoU_16": value}, {}, rows, dict.fromkeys(RUN_KEYS, "x"))


def write_csv(path: Path, value: int) -> None:
    write_per_class_csv(path, {"16": {f"class {i}": {"IoU": value} for i in range(20)}})


def write_picture(path: Path, value: int) -> None:
    write_png(path, np.random.default_rng(value).integers(0, 256, (30, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize("write", [write_results, write_csv, write_picture])
def test_a_full_disk_leaves_the_old_result(tmp_path: Path, small_disk: Any, write: Any) -> None:
    path = tmp_path / "result.png"
    write(path, 1)
    before = path.read_bytes()
    with pytest.raises(OSError, match="File too large"), small_disk(100):
        write(path, 2)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.png"]


def fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    return digest.hexdigest()


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def refused(repository: Path, datasets: Path, *settings: str, options: tuple[str, ...] = ()) -> str:
    """Runs train_net.py, expects one message and status 2, and returns the message."""
    small = ("INPUT.CROP_SIZE", "(32, 64)", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2")
    done = subprocess.run(
        [
            *(sys.executable, "train_net.py", "--config-file", "configs/toy/panoptic_gbw.yaml"),
            *("--num-processes", "1", *options, *small, "DATALOADER.NUM_WORKERS", "1", *settings),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS="1", DETECTRON2_DATASETS=str(datasets)),
    )
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_an_output_folder_below_a_file(
    repository: Path, toy_datasets: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    message = refused(repository, toy_datasets, "OUTPUT_DIR", f"{tmp_path}/file/run")
    assert message.startswith("error: OUTPUT_DIR") and "cannot be written to" in message
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.slow
def test_weights_with_code_after_a_finished_run(
    repository: Path, toy_datasets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text(json.dumps({"kept": 1}))
    evil = tmp_path / "evil.pkl"
    evil.write_bytes(pickle.dumps({"model": {"x": Evil(tmp_path / "made")}, "__author__": "x"}))
    message = refused(
        repository,
        toy_datasets,
        *("OUTPUT_DIR", str(out), "MODEL.WEIGHTS", str(evil)),
        options=("--eval-only",),
    )
    assert "evil.pkl" in message and "may run code" in message and "TRUST_WEIGHTS" in message
    assert not (tmp_path / "made").exists()
    assert json.loads((out / "results.json").read_text()) == {"kept": 1}
    assert not list(out.glob("*.pth")) and not (out / "per_class.csv").exists()


@pytest.mark.slow
def test_a_truncated_image_in_the_middle_of_training(
    repository: Path, toy_datasets: Path, tmp_path: Path
) -> None:
    datasets = tmp_path / "datasets"
    shutil.copytree(toy_datasets, datasets)
    for image in (datasets / "toy/synthia/RGB").glob("*.png"):
        image.write_bytes(image.read_bytes()[:-20])
    shutil.rmtree(datasets / ".class_statistics", ignore_errors=True)
    before = fingerprint(datasets)
    message = refused(repository, datasets, "OUTPUT_DIR", str(tmp_path / "out"))
    assert "is a truncated PNG file; copy or unpack it again" in message
    assert fingerprint(datasets) == before
    assert not list((tmp_path / "out").glob("*.pth"))
