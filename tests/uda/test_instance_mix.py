"""Instance mixing: the teacher's things of the target on source images, late in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gbw_d2 import keys
from gbw_d2.engine.build import architecture, build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.merging import Detections
from gbw_d2.modeling.protocol import (
    Outputs,
    SemanticPrediction,
    TaughtSegments,
)
from gbw_d2.modeling.targets.centers import CENTER, OFFSET
from gbw_d2.modeling.taught import without_unsure
from gbw_d2.ops.owners import at_owners
from gbw_d2.uda import Context, build_strategy, loss_terms

SPACE = LABEL_SPACES.get("cityscapes_16")
SIZE = (32, 64)
ROAD, PERSON, CAR = (SPACE.class_names.index(name) for name in ("road", "person", "car"))
CAR_AS_THING = SPACE.thing_ids.index(CAR)
LEAVES = {
    "rois": "toy/panoptic_gbw models/panoptic_fpn_tiny",
    "centers": "toy/panoptic_gbw",
    "queries": "toy/panoptic_gbw models/mask2former_tiny",
}


def batch_of(cfg: Any, seed: int, labelled: bool) -> list[dict[str, Any]]:
    """Two pictures of a road with two cars, at columns 4 to 15 and 30 to 49."""
    segments = np.zeros(SIZE, np.int32)
    segments[16:], segments[18:26, 4:16], segments[20:28, 30:50] = 1, 2, 3
    info = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, ROAD), (2, CAR), (3, CAR))]
    classes = np.array([255, ROAD, CAR, CAR])[segments].astype(np.uint8)
    labels = {
        keys.SEM_SEG: torch.from_numpy(classes.astype(np.int64)),
        keys.SEGMENTS: torch.from_numpy(segments),
        keys.SEGMENTS_INFO: info,
        **architecture(cfg).target_generator(cfg, SPACE)(classes, segments, info),
    }
    rng = np.random.default_rng(seed)
    rows = (torch.arange(SIZE[0]) + 0.5) / SIZE[0]
    return [
        {
            keys.IMAGE: torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8)),
            keys.DRAW: 2 * seed + number,
            keys.IMAGE_ROWS: rows,
            **(labels if labelled else {}),
        }
        for number in range(2)
    ]


@pytest.fixture
def make(tiny_config: Any) -> Any:
    """Returns a function: family, keys -> config and strategy of ten iterations."""

    def build(family: str = "rois", *words: Any, weight: float = 1.0, **settings: Any) -> Any:
        settings = {"INSTANCE_MIX_WEIGHT": weight, **settings}
        teaching = [w for k, v in settings.items() for w in (f"UDA.SELF_TRAINING.{k}", v)]
        cfg = tiny_config(*teaching, *words, name=LEAVES.get(family, family))
        torch.manual_seed(0)
        model = build_model(cfg, build_training_losses(cfg)).train()
        strategy = build_strategy("self_training", model, cfg.UDA, seed=0, max_iter=10)
        strategy.prepare(strategy.stages()[0], Context(True, Path()))
        return cfg, strategy

    return build


def semantic_of(labels: Tensor) -> SemanticPrediction:
    """Logits that are nearly sure of a class map (N, H, W)."""
    one_hot = torch.nn.functional.one_hot(labels, SPACE.num_classes).movedim(-1, 1)
    return SemanticPrediction(20.0 * one_hot, (labels.shape[1], labels.shape[2]))


def parts_of(strategy: Any, cfg: Any, iteration: int) -> list[dict[str, Tensor]]:
    source, target = batch_of(cfg, 1, True), batch_of(cfg, 2, False)
    return list(strategy.training_losses(source, target, iteration))


@pytest.mark.parametrize("family", LEAVES)
def test_only_in_the_last_part_of_the_run(make: Any, family: str) -> None:
    cfg, strategy = make(family)
    assert [strategy.pastes_instances(i) for i in (0, 7, 8, 9)] == [False, False, True, True]
    before, after = parts_of(strategy, cfg, 7), parts_of(strategy, cfg, 8)
    assert len(before) == 2 and len(after) == 3
    # Nothing else has changed: the mixed pictures have no instances to learn from.
    assert before[1].keys() == after[1].keys()
    pasted = after[2]
    heads = {"rois": "roi_cls", "centers": "center", "queries": "query_mask"}
    assert f"pasted_loss_{heads[family]}" in pasted
    assert not any("semantic" in name or "auxiliary" in name for name in pasted)
    assert all(value.isfinite() for value in pasted.values())
    torch.stack(list(pasted.values())).sum().backward()
    assert {term for _, term, _ in strategy.weight_log} >= {keys.TERM_SOURCE, keys.TERM_PASTED}


def test_off_by_default(make: Any) -> None:
    cfg, strategy = make(weight=0.0)
    assert not any(strategy.pastes_instances(i) for i in range(10))
    assert len(parts_of(strategy, cfg, 9)) == 2
    assert loss_terms("self_training", cfg.UDA) == (keys.TERM_SOURCE, keys.TERM_MIXED)
    assert make(INSTANCE_MIX_SHARE=0.0)[1].pastes_instances(9) is False
    assert make(INSTANCE_MIX_SHARE=1.0)[1].pastes_instances(0)


def test_pasted_pixels_instances_and_boxes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, strategy = make(weight=2.0)
    model, teacher = strategy.model, strategy.teacher
    # In the first picture a car hides the right half of the left one and all of the right one.
    owners = torch.zeros(2, *SIZE, dtype=torch.int64)
    owners[:, 31:], owners[0, 16:30, 10:56] = 1, 2
    where, sure = owners == 2, (owners > 0).float()
    things = TaughtSegments(owners, torch.tensor([[255, ROAD, CAR], [255, ROAD, 255]]), sure, sure)
    asked: list[Any] = []

    def taught(outputs: Any, shift: Any, score: float) -> TaughtSegments:
        asked.append((len(outputs.private), score))
        return things

    monkeypatch.setattr(teacher, "taught_segments", taught)
    shown, learned = [], []
    features, losses = model.features, model.losses
    monkeypatch.setattr(model, "features", lambda x, d=None: shown.append(x) or features(x, d))
    monkeypatch.setattr(
        model, "losses", lambda o, t, *rest: learned.append((t, *rest)) or losses(o, t, *rest)
    )
    source, target = batch_of(cfg, 1, True), batch_of(cfg, 2, False)
    last = list(strategy.training_losses(source, target, 9))[-1]
    assert asked == [(2, 0.75)]
    images, others = model.images(source), model.images(target)
    assert torch.equal(shown[-1], torch.where(where[:, None], others, images))
    targets, weights, term, _ = learned[-1]
    assert targets.semantic is None and weights is None and term == keys.TERM_PASTED
    boxes, there = targets.private.boxes()
    found = [boxes[image][there[image]].tolist() for image in range(2)]
    # The pasted car, what is left of the left car, and nothing of the right one.
    assert found[0] == [[10, 16, 56, 30], [4, 18, 10, 26]]
    assert found[1] == [[4, 18, 16, 26], [30, 20, 50, 28]]
    assert targets.private.classes[there].tolist() == [CAR_AS_THING] * 4
    # Void stays an ignore region, but where something is pasted.
    assert (targets.private.numbers[:, :16] == -1).all()
    maps = features(shown[-1], strategy.network_draws(source, keys.TERM_PASTED))
    again = losses(model.outputs(maps, SIZE), targets, None, keys.TERM_PASTED)
    for name, value in again.items():
        assert last[f"pasted_{name}"].item() == pytest.approx(2 * value.item(), rel=1e-5)


def taught_by(strategy: Any, outputs: Outputs, shift: Tensor | None = None) -> Tensor:
    """Returns the classes (N, H, W) of sure things, 255 elsewhere."""
    found = strategy.teacher.taught_segments(outputs, shift, 0.75)
    classes = at_owners(found.classes, found.owners)
    return torch.where(classes == ROAD, 255, classes)


def test_rois_sure_detections(make: Any) -> None:
    # Results of this network show surer ones alone, and a class that pixels choose.
    combine = "MODEL.PANOPTIC_FPN.COMBINE"
    words = (f"{combine}.INSTANCES_CONFIDENCE_THRESH", 0.95, f"{combine}.RULE", "edaps")
    _, strategy = make("rois", *words)
    boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0], [8.0, 4.0, 20.0, 12.0], [40.0, 4.0, 50.0, 12.0]])
    found = Detections(
        boxes,
        torch.tensor([0.76, 0.9, 0.74]),
        torch.tensor([0, CAR_AS_THING, CAR_AS_THING]),
        torch.ones(3, 14, 14),
    )
    none = found[torch.zeros(0, dtype=torch.int64)]
    semantic = semantic_of(torch.zeros(2, *SIZE, dtype=torch.int64))
    taught = taught_by(strategy, Outputs(semantic, None, [found, none]))
    # The surer one lies above; the third is not sure enough; the second picture has nothing.
    expected = torch.full((2, *SIZE), 255)
    expected[0, 4:12, 4:12], expected[0, 4:12, 8:20] = PERSON, CAR
    assert torch.equal(taught, expected)


def test_centers_with_their_scores(make: Any) -> None:
    _, strategy = make("centers")
    labels = torch.zeros(2, *SIZE, dtype=torch.int64)
    labels[0, 4:13, 4:13], labels[0, 4:13, 40:49] = CAR, PERSON
    center, offset = torch.zeros(2, 1, *SIZE), torch.zeros(2, 2, *SIZE)
    for x, height in ((8, 0.9), (44, 0.6)):
        center[0, 0, 8, x] = height
        place = (slice(4, 13), slice(x - 4, x + 5))
        offset[0, 0][place] = 8.0 - torch.arange(4, 13)[:, None]
        offset[0, 1][place] = float(x) - torch.arange(x - 4, x + 5)[None]
    outputs = Outputs(semantic_of(labels), None, {CENTER: center, OFFSET: offset})
    # The pixels are sure of both, the centre of one.
    assert torch.equal(taught_by(strategy, outputs) == CAR, labels == CAR)
    assert not (taught_by(strategy, outputs) == PERSON).any()
    # What class weights have put into the logits is taken out: nothing looks like a car then.
    shift = torch.zeros(16)
    shift[CAR] = -30.0
    assert not (taught_by(strategy, outputs, shift) == CAR).any()


def test_queries_by_their_mean_confidence() -> None:
    owners = torch.full((1, *SIZE), 1 + ROAD)
    owners[0, :4, :4], owners[0, :4, 8:12] = 17, 18
    classes = torch.tensor([[255, *range(16), CAR, PERSON]])
    confidence = torch.full((1, *SIZE), 0.9)
    confidence[0, :4, 8:12], confidence[0, 8:] = 0.7, 0.1
    is_thing = torch.zeros(16, dtype=torch.bool)
    is_thing[list(SPACE.thing_ids)] = True
    found = without_unsure(TaughtSegments(owners, classes, confidence, confidence), is_thing, 0.75)
    # Stuff keeps its class, however sure; numbers without a pixel are nothing.
    assert (found.classes[0, 1 + ROAD], found.classes[0, 17], found.classes[0, 18]) == (0, CAR, 255)


def test_who_cannot_is_told(make: Any, tiny_config: Any) -> None:
    needed = r"INSTANCE_MIX_WEIGHT 1.0 needs instances of the source.*SEMANTIC_ONLY"
    with pytest.raises(UserError, match=needed):
        make("centers", "MODEL.SEMANTIC_ONLY", True)
    with pytest.raises(UserError, match=needed):
        make("toy/semantic_gbw")
    cfg = tiny_config(name="toy/semantic_gbw").clone()
    cfg.defrost()
    cfg.UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT = 1.0
    with pytest.raises(UserError, match="GBWSemanticSegmentor cannot teach by segments"):
        build_strategy("self_training", build_model(cfg), cfg.UDA)
