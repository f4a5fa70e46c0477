"""Parameter groups: each parameter once, with its own rate and decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gbw_d2.config import ConfigError
from gbw_d2.engine.build import build_model
from gbw_d2.engine.optimizer import (
    OPTIMIZERS,
    build_lr_scheduler,
    build_optimizer,
    clip_each_gradient,
    group_table,
    parameter_groups,
    schedule_from,
)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_parameter_once(tiny_config: Any, name: str) -> None:
    cfg = tiny_config("SOLVER.OPTIMIZER", name, "SOLVER.HEAD_LR_FACTOR", 10.0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    backbone = {rate[id(p)] for p in model.backbone.parameters()}
    heads = {rate[id(p)] for n, p in model.named_parameters() if not n.startswith("backbone")}
    assert backbone == {cfg.SOLVER.BASE_LR} and heads == {cfg.SOLVER.BASE_LR * 10}


def test_norms_do_not_decay(tiny_config: Any) -> None:
    cfg = tiny_config()
    model = build_model(cfg)
    decay = {
        id(p): g["weight_decay"]
        for g in build_optimizer(cfg, model).param_groups
        for p in g["params"]
    }
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            assert decay[id(module.weight)] == 0.0
        if isinstance(module, torch.nn.Conv2d):
            assert decay[id(module.weight)] == 0.01


def test_schedule_warms_up_and_ends_at_zero(tiny_config: Any) -> None:
    cfg = tiny_config("SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 10)
    optimizer = build_optimizer(cfg, build_model(cfg))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(1e-3 * cfg.SOLVER.BASE_LR) and max(rates) == rates[10]
    assert rates[10] == pytest.approx(cfg.SOLVER.BASE_LR * 0.9**0.9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_gradient_clipping_by_norm(tiny_config: Any) -> None:
    cfg = tiny_config(
        *("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0),
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5, "SOLVER.BASE_LR", 1.0),
    )
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    weight = model.sem_seg_head.predictor.weight
    before = weight.detach().clone()
    weight.grad = torch.full_like(weight, 3.0)
    optimizer.step()
    assert (before - weight).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_weight_decay_of_queries(tiny_config: Any) -> None:
    keys = ("SOLVER.WEIGHT_DECAY", 0.05, "SOLVER.WEIGHT_DECAY_EMBEDDINGS", 0.0)
    cfg = tiny_config(*keys, name="toy/panoptic_gbw models/mask2former_tiny")
    model = build_model(cfg)
    groups = parameter_groups(model, cfg.SOLVER)
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    decoder = model.sem_seg_head.decoder
    assert decays[decoder.query_content.weight] == decays[decoder.norm.weight] == 0
    assert decays[decoder.classifier.weight] == 0.05


def test_gradient_clipping_of_all_together(tiny_config: Any) -> None:
    cfg = tiny_config(
        *("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0),
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5, "SOLVER.BASE_LR", 1.0),
    )
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    weights = [model.sem_seg_head.predictor.weight, model.ins_embed_head.center_predictor.weight]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.full_like(weight, 3.0)
    optimizer.step()
    steps = [(b - w).flatten() for b, w in zip(before, weights, strict=True)]
    assert torch.cat(steps).norm().item() == pytest.approx(0.5, rel=1e-3)
    assert steps[0].norm() < 0.5


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_each_gradient_is_clipped_as_by_torch(norm_type: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (5,), (1,), (2, 7)]
    mine = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for scale, a, b in zip((1.0, 0.01, 5.0, 0.0), mine, theirs, strict=True):
        a.grad = scale * torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
        torch.nn.utils.clip_grad_norm_(b, 0.5, norm_type)
    without = torch.nn.Parameter(torch.zeros(2))
    before = mine[1].grad.clone()
    clip_each_gradient([*mine, without], 0.5, norm_type)
    clip_each_gradient([without], 0.5, norm_type)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
    assert torch.equal(mine[1].grad, before) and without.grad is None
    assert torch.linalg.vector_norm(mine[0].grad, norm_type) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["WarmupPolyLR", "WarmupMultiStepLR"])
def test_a_schedule_is_a_function_of_its_position(tiny_config: Any, name: str) -> None:
    steps = ("SOLVER.WARMUP_ITERS", 5, "SOLVER.STEPS", "(15,)", "SOLVER.LR_SCHEDULER_NAME", name)
    cfg = tiny_config(*steps)
    model = build_model(cfg)

    def rates_at(positions: range, length: int) -> list[float]:
        optimizer = build_optimizer(cfg, model)
        base = [2 * group["lr"] for group in optimizer.param_groups]
        scheduler = schedule_from(cfg, optimizer, base, length, positions.start)
        seen = []
        for _ in positions:
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    for length in (20, 40):
        whole = rates_at(range(20), length)
        assert rates_at(range(10, 20), length) == pytest.approx(whole[10:], rel=1e-9)
        # The peak is the base rate that was given, less what the decay has taken by then.
        assert 0.7 * 2 * cfg.SOLVER.BASE_LR < max(whole) <= 2 * cfg.SOLVER.BASE_LR


def test_warm_up_and_linear_decay_of_daformer(tiny_config: Any) -> None:
    cfg = tiny_config(
        *("SOLVER.BASE_LR", 6e-5, "SOLVER.WARMUP_ITERS", 1500, "SOLVER.WARMUP_FACTOR", 1e-6),
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.POLY_LR_POWER", 1.0),
    )
    optimizer = build_optimizer(cfg, build_model(cfg))
    rates = [group["lr"] for group in optimizer.param_groups]
    # DAFormer: 6e-11 at step 0, 6e-5 (1 - 1500 / 40000) where the warm-up ends.
    for position, expected in ((0, 6e-11), (1500, 5.775e-5)):
        schedule_from(cfg, optimizer, rates, 40000, position)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-6)


def small_transformer(tiny_config: Any, *overrides: Any) -> Any:
    """Returns the config of a tiny network on a plain transformer of 3 blocks."""
    cfg = tiny_config("MODEL.BACKBONE.NAME", "build_timm_backbone", *overrides)
    cfg.MODEL.TIMM.NAME = "vit_tiny_patch16_224"
    cfg.MODEL.TIMM.OUTPUT_NORM = "final"
    cfg.MODEL.TIMM.PYRAMID_CHANNELS = 32
    sizes = {"patch_size": 8, "img_size": 64, "embed_dim": 24, "depth": 3, "num_heads": 2}
    for name, value in sizes.items():
        cfg.MODEL.TIMM.ARGS[name] = value
    return cfg


def test_layer_decay_and_tables(tiny_config: Any) -> None:
    cfg = small_transformer(
        tiny_config,
        *("SOLVER.BASE_LR", 1.0, "SOLVER.HEAD_LR_FACTOR", 10.0, "SOLVER.LAYER_DECAY", 0.5),
        *("SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_TABLES", 0.0),
        *("SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0),
    )
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    found = {name: of[id(p)] for name, p in model.named_parameters()}
    assert len(found) == len(of)
    encoder = "backbone.encoder"
    # Blocks 0, 1, 2 are two, one and no layers from the output; patches and positions are three.
    assert found[f"{encoder}.blocks.2.attn.qkv.weight"] == (1.0, 0.1)
    assert found[f"{encoder}.blocks.1.attn.qkv.weight"] == (0.5, 0.1)
    assert found[f"{encoder}.blocks.0.attn.qkv.weight"] == (0.25, 0.1)
    assert found[f"{encoder}.blocks.0.attn.qkv.bias"] == (0.25, 0.0)
    assert found[f"{encoder}.blocks.0.norm1.weight"] == (0.25, 0.0)
    assert found[f"{encoder}.patch_embed.proj.weight"] == (0.125, 0.1)
    assert found[f"{encoder}.pos_embed"] == found[f"{encoder}.cls_token"] == (0.125, 0.0)
    # What always starts from random weights learns as fast as the heads.
    assert found["backbone.pyramid.levels.0.0.weight"] == (10.0, 0.1)
    assert found["sem_seg_head.predictor.weight"] == (10.0, 0.1)


def test_layer_decay_needs_layers(tiny_config: Any) -> None:
    cfg = tiny_config("SOLVER.LAYER_DECAY", 0.5)
    with pytest.raises(ConfigError, match=r"LAYER_DECAY is 0\.5, but ResNet does not say how far"):
        build_optimizer(cfg, build_model(cfg))


def test_groups_are_detectron2s_where_nothing_else_is_asked(tiny_config: Any) -> None:
    from detectron2.solver.build import get_default_optimizer_params

    cfg = tiny_config("SOLVER.HEAD_LR_FACTOR", 10.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.3)
    model = build_model(cfg)
    heads = torch.nn.ModuleList([m for n, m in model.named_children() if n != "backbone"])
    expected = []
    for part, factor in ((model.backbone, 1.0), (heads, 10.0)):
        expected += get_default_optimizer_params(
            part,
            base_lr=cfg.SOLVER.BASE_LR * factor,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            weight_decay_bias=0.3,
        )
    found = parameter_groups(model, cfg.SOLVER)
    # The same numbers in the same order: checkpoints of optimisers go by position.
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours["lr"], ours["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])
        assert [id(p) for p in ours["params"]] == [id(p) for p in theirs["params"]]


def test_group_table() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(40, 50), torch.nn.LayerNorm(50))
    first, last = model[0], model[1]
    table = group_table(
        model,
        [
            {"params": [first.weight, first.bias], "lr": 6e-5, "weight_decay": 0.01},
            {"params": [last.weight, last.bias], "lr": 6e-4, "weight_decay": 0.0},
        ],
    )
    assert table.splitlines() == [
        "  rate  decay  tensors  parameters  names",
        " 6e-05   0.01        2       2,050  0.weight .. 0.bias",
        "0.0006      0        2         100  1.weight .. 1.bias",
    ]
