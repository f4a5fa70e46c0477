"""Files of a round are complete or absent, and never those of another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gbw_d2.uda.parts.pseudo_label_files import PseudoLabelError, RoundFiles, weights_digest

LABELS = np.array([[0, 18], [255, 7]], dtype=np.uint8)


def started(folder: Path, key: str = "a") -> RoundFiles:
    files = RoundFiles(folder / "round_0")
    files.start({"weights": key})
    files.write_thresholds({"key": {"weights": key}, "thresholds": [0.1, 1.0]})
    return files


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.write_labels("city/image_0", LABELS)
    assert files.path_of("city/image_0") == tmp_path / "round_0/labels/city/image_0.png"
    assert np.array_equal(files.read_labels("city/image_0"), LABELS)
    assert files.thresholds()["thresholds"] == [0.1, 1.0] and files.summary() == {}
    files.finish(np.array([[1, 2]]), {"round": 0})
    assert files.summary() == {"round": 0} and files.pixels(1, 2).tolist() == [[1, 2]]
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_same_key_goes_on_and_another_starts_anew(tmp_path: Path) -> None:
    started(tmp_path).write_labels("0", LABELS)
    files = RoundFiles(tmp_path / "round_0")
    files.start({"weights": "a"})
    assert files.path_of("0").is_file() and files.thresholds()
    files.start({"weights": "b"})
    assert not files.path_of("0").exists() and files.thresholds() == {}
    assert files.labels.is_dir()


def test_labels_without_thresholds_belong_to_nobody(tmp_path: Path) -> None:
    files = started(tmp_path)
    files.write_labels("0", LABELS)
    (tmp_path / "round_0/thresholds.json").unlink()
    files.start({"weights": "a"})
    assert not files.path_of("0").exists()


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path: Path, small_disk: Any) -> None:
    files = started(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with small_disk(1000), pytest.raises(PseudoLabelError, match=r"make room .* --resume"):
        files.write_labels("0", noise)
    assert not list(files.labels.iterdir())


def test_damaged_files_are_told(tmp_path: Path) -> None:
    files = started(tmp_path)
    with pytest.raises(PseudoLabelError, match="cannot read"):
        files.read_labels("0")
    with pytest.raises(PseudoLabelError, match=r"pixels\.npy"):
        files.pixels(1, 2)
    (tmp_path / "round_0/thresholds.json").write_text("{")
    with pytest.raises(PseudoLabelError, match="delete its folder"):
        files.thresholds()


def test_the_digest_is_that_of_the_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).to(torch.bfloat16)
    first = weights_digest(network)
    assert first == weights_digest(network) and len(first) == 24
    network[1].num_batches_tracked += 1
    second = weights_digest(network)
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] += 1
    assert len({first, second, weights_digest(network)}) == 3


CHOSEN = {
    "key": {"logit_shift": []},
    "thresholds": [0.1, 1.0],
    "predicted": [3, 4],
    "instance_thresholds": [1.0, 1.0],
    "instances": [0, 0],
    "images": ["0"],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"thresholds": [0.1]},
        {"thresholds": [0.1, "1"]},
        {"thresholds": [0.1, float("nan")]},
        {"images": "0"},
        {"images": [3]},
        {"key": {}},
        {"key": {"logit_shift": [1.0]}},
        {"predicted": None},
    ],
)
def test_damaged_thresholds_are_told(tmp_path: Path, changed: dict[str, Any]) -> None:
    files = started(tmp_path)
    files.write_thresholds(CHOSEN)
    assert files.chosen(2) == CHOSEN
    files.write_thresholds(CHOSEN | changed)
    with pytest.raises(
        PseudoLabelError, match=r"thresholds\.json' is damaged \(.*delete its folder"
    ):
        files.chosen(2)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 5000, '{"a": "\\ud800"}'])
def test_a_damaged_summary_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "round.json").write_text(text)
    with pytest.raises(PseudoLabelError, match="delete its folder"):
        RoundFiles(tmp_path).summary()


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 2)), np.full((1, 2), -1), np.zeros((1, 3), int), b"", b"PK\3\4", b"\x93NUMPY"],
)
def test_damaged_pixels_are_told(tmp_path: Path, pixels: Any) -> None:
    if isinstance(pixels, bytes):
        (tmp_path / "pixels.npy").write_bytes(pixels)
    else:
        np.save(tmp_path / "pixels.npy", pixels)
    with pytest.raises(PseudoLabelError, match="delete its folder"):
        RoundFiles(tmp_path).pixels(1, 2)
