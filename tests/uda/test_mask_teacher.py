"""mask_teacher: its parts by hand, and whole steps of the tiny Mask2Former."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gbw_d2 import keys
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import TaughtSegments
from gbw_d2.modeling.targets.slots import SlotTargetGenerator
from gbw_d2.uda import Context, build_strategy
from gbw_d2.uda.parts.segment_mix import segment_mask

LEAF = "toy/panoptic_gbw models/mask2former_tiny uda/mask_teacher"
SIZE = (32, 64)
ROAD, CAR = 0, 11


def batch_of(seed: int, labelled: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    segments = np.zeros(SIZE, np.int32)
    segments[16:], segments[18:26, 4:16], segments[20:28, 30:50] = 1, 2, 3
    info = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, ROAD), (2, CAR), (3, CAR))]
    classes = np.array([255, ROAD, CAR, CAR])[segments]
    labels = {
        keys.SEM_SEG: torch.from_numpy(classes.astype(np.int64)),
        keys.SEGMENTS: torch.from_numpy(segments),
        keys.SEGMENTS_INFO: info,
        **SlotTargetGenerator(16, (CAR,))(classes, segments, info),
    }
    return [
        {
            keys.IMAGE: torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8)),
            keys.DRAW: 2 * seed + number,
            keys.FILE_NAME: f"{seed}.png",
            **(labels if labelled else {}),
        }
        for number in range(2)
    ]


@pytest.fixture
def build(tiny_config: Any, tmp_path: Path) -> Any:
    """Returns a function: keys of UDA.MASK_TEACHER, by name -> strategy, after its first stage."""

    def make(max_iter: int = 4, **teaching: Any) -> Any:
        torch.manual_seed(0)
        words = [w for k, v in teaching.items() for w in (f"UDA.MASK_TEACHER.{k}", v)]
        more = ("MODEL.MASK2FORMER.POINTS", 32, "MODEL.MASK2FORMER.CLASS_THRESHOLD", 0.0)
        # Of random weights every query is sure of nothing: let each one be something.
        cfg = tiny_config(*more, "MODEL.MASK2FORMER.OVERLAP_THRESHOLD", 0.0, *words, name=LEAF)
        model = build_model(cfg, build_training_losses(cfg)).train()
        with torch.no_grad():
            model.sem_seg_head.decoder.classifier.bias[-1] = -3.0
        strategy = build_strategy("mask_teacher", model, cfg.UDA, seed=0, max_iter=max_iter)
        strategy.prepare(strategy.stages()[0], Context(True, tmp_path))
        return strategy

    return make


def step(strategy: Any, iteration: int) -> list[dict[str, Tensor]]:
    """Does what the trainer does: torch's draws are keyed by the iteration."""
    torch.manual_seed(iteration)
    optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.01)
    found = []
    for losses in strategy.training_losses(
        batch_of(iteration, True), batch_of(100 + iteration, False), iteration
    ):
        torch.stack(list(losses.values())).sum().backward()
        found.append({key: value.detach() for key, value in losses.items()})
    optimizer.step()
    optimizer.zero_grad()
    strategy.after_step(iteration)
    return found


def test_half_of_the_visible_segments_are_pasted() -> None:
    segments = np.array([[1, 2, 3, 4], [5, 6, 7, 0]], np.int32)
    info = [{"id": i, "category_id": 0, "iscrowd": 0} for i in (1, 2, 3, 4, 5, 9)]
    info += [{"id": 6, "category_id": 255, "iscrowd": 0}, {"id": 7, "category_id": 0, "iscrowd": 1}]
    masks = [segment_mask(segments, info, np.random.default_rng(seed)) for seed in range(40)]
    # Five are visible, no crowd and of a class: three of them.
    assert {int(mask.sum()) for mask in masks} == {3}
    assert not any(mask[1, 1:].any() for mask in masks)
    assert all(8 < sum(int(mask[0, place]) for mask in masks) < 40 for place in range(4))
    assert not segment_mask(np.zeros((2, 2), np.int32), [], np.random.default_rng(0)).any()


def test_what_a_segment_is_worth(build: Any) -> None:
    strategy = build(THRESHOLDS="fixed", CONFIDENCE_THRESHOLD=0.6, POINT_THRESHOLD=0.5)
    found = TaughtSegments(
        torch.tensor([[[0, 1, 1, 2]]]),
        torch.tensor([[255, ROAD, CAR]]),
        torch.tensor([[[0.0, 0.9, 0.6, 0.4]]]),
        torch.tensor([[[0.45, 0.9, 0.6, 0.5]]]),
    )
    worth = strategy._worth(found)
    assert worth.reliable.tolist() == [[[False, True, False, False]]]
    assert worth.usable.tolist() == [[[False, True, True, True]]]
    # Half of the road is reliable, nothing of the car; void has no reliable pixel.
    assert worth.pixels.tolist() == [[[0.0, 0.5, 0.5, 0.0]]]
    assert worth.no_object.tolist() == [1.0] and worth.least_area == 26
    assert build(NO_OBJECT="confident")._worth(found).no_object.tolist() == [0.25]
    off = build(MASK_SCALING=False, POINT_FILTERING=False)._worth(found)
    assert off.reliable.all() and off.usable.all()


