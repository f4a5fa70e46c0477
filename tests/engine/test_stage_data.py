"""The loaders of a stage yield the data that it asks for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gbw_d2 import keys
from gbw_d2.data.spec import DatasetError
from gbw_d2.engine.batches import _source_stream, build_batches, build_context
from gbw_d2.engine.run_data import RunData
from gbw_d2.uda.stages import PSEUDO_LABELS, Mining, PseudoLabels, StageData


@pytest.fixture
def run_data(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> RunData:
    cfg = tiny_config(
        *("INPUT.CROP_SIZE", "(48, 64)", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", tmp_path),
        name="toy/semantic_source_only uda/cbst",
    )
    data = RunData(cfg)
    data.prepare(training=True)
    return data


def take(run_data: RunData, data: StageData, count: int = 4) -> list[Any]:
    return list(itertools.islice(build_batches(run_data, 0, data), count))


def test_stages_without_a_target(run_data: RunData) -> None:
    assert all(target is None for _, target in take(run_data, StageData(with_target=False)))


def test_the_default_is_all_of_it(run_data: RunData) -> None:
    batches = list(itertools.islice(build_batches(run_data, 0), 3))
    assert len({s[keys.IMAGE_ID] for source, _ in batches for s in source}) == 6
    assert all(PSEUDO_LABELS not in s for _, target in batches for s in target)


def test_a_portion_of_the_source(run_data: RunData) -> None:
    ids = {
        portion: {
            s[keys.IMAGE_ID]
            for source, _ in take(run_data, StageData(False, source_portion=portion), 6)
            for s in source
        }
        for portion in (0.34, 0.5, 1.0)
    }
    assert [len(found) for found in ids.values()] == [2, 3, 6]
    assert ids[0.34] < ids[0.5] < ids[1.0]


def test_target_images_have_no_labels(run_data: RunData, tmp_path: Path) -> None:
    context = build_context(run_data, True)
    assert context.fresh and context.is_main and context.folder == tmp_path
    ids = context.target.ids()
    assert len(ids) == 5
    samples = [sample for batch in context.target.batches(ids[1:3]) for sample in batch]
    assert [s[keys.IMAGE_ID] for s in samples] == [ids[0], *ids[3:]]
    allowed = {keys.FILE_NAME, keys.IMAGE_ID, keys.HEIGHT, keys.WIDTH, keys.IMAGE}
    assert all(set(s) == allowed and s[keys.IMAGE].shape == (3, 64, 128) for s in samples)
    counts = context.source_positions()
    assert counts.shape[0] == 16 and 0 < counts.sum() <= 6 * counts[0].size


def test_pseudo_labels_and_mining(run_data: RunData, tmp_path: Path) -> None:
    ids = build_context(run_data, True).target.ids()
    pixels = np.zeros((2, 16), dtype=np.int64)
    for number, image_id in enumerate(ids[:2]):
        labels = np.full((64, 128), 255, dtype=np.uint8)
        # One corner alone has a class: few crops show it by chance.
        labels[:4, :4] = number + 13
        pixels[number, number + 13] = 16
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), labels)

    def shown(mining: Mining | None) -> float:
        data = StageData(True, 1.0, PseudoLabels(tmp_path, ids[:2], pixels), mining)
        samples = [s for _, target in take(run_data, data, 40) for s in target]
        assert {s[keys.IMAGE_ID] for s in samples} == set(ids[:2])
        found = [s[PSEUDO_LABELS][keys.SEM_SEG].unique().tolist() for s in samples]
        assert {c for classes in found for c in classes} <= {13, 14, 255}
        return sum(len(classes) > 1 for classes in found) / len(found)

    assert shown(Mining(1.0, [13], [14])) > 2 * shown(None)
    lost = StageData(True, 1.0, PseudoLabels(tmp_path, [ids[0], "gone"], pixels), None)
    with pytest.raises(DatasetError, match="has no images gone any more"):
        build_batches(run_data, 0, lost)


def test_sampling_of_rare_classes_replaces_mining_of_the_source_and_the_log_says_so_once(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    name, mining = "toy/semantic_source_only uda/cbst", Mining(1.0, [0], [1])
    told = "so the mining of UDA.NAME 'cbst' chooses crops of the target alone"
    with caplog.at_level("INFO"):
        for enabled, chosen in (("False", mining), ("True", None), ("True", mining)):
            assert told not in caplog.text
            cfg = tiny_config("DATASETS.RARE_CLASS_SAMPLING.ENABLED", enabled, name=name)
            for _ in range(2):
                _source_stream(cfg, 2, lambda: np.full((2, 16), 5000), chosen)
    assert caplog.text.count(told) == 1


def test_decoded_data_are_the_same_batches(
    run_data: RunData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "decoded"
    expected = list(itertools.islice(build_batches(run_data, 0), 3))
    assert "DECODED_CACHE" not in caplog.text and not folder.exists()
    run_data.cfg.defrost()
    run_data.cfg.DATALOADER.DECODED_CACHE = str(folder)
    with caplog.at_level("INFO"):
        batches = build_batches(run_data, 0)
    assert "6 images and their labels" in caplog.text and "of 5 images takes" in caplog.text
    assert not list(folder.rglob("*.decoded"))
    for pair, other in zip(expected, batches, strict=False):
        for sample, found in zip(itertools.chain(*pair), itertools.chain(*other), strict=True):
            assert sample.keys() == found.keys()
            np.testing.assert_array_equal(sample[keys.IMAGE], found[keys.IMAGE])
            np.testing.assert_array_equal(sample.get(keys.SEM_SEG), found.get(keys.SEM_SEG))
    assert list(folder.rglob("*.decoded"))
