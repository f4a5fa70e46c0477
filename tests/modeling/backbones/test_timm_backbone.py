"""What every encoder of timm must do as a backbone, and what is said where it cannot."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from gbw_d2.errors import UserError

# One small encoder of each kind: name -> other keys.
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "regnetx_002": {},
    "convnext_atto": {"ARGS": {"depths": (1, 1, 1, 1)}},
    "swin_tiny_patch4_window7_224": {
        "ARGS": {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 6)},
        "OUTPUT_NORM": "LN",
    },
    "pvt_v2_b0": {"ARGS": {"depths": (1, 1, 1, 1)}},
    "vit_tiny_patch16_224": {"ARGS": {"depth": 2}, "PYRAMID_CHANNELS": 32},
    "vit_small_patch14_dinov2": {
        "ARGS": {"depth": 2, "embed_dim": 96, "num_heads": 3, "patch_size": 16, "img_size": 64},
        "OUTPUT_NORM": "final",
        "PYRAMID_CHANNELS": 32,
    },
    "vit_small_patch14_reg4_dinov2": {
        "ARGS": {"depth": 4, "embed_dim": 96, "num_heads": 3, "patch_size": 16, "img_size": 64},
        "OUT_INDICES": (0, 1, 2, 3),
        "PYRAMID_CHANNELS": 32,
    },
    "vit_small_patch16_dinov3": {
        "ARGS": {"depth": 2, "embed_dim": 96, "num_heads": 3},
        "OUTPUT_NORM": "final",
        "PYRAMID_CHANNELS": 32,
    },
    "tf_efficientnet_lite0": {},
    "hrnet_w18_small": {},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_contract(build: Any, name: str) -> None:
    torch.manual_seed(0)
    backbone = build(NAME=name, **ENCODERS[name]).train()
    images = torch.randn(2, 3, 133, 211)
    features = backbone(images)
    shapes = backbone.output_shape()
    assert list(features) == list(shapes) and list(shapes)[-4:] == ["res2", "res3", "res4", "res5"]
    for each, shape in shapes.items():
        rows, columns = -(-133 // shape.stride), -(-211 // shape.stride)
        assert features[each].shape == (2, shape.channels, rows, columns)
        assert features[each].isfinite().all()
    assert [shapes[f"res{n}"].stride for n in (2, 3, 4, 5)] == [4, 8, 16, 32]
    sum(f.square().mean() for f in features.values()).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    # Weights that the file of an encoder has no names for would never be loaded.
    assert set(backbone.steps_from_output) | backbone.adapters == {
        n for n, _ in backbone.named_parameters()
    }


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "pvt_v2_b0"])
def test_export(build: Any, name: str) -> None:
    check_export(build(NAME=name, **ENCODERS[name]))


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_export_of_plain_transformers(build: Any, name: str) -> None:
    check_export(build(NAME=name, **ENCODERS[name]))


@torch.no_grad()
def check_export(backbone: nn.Module) -> None:
    images = torch.randn(1, 3, 133, 211)
    exported = torch.export.export(backbone.eval(), (images,)).module()(images)
    for name, expected in backbone(images).items():
        assert torch.allclose(exported[name], expected, atol=1e-4)


@torch.no_grad()
def test_swin_is_that_of_the_size_of_its_pictures(build: Any) -> None:
    import timm

    name = "swin_tiny_patch4_window7_224"
    arguments = {**ENCODERS[name]["ARGS"], "depths": (1, 1, 1, 2)}
    backbone = build(NAME=name, ARGS=arguments).eval()
    # Created for 224, the last stage is one window, which nothing shifts; for 448 it is four.
    timms = timm.create_model(name, **arguments, img_size=448).eval()
    timms.load_state_dict(backbone.encoder.state_dict(), strict=False)
    images = torch.randn(1, 3, 448, 448)
    expected = timms.forward_intermediates(images, intermediates_only=True)
    for ours, theirs in zip(backbone(images).values(), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@torch.no_grad()
def test_padding_is_the_mean_colour_and_cut_off(build: Any) -> None:
    backbone = build(NAME="pvt_v2_b0", ARGS={"depths": (1, 1, 1, 1)}).eval()
    images = torch.randn(1, 3, 40, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :40, :70] = images
    for name, whole in backbone(padded).items():
        stride = backbone.output_shape()[name].stride
        cut = whole[..., : -(-40 // stride), : -(-70 // stride)]
        assert torch.equal(backbone(images)[name], cut)


@torch.no_grad()
def test_final_norm_is_the_encoders(build: Any) -> None:
    keys = ENCODERS["vit_small_patch16_dinov3"]
    backbone = build(NAME="vit_small_patch16_dinov3", **keys).eval()
    seen = []
    backbone.pyramid.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0][0]))
    backbone(torch.randn(1, 3, 64, 64))
    # A layer norm without learned scales yet: every token has mean 0 and variance 1.
    assert torch.allclose(seen[0].mean(1), torch.zeros(1, 4, 4), atol=1e-5)
    assert torch.allclose(seen[0].var(1, unbiased=False), torch.ones(1, 4, 4), atol=1e-3)


@pytest.mark.slow
def test_timm_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys; import gbw_d2.modeling.segmentor, gbw_d2.modeling.backbones; "
        "print([m for m in ('timm', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip().splitlines()[-1:] == ["[]"], out.stdout + out.stderr


def test_random_weights_get_group_norm(build: Any) -> None:
    backbone = build(NAME="resnet10t")
    assert not [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    # Each is followed by what followed the batch norm, and starts as it did.
    images = torch.randn(2, 64, 8, 8)
    norm = backbone.encoder.layer1[0].bn1
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == 32
    last = backbone.encoder.layer1[0].bn2
    assert last.weight.abs().sum() == 0, "timm starts residual branches at zero"
    expected = nn.functional.group_norm(images, 32, norm.weight, norm.bias, norm.eps)
    assert torch.equal(norm(images), expected)
    efficient = build(NAME="tf_efficientnet_lite0").encoder.bn1
    found = efficient(10 * images[:, :32] ** 3)
    assert found.min() == 0 and found.max() == 6, "its activation is cut at 6"


@pytest.mark.parametrize("learned", [False, True])
def test_pretrained_batch_norm_is_frozen_in_every_mode(build: Any, learned: bool) -> None:
    backbone = build(NAME="resnet10t", NORM="FrozenBN", TRAIN_AFFINE=learned)
    images = torch.randn(2, 3, 64, 64)
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    with torch.no_grad():
        # As built, in training and in evaluation: one picture does not depend on the other.
        whole = [backbone(images), backbone.train()(images), backbone.eval()(images)]
        alone = backbone(images[:1])
    for features in whole:
        assert all(torch.allclose(features[n][:1], alone[n], atol=1e-5) for n in alone)
    assert all(torch.equal(before[n], b) for n, b in backbone.named_buffers())
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(p.requires_grad is learned for m in norms for p in m.parameters())


def test_frozen_statistics_need_weights(build: Any) -> None:
    with pytest.raises(UserError, match=r"statistics of nothing; set MODEL.TIMM.PRETRAINED, or"):
        build(NAME="resnet10t", NORM="FrozenBN").load_pretrained()
    build(NAME="resnet10t").load_pretrained()


@pytest.mark.parametrize(
    ("name", "stages", "frozen", "trained"),
    [
        ("pvt_v2_b0", 2, ["patch_embed.", "stages.0."], "stages.1."),
        (
            "vit_tiny_patch16_224",
            2,
            ["patch_embed.", "pos_embed", "cls_", "blocks.0."],
            "blocks.1.",
        ),
        ("resnet10t", 1, ["conv1", "bn1"], "layer1."),
    ],
)
def test_frozen_stages(build: Any, name: str, stages: int, frozen: list[str], trained: str) -> None:
    encoder = build(NAME=name, **ENCODERS[name], FREEZE_STAGES=stages).encoder
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.requires_grad is not parameter_name.startswith(tuple(frozen))
    assert any(n.startswith(trained) for n, _ in encoder.named_parameters())


def test_checkpointing_gives_the_same_gradient(build: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = build(
            NAME="pvt_v2_b0", ARGS={"depths": (1, 1, 1, 1)}, CHECKPOINTING=checkpointing
        ).train()
        backbone(torch.ones(1, 3, 64, 64))["res5"].square().mean().backward()
        gradients.append(backbone.encoder.patch_embed.proj.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4) and gradients[0].abs().sum() > 0


def test_steps_from_output(build: Any) -> None:
    keys = {**ENCODERS["vit_small_patch16_dinov3"], "ARGS": {"depth": 3}}
    steps = build(NAME="vit_small_patch16_dinov3", **keys).steps_from_output
    # The last block and its norm, the two before, and what comes before all blocks.
    assert steps["encoder.norm.weight"] == steps["encoder.blocks.2.attn.proj.weight"] == 0
    assert steps["encoder.blocks.0.attn.proj.weight"] == 2
    assert steps["encoder.patch_embed.proj.weight"] == steps["encoder.cls_token"] == 3
    # Blocks after the one that is taken are no part of it.
    keys["OUT_INDICES"] = (1,)
    shorter = build(NAME="vit_small_patch16_dinov3", **keys)
    assert shorter.steps_from_output["encoder.blocks.1.attn.proj.weight"] == 0
    tables = {"encoder.cls_token", "encoder.reg_token", "encoder.blocks.0.gamma_1"}
    assert tables <= shorter.undecayed


def test_a_map_of_stride_2_where_a_head_reads_one(timm_config: Any) -> None:
    from gbw_d2.modeling.backbones import build_timm_backbone

    from detectron2.layers import ShapeSpec

    cfg = timm_config(NAME="pvt_v2_b0", ARGS={"depths": (1, 1, 1, 1)})
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["stem", "res2"]
    backbone = build_timm_backbone(cfg, ShapeSpec(channels=3))
    features = backbone(torch.randn(1, 3, 37, 50))
    assert list(features) == list(backbone.output_shape())
    assert features["stem"].shape == (1, 32, 19, 25) and backbone.output_shape()["stem"].stride == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"MODEL.TIMM.NAME is ''; set it to one of timm.list_models"),
        ({"NAME": "pvt_v2_b55"}, r"is no model of timm .*did you mean pvt_v2_b5 or"),
        ({"NAME": "pvt_v2_b5.in2k"}, r"has no weights 'in2k' of pvt_v2_b5 \(it has in1k\)"),
        ({"NAME": "hf-hub:timm/pvt_v2_b5.in1k"}, "is no model of timm"),
        ({"NAME": "mixer_s32_224"}, "has no spatial maps for pictures of any size"),
        ({"NAME": "vit_small_patch14_dinov2"}, r"patches of 14 pixels.*patch_size: 16"),
        ({"NAME": "pvt_v2_b0", "ARGS": {"depht": 1}}, r"cannot be created with .*depht"),
        ({"NAME": "pvt_v2_b0", "OUT_INDICES": (0, 4)}, "has 4 maps, 0 to 3"),
        ({"NAME": "pvt_v2_b0", "OUT_INDICES": (0, 3)}, "three at the least"),
        ({"NAME": "vit_tiny_patch16_224", "OUT_INDICES": (0, 3)}, "or 4, one for each"),
        ({"NAME": "pvt_v2_b0", "NORM": "SyncBN"}, "NORM is 'SyncBN', expected one of 'auto'"),
        ({"NAME": "pvt_v2_b0", "OUTPUT_NORM": "final"}, "'LN' gives each map a norm of its own"),
        ({"NAME": "hrnet_w18_small", "CHECKPOINTING": True}, "has no checkpointing"),
        ({"NAME": "pvt_v2_b0", "PRETRAINED": 3}, "PRETRAINED is 3; expected False, True"),
    ],
)
def test_mistakes_are_told_in_one_line(build: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(**keys)
    assert "\n" not in str(caught.value)
