"""tools/export.py: what is exported gives the network's outputs, or is not written."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from gbw_d2.engine.build import build_model
from gbw_d2.modeling.postprocessing import PanopticSettings, panoptic_from_centers

SMALL = ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "32")

# Below configs, as the fixture has it.
HRDA = "../projects/HRDA/configs/toy_semantic_hrda"


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("export", repository / "tools/export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def network(tiny_config: Any, tmp_path: Path) -> torch.nn.Module:
    """A network with random weights, saved as net.pth."""
    torch.manual_seed(0)
    model = build_model(tiny_config()).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "net.pth")
    return model


@pytest.fixture
def export(tool: ModuleType, repository: Path, tmp_path: Path, network: Any) -> Callable[..., int]:
    """Returns a function: output name, arguments -> exit code."""

    def call(name: str, *arguments: str) -> int:
        config = str(repository / "configs/toy/panoptic_gbw.yaml")
        fixed = ["--config-file", config, "--weights", str(tmp_path / "net.pth")]
        fixed += ["--output", str(tmp_path / name), "--size", "32", "48"]
        return tool.main([*fixed, *arguments, "--opts", *SMALL])

    return call


def test_torch_export(
    export: Callable[..., int], network: torch.nn.Module, tmp_path: Path, capsys: Any
) -> None:
    assert export("sub/net.pt2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["semantic_logits", "center", "offset"]
    assert all("largest difference" in line for line in lines[:3])
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["net.pt2"]
    # The normalisation is inside: the images of the file are those of the network.
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        expected = network.export_outputs(image[None].float())
    held = {f"{name}.json": "" for name in ("label_space", "input_format", "panoptic_settings")}
    program = torch.export.load(tmp_path / "sub/net.pt2", extra_files=held)
    found = program.module()(image[None].float())
    assert list(expected) == ["semantic_logits", "center", "offset"]
    for ours, theirs in zip(expected.values(), found, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    # What the file says of classes and thresholds makes the network's own panoptic map of them.
    space, input_format, settings = (json.loads(entry) for entry in held.values())
    assert input_format == "RGB"
    things = [number for number, each in enumerate(space["classes"]) if each["thing"]]
    segments, _ = panoptic_from_centers(
        *(each[0] for each in found), thing_ids=things, settings=PanopticSettings(**settings)
    )
    with torch.no_grad():
        (own,) = network([{"image": image}])
    assert torch.equal(segments, own["panoptic_seg"][0]) and segments.any()


def test_a_full_disk_is_one_line(
    export: Callable[..., int], tmp_path: Path, small_disk: Any, capsys: Any
) -> None:
    with small_disk(5000):
        assert export("net.pt2") == 2
    assert "net.pt2': nothing half-written is left" in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


@pytest.mark.slow
def test_torch_export_of_hrda(
    tool: ModuleType, repository: Path, tiny_config: Any, tmp_path: Path, capsys: Any
) -> None:
    config = repository / f"configs/{HRDA}.yaml"
    # Nine windows of 16 x 32 over 32 x 64 pixels, and a context of 16 x 32.
    keys = ["MODEL.HRDA.DETAIL_SIZE", "(16, 32)"]
    torch.manual_seed(0)
    network = build_model(tiny_config(*keys, name=HRDA))
    torch.save({"model": network.state_dict()}, tmp_path / "net.pth")
    fixed = ["--config-file", str(config), "--weights", str(tmp_path / "net.pth")]
    fixed += ["--output", str(tmp_path / "net.pt2"), "--size", "32", "64"]
    assert tool.main([*fixed, "--opts", *keys]) == 0
    assert capsys.readouterr().out.startswith("semantic_logits: largest difference")
    images = torch.randint(0, 256, (1, 3, 32, 64)).float()
    with torch.no_grad():
        (expected,) = network.eval().export_outputs(images).values()
        (found,) = torch.export.load(tmp_path / "net.pt2").module()(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # How many windows there are must be known.
    assert tool.main([*fixed, "--dynamic", "--opts", *keys]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("most", "score"), [(1, 1.0), (1, 0.0), (100, 0.0)])
def test_of_a_network_with_roi_heads_the_semantic_part_is_exported(
    tool: ModuleType,
    repository: Path,
    tiny_config: Any,
    tmp_path: Path,
    capsys: Any,
    most: int,
    score: float,
) -> None:
    # However many boxes its suppression would keep of the image: 0, 1 or more.
    keys = ("TEST.DETECTIONS_PER_IMAGE", str(most), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(score))
    config = repository / "configs/toy/panoptic_fpn_gbw.yaml"
    model = build_model(tiny_config(*keys, name="toy/panoptic_fpn_gbw")).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "net.pth")
    arguments = ["--config-file", str(config), "--weights", str(tmp_path / "net.pth")]
    arguments += ["--output", str(tmp_path / "net.pt2"), "--size", "32", "48"]
    assert tool.main([*arguments, "--opts", *SMALL, *keys]) == 0
    shown = capsys.readouterr()
    assert "note: the RoI branch" in shown.err and shown.out.startswith("semantic_logits: ")
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    (found,) = torch.export.load(tmp_path / "net.pt2").module()(image[None].float())
    with torch.no_grad():
        (result,) = model([{"image": image}])
        outputs = model.outputs(model.features(model.images([{"image": image}])), (32, 48))
    kept = len(outputs.private[0])
    assert kept == (0 if score else 1) if most == 1 else kept > 1
    torch.testing.assert_close(found[0], result["sem_seg"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_torch_export_of_any_size(
    export: Callable[..., int], network: torch.nn.Module, tmp_path: Path
) -> None:
    assert export("net.pt2", "--dynamic") == 0
    image = torch.randint(0, 256, (3, 51, 37), dtype=torch.uint8)
    found = torch.export.load(tmp_path / "net.pt2").module()(image[None].float())
    with torch.no_grad():
        expected = network.export_outputs(image[None].float())
    for ours, theirs in zip(expected.values(), found, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--dynamic",)])
def test_onnx(
    export: Callable[..., int], network: torch.nn.Module, tmp_path: Path, arguments: tuple
) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="uv run --group export pytest -m slow")
    onnxruntime = pytest.importorskip("onnxruntime", reason="uv run --group export pytest -m slow")
    assert export("net.onnx", *arguments) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    found = session.run(None, {"images": image[None].float().numpy()})
    assert [o.name for o in session.get_outputs()] == ["semantic_logits", "center", "offset"]
    with torch.no_grad():
        expected = network.export_outputs(image[None].float())
    for ours, theirs in zip(expected.values(), found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-3, rtol=1e-3)


def test_a_difference_is_found_and_nothing_written(
    tool: ModuleType, export: Callable[..., int], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def wrong(network: Any, *given: Any) -> Callable[[Any], Any]:
        given[-1].write_bytes(b"not the network")
        return lambda images: [output + 0.5 for output in network(images)]

    monkeypatch.setitem(tool.FORMATS, ".pt2", ((), wrong))
    assert export("net.pt2") == 1
    captured = capsys.readouterr()
    assert "center: largest difference 0.5" in captured.out and "not written" in captured.err
    assert not list(tmp_path.glob("*.pt2"))


def test_a_failure_of_the_exporter_is_one_line(
    tool: ModuleType, export: Callable[..., int], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def fails(network: Any, example: Any, shapes: Any, about: Any, path: Path) -> None:
        path.write_bytes(b"half a network")
        try:
            raise NotImplementedError("aten::foo has no decomposition\nand much more")
        except NotImplementedError as error:
            raise RuntimeError("Failed to export\nin step 2 of 3") from error

    monkeypatch.setitem(tool.FORMATS, ".pt2", ((), fails))
    assert export("net.pt2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "export this GBWPanopticDeepLab: " in line
    assert line.endswith("NotImplementedError: aten::foo has no decomposition")
    assert not list(tmp_path.glob("*.pt2"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_is_a_difference(
    tool: ModuleType, export: Callable[..., int], monkeypatch: Any, value: float
) -> None:
    def wrong(network: Any, *given: Any) -> Callable[[Any], Any]:
        given[-1].touch()
        return lambda images: [output + value for output in network(images)]

    monkeypatch.setitem(tool.FORMATS, ".pt2", ((), wrong))
    assert export("net.pt2") == 1


def test_differences_by_hand(tool: ModuleType) -> None:
    network = SimpleNamespace(output_names=["a"])
    double = type("Double", (SimpleNamespace,), {"__call__": lambda self, x: (2 * x,)})
    network = double(output_names=["a"])
    inputs = [torch.tensor([1.0, -3.0]), torch.tensor([2.0, 0.5])]
    found = tool.differences(network, lambda x: [2 * x + 0.1 * x.abs()], inputs)
    assert found["a"] == pytest.approx((0.3, 6.0), abs=1e-6)


def test_missing_packages_are_told(
    tool: ModuleType, export: Callable[..., int], capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tool, "find_spec", lambda name: None)
    assert export("net.onnx") == 2
    message = capsys.readouterr().err
    assert "onnxruntime" in message and "--group export" in message
    assert export("net.onx") == 2
    assert ".onnx" in capsys.readouterr().err
