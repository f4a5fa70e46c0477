"""GBWMask2Former as a whole: odd numbers of segments and classes, layers, weights, waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import write_own_data
from torch import Tensor

from gbw_d2 import keys
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import PixelPseudoLabels, Targets, View
from gbw_d2.modeling.targets.slots import SlotTargets, stuff_slots
from gbw_d2.weighting import WeightLog

LEAF = "toy/panoptic_gbw models/mask2former_tiny"
SMALL = ("MODEL.MASK2FORMER.POINTS", 32, "MODEL.MASK2FORMER.NUM_QUERIES", 20)
SIZE = (32, 64)


@pytest.fixture
def build(tiny_config: Any) -> Any:
    """Returns a function: overrides -> tiny network in training mode, with its losses."""

    def make(*overrides: Any) -> Any:
        torch.manual_seed(0)
        cfg = tiny_config(*SMALL, *overrides, name=LEAF)
        return build_model(cfg, build_training_losses(cfg)).train()

    return make


def outputs_of(model: Any, images: int = 2) -> Any:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(images, 3, *SIZE, generator=generator)
    return model.outputs(model.features(model.normalised(pictures)), SIZE)


def segments(slots: Tensor, classes: list[int], num_classes: int) -> Targets:
    table = torch.cat([stuff_slots(num_classes), torch.tensor(classes, dtype=torch.long)])
    return Targets(private=SlotTargets(slots, table.expand(len(slots), -1)))


def stripes(count: int, first: int) -> Tensor:
    """Two label maps of vertical stripes, as many as asked, one row being enough for 300."""
    cells = torch.arange(SIZE[0] * SIZE[1]).view(SIZE) * count // (SIZE[0] * SIZE[1])
    return (cells + first).expand(2, -1, -1)


@pytest.mark.parametrize("number", [0, 1, 300])
def test_any_number_of_segments(build: Any, number: int) -> None:
    model = build()
    slots = stripes(number, 17) if number else torch.zeros(2, *SIZE, dtype=torch.long)
    targets = segments(slots, [11] * number, 16)
    for term in (keys.TERM_SOURCE, keys.TERM_MIXED):
        losses = model.losses(outputs_of(model), targets, None, term)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert total.isfinite()
    assert (losses["loss_query_mask"] > 0) == (number > 0)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("count", [1, 150])
def test_any_number_of_classes(build: Any, tmp_path: Path, count: int) -> None:
    file = write_own_data(tmp_path, count, images=1)
    own = {"LABEL_SPACE": file, "TRAIN": (f"{file}:source",), "TARGET": (), "TEST": ()}
    words = [word for key, value in own.items() for word in (f"DATASETS.{key}", value)]
    # Of one class alone there is nothing to call a thing.
    model = build(*words, "UDA.NAME", "source_only", "MODEL.SEMANTIC_ONLY", count == 1)
    assert model.label_space.num_classes == count
    targets = segments(stripes(3, count), [0, 0], count)
    log = WeightLog()
    losses = model.losses(outputs_of(model), targets, None, keys.TERM_SOURCE, log)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    weights = log.get("query_cls", keys.TERM_SOURCE).weights
    assert weights.sum().item() == pytest.approx(count, rel=1e-5)


def test_weights_follow_from_the_class_gradient_and_masks_take_them_over(build: Any) -> None:
    model, log = build(), WeightLog()
    targets = segments(stripes(4, 17), [11, 11, 11, 12], 16)
    model.losses(outputs_of(model), targets, None, keys.TERM_SOURCE, log)
    classes = log.get("query_cls", keys.TERM_SOURCE)
    # Four predictions of the decoder, two images.
    assert classes.counts[[11, 12]].tolist() == [24, 8] and classes.counts.sum() == 32
    assert model.weighted_losses["query_cls"].scheme.measure == "class_gradient"
    assert (classes.weights - 1).abs().max() > 1e-3
    masks = log.get("query_mask", keys.TERM_SOURCE)
    assert torch.equal(masks.weights, classes.weights)


def test_each_layer_may_have_weights_of_its_own(build: Any) -> None:
    shared, own = build(), build("MODEL.MASK2FORMER.WEIGHTS_PER_LAYER", True)
    assert list(shared.weighted_losses) == ["query_cls", "query_mask"]
    names = [
        f"{head}{layer}" for layer in ("_0", "_1", "_2", "") for head in ("query_cls", "query_mask")
    ]
    assert list(own.weighted_losses) == names
    targets, log = segments(stripes(4, 17), [11, 11, 11, 12], 16), WeightLog()
    losses = own.losses(outputs_of(own), targets, None, keys.TERM_SOURCE, log)
    assert list(losses) == [f"loss_{name}" for name in names]
    weights = [log.get(f"query_cls{layer}", keys.TERM_SOURCE).weights for layer in ("_0", "_2", "")]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    # Without weights the layers' losses are those of all together.
    sums = []
    for value in (False, True):
        model = build("MODEL.MASK2FORMER.WEIGHTS_PER_LAYER", value, "WEIGHTING.NAME", "none")
        outputs = outputs_of(model)
        torch.manual_seed(5)
        losses = model.losses(outputs, targets, None, keys.TERM_SOURCE)
        sums.append(sum(v for k, v in losses.items() if "cls" in k))
    torch.testing.assert_close(sums[0], sums[1])


def test_one_copy_to_the_host(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    outputs, targets = outputs_of(model), segments(stripes(4, 17), [11, 11, 11, 12], 16)
    copies = []
    original = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda t, *a: copies.append(t.shape) or original(t, *a))
    model.losses(outputs, targets, None, keys.TERM_SOURCE)
    assert len(copies) == model.waits_per_step == 1


def test_class_maps_weigh_by_pixel_weights(build: Any) -> None:
    model = build("WEIGHTING.NAME", "none", "MODEL.SEMANTIC_ONLY", True)
    targets = Targets(semantic=torch.zeros(2, *SIZE, dtype=torch.long))
    outputs = outputs_of(model)
    found = []
    for weight in (1.0, 0.25):
        torch.manual_seed(3)
        pixels = torch.full((2, *SIZE), weight)
        found.append(model.losses(outputs, targets, pixels, keys.TERM_SOURCE)["loss_query_mask"])
    # Two segments: below a sum of 1 the divisor stays.
    torch.testing.assert_close(found[1], 0.5 * found[0])


def test_a_teacher_that_finds_nothing(build: Any) -> None:
    model = build()
    teacher = model.frozen_copy()
    with torch.no_grad():
        taught = outputs_of(teacher)
        confidence, labels = taught.semantic.dense().softmax(1).max(1)
        everywhere = torch.ones_like(labels).bool()
        pixels = PixelPseudoLabels(labels, confidence, everywhere, torch.full((16,), 0.9))
        pseudo = model.pseudo_targets(taught, pixels)
    assert not pseudo.private.present().any()
    losses = model.losses(outputs_of(model), pseudo, None, keys.TERM_SOURCE)
    assert losses["loss_query_mask"] == 0 and losses["loss_query_cls"] > 0


def test_windows_are_for_semantic_networks(build: Any) -> None:
    model = build().eval()
    with torch.no_grad():
        outputs = outputs_of(model, 1)
        place = (slice(0, SIZE[0]), slice(0, SIZE[1]))
        whole = View(SIZE, True, [(place, outputs)])
        result = model.merge_views([whole], SIZE, {})
        # A mirrored view alone: all of it is mirrored back.
        own = model.results(outputs, [SIZE], [{}])[0]
        torch.testing.assert_close(
            result[keys.SEM_SEG].argmax(0).flip(1), own[keys.SEM_SEG].argmax(0)
        )
        half = View((SIZE[0], 2 * SIZE[1]), False, [(place, outputs)])
        with pytest.raises(UserError, match="leave --window out"):
            model.merge_views([half], SIZE, {})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("IN_FEATURES", "['res9']", r"IN_FEATURES is \['res9'\].*gives res2, res3, res4"),
        ("IN_FEATURES", "['res4','res2']", r"strides \[16, 4\]; expected maps from fine to"),
        ("HIDDEN_DIM", 66, "HIDDEN_DIM is 66; expected a multiple of 32"),
        ("NUM_HEADS", 3, "HIDDEN_DIM is 64; .* and of NUM_HEADS 3"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(f"MODEL.MASK2FORMER.{key}", value)