def test_pasted_masks_count_fully_and_doubtful_ones_by_their_share(build: Any) -> None:
    strategy = build(THRESHOLDS="fixed", CONFIDENCE_THRESHOLD=0.5, LEAST_AREA=1)
    owners = torch.full((2, *SIZE), 1 + ROAD)
    confidence = torch.full((2, *SIZE), 0.4)
    confidence[:, :, :16] = 0.9
    classes = torch.tensor([[255, *range(16)]]).expand(2, -1)
    found = TaughtSegments(owners, classes, confidence, confidence)
    model = strategy.model
    taught = model.segment_targets(found, strategy._worth(found))
    source = model.targets(batch_of(0, True))
    mask = (source.segments.maps == 2) | (source.segments.maps == 3)
    mixed = model.mix_targets(mask, source, taught).private
    areas, sure = mixed.areas(), mixed.areas(mixed.reliable)
    present = mixed.present()
    # The teacher's road, and the two cars on it.
    assert [mixed.classes[0, i].item() for i in present[0].nonzero()[:, 0]] == [ROAD, CAR, CAR]
    shares = (sure / areas)[0, present[0]]
    road = (~mask[0] & (confidence[0] > 0.5)).sum() / (~mask[0]).sum()
    torch.testing.assert_close(shares, torch.tensor([road.item(), 1.0, 1.0]))
    assert mixed.usable[mask].all() and not mixed.usable[0, :16, 16:].any()


def test_losses_of_source_and_target(build: Any) -> None:
    strategy = build()
    parts = step(strategy, 0)
    assert [list(part) for part in parts] == [
        ["loss_query_cls", "loss_query_mask"],
        ["target_loss_query_cls", "target_loss_query_mask"],
    ]
    assert all(value.isfinite() for part in parts for value in part.values())
    assert {term for _, term, _ in strategy.weight_log} == {keys.TERM_SOURCE, keys.TERM_MIXED}
    # The teacher found something, and the thresholds of that moved.
    assert strategy.thresholds.values.max() > 0


