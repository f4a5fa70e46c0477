"""The architectures against the model protocol, plain torch losses, and odd sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gbw_d2 import keys
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.modeling.protocol import (
    Outputs,
    PixelPseudoLabels,
    SemanticPrediction,
    Targets,
)
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
)
from gbw_d2.weighting import WeightLog

INSTANCE_LOSSES = {"loss_center", "loss_offset"}


@pytest.fixture
def model(tiny_config: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_config())


def run(
    model: Any, batch: list[dict], term: str = keys.TERM_SOURCE, log: WeightLog | None = None
) -> tuple[Outputs, dict]:
    images = model.images(batch)
    outputs = model.outputs(model.features(images), tuple(images.shape[-2:]))
    return outputs, model.losses(outputs, model.targets(batch), None, term, log)


def test_losses_equal_torch(model: Any, samples: Any) -> None:
    batch = samples()
    outputs, losses = run(model.train(), batch)
    labels = torch.stack([s["sem_seg"] for s in batch])
    expected = F.cross_entropy(
        outputs.semantic.dense(), labels, ignore_index=255, reduction="none"
    ).mean()
    assert losses["loss_semantic"].item() == pytest.approx(expected.item(), rel=1e-5)
    weights = torch.stack([s["center_weights"] for s in batch])
    center = torch.stack([s["center"] for s in batch])
    squared = (outputs.private[CENTER][:, 0] - center) ** 2 * weights
    assert losses["loss_center"].item() == pytest.approx(
        20 * (squared.sum() / weights.sum()).item(), rel=1e-5
    )
    assert set(losses) == {"loss_semantic", *INSTANCE_LOSSES}


def test_forward_in_training_is_the_protocol(model: Any, samples: Any) -> None:
    batch = samples()
    direct = model.train()(batch)
    _, by_protocol = run(model, batch)
    assert {k: v.item() for k, v in direct.items()} == pytest.approx(
        {k: v.item() for k, v in by_protocol.items()}
    )


def test_a_loss_exists_if_and_only_if_its_target_does(model: Any, samples: Any) -> None:
    batch = samples()
    only_semantic = [{k: s[k] for k in ("image", "sem_seg")} for s in batch]
    assert set(run(model.train(), only_semantic)[1]) == {"loss_semantic"}
    assert run(model, [{"image": s["image"]} for s in batch])[1] == {}


def test_semantic_only_builds_no_instance_branch(tiny_config: Any, samples: Any) -> None:
    model = build_model(tiny_config("MODEL.SEMANTIC_ONLY", True))
    assert not any("ins_embed" in name for name, _ in model.named_parameters())
    outputs, losses = run(model.train(), samples())
    assert set(losses) == {"loss_semantic"} and outputs.private is None
    result = model.eval()([{"image": samples()[0]["image"]}])[0]
    assert set(result) == {keys.SEM_SEG}


@pytest.mark.parametrize("size", [(32, 64), (37, 53), (64, 33)])
@torch.no_grad()
def test_inference_has_the_size_of_the_file(
    model: Any, samples: Any, size: tuple[int, int]
) -> None:
    image = samples(rows=size[0], columns=size[1])[0]["image"]
    result = model.eval()([{"image": image, "height": 70, "width": 90}])[0]
    assert result[keys.SEM_SEG].shape == (16, 70, 90)
    segment_map, segments = result[keys.PANOPTIC_SEG]
    assert segment_map.shape == (70, 90) and segment_map.dtype == torch.int32
    assert set(segment_map.unique().tolist()) - {0} == {s["id"] for s in segments}


@torch.no_grad()
def test_a_batch_of_two_sizes_is_two_images(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = [
        {"image": (torch.rand(3, *size, generator=generator) * 255).to(torch.uint8)}
        for size in ((64, 128), (48, 96))
    ]
    model.eval()
    with torch.no_grad():
        together = model(batch)
        for sample, result in zip(batch, together, strict=True):
            assert torch.equal(result["sem_seg"], model([sample])[0]["sem_seg"])


def test_offsets_grow_with_the_picture(
    model: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def record(logits: Any, center: Any, offset: Any, **_: Any) -> Any:
        seen["offset"] = offset
        return torch.zeros(offset.shape[1:], dtype=torch.int32), []

    module = "gbw_d2.modeling.meta_arch.panoptic_deeplab.panoptic_from_centers"
    monkeypatch.setattr(module, record)
    image = samples()[0]["image"]
    images = model.eval().images([{"image": image}])
    offset = model.outputs(model.features(images), (32, 64)).private[OFFSET][0]
    model([{"image": image, "height": 64, "width": 192}])
    expected = F.interpolate(offset[None], (64, 192), mode="bilinear", align_corners=False)[0]
    expected *= torch.tensor([2.0, 3.0]).view(2, 1, 1)
    assert torch.allclose(seen["offset"], expected, atol=1e-4)


def test_the_loss_gets_the_classifier_and_is_weighted(tiny_config: Any, samples: Any) -> None:
    torch.manual_seed(0)
    cfg = tiny_config("WEIGHTING.NAME", "gbw_hindrance", "WEIGHTING.HEADS", "['semantic']")
    model = build_model(cfg, build_training_losses(cfg)).train()
    batch, log = samples(), WeightLog()
    outputs, losses = run(model, batch, keys.TERM_MIXED, log)
    entry = log.get("semantic", keys.TERM_MIXED)
    assert entry.measure is not None
    assert entry.weights.sum().item() == pytest.approx(16, abs=1e-3)
    # The classifier's logits are its input times its weight: what the measure is defined on.
    again = model.sem_seg_head.predictor(outputs.semantic.features)
    assert torch.allclose(again, outputs.semantic.logits, atol=1e-5)
    labels = torch.stack([s["sem_seg"] for s in batch])
    each = F.cross_entropy(
        outputs.semantic.dense(),
        labels,
        weight=entry.weights,
        ignore_index=255,
        reduction="none",
    )
    assert losses["loss_semantic"].item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_pseudo_targets_of_instances_by_hand(model: Any) -> None:
    person, road = 10, 0
    taught = Outputs(
        SemanticPrediction(torch.zeros(1, 16, 1, 2), (1, 2)),
        private={
            CENTER: torch.tensor([[[[2.0, -1.0]]]]),
            OFFSET: torch.tensor([[[[3.0, 4.0]], [[5.0, 6.0]]]]),
        },
    )

    def targets(threshold: float, kept: list[bool]) -> Targets:
        labels, confidence = torch.tensor([[[person, road]]]), torch.tensor([[[0.5, 0.5]]])
        limits = torch.full((16,), threshold)
        pixels = PixelPseudoLabels(labels, confidence, torch.tensor([[kept]]), limits)
        return model.pseudo_targets(taught, pixels)

    # The second pixel is in a margin.
    sure = targets(0.0, [True, False])
    assert sure.semantic.tolist() == [[[person, road]]]
    assert sure.private[CENTER].tolist() == [[[1, 0]]]
    assert sure.private[CENTER_WEIGHTS].tolist() == [[[1, 0]]]
    assert sure.private[OFFSET_WEIGHTS].tolist() == [[[1, 0]]]
    assert sure.private[INSTANCE_CLASS].tolist() == [[[person, 255]]]
    # Where the teacher is not sure, its centres and offsets have no weight.
    unsure = targets(0.9, [True, True])
    assert not unsure.private[CENTER_WEIGHTS].any() and not unsure.private[OFFSET_WEIGHTS].any()


def test_targets_are_pasted_map_by_map(model: Any, samples: Any) -> None:
    one, other = model.targets(samples()), model.targets(samples(seed=1))
    mask = torch.rand(2, 32, 64) > 0.5
    mixed = model.mix_targets(mask, one, other)
    assert torch.equal(mixed.semantic, torch.where(mask, one.semantic, other.semantic))
    for key, value in mixed.private.items():
        wide = mask if value.ndim == 3 else mask[:, None]
        assert torch.equal(value, torch.where(wide, one.private[key], other.private[key]))
    assert model.mix_targets(mask, one, Targets(other.semantic)).private is None


def test_auxiliary_head(tiny_config: Any, samples: Any) -> None:
    keys_on = ("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3")
    model = build_model(tiny_config(*keys_on))
    losses = run(model.train(), samples())[1]
    losses["loss_auxiliary"].backward()
    assert model.auxiliary_head.predictor.weight.grad.abs().sum() > 0
    assert run(model.eval(), samples())[0].auxiliary is None
    with pytest.raises(ValueError, match="backbone gives stem, res2, res3, res4"):
        build_model(tiny_config(*keys_on[:3], "res5"))


def test_another_backbone_of_detectron2(tiny_config: Any, samples: Any) -> None:
    cfg = tiny_config(
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.SEMANTIC_ONLY", True),
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "GN"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']"),
        *("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']"),
        *("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"),
    )
    model = build_model(cfg)
    # 40 is no multiple of the FPN's 32: the batch is padded, the padding ignored and cut off.
    batch = samples(rows=40, columns=64)
    assert run(model.train(), batch)[1]["loss_semantic"] > 0
    with torch.no_grad():
        assert model.eval()(batch[:1])[0][keys.SEM_SEG].shape == (16, 40, 64)


def test_hard_pixel_mining_is_refused(tiny_config: Any) -> None:
    cfg = tiny_config("MODEL.SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining")
    with pytest.raises(ValueError, match="one loss, 'cross_entropy'"):
        build_model(cfg)
