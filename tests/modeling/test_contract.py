"""Every registered architecture keeps the contract of gbw_d2/modeling/protocol.py."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.engine.build import architecture, build_model, build_training_losses
from gbw_d2.engine.label_free import semantic_logits
from gbw_d2.keyed_random import keyed_rng
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.modeling import meta_arch
from gbw_d2.modeling.protocol import PixelPseudoLabels, View
from gbw_d2.modeling.segmentor import SEMANTIC_LOGITS

from detectron2.modeling import META_ARCH_REGISTRY

SPACE = LABEL_SPACES.get("cityscapes_16")
# Those of this package: what a test registers keeps the contract in that test.
ARCHITECTURES = sorted(
    name for name, cls in META_ARCH_REGISTRY if cls.__module__.startswith(meta_arch.__name__)
)
SIZE = (32, 64)
# Leaf and bases of an architecture that another model base is made for.
LEAVES = {
    "GBWMask2Former": "toy/panoptic_gbw models/mask2former_tiny",
    "GBWPanopticFPN": "toy/panoptic_gbw models/panoptic_fpn_tiny",
}
# Heads that learn from a class map, where those are not the semantic heads alone.
FROM_CLASS_MAPS = {"GBWMask2Former": ("query_cls", "query_mask")}
# Networks whose pixels have no classifier of their own.
WITHOUT_PIXEL_CLASSIFIER = {"GBWMask2Former"}


@pytest.fixture(params=[(name, only) for name in ARCHITECTURES for only in (False, True)])
def cfg(request: Any, tiny_config: Any) -> Any:
    """The config of an architecture, with instances where it has them, and without."""
    name, semantic_only = request.param
    auxiliary = ("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3")
    return tiny_config(
        *("MODEL.META_ARCHITECTURE", name, "MODEL.SEMANTIC_ONLY", semantic_only),
        *("WEIGHTING.HEADS", "['all']", "WEIGHTING.WEIGHTS_FROM", "[]", *auxiliary),
        *("INPUT.CROP_SIZE", SIZE),
        name=LEAVES.get(name, "toy/panoptic_gbw"),
    )


@pytest.fixture
def model(cfg: Any) -> Any:
    torch.manual_seed(0)
    return build_model(cfg, build_training_losses(cfg)).train()


@pytest.fixture
def batch(cfg: Any) -> list[dict[str, Any]]:
    """Two samples with a road, two cars and void, by the architecture's own target generator."""
    generate = pickle.loads(pickle.dumps(architecture(cfg).target_generator(cfg, SPACE)))
    road, car = (SPACE.class_names.index(name) for name in ("road", "car"))
    segments = np.zeros(SIZE, np.int32)
    segments[16:], segments[18:26, 4:16], segments[20:28, 30:50] = 1, 2, 3
    info = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, road), (2, car), (3, car))]
    classes = np.array([255, road, car, car])[segments].astype(np.uint8)
    instances = architecture(cfg).predicts_instances(cfg)
    made = generate(classes, segments if instances else None, info)
    assert all(isinstance(value, torch.Tensor) for value in made.values())
    rng = np.random.default_rng(0)
    sample = {
        keys.SEM_SEG: torch.from_numpy(classes.astype(np.int64)),
        **({keys.SEGMENTS: torch.from_numpy(segments)} if instances else {}),
        **({keys.SEGMENTS_INFO: info} if instances else {}),
        **made,
    }
    return [
        {**sample, keys.IMAGE: torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8))}
        for _ in range(2)
    ]


def outputs_of(model: Any, batch: list[dict[str, Any]], instances: bool = True) -> Any:
    # As strategies do it: crops of a network's own are drawn in training alone.
    draws = [keyed_rng(0, i) for i in range(len(batch))] if model.training else None
    return model.outputs(model.features(model.images(batch), draws), SIZE, instances)


def test_heads_losses_and_factors_agree(cfg: Any, model: Any, batch: list[dict]) -> None:
    heads = architecture(cfg).heads(cfg, SPACE)
    assert tuple(heads) == tuple(model.weighted_losses)
    targets = model.targets(batch)
    assert targets.semantic is not None
    assert targets.has_instances == architecture(cfg).predicts_instances(cfg)
    losses = model.losses(outputs_of(model, batch), targets, None, keys.TERM_SOURCE)
    # A network may have losses without classes too.
    assert [name for name in losses if name.removeprefix("loss_") in heads] == [
        f"loss_{name}" for name in heads
    ]
    torch.stack(list(losses.values())).sum().backward()
    frozen = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not frozen
    for name, head in heads.items():
        assert isinstance(model.weighted_losses[name], head.loss)
        assert set(head.class_ids) <= set(range(SPACE.num_classes))


