"""DAFormer's and SegFormer's heads: the papers' sizes, an oracle, what they read and refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gbw_d2.errors import UserError
from gbw_d2.modeling.heads import DAFormerHead, SegFormerHead

from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

NAMES = ("res2", "res3", "res4", "res5")
WIDTHS = (16, 24, 32, 40)


def features(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((17, 27), (9, 14), (5, 7), (3, 4))
    return {
        name: torch.randn(2, width, *size, generator=generator, dtype=dtype)
        for name, width, size in zip(NAMES, WIDTHS, sizes, strict=True)
    }


def test_daformer_has_the_papers_parameters() -> None:
    head = DAFormerHead(
        in_features=NAMES, in_channels=(64, 128, 320, 512), channels=256, num_classes=19, norm="BN"
    )
    # DAFormer's own head on MiT-B5: methods/selftraining_gbw.md 3.2, counted by running it.
    assert sum(p.numel() for p in head.parameters()) == 3_712_275
    dilations = [m.dilation[0] for m in head.modules() if getattr(m, "groups", 1) == 1024]
    assert dilations == [6, 12, 18]


@pytest.mark.parametrize("head_class", [DAFormerHead, SegFormerHead])
def test_the_predictor_is_a_linear_layer_on_what_it_is_given(head_class: Any) -> None:
    from gbw_d2.modeling.heads.classifier import classifier_input_and_logits

    torch.manual_seed(0)
    head = head_class(in_features=NAMES, in_channels=WIDTHS, channels=32, num_classes=5)
    given, logits = classifier_input_and_logits(head.train(), features())
    assert given.shape == (2, 32, 17, 27) and logits.shape == (2, 5, 17, 27)
    weight, bias = head.predictor.weight[:, :, 0, 0], head.predictor.bias
    expected = torch.einsum("kd,ndhw->nkhw", weight, given) + bias.view(1, -1, 1, 1)
    assert torch.allclose(logits, expected, atol=1e-5)
    # Dropped channels are dropped whole.
    dropped = given.flatten(2).abs().sum(2) == 0
    assert dropped.any() and not dropped.all()
    logits.square().mean().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_segformer_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="group dev is not installed")
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=list(WIDTHS), decoder_hidden_size=32, num_labels=5
    )
    theirs = SegformerDecodeHead(config).double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    state = theirs.state_dict()
    ours = SegFormerHead(
        in_features=NAMES, in_channels=WIDTHS, channels=32, num_classes=5, norm="BN"
    )
    ours = ours.double().eval()
    renamed = {
        "fuse.weight": state["linear_fuse.weight"],
        "predictor.weight": state["classifier.weight"],
        "predictor.bias": state["classifier.bias"],
    }
    renamed |= {
        f"fuse.norm.{key}": state[f"batch_norm.{key}"]
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    # The name in memory is not that of the files, and has changed in 5.x.
    projections = [m.proj for m in theirs.modules() if type(m).__name__ == "SegformerMLP"]
    for level, projection in enumerate(projections):
        renamed[f"embedding.layers.{level}.weight"] = projection.weight[:, :, None, None]
        renamed[f"embedding.layers.{level}.bias"] = projection.bias
    ours.load_state_dict(renamed)
    maps = features(torch.float64)
    with torch.no_grad():
        expected = theirs(list(maps.values()))
        torch.testing.assert_close(ours.layers(maps), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["DAFormerHead", "SegFormerHead"])
def test_from_config(tiny_config: Any, name: str) -> None:
    cfg = tiny_config("MODEL.SEM_SEG_HEAD.NAME", name, "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", "[1,3]")
    shapes = {
        level: ShapeSpec(channels=width, stride=2**power)
        for power, (level, width) in enumerate(zip("dcba", WIDTHS, strict=True), start=1)
    }
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["a", "d", "c"]
    head = SEM_SEG_HEADS_REGISTRY.get(name)(cfg, shapes)
    # The finest first, in whatever order they are named.
    assert head.embedding.in_features == ("d", "c", "a")
    assert head.predictor.out_channels == 16
    for wrong in (["a"], ["a", "e"]):
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = wrong
        with pytest.raises(UserError, match=f"{name} reads two or more of what the "):
            SEM_SEG_HEADS_REGISTRY.get(name)(cfg, shapes)
