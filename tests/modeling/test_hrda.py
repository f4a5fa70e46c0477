"""HRDA: fusion and alignment by hand, sliding windows by brute force, losses, measures, draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.keyed_random import keyed_rng
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.losses import ClassWeightedCrossEntropy, WeightedLosses
from gbw_d2.modeling.heads import SegFormerHead
from gbw_d2.modeling.meta_arch import GBWHRDA
from gbw_d2.modeling.meta_arch.hrda import fused, window_size
from gbw_d2.modeling.plain_losses import plain_losses
from gbw_d2.modeling.protocol import HeadSpec, Targets
from gbw_d2.modeling.windows import sliding_places
from gbw_d2.uda import build_strategy
from gbw_d2.weighting import WeightLog
from gbw_d2.weighting.classifier_measures import classifier_measure, downsample_labels

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

SPACE = LABEL_SPACES.get("cityscapes_16")
K = SPACE.num_classes


def draws(count: int = 2) -> list[Any]:
    return [keyed_rng(0, i) for i in range(count)]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def row(*values: float) -> Tensor:
    """Returns a map of one row of cells."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_fusion_by_hand() -> None:
    # The window is the right half: context cells 2 and 3. Doubling takes 3/4 of the cell itself and
    # 1/4 of its neighbour: a becomes 0 0 0 1/8 | 3/8 1/2 1/2 1/2, and c, which stands in for the
    # detail left of the window, 0 0 0 1/4 | 3/4 1 1 1.
    covered = torch.arange(8).view(1, 1, 1, 8).expand(1, 1, 2, 8) >= 4
    detail = torch.full((1, 1, 2, 8), 3.0, dtype=torch.float64)
    found = fused(row(0, 0, 1, 1), detail, covered, row(0.5, 0.5, 0.5, 0.5))
    left = [0, 0, 0, 1 / 8 * 1 / 4 + 1 / 8]
    right = [3 / 8 * 3 + 3 / 8, *[1 / 2 * 3 + 1 / 2] * 3]
    torch.testing.assert_close(found[0, 0], torch.tensor([left + right] * 2, dtype=torch.float64))


def test_what_both_say_is_what_comes_out_also_along_the_border() -> None:
    covered = torch.zeros(1, 1, 8, 12, dtype=torch.bool)
    covered[..., 2:6, 4:10] = True
    ones = torch.ones(1, 3, 8, 12, dtype=torch.float64)
    found = fused(ones[..., ::2, ::2], ones, covered, random(1, 3, 4, 6).sigmoid())
    torch.testing.assert_close(found, ones)


def test_gradients_of_the_fusion() -> None:
    covered = torch.zeros(2, 1, 4, 8, dtype=torch.bool)
    covered[0, :, :2, 2:6] = covered[1, :, 2:, 4:] = True
    maps = [random(2, 2, 2, 4), random(2, 2, 4, 8, seed=1), random(2, 2, 2, 4, seed=2).sigmoid()]
    context, detail, attention = (m.requires_grad_() for m in maps)
    assert torch.autograd.gradcheck(
        lambda c, d, a: fused(c, d, covered, a), (context, detail, attention)
    )


class Pooled(Backbone):
    """Means of 4 x 4 pixels, so that maps can be computed by hand."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res2": ShapeSpec(channels=3, stride=4)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res2": F.avg_pool2d(images, 4)}


class Linear(nn.Module):
    """A classifier on the map."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor = nn.Conv2d(3, K, 1)

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        return self.predictor(features["res2"])


class Shared(nn.Module):
    """The same attention for all classes."""

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        return features["res2"].sum(1, keepdim=True).expand(-1, K, -1, -1)