@pytest.mark.parametrize("model", ["panoptic_deeplab_tiny", "panoptic_fpn_tiny"])
def test_networks_of_pixels_are_taught_by_segments(
    model: str, tiny_config: Any, tmp_path: Path
) -> None:
    words = ("MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", 1, "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD", 0.0)
    words += ("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 1, "UDA.MASK_TEACHER.LEAST_AREA", 0)
    words += ("UDA.MASK_TEACHER.POINT_THRESHOLD", 0.0)
    cfg = tiny_config(*words, name=f"toy/panoptic_gbw models/{model} uda/mask_teacher")
    torch.manual_seed(0)
    network = build_model(cfg, build_training_losses(cfg)).train()
    strategy = build_strategy("mask_teacher", network, cfg.UDA, seed=0, max_iter=40)
    strategy.prepare(strategy.stages()[0], Context(True, tmp_path))
    generate = type(network).target_generator(cfg, network.label_space)

    def batch(seed: int) -> list[dict[str, Any]]:
        source = batch_of(seed, True)
        for sample in source:
            maps = sample[keys.SEM_SEG].numpy(), sample[keys.SEGMENTS].numpy()
            sample |= generate(*maps, sample[keys.SEGMENTS_INFO])
        return source

    seen: dict[str, Any] = {}
    losses = network.losses

    def watched(outputs: Any, targets: Any, weights: Any, *rest: Any) -> Any:
        seen.update(targets=targets, weights=weights)
        return losses(outputs, targets, weights, *rest)

    network.losses = watched
    _, found = strategy.training_losses(batch(0), batch_of(100, False), 0)
    assert {name.removeprefix("target_") for name in found} > {"loss_semantic"}
    assert len(found) > 1 and all(value.isfinite() for value in found.values())
    # Pasted pixels count fully; adaptive thresholds are low yet, so that all of a segment counts.
    pasted = strategy._mask(batch(0), network.images(batch_of(100, False)))
    weights, semantic = seen["weights"], seen["targets"].semantic
    assert (weights[pasted] == 1).all() and seen["targets"].has_instances
    assert 0 < weights[~pasted].mean() <= 1
    assert (semantic[~pasted] != 255).any() and strategy.thresholds.values.max() > 0


def test_half_precision_is_near_float32(build: Any) -> None:
    batches = batch_of(0, True), batch_of(100, False)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        strategy = build()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            parts = [dict(part) for part in strategy.training_losses(*batches, 0)]
        values = torch.stack([value for part in parts for value in part.values()])
        values.sum().backward()
        gradient = strategy.model.sem_seg_head.decoder.classifier.weight.grad
        assert gradient.dtype == torch.float32 and gradient.isfinite().all()
        assert strategy.thresholds.values.dtype == torch.float32
        found.append(values.detach())
    assert found[0].dtype == found[1].dtype == torch.float32
    # Source losses alone are of the same points; those of the target follow other segments.
    torch.testing.assert_close(found[1], found[0], rtol=0.1, atol=0.05)


def test_three_stages(build: Any, tmp_path: Path) -> None:
    strategy = build(8, SOURCE_SHARE=0.25, BURN_IN_SHARE=0.25)
    source, adaptation = strategy.stages()
    assert list(strategy.marks().values()) == [0, adaptation.first, strategy.burn_in_end]
    assert (source.last, adaptation.first, adaptation.last) == (2, 2, 8)
    start = copy.deepcopy(strategy.model.state_dict())
    assert len(step(strategy, 0)) == len(step(strategy, 1)) == 1
    trained = copy.deepcopy(strategy.model.state_dict())
    strategy.prepare(adaptation, Context(True, tmp_path))

    def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
        return all(torch.equal(a[key], b[key]) for key in b)

    assert same(strategy.model.state_dict(), start)
    assert same(strategy.teacher.state_dict(), trained) and not same(trained, start)
    assert len(step(strategy, 2)) == 2
    assert same(strategy.teacher.state_dict(), trained)
    # At the end of burn-in the teacher is a copy of the student, then a mean.
    step(strategy, 3)
    assert same(strategy.teacher.state_dict(), strategy.model.state_dict())
    step(strategy, 4)
    assert not same(strategy.teacher.state_dict(), strategy.model.state_dict())
    assert list(build(8).modules()) == ["teacher", "thresholds"]


def test_it_goes_on_from_a_checkpoint(build: Any) -> None:
    whole = build()
    for iteration in range(3):
        step(whole, iteration)
    parts, again = build(), build()
    step(parts, 0)
    again.model.load_state_dict(parts.model.state_dict())
    again.model.weighted_losses.load_state_dict(parts.model.weighted_losses.state_dict())
    for name, module in parts.modules().items():
        again.modules()[name].load_state_dict(module.state_dict())
    for iteration in (1, 2):
        step(again, iteration)
    for name, module in {"student": whole.model, **whole.modules()}.items():
        other = {"student": again.model, **again.modules()}[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())


def test_a_hundred_steps_without_a_segment(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    strategy = build(200)
    strategy.warm_up = 0.25
    nothing = TaughtSegments(
        torch.zeros(1, 4, 4, dtype=torch.long),
        torch.tensor([[255, *range(16)]]),
        torch.zeros(1, 4, 4),
        torch.zeros(1, 4, 4),
    )
    with caplog.at_level(logging.WARNING):
        for iteration in range(150):
            assert not caplog.records
            worth = strategy._worth(nothing)
            strategy.after_step(iteration)
    # The steps of the warm-up, without a look at the target, do not count.
    assert sum("found no segment in the last 100 steps" in r.message for r in caplog.records) == 1
    assert worth.reliable.sum() == 0 and strategy.thresholds.values.sum() == 0
    # A whole step of a teacher that finds nothing has losses all the same.
    with torch.no_grad():
        strategy.teacher.sem_seg_head.decoder.classifier.bias[-1] = 50.0
    parts = step(strategy, 0)
    assert all(value.isfinite() for part in parts for value in part.values())


def test_refusals(build: Any, tiny_config: Any) -> None:
    with pytest.raises(UserError, match="NO_OBJECT is 'never'; expected all or confident"):
        build(NO_OBJECT="never")
    cfg = tiny_config(name="toy/semantic_gbw")
    with pytest.raises(UserError, match=r"what GBWSemanticSegmentor cannot do.*taught_segments"):
        build_strategy("mask_teacher", build_model(cfg), cfg.UDA)


def test_stages_that_leave_nothing_are_refused(build: Any) -> None:
    with pytest.raises(UserError, match=r"SOURCE_SHARE 0.5 and BURN_IN_SHARE 0.5 leave nothing"):
        build(SOURCE_SHARE=0.5, BURN_IN_SHARE=0.5)
    # A new student would be mixed into what the source stage has learned.
    with pytest.raises(UserError, match=r"RESTART is True, but BURN_IN_SHARE 0.0 of .* is no"):
        build(SOURCE_SHARE=0.5)
    assert build(SOURCE_SHARE=0.5, RESTART=False).start is None


def test_a_network_without_instances_is_refused_at_the_start(tiny_config: Any) -> None:
    with pytest.raises(UserError, match=r"needs instances of the source.*SEMANTIC_ONLY"):
        tiny_config("MODEL.SEMANTIC_ONLY", True, name=LEAF)


def test_burn_in_under_an_untrained_teacher_is_refused(tiny_config: Any, tmp_path: Path) -> None:
    words = ("UDA.MASK_TEACHER.BURN_IN_SHARE", 0.25)
    with pytest.raises(UserError, match=r"BURN_IN_SHARE is 0.25, but SOURCE_SHARE is 0 and MODEL"):
        tiny_config(*words, name=LEAF)
    (tmp_path / "net.pth").touch()
    tiny_config(*words, "MODEL.WEIGHTS", tmp_path / "net.pth", name=LEAF)
    tiny_config(*words, "UDA.MASK_TEACHER.SOURCE_SHARE", 0.25, name=LEAF)
