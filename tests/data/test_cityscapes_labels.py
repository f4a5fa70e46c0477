"""Cityscapes' train ids and panoptic files are made at first use, once, and where it can be."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.catalog.preflight import check_data
from gbw_d2.data.formats import cityscapes_labels
from gbw_d2.data.spec import DatasetError, DatasetSpec


def made(root: Path) -> set[str]:
    patterns = ("cityscapes_panoptic*", "*/*/*labelTrainIds.png", ".*", "*/*/*.tmp")
    return {path.name for pattern in patterns for path in (root / "gtFine").glob(pattern)}


def prepare(name: str) -> DatasetSpec:
    spec = get_dataset(name)
    assert spec.prepare is not None
    spec.prepare()
    return spec


def test_panoptic_files_are_made_at_first_use(
    cityscapes_download: Path,
    cityscapes_expected: dict[str, np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    get_dataset("cityscapes_panoptic_val").look()
    assert not made(cityscapes_download)
    spec = prepare("cityscapes_panoptic_val")
    assert made(cityscapes_download) == {
        "munster_000003_000019_gtFine_labelTrainIds.png",
        "cityscapes_panoptic_val_trainId",
        "cityscapes_panoptic_val_trainId.json",
    }
    assert "panoptic files (split 'val') of 1 images in 1 process(es), once" in caplog.text
    assert spec.read_panoptic is not None and spec.read_semantic is not None
    record = spec.load()[0]
    np.testing.assert_array_equal(spec.read_semantic(record), cityscapes_expected["semantic"])
    np.testing.assert_array_equal(spec.read_panoptic(record)[0], cityscapes_expected["panoptic"])

    path = cityscapes_download / "gtFine/cityscapes_panoptic_val_trainId.json"
    written = path.stat().st_mtime_ns
    prepare("cityscapes_panoptic_val")
    assert path.stat().st_mtime_ns == written


def test_semantic_datasets_need_train_ids_alone(cityscapes_download: Path) -> None:
    for path in cityscapes_download.glob("gtFine/*/*/*instanceIds.png"):
        path.unlink()
    assert len(prepare("cityscapes_semantic_train").load()) == 3
    assert {name.rpartition("_")[2] for name in made(cityscapes_download)} == {"labelTrainIds.png"}
    with pytest.raises(DatasetError, match=r"instanceIds.*gtFine_trainvaltest\.zip"):
        get_dataset("cityscapes_panoptic_train").look()


def test_the_target_makes_nothing(cityscapes_download: Path) -> None:
    assert get_dataset("cityscapes_unlabelled_train").prepare is None


def test_foggy_images_need_no_clear_ones(cityscapes_download: Path) -> None:
    folder = cityscapes_download / "leftImg8bit"
    for path in list(folder.glob("*/*/*.png")):
        path.rename(path.with_name(path.name.replace("8bit.png", "8bit_foggy_beta_0.02.png")))
    folder.rename(cityscapes_download / "leftImg8bit_foggy")
    assert len(prepare("foggy_cityscapes_0.02_panoptic_val").load()) == 1


def test_other_versions_are_made_anew_and_others_files_are_left(cityscapes_download: Path) -> None:
    prepare("cityscapes_panoptic_val")
    path = cityscapes_download / "gtFine/cityscapes_panoptic_val_trainId.json"
    content = json.loads(path.read_text())
    stamp = content.pop(cityscapes_labels.STAMP)
    path.write_text(json.dumps(content))
    prepare("cityscapes_panoptic_val")  # as Cityscapes' own script writes it
    assert json.loads(path.read_text()) == content
    path.write_text(json.dumps({**content, cityscapes_labels.STAMP: stamp + 1}))
    prepare("cityscapes_panoptic_val")
    assert json.loads(path.read_text()) == {**content, cityscapes_labels.STAMP: stamp}
    path.write_text("{")
    prepare("cityscapes_panoptic_val")
    with pytest.raises(DatasetError, match="not a COCO panoptic file"):
        get_dataset("cityscapes_panoptic_val").look()


def test_a_folder_that_cannot_be_written(
    cityscapes_download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    spec = get_dataset("cityscapes_panoptic_val")
    assert spec.prepare is not None
    for work in (spec.look, spec.prepare):
        with pytest.raises(DatasetError, match=r"gtFine'\. Run `python datasets/prepare_city"):
            work()
    assert not made(cityscapes_download)


def test_two_at_once_make_them_once(
    cityscapes_download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = []
    convert = cityscapes_labels.convert_city

    def count(*arguments: object) -> Path:
        converted.append(arguments[-1])
        return convert(*arguments)

    monkeypatch.setattr(cityscapes_labels, "convert_city", count)
    threads = [
        threading.Thread(target=prepare, args=("cityscapes_panoptic_train",)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(converted) == ["aachen", "bochum"]
    assert len(get_dataset("cityscapes_panoptic_train").load()) == 3
    assert not {name for name in made(cityscapes_download) if name.startswith(".")}


def test_several_processes_make_the_same(
    cityscapes_download: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cityscapes_download / "gtFine/cityscapes_panoptic_train_trainId.json"
    prepare("cityscapes_panoptic_train")
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(cityscapes_labels, "_PARALLEL_FROM", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    prepare("cityscapes_panoptic_train")
    assert path.read_bytes() == content


def test_the_first_look_makes_nothing_and_is_light(
    cityscapes_download: Path, repository: Path
) -> None:
    config = str(repository / "configs/synthia_panoptic_gbw.yaml")
    arguments = ["--config-file", config, "--eval-only"]
    check_data(arguments)
    code = (
        "import sys\nfrom gbw_d2.catalog.preflight import check_data\n"
        f"check_data({arguments!r})\n"
        "assert not {'torch', 'detectron2', 'cityscapesscripts'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not made(cityscapes_download)
