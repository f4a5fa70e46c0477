"""tools/demo.py as people call it: mixed inputs without labels, exit codes, options."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gbw_d2.engine.build import build_model

SMALL = ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "32")


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", repository / "tools/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two sizes, a file that is no image, and a video."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, size in (("a.png", (40, 64, 3)), ("b.jpg", (33, 50, 3))):
        cv2.imwrite(str(folder / name), draw.integers(0, 256, size, dtype=np.uint8))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 32))
    for i in range(3):
        writer.write(np.full((32, 64, 3), 60 * i, np.uint8))
    writer.release()
    return folder


@pytest.fixture
def demo(
    tool: ModuleType, repository: Path, tmp_path: Path, tiny_config: Any
) -> Callable[..., int]:
    """Returns a function: arguments, config keys -> exit code of a run with random weights."""
    torch.manual_seed(0)

    def call(*arguments: str, opts: tuple[str, ...] = ()) -> int:
        torch.save({"model": build_model(tiny_config(*opts)).state_dict()}, tmp_path / "net.pth")
        config = str(repository / "configs/toy/panoptic_gbw.yaml")
        fixed = ["--config-file", config, "--weights", str(tmp_path / "net.pth")]
        fixed += ["--output", str(tmp_path / "out"), "--device", "cpu"]
        return tool.main([*fixed, *arguments, "--opts", *SMALL, *opts])

    return call


def test_mixed_inputs(demo: Callable[..., int], photos: Path, tmp_path: Path, capsys: Any) -> None:
    assert demo("--input", str(photos), "--opacity", "0.5") == 1
    out = tmp_path / "out"
    captured = capsys.readouterr()
    assert "broken.png" in captured.err and "1 input(s) could not be read" in captured.err
    assert "4/4" in captured.err  # the progress bar
    sizes = {"a": (40, 64), "b": (33, 50), **{f"clip/{i:06d}": (32, 64) for i in (1, 2, 3)}}
    for kind in ("semantic", "panoptic"):
        found = {
            str(p.relative_to(out / kind).with_suffix("")): cv2.imread(str(p), -1).shape[:2]
            for p in (out / kind).rglob("*.png")
        }
        assert found == sizes
    overlays = sorted(p.name for p in (out / "overlays").iterdir())
    assert overlays == ["a.png", "b.png", "clip.mp4"]
    content = json.loads((out / "panoptic.json").read_text())
    assert [(i["file_name"], i.get("frame")) for i in content["images"]] == [
        (str(photos / "a.png"), None),
        (str(photos / "b.jpg"), None),
        *((str(photos / "clip.avi"), frame) for frame in (1, 2, 3)),
    ]
    for entry, image in zip(content["annotations"], content["images"], strict=True):
        coded = cv2.imread(str(out / "panoptic" / entry["file_name"]))[..., ::-1].astype(int)
        ids, areas = np.unique(coded @ [1, 256, 65536], return_counts=True)
        listed = {s["id"]: s["area"] for s in entry["segments_info"]}
        assert {i: a for i, a in zip(ids.tolist(), areas.tolist(), strict=True) if i} == listed
        assert coded.shape[:2] == (image["height"], image["width"])
    assert not [p for p in out.rglob("*") if "tmp" in p.name or "part" in p.name]


def test_options_and_a_semantic_network(
    demo: Callable[..., int], photos: Path, tmp_path: Path
) -> None:
    options = ("--window", "32", "48", "--flip", "--scales", "0.75", "1.25")
    opts = ("MODEL.SEMANTIC_ONLY", "True", "INPUT.TEST_SIZE", "(48,48)", "INPUT.FORMAT", "BGR")
    assert demo("--input", str(photos / "[ab].*"), *options, opts=opts) == 0
    out = tmp_path / "out"
    assert cv2.imread(str(out / "semantic/a.png"), -1).shape == (40, 64)
    assert sorted(p.name for p in out.iterdir()) == ["overlays", "semantic", "semantic.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--input", "nowhere/*.png"), "nothing to show"),
        (("--weights", "no.pth"), "no.pth"),
        (("--weights", "."), "last checkpoint"),
        (("--scales", "0"), "scales"),
        (("--device", "cuda:99"), "cuda:99"),
    ],
)
def test_what_cannot_run_is_one_message(
    demo: Callable[..., int], photos: Path, change: tuple[str, str], words: str, capsys: Any
) -> None:
    # Of an option that is given twice, the later one counts.
    assert demo("--input", str(photos / "a.png"), *change) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and words in message


def test_a_stopped_run_describes_what_is_there(
    tool: ModuleType, demo: Callable[..., int], photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    read = tool.read_photo

    def stop_at_b(path: Path) -> np.ndarray:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(tool, "read_photo", stop_at_b)
    assert demo("--input", str(photos)) == 130
    content = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["a.png"]


def test_a_video_that_ends_early_is_shown_and_told(
    demo: Callable[..., int], photos: Path, tmp_path: Path, capsys: Any
) -> None:
    path = photos / "clip.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 1, (64, 32))
    draw = np.random.default_rng(0)
    for _ in range(20):
        writer.write(draw.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert demo("--input", str(path)) == 1
    assert "of 20 frames" in capsys.readouterr().err
    assert list((tmp_path / "out/semantic/clip").glob("*.png"))
    assert (tmp_path / "out/overlays/clip.mp4").stat().st_size > 0


def test_a_picture_too_small_is_skipped_and_counted(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gbw_d2.label_spaces import CITYSCAPES_19

    for name, side in (("dot.png", 1), ("large.png", 40)):
        cv2.imwrite(str(tmp_path / name), np.zeros((side, side, 3), np.uint8))

    def run(image: np.ndarray) -> dict:
        rows, columns = (max(1, n // 16) for n in image.shape[:2])
        torch.nn.GroupNorm(1, 1)(torch.zeros(1, 1, rows, columns))
        return {"sem_seg": torch.zeros(19, *image.shape[:2])}

    monkeypatch.setattr(tool, "build_predictor", lambda _args: (run, CITYSCAPES_19))
    words = ["--config-file", "x", "--weights", "x", "--input", str(tmp_path)]
    assert tool.main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "dot.png' has 1x1 pixels" in capsys.readouterr().err
    assert (tmp_path / "out" / "semantic" / "large.png").is_file()