def test_a_loss_exists_if_and_only_if_its_target_does(
    cfg: Any, model: Any, batch: list[dict]
) -> None:
    bare = [{keys.IMAGE: sample[keys.IMAGE]} for sample in batch]
    nothing = model.targets(bare)
    assert nothing.semantic is None and not nothing.has_instances
    assert model.losses(outputs_of(model, bare), nothing, None, keys.TERM_SOURCE) == {}
    labelled = [{k: s[k] for k in (keys.IMAGE, keys.SEM_SEG)} for s in batch]
    losses = model.losses(
        outputs_of(model, labelled), model.targets(labelled), None, keys.TERM_SOURCE
    )
    heads = architecture(cfg).heads(cfg, SPACE)
    default = [name for name, head in heads.items() if head.loss is ClassWeightedCrossEntropy]
    of_pixels = FROM_CLASS_MAPS.get(cfg.MODEL.META_ARCHITECTURE, default)
    assert list(losses) == [f"loss_{name}" for name in of_pixels]
    assert set(model.semantic_heads()) <= set(of_pixels)


def test_semantic_predictions(cfg: Any, model: Any, batch: list[dict]) -> None:
    predictions = list(outputs_of(model, batch, instances=False).predictions())
    assert len(predictions) == len(model.semantic_heads())
    for prediction in predictions:
        assert prediction.size == SIZE
        assert prediction.dense().shape == (2, SPACE.num_classes, *SIZE)
        without = cfg.MODEL.META_ARCHITECTURE in WITHOUT_PIXEL_CLASSIFIER
        assert (prediction.classifier is None) == without
    assert len(list(outputs_of(model.eval(), batch).predictions())) == 1
    # As criteria without labels ask for them: of one image, without its padding.
    odd = {keys.IMAGE: batch[0][keys.IMAGE][:, :29, :51]}
    with torch.no_grad():
        assert semantic_logits(model, odd).shape == (SPACE.num_classes, 29, 51)


def test_a_teacher_teaches_and_its_targets_are_mixed(model: Any, batch: list[dict]) -> None:
    teacher = model.frozen_copy()
    assert teacher.weighted_losses is None and not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        taught = outputs_of(teacher, batch)
        confidence, labels = taught.semantic.dense().softmax(1).max(1)
        limits = torch.zeros(model.label_space.num_classes)
        pixels = PixelPseudoLabels(labels, confidence, torch.ones_like(labels).bool(), limits)
        pseudo = model.pseudo_targets(taught, pixels)
    assert torch.equal(pseudo.semantic, labels)
    targets = model.targets(batch)
    assert pseudo.has_instances == targets.has_instances
    mask = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[:, :, : SIZE[1] // 2] = True
    mixed = model.mix_targets(mask, targets, pseudo)
    assert torch.equal(mixed.semantic, torch.where(mask, targets.semantic, labels))
    assert mixed.has_instances == targets.has_instances
    losses = model.losses(outputs_of(model, batch), mixed, None, keys.TERM_SOURCE)
    assert all(torch.isfinite(loss) for loss in losses.values())


@torch.no_grad()
def test_results_views_and_export(cfg: Any, model: Any, batch: list[dict]) -> None:
    model.eval()
    sample = {keys.IMAGE: batch[0][keys.IMAGE], keys.HEIGHT: 48, keys.WIDTH: 80}
    (result,) = model([sample])
    assert result[keys.SEM_SEG].shape == (SPACE.num_classes, 48, 80)
    assert (keys.PANOPTIC_SEG in result) == architecture(cfg).predicts_instances(cfg)
    for segment in result.get(keys.PANOPTIC_SEG, (None, []))[1]:
        assert {"id", "category_id", "isthing", "score"} <= segment.keys()
        assert 0 <= segment["score"] <= 1
    place = (slice(0, SIZE[0]), slice(0, SIZE[1]))
    views = [View(SIZE, False, [(place, outputs_of(model, batch[:1]))])] * 2
    merged = model.merge_views(views, SIZE, sample)
    assert merged.keys() == result.keys()
    torch.testing.assert_close(merged[keys.SEM_SEG].argmax(0), result[keys.SEM_SEG].argmax(0))
    exported = model.export_outputs(torch.rand(1, 3, *SIZE) * 255)
    assert exported[SEMANTIC_LOGITS].shape == (1, SPACE.num_classes, *SIZE)
    assert all(len(value) == 1 for value in exported.values())


def test_images_and_pictures_are_inverse(model: Any) -> None:
    pictures = torch.rand(1, 3, *SIZE)
    torch.testing.assert_close(
        model.pictures(model.normalised(pictures)), pictures, atol=1e-5, rtol=0
    )


def test_waits_are_declared(model: Any) -> None:
    assert isinstance(model.waits_per_step, int) and model.waits_per_step >= 0
