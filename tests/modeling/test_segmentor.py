"""The architectures against the model protocol, plain torch losses, and odd sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gbw_d2 import keys
from gbw_d2.engine.build import build_model
from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import build_scheme

INSTANCE_LOSSES = {keys.LOSS_CENTER, keys.LOSS_OFFSET}


@pytest.fixture
def model(tiny_config: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_config(), {})


def run(model: Any, batch: list[dict], term: str = keys.TERM_SOURCE) -> tuple[dict, dict]:
    images = model.images(batch)
    outputs = model.outputs(model.features(images), tuple(images.shape[-2:]))
    return outputs, model.losses(outputs, model.targets(batch), None, term)


def test_losses_equal_torch(model: Any, samples: Any) -> None:
    batch = samples()
    outputs, losses = run(model.train(), batch)
    labels = torch.stack([s["sem_seg"] for s in batch])
    expected = F.cross_entropy(
        outputs[keys.SEMANTIC_LOGITS], labels, ignore_index=255, reduction="none"
    ).mean()
    assert losses[keys.LOSS_SEMANTIC].item() == pytest.approx(expected.item(), rel=1e-5)
    weights = torch.stack([s["center_weights"] for s in batch])
    center = torch.stack([s["center"] for s in batch])
    squared = (outputs[keys.CENTER][:, 0] - center) ** 2 * weights
    assert losses[keys.LOSS_CENTER].item() == pytest.approx(
        20 * (squared.sum() / weights.sum()).item(), rel=1e-5
    )
    assert set(losses) == {keys.LOSS_SEMANTIC, *INSTANCE_LOSSES}


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
    assert set(run(model.train(), only_semantic)[1]) == {keys.LOSS_SEMANTIC}
    assert run(model, [{"image": s["image"]} for s in batch])[1] == {}


def test_semantic_only_builds_no_instance_branch(tiny_config: Any, samples: Any) -> None:
    model = build_model(tiny_config("MODEL.SEMANTIC_ONLY", True), {})
    assert not any("ins_embed" in name for name, _ in model.named_parameters())
    outputs, losses = run(model.train(), samples())
    assert set(losses) == {keys.LOSS_SEMANTIC} and keys.CENTER not in outputs
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
    offset = model.outputs(model.features(images), (32, 64))[keys.OFFSET][0]
    model([{"image": image, "height": 64, "width": 192}])
    expected = F.interpolate(offset[None], (64, 192), mode="bilinear", align_corners=False)[0]
    expected *= torch.tensor([2.0, 3.0]).view(2, 1, 1)
    assert torch.allclose(seen["offset"], expected, atol=1e-4)


def test_criterion_gets_the_classifier_and_weights_the_loss(tiny_config: Any, samples: Any) -> None:
    torch.manual_seed(0)
    criterion = ClassWeightedCrossEntropy(build_scheme("gbw_hindrance", 16))
    model = build_model(tiny_config(), {"semantic": criterion}).train()
    batch = samples()
    outputs, losses = run(model, batch, keys.TERM_MIXED)
    last = criterion.last[keys.TERM_MIXED]
    assert last.classifier_measure is not None
    assert last.weights.sum().item() == pytest.approx(16, abs=1e-3)
    # The classifier's logits are its input times its weight: what the measure is defined on.
    again = model.sem_seg_head.predictor(outputs[keys.CLASSIFIER_FEATURES])
    assert torch.allclose(again, outputs[keys.CLASSIFIER_LOGITS], atol=1e-5)
    labels = torch.stack([s["sem_seg"] for s in batch])
    each = F.cross_entropy(
        outputs[keys.SEMANTIC_LOGITS],
        labels,
        weight=last.weights,
        ignore_index=255,
        reduction="none",
    )
    assert losses[keys.LOSS_SEMANTIC].item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_auxiliary_head(tiny_config: Any, samples: Any) -> None:
    keys_on = ("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3")
    model = build_model(tiny_config(*keys_on), {})
    losses = run(model.train(), samples())[1]
    losses[keys.LOSS_AUXILIARY].backward()
    assert model.auxiliary_head.predictor.weight.grad.abs().sum() > 0
    assert keys.AUXILIARY_LOGITS not in run(model.eval(), samples())[0]
    with pytest.raises(ValueError, match="backbone gives stem, res2, res3, res4"):
        build_model(tiny_config(*keys_on[:3], "res5"), {})


def test_another_backbone_of_detectron2(tiny_config: Any, samples: Any) -> None:
    cfg = tiny_config(
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.SEMANTIC_ONLY", True),
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "GN"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']"),
        *("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']"),
        *("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"),
    )
    model = build_model(cfg, {})
    # 40 is no multiple of the FPN's 32: the batch is padded, the padding ignored and cut off.
    batch = samples(rows=40, columns=64)
    assert run(model.train(), batch)[1][keys.LOSS_SEMANTIC] > 0
    with torch.no_grad():
        assert model.eval()(batch[:1])[0][keys.SEM_SEG].shape == (16, 40, 64)


def test_hard_pixel_mining_is_refused(tiny_config: Any) -> None:
    cfg = tiny_config("MODEL.SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining")
    with pytest.raises(ValueError, match="one loss, 'cross_entropy'"):
        build_model(cfg, {})
