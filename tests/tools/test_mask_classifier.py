"""tools/demo.py and tools/export.py with a mask classifier."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gbw_d2.engine.build import build_model
from gbw_d2.modeling.mask2former.resampling import Frame
from gbw_d2.modeling.mask2former.segments import panoptic_result

LEAF = "toy/panoptic_mask2former_gbw"
SMALL = ("MODEL.MASK2FORMER.NUM_QUERIES", "12", "MODEL.MASK2FORMER.DECODER_LAYERS", "2")
# A class of 17 has 1 / 17 by random weights; what is a segment must be no question of luck here.
EAGER = (*SMALL, "MODEL.MASK2FORMER.CLASS_THRESHOLD", "0.0")
EAGER += ("MODEL.MASK2FORMER.OVERLAP_THRESHOLD", "0.0")


@pytest.fixture
def network(tiny_config: Any, tmp_path: Path) -> Any:
    """A tiny Mask2Former with random weights, saved as net.pth."""
    torch.manual_seed(0)
    model = build_model(tiny_config(*EAGER, name=LEAF)).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "net.pth")
    return model


@pytest.fixture
def run(repository: Path, tmp_path: Path, network: Any) -> Callable[..., int]:
    """Returns a function: tool, arguments -> its exit code."""

    def call(name: str, *arguments: str) -> int:
        spec = importlib.util.spec_from_file_location(name, repository / f"tools/{name}.py")
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        fixed = ["--config-file", str(repository / f"configs/{LEAF}.yaml")]
        fixed += ["--weights", str(tmp_path / "net.pth")]
        return tool.main([*fixed, *arguments, "--opts", "MODEL.DEVICE", "cpu", *EAGER])

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    return tmp_path / "a.png"


def test_the_demo_shows_segments(run: Callable[..., int], photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("demo", "--input", str(photo), "--output", str(out), "--flip") == 0
    assert cv2.imread(str(out / "semantic/a.png"), -1).shape == (40, 72)
    (entry,) = json.loads((out / "panoptic.json").read_text())["annotations"]
    coded = cv2.imread(str(out / "panoptic" / entry["file_name"]))[..., ::-1].astype(int)
    ids, areas = np.unique(coded @ [1, 256, 65536], return_counts=True)
    listed = {s["id"]: s["area"] for s in entry["segments_info"]}
    assert listed and {i: a for i, a in zip(ids, areas, strict=True) if i} == listed


def test_windows_are_refused_in_one_line(
    run: Callable[..., int], photo: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ("--input", str(photo), "--output", str(tmp_path / "out"), "--window", "32", "48")
    assert run("demo", *words) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: GBWMask2Former predicts segments of whole pictures")


@pytest.mark.slow
def test_an_exported_file_holds_what_panoptic_maps_are_made_of(
    run: Callable[..., int], network: Any, tmp_path: Path
) -> None:
    size = (64, 96)
    assert run("export", "--output", str(tmp_path / "net.pt2"), "--size", "64", "96") == 0
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = network([{"image": image}])
        exported = torch.export.load(tmp_path / "net.pt2").module()
        semantic, (classes,), (masks,) = exported(image[None].float())
    torch.testing.assert_close(semantic[0], result["sem_seg"], atol=1e-4, rtol=1e-4)
    frame = Frame((16, 24), size, size, size)
    things = network.label_space.thing_ids
    found, segments = panoptic_result(classes, masks, frame, things, network.segment_settings)
    assert segments and torch.equal(found, result["panoptic_seg"][0])


@pytest.mark.slow
def test_onnx(run: Callable[..., int], network: Any, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="uv run --group export pytest -m slow")
    onnxruntime = pytest.importorskip("onnxruntime", reason="uv run --group export pytest -m slow")
    path = str(tmp_path / "net.onnx")
    assert run("export", "--output", path, "--size", "64", "96") == 0
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    assert names == ["semantic_logits", "query_logits", "mask_logits"]


@pytest.mark.slow
def test_any_size_is_refused_in_one_line(
    run: Callable[..., int], network: Any, tmp_path: Path, capsys: Any
) -> None:
    words = ("--output", str(tmp_path / "net.pt2"), "--size", "64", "96", "--dynamic")
    assert run("export", *words) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and "for one size and number of images" in message
