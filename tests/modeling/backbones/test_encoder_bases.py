"""Every encoder's base file: it fits its weights' pictures, and heads build on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model
from gbw_d2.engine.setup import resolve

from detectron2.modeling import build_backbone, build_sem_seg_head
from detectron2.projects.panoptic_deeplab import build_ins_embed_branch

BASES = Path(__file__).parents[3] / "configs/base"
ENCODERS = [
    path
    for path in sorted((BASES / "encoders").glob("*.yaml"))
    if "build_timm_backbone" in path.read_text()
]
MODELS = (
    "panoptic_deeplab",
    "semantic_deeplabv3plus",
    "panoptic_deeplab_tiny",
    "semantic_daformer",
    "semantic_segformer",
)
# Those that two CPU cores run in a second.
SMALL = ("pvt_v2_b0", "vit_tiny_toy", "efficientnet_lite0")


def composed(folder: Path, encoder: Path, model: str, *overrides: str) -> Any:
    leaf = folder / "leaf.yaml"
    # The encoder last: a model's base may still name one of its own.
    leaf.write_text(f"_BASE_: [{BASES}/models/{model}.yaml, {encoder}]\nVERSION: 2\n")
    cfg = load_config(str(leaf), overrides)
    resolve(cfg)
    return cfg


@pytest.mark.parametrize("path", ENCODERS, ids=lambda p: p.stem)
def test_pictures_are_what_the_weights_were_trained_on(path: Path) -> None:
    import timm

    keys = yaml.safe_load(path.read_text())
    model = keys["MODEL"]
    trained = timm.get_pretrained_cfg(model["TIMM"]["NAME"])
    assert keys["INPUT"]["FORMAT"] == "RGB" and model["WEIGHTS"] == ""
    if model["TIMM"]["PRETRAINED"] is False:
        return
    assert model["PIXEL_MEAN"] == pytest.approx([255 * value for value in trained.mean], abs=1e-3)
    assert model["PIXEL_STD"] == pytest.approx([255 * value for value in trained.std], abs=1e-3)
    text = path.read_text()
    if model["TIMM"]["PRETRAINED"] is True:
        licence = {"apache-2.0": "Apache-2.0", "mit": "MIT", "dinov3-license": "DINOv3 licence"}
        assert licence[trained.license] in text and "fetched" in text


def test_the_command_line_may_name_a_file_where_the_base_says_true(tmp_path: Path) -> None:
    base = BASES / "encoders/pvt_v2_b5.yaml"
    words = ("MODEL.TIMM.PRETRAINED", "mine.pth")
    assert composed(tmp_path, base, MODELS[0]).MODEL.TIMM.PRETRAINED is True
    assert composed(tmp_path, base, MODELS[0], *words).MODEL.TIMM.PRETRAINED == "mine.pth"


@pytest.mark.parametrize("path", ENCODERS, ids=lambda p: p.stem)
def test_every_head_builds_on_every_encoder(path: Path, tmp_path: Path) -> None:
    configs = {m: composed(tmp_path, path, m, "MODEL.DEVICE", "meta") for m in MODELS}
    # Shapes without memory. The backbone of the model that reads the most maps serves all.
    with torch.device("meta"):
        backbone = build_backbone(configs["panoptic_deeplab_tiny"])
        shapes, features = backbone.output_shape(), backbone(torch.zeros(1, 3, 133, 211))
        assert list(shapes) == ["stem", "res2", "res3", "res4", "res5"]
        for model, cfg in configs.items():
            head = build_sem_seg_head(cfg, shapes)
            size = (67, 106) if model.endswith("tiny") else (34, 53)
            assert head.layers(features).shape == (1, 16, *size)
            if not cfg.MODEL.SEMANTIC_ONLY:
                center, offset = build_ins_embed_branch(cfg, shapes).layers(features)
                assert center.shape == (1, 1, 34, 53) and offset.shape == (1, 2, 34, 53)


@pytest.mark.parametrize("model", ["panoptic_deeplab_tiny", "semantic_daformer"])
@pytest.mark.parametrize("name", SMALL)
def test_small_ones_learn(name: str, model: str, samples: Any, tmp_path: Path) -> None:
    from gbw_d2.engine.optimizer import build_optimizer

    torch.manual_seed(0)
    cfg = composed(
        *(tmp_path, BASES / f"encoders/{name}.yaml", model, "MODEL.DEVICE", "cpu"),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", "[1, 2, 3]"),
        *("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.001", "SOLVER.HEAD_LR_FACTOR", "2.0"),
    )
    network = build_model(cfg).train()
    optimizer = build_optimizer(cfg, network)
    batch, losses = samples(rows=37, columns=64), []
    for _ in range(4):
        loss = sum(network(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
