"""Weights of every naming load into the right places, and others stop with what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gbw_d2.errors import UserError
from gbw_d2.modeling.backbones.key_maps import KEY_MAPS
from gbw_d2.modeling.backbones.pretrained import (
    Coverage,
    PretrainedError,
    choose,
    coverage,
    hub_weights,
    load_encoder,
    read_weights,
    unwrap,
)

OFFICIAL = Path(__file__).parent / "official_names"


def network() -> nn.Module:
    # 90 + 10 parameters, and statistics.
    return nn.Sequential(nn.Linear(9, 10, bias=False), nn.BatchNorm1d(5))


def test_coverage_counts_parameters_and_not_tensors() -> None:
    state = {"0.weight": torch.zeros(10, 9), "1.weight": torch.zeros(4), "2.weight": torch.zeros(1)}
    found = coverage(state, network())
    assert found == Coverage(
        found=90,
        total=100,
        missing=("1.bias", "1.running_mean", "1.running_var"),
        unexpected=("2.weight",),
        shapes=(("1.weight", (4,), (5,)),),
    )
    assert found.share == 0.9
    assert str(found) == (
        "3 missing (1.bias, 1.running_mean, 1.running_var); 1 unexpected (2.weight); "
        "1 of another shape (1.weight (4,) for (5,))"
    )


def test_ninety_per_cent_are_enough_and_statistics_are_not_left_out() -> None:
    encoder = nn.Sequential(nn.Linear(9, 10, bias=False), nn.GroupNorm(1, 5))
    line = load_encoder(encoder, {"0.weight": torch.ones(10, 9)}, "some.pth")
    assert line.startswith("Encoder weights 'some.pth'") and "90.0%" in line and "2 missing" in line
    assert torch.equal(encoder[0].weight, torch.ones(10, 9))
    with pytest.raises(PretrainedError, match="hold 90% of the encoder's parameters, expected 90%"):
        load_encoder(network(), {"0.weight": torch.ones(10, 9)}, "some.pth")


def test_another_encoder_stops_in_one_line_and_changes_nothing() -> None:
    import timm

    encoder = timm.create_model("resnet10t", num_classes=0)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    other = timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 1, 1)).state_dict()
    with pytest.raises(PretrainedError, match=r"hold 0% .*missing \(.*unexpected \(stem") as caught:
        load_encoder(encoder, other, "other.pth")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[n], t) for n, t in encoder.state_dict().items())


def test_the_first_key_map_that_covers_is_taken() -> None:
    encoder = nn.Linear(2, 2)
    names = [key_map.name for key_map in KEY_MAPS]
    name, renamed, found = choose({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, encoder)
    assert name == names[0] and found.share == 1.0 and set(renamed) == {"weight", "bias"}


@pytest.mark.parametrize("envelope", [None, "state_dict", "model", "ema", "teacher"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "backbone.encoder."])
def test_envelopes_and_prefixes(envelope: str | None, prefix: str) -> None:
    state = {f"{prefix}conv1.weight": torch.ones(1)}
    loaded = state if envelope is None else {envelope: state, "epoch": 3}
    assert set(unwrap(loaded)) == {"conv1.weight"}


def test_a_backbone_is_taken_out_of_its_network() -> None:
    state = {"backbone.conv1.weight": torch.ones(1), "decode_head.conv.weight": torch.ones(1)}
    assert set(unwrap({"state_dict": state, "optimizer": {"state": {}}})) == {"conv1.weight"}


def test_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        assert torch.equal(read_weights(str(tmp_path / name))["a"], torch.ones(2))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:100])
    (tmp_path / "cut.safetensors").write_bytes(b"no")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "code.pth")
    torch.save({"epoch": 1}, tmp_path / "none.pth")
    for name, message in (
        ("missing.pth", "does not exist; set it to a file, to True"),
        ("cut.pth", "cannot be read|damaged"),
        ("cut.safetensors", "no file of weights"),
        ("text.pth", "damaged, or holds more than weights"),
        ("code.pth", "MODEL.TRUST_WEIGHTS True"),
        ("none.pth", "holds no tensor"),
    ):
        with pytest.raises(PretrainedError, match=message) as caught:
            read_weights(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(PretrainedError, match="package nowhere is not installed"):
        read_weights("package:nowhere/weights.pth")


def test_without_a_network_one_line_names_the_file_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = r"timm/pvt_v2_b0.in1k .*set MODEL.TIMM.PRETRAINED to it"
    with pytest.raises(PretrainedError, match=message) as caught:
        hub_weights("pvt_v2_b0.in1k", {})
    assert "\n" not in str(caught.value)
    with pytest.raises(PretrainedError, match="anywhere: timm names none"):
        hub_weights("coatnet_0_224", {})


def official(name: str) -> dict[str, torch.Tensor]:
    """Returns a state of random weights in the names and shapes of the official code."""
    generator = torch.Generator().manual_seed(0)
    lines = (OFFICIAL / f"{name}.txt").read_text().splitlines()[1:]
    shapes = [line.partition(" ")[::2] for line in lines]
    return {
        key: torch.randn([int(side) for side in shape.split("x") if side], generator=generator)
        for key, shape in shapes
    }


@pytest.mark.parametrize(
    ("file", "encoder", "arguments", "pairs"),
    [
        (
            "mit_b0",
            "pvt_v2_b0",
            {"mlp_ratios": (4, 4, 4, 4)},
            {
                "patch_embed1.proj.weight": "patch_embed.proj.weight",
                "patch_embed3.norm.bias": "stages.2.downsample.norm.bias",
                "block2.1.attn.kv.weight": "stages.1.blocks.1.attn.kv.weight",
                "block4.0.mlp.dwconv.dwconv.weight": "stages.3.blocks.0.mlp.dwconv.weight",
                "norm3.weight": "stages.2.norm.weight",
            },
        ),
        (
            "dinov2_vits14",
            "vit_small_patch14_dinov2",
            {},
            {
                "cls_token": "cls_token",
                "pos_embed": "pos_embed",
                "blocks.3.ls1.gamma": "blocks.3.ls1.gamma",
                "norm.weight": "norm.weight",
            },
        ),
        (
            "dinov2_vits14_reg4",
            "vit_small_patch14_reg4_dinov2",
            {},
            {"register_tokens": "reg_token", "blocks.11.mlp.fc2.bias": "blocks.11.mlp.fc2.bias"},
        ),
        (
            "dinov3_vits16",
            "vit_small_patch16_dinov3_qkvb",
            {},
            {
                "storage_tokens": "reg_token",
                "blocks.2.ls2.gamma": "blocks.2.gamma_2",
                "blocks.5.attn.qkv.weight": "blocks.5.attn.qkv.weight",
            },
        ),
    ],
)
def test_official_files(
    file: str, encoder: str, arguments: dict[str, Any], pairs: dict[str, str]
) -> None:
    import timm

    state = official(file)
    network = timm.create_model(encoder, num_classes=0, **arguments)
    line = load_encoder(network, state, file)
    assert "100.0% of its parameters; 0 missing" in line and "0 of another shape" in line
    loaded = network.state_dict()
    for theirs, ours in pairs.items():
        assert torch.equal(loaded[ours], state[theirs])


def test_patches_of_14_are_resampled_to_16() -> None:
    import timm

    arguments = {"patch_size": 16, "img_size": 512, "depth": 2}
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, **arguments)
    assert (
        network.patch_embed.proj.weight.shape[-1] == 16 and network.pos_embed.shape[1] == 1 + 1024
    )
    state = official("dinov2_vits14")
    # A kernel that averages a patch of any size must still do so: colours are what they were.
    state["patch_embed.proj.weight"] = torch.full_like(state["patch_embed.proj.weight"], 1 / 14**2)
    state["pos_embed"] = torch.ones_like(state["pos_embed"])
    line = load_encoder(network, state, "dinov2")
    assert "100.0% of its parameters" in line and "0 of another shape" in line
    kernel = network.patch_embed.proj.weight
    assert torch.allclose(kernel.sum((2, 3)), torch.ones(384, 3), atol=2e-2)
    assert torch.allclose(network.pos_embed, torch.ones_like(network.pos_embed), atol=1e-5)


def test_biases_of_dinov3_are_not_dropped() -> None:
    import timm

    network = timm.create_model("vit_small_patch16_dinov3", num_classes=0, depth=1)
    state = {k: v for k, v in official("dinov3_vits16").items() if "blocks." not in k or ".0." in k}
    with pytest.raises(UserError, match=r"biases of queries and values .* ends in _qkvb"):
        load_encoder(network, state, "dinov3")
    state["blocks.0.attn.qkv.bias"] = torch.zeros_like(state["blocks.0.attn.qkv.bias"])
    assert "100.0%" in load_encoder(network, state, "dinov3")


@pytest.mark.parametrize("on_disk", [True, False])
def test_segformer_of_transformers_gives_the_same_maps(on_disk: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="group dev is not installed")
    import timm

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[2, 1, 2, 1], hidden_sizes=[32, 64, 160, 256], drop_path_rate=0.0
    )
    theirs = transformers.SegformerForSemanticSegmentation(config).double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = theirs.state_dict()
    if on_disk:
        theirs.save_pretrained(tmp_path)
        state = read_weights(str(tmp_path / "model.safetensors"))
    encoder = timm.create_model(
        "pvt_v2_b0", num_classes=0, mlp_ratios=(4, 4, 4, 4), depths=(2, 1, 2, 1)
    )
    encoder = encoder.double().eval()
    line = load_encoder(encoder, state, "segformer")
    assert "transformers' Segformer): 100.0%" in line and "0 missing" in line
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            # Theirs have 1e-5 throughout, MiT has 1e-6 in its blocks.
            module.eps = 1e-5
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True).hidden_states
        found = encoder.forward_intermediates(images, intermediates_only=True)
    for ours, hidden in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, hidden, rtol=1e-9, atol=1e-9)
