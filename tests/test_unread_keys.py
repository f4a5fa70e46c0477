"""Every key of Detectron2 is read by something, or setting it is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gbw_d2.config import ConfigError, add_gbw_config
from gbw_d2.unread_keys import UNREAD, advice, check_unread, leaves

import detectron2
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

# Where Detectron2 reads keys on our behalf.
READERS = (
    "modeling/backbone",
    "modeling/meta_arch/semantic_seg.py",
    "solver",
    "projects/deeplab",
    "projects/panoptic_deeplab/panoptic_seg.py",
)


def detectron2_keys() -> dict[str, Any]:
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    return dict(leaves(cfg))


def config() -> CfgNode:
    cfg = get_cfg()
    add_gbw_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GBWPanopticDeepLab"
    return cfg


def sources(repository: Path) -> str:
    package = Path(detectron2.__file__).parent
    paths = [
        p
        for r in READERS
        for p in ([package / r] if r.endswith(".py") else sorted((package / r).rglob("*.py")))
        if p.name != "config.py"
    ]
    skip = ("unread_keys.py", "config.py", "resume.py")
    ours = [p for p in sorted((repository / "gbw_d2").rglob("*.py")) if p.name not in skip]
    return "\n".join(p.read_text() for p in [*paths, *ours])


def test_every_key_is_read_or_refused(repository: Path) -> None:
    text = sources(repository)
    # VERSION is compared in load_config; seed, cuDNN and, in Detectron2's main of June 2026, the
    # precision of float32 are its default_setup's.
    # PROJECT_FEATURES only say again what IN_FEATURES say; Detectron2 itself reads them nowhere.
    elsewhere = {"VERSION", "SEED", "CUDNN_BENCHMARK", "OUTPUT_DIR", "FLOAT32_PRECISION"}
    elsewhere |= {f"MODEL.{head}.PROJECT_FEATURES" for head in ("SEM_SEG_HEAD", "INS_EMBED_HEAD")}
    nobody = [
        key
        for key in detectron2_keys()
        if advice(key) is None
        and key not in elsewhere
        and f".{key.rpartition('.')[2]}" not in text
        and f'"{key.rpartition(".")[2]}"' not in text
    ]
    assert nobody == []


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return [7] if isinstance(value, (list, tuple)) else (value or 0) + 1


def test_every_unread_key_is_an_error() -> None:
    refused = [key for key in detectron2_keys() if advice(key) is not None]
    assert len(refused) > 100
    check_unread(config())
    for key in refused:
        cfg = config()
        node = cfg
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = other(node[last])
        with pytest.raises(ConfigError, match=f"^{key} is .*nothing here reads"):
            check_unread(cfg)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("INPUT.RANDOM_FLIP", "INPUT.FLIP_PROBABILITY"),
        ("INPUT.MIN_SIZE_TRAIN", "INPUT.SCALE_RANGE"),
        ("INPUT.CROP.SIZE", "INPUT.CROP_SIZE"),
        ("TEST.AUG.ENABLED", "demo.py"),
        ("MODEL.SEM_SEG_HEAD.LOSS_TOP_K", "WEIGHTING"),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "255"),
    ],
)
def test_the_message_names_our_key(key: str, words: str) -> None:
    assert words in (advice(key) or "")


def test_keys_of_this_project_are_all_read() -> None:
    ours = dict(leaves(config())).keys() - detectron2_keys().keys()
    assert [key for key in ours if advice(key) is not None] == []


def test_an_architecture_of_others_may_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from gbw_d2.modeling.meta_arch.panoptic_deeplab import GBWPanopticDeepLab

    cfg = config()
    cfg.MODEL.RPN.HEAD_NAME = "Mine"
    monkeypatch.setattr(GBWPanopticDeepLab, "detectron2_keys", ("MODEL.RPN.",), raising=False)
    check_unread(cfg)


def test_no_config_of_ours_sets_one(repository: Path) -> None:
    from gbw_d2.config import load_config

    for path in sorted((repository / "configs").glob("*.yaml")):
        check_unread(load_config(str(path)))
    assert UNREAD