def by_hand(window: tuple[int, int] = (16, 24)) -> GBWHRDA:
    """Builds a network of which every map is known, in float64, for pixels of mean 0."""
    torch.manual_seed(0)
    network = GBWHRDA(
        backbone=Pooled(),
        sem_seg_head=Linear(),
        auxiliary_head=None,
        label_space=SPACE,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        loss_factors={"semantic": 0.9, "detail": 0.1},
        weighted_losses=plain_losses(heads(), K),
        scale_attention=Shared(),
        window=window,
        stride=4,
        multiple=8,
    )
    return network.double().train()


def heads() -> dict[str, HeadSpec]:
    spec = HeadSpec(ClassWeightedCrossEntropy, tuple(range(K)), True)
    return {"semantic": spec, "detail": spec}


def test_the_window_lies_where_its_pixels_do() -> None:
    network, images = by_hand(), random(2, 3, 40, 48)
    size = (40, 48)
    features = network.features(images, draws())
    outputs = network.outputs(features, size)
    (places,) = features.places
    assert len(set(places)) == 2, "one window per image"
    whole = network.sem_seg_head.predictor(F.avg_pool2d(images, 4))
    coarse = network.sem_seg_head.predictor(F.avg_pool2d(images, 8))
    attention = network.scale_attention.layers({"res2": F.avg_pool2d(images, 8)}).sigmoid()
    labels = torch.arange(40 * 48).view(1, 40, 48).expand(2, -1, -1)
    cut = outputs.private.of(labels)
    for i, (top, left) in enumerate(places):
        # This encoder does not see beyond its cell: the window's logits are those of the image.
        cells = (i, slice(None), slice(top // 4, top // 4 + 4), slice(left // 4, left // 4 + 6))
        torch.testing.assert_close(outputs.private.prediction.logits[i], whole[cells])
        assert torch.equal(cut[i], labels[i, top : top + 16, left : left + 24])
        covered = torch.zeros(1, 1, 10, 12, dtype=torch.bool)
        covered[0, 0][cells[2:]] = True
        one = slice(i, i + 1)
        expected = fused(coarse[one], whole[one], covered, attention[one])
        torch.testing.assert_close(outputs.semantic.logits[one], expected)
        inside = (slice(top // 4 + 1, top // 4 + 3), slice(left // 4 + 1, left // 4 + 5))
        mixed = F.interpolate(attention[one], scale_factor=2, mode="bilinear") * whole[one]
        mixed += F.interpolate((1 - attention[one]) * coarse[one], scale_factor=2, mode="bilinear")
        torch.testing.assert_close(
            outputs.semantic.logits[i][(slice(None), *inside)], mixed[0][(slice(None), *inside)]
        )


def test_losses_are_torchs_with_the_papers_factors() -> None:
    network, images = by_hand(), random(2, 3, 40, 48)
    labels = (random(2, 40, 48, seed=1).sigmoid() * K).long()
    labels[:, :4] = 255
    weights = random(2, 40, 48, seed=2).sigmoid()
    outputs = network.outputs(network.features(images, draws()), (40, 48))
    losses = network.losses(outputs, Targets(labels), weights, keys.TERM_SOURCE)

    def expected(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        dense = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
        return (F.cross_entropy(dense, labels, ignore_index=255, reduction="none") * weights).mean()

    details = outputs.private
    parts = {
        "loss_semantic": 0.9 * expected(outputs.semantic.logits, labels, weights),
        "loss_detail": 0.1
        * expected(details.prediction.logits, details.of(labels), details.of(weights)),
    }
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in parts.items()}, rel=1e-9
    )
    weight = network.sem_seg_head.predictor.weight
    found = torch.autograd.grad(sum(losses.values()), weight, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad(sum(parts.values()), weight)[0])


@pytest.mark.parametrize("window", [(16, 24), (48, 48)])
def test_sliding_windows_against_brute_force(window: tuple[int, int]) -> None:
    network, images = by_hand(window).eval(), random(2, 3, 40, 48)
    found = network.outputs(network.features(images), (40, 48))
    assert found.private is None
    high, wide = min(window[0], 40), min(window[1], 48)
    total, count = 0, 0
    for top, left in sliding_places((40, 48), (high, wide), 8):
        part = images[..., top : top + high, left : left + wide]
        around = (left // 4, (48 - wide - left) // 4, top // 4, (40 - high - top) // 4)
        logits = network.sem_seg_head.layers(network.backbone(part))
        total = total + F.pad(logits, around)
        count = count + F.pad(torch.ones_like(logits), around)
    assert count.min() == 1 and (count.max() > 1) == (window == (16, 24))
    context = network.backbone(
        F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    )
    a = network.scale_attention.layers(context).sigmoid()

    def up(maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)

    coarse = network.sem_seg_head.layers(context)
    torch.testing.assert_close(found.semantic.logits, up(a) * total / count + up((1 - a) * coarse))


def test_the_measure_at_the_classifier_is_autograds() -> None:
    """Exact where classes share an attention: the mean attention is then everyone's."""
    network, images = by_hand(), random(2, 3, 40, 48)
    labels = (random(2, 40, 48, seed=1).sigmoid() * K).long()
    outputs = network.outputs(network.features(images, draws()), (40, 48))
    given, logits = outputs.semantic.classifier
    assert not given.requires_grad
    small = downsample_labels(labels, (10, 12))
    measure, observed = classifier_measure("class_gradient", given, logits, small)
    predictor = network.sem_seg_head.predictor
    for c in observed.nonzero().flatten().tolist():
        losses = F.cross_entropy(logits, small, reduction="none")[small == c]
        (gradient,) = torch.autograd.grad(losses.mean(), predictor.weight, retain_graph=True)
        assert measure[c].item() == pytest.approx(gradient.norm().item(), rel=1e-5)


def tiny(tiny_config: Any, *overrides: Any) -> Any:
    return tiny_config(
        *("INPUT.CROP_SIZE", "(32, 64)", "WEIGHTING.NAME", "gbw", *overrides),
        name="toy/semantic_gbw models/semantic_hrda_tiny",
    )


def losses_of(network: Any, batch: list[dict], log: WeightLog | None = None) -> dict[str, Tensor]:
    images = network.images(batch)
    features = network.features(images, draws(len(batch)))
    outputs = network.outputs(features, tuple(images.shape[-2:]))
    return network.losses(outputs, network.targets(batch), None, keys.TERM_SOURCE, log)


@pytest.mark.parametrize("own", [False, True])
def test_the_detail_loss_has_the_fused_ones_weights_unless_asked(
    tiny_config: Any, samples: Any, own: bool
) -> None:
    cfg = tiny(tiny_config, *(("WEIGHTING.WEIGHTS_FROM", "[]") if own else ()))
    torch.manual_seed(0)
    network = build_model(cfg, build_training_losses(cfg)).train()
    log = WeightLog()
    losses_of(network, samples(), log)
    semantic, detail = (log.get(head, keys.TERM_SOURCE).weights for head in ("semantic", "detail"))
    assert torch.equal(semantic, detail) != own
    assert semantic.std() > 0


HEADS = {
    "DAFormerHead": ("['res2', 'res4']", ()),
    "SegFormerHead": ("['stem', 'res3', 'res4']", ()),
    "DeepLabV3PlusHead": ("['stem', 'res2', 'res3', 'res4']", ()),
    "DeepLabV2Head": ("['res4']", ()),
    "PanopticDeepLabSemSegHead": ("['stem', 'res2', 'res3', 'res4']", ("HEAD_CHANNELS", 32)),
}


@pytest.mark.parametrize("name", HEADS)
def test_any_head_learns_in_it(tiny_config: Any, samples: Any, name: str) -> None:
    in_features, more = HEADS[name]
    node = "MODEL.SEM_SEG_HEAD."
    more = tuple(node + word if i % 2 == 0 else word for i, word in enumerate(more))
    cfg = tiny(tiny_config, f"{node}NAME", name, f"{node}IN_FEATURES", in_features, *more)
    network = build_model(cfg, build_training_losses(cfg)).train()
    batch = samples(rows=64)
    losses = losses_of(network, batch)
    sum(losses.values()).backward()
    for part in (network.backbone, network.sem_seg_head, network.scale_attention):
        grads = [p.grad for p in part.parameters() if p.requires_grad]
        assert grads and all(g is not None for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)
    # Windows of 16 x 32 pixels, or, where a cell is larger, of what is the least.
    assert network.window[0] == max(16, 2 * network.stride)


def test_pictures_of_odd_sizes_and_several_views(tiny_config: Any) -> None:
    network = build_model(tiny(tiny_config)).eval()
    picture = torch.randint(0, 256, (3, 37, 59), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = network([{keys.IMAGE: picture}])
        images = network.images([{keys.IMAGE: picture}])
        logits = network.outputs(network.features(images), tuple(images.shape[-2:]))
    assert images.shape[-2:] == (40, 60) and result[keys.SEM_SEG].shape == (K, 37, 59)
    torch.testing.assert_close(result[keys.SEM_SEG], logits.semantic.dense()[0, :, :37, :59])


def test_the_same_sample_has_the_same_window_whatever_shares_its_batch(
    tiny_config: Any, samples: Any
) -> None:
    cfg = tiny(tiny_config)
    network = build_model(cfg, build_training_losses(cfg)).train()
    strategy = build_strategy("self_training", network, cfg.UDA, seed=5, max_iter=10)
    batch = samples(6, 64, 64)
    images = network.images(batch)

    def places(batch: list[dict], term: str) -> list[Any]:
        part = images[: len(batch)]
        return network.features(part, strategy.network_draws(batch, term)).places[0]

    whole = places(batch, keys.TERM_SOURCE)
    assert whole == places(batch[:2], keys.TERM_SOURCE) + places(batch[2:], keys.TERM_SOURCE)
    assert whole != places(batch, keys.TERM_MIXED)


def test_the_feature_distance_is_that_of_the_context(tiny_config: Any, samples: Any) -> None:
    network = build_model(tiny(tiny_config)).eval()
    images = network.images(samples())
    features = network.features(images, draws())
    reference = network.frozen_encoder()(images)
    assert list(features) == list(reference)
    for name, maps in reference.items():
        torch.testing.assert_close(features[name], maps)
    encoder = network.frozen_encoder()
    encoder.load_state_dict(network.frozen_encoder().state_dict())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_attention_has_the_papers_parameters() -> None:
    # HRDA's own on MiT-B5: methods/selftraining_gbw.md 3.2, counted by running it.
    head = SegFormerHead(
        in_features=["res2", "res3", "res4", "res5"],
        in_channels=[64, 128, 320, 512],
        channels=256,
        num_classes=19,
        norm="BN",
    )
    assert sum(p.numel() for p in head.parameters()) == 530_707


def test_sizes() -> None:
    assert window_size((), (1024, 1024), 8) == (512, 512)
    assert window_size((), (70, 20), 16) == (32, 16)
    assert window_size((64, 128), (), 8) == (64, 128)
    for asked, crop in (((), ()), ((60, 64), (128, 128)), ((0, 8), ())):
        with pytest.raises(UserError, match=r"DETAIL_SIZE is .* in multiples of 8, or \(\) for"):
            window_size(asked, crop, 8)
    with pytest.raises(UserError, match=r"images are 30 x 64; GBWHRDA .* multiples of 8"):
        by_hand().features(random(1, 3, 30, 64))


def test_a_teacher_has_no_window_and_no_losses() -> None:
    network = by_hand()
    assert isinstance(network.weighted_losses, WeightedLosses)
    teacher = network.frozen_copy()
    taught = teacher.outputs(teacher.features(random(1, 3, 40, 48)), (40, 48))
    assert teacher.weighted_losses is None and taught.private is None
    assert taught.semantic.features is None
