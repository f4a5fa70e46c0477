"""DeepLabV2Head: its sum, its size, and its place behind a backbone of output stride 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gbw_d2 import keys
from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.engine.optimizer import build_optimizer
from gbw_d2.errors import UserError
from gbw_d2.modeling.heads.classifier import classifier_input_and_logits
from gbw_d2.modeling.heads.deeplab_v2 import DeepLabV2Head, DilatedClassifier
from gbw_d2.weighting import WeightLog

TINY = (
    *("MODEL.SEM_SEG_HEAD.NAME", "DeepLabV2Head", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res4',)"),
    *("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", "(1, 2, 3, 4)"),
)


def test_parameters_of_the_references() -> None:
    head = DeepLabV2Head(in_feature="res5", in_channels=2048, num_classes=19)
    # Four branches of 2048 x 19 x 9 weights and 19 biases.
    assert sum(p.numel() for p in head.parameters()) == 1_400_908
    assert [b.dilation for b in head.predictor.branches] == [(d, d) for d in (6, 12, 18, 24)]
    weights = torch.cat([b.weight.flatten() for b in head.predictor.branches])
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)
    assert all(b.bias.abs().sum() == 0 for b in head.predictor.branches)


def test_all_branches_are_summed() -> None:
    torch.manual_seed(0)
    classifier = DilatedClassifier(5, 3, (1, 2, 4))
    for branch in classifier.branches:
        torch.nn.init.normal_(branch.bias)
    x = torch.randn(2, 5, 9, 11)
    expected = sum(
        F.conv2d(F.pad(x, (d, d, d, d)), b.weight, b.bias, dilation=d)
        for d, b in zip((1, 2, 4), classifier.branches, strict=True)
    )
    torch.testing.assert_close(classifier(x), expected)
    classifier(x).square().mean().backward()
    assert all(b.weight.grad.abs().sum() > 0 for b in classifier.branches)


def test_the_classifier_is_recorded() -> None:
    head = DeepLabV2Head(in_feature="a", in_channels=4, num_classes=3, dilations=(1, 2))
    features = {"a": torch.randn(1, 4, 6, 7), "b": torch.randn(1, 9, 2, 2)}
    recorded, logits = classifier_input_and_logits(head, features)
    assert recorded is features["a"]
    torch.testing.assert_close(logits, head.layers(features))


def test_centre_taps_are_what_is_measured_at_the_classifier() -> None:
    # sum_i G_i F_i^T, as for a 1 x 1 classifier, is the gradient of the centre taps of each branch.
    torch.manual_seed(0)
    classifier = DilatedClassifier(4, 3, (1, 2))
    features = torch.randn(2, 4, 5, 5)
    logits = classifier(features)
    labels = torch.randint(0, 3, (2, 5, 5))
    loss = F.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    expected = torch.einsum("nkhw,ndhw->kd", gradient, features)
    loss.backward()
    for branch in classifier.branches:
        torch.testing.assert_close(branch.weight.grad[:, :, 1, 1], expected)


@pytest.mark.parametrize("measure", ["norm", "hindrance"])
def test_class_weighting_runs_on_it(tiny_config: Any, samples: Any, measure: str) -> None:
    torch.manual_seed(0)
    cfg = tiny_config(*TINY, "WEIGHTING.MEASURE", measure, name="toy/semantic_gbw")
    model, log = build_model(cfg, build_training_losses(cfg)).train(), WeightLog()
    images = model.images(samples())
    outputs = model.outputs(model.features(images), (32, 64))
    losses = model.losses(outputs, model.targets(samples()), None, keys.TERM_SOURCE, log)
    losses["loss_semantic"].backward()
    weights = log.get("semantic", keys.TERM_SOURCE).weights
    assert weights.sum().item() == pytest.approx(16, abs=1e-3)
    assert weights.std() > 1e-3
    assert all(torch.isfinite(p.grad).all() for p in model.sem_seg_head.parameters())


@pytest.mark.parametrize("features", ["('res3', 'res4')", "('res9',)"])
def test_it_reads_one_feature_map(tiny_config: Any, features: str) -> None:
    cfg = tiny_config(*TINY, "MODEL.SEM_SEG_HEAD.IN_FEATURES", features, name="toy/semantic_gbw")
    with pytest.raises(UserError, match="exactly one of what the backbone gives"):
        build_model(cfg)


def test_the_config(repository: Path, samples: Any) -> None:
    leaf = repository / "projects/AdvEnt/configs/synthia_semantic_adversarial.yaml"
    cfg = load_config(str(leaf), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "16", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).train()
    with torch.no_grad():
        outputs = model.outputs(model.features(model.images(samples(1, 64, 64))), (64, 64))
    assert outputs.semantic.features.shape == (1, 2048, 8, 8)
    assert outputs.semantic.logits.shape == (1, 16, 8, 8)
    assert outputs.auxiliary.logits.shape == (1, 16, 8, 8)
    backbone, heads = 42_394_816, 4 * 16 * (2048 * 9 + 1)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for n, p in trained.items() if n.startswith("backbone")) == backbone
    assert sum(p.numel() for n, p in trained.items() if n.startswith("sem_seg")) == heads
    groups = build_optimizer(cfg, model).param_groups
    assert {g["lr"] for g in groups} == {2.5e-4, 2.5e-3}
    held = [id(p) for g in groups for p in g["params"]]
    assert len(held) == len(set(held)) == len(trained)
