"""cvrn: distances by hand, what its steps yield, labels that are resumed, and refused configs."""

from __future__ import annotations

import copy
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cbst_runs import OneByOne
from torch import Tensor

from gbw_d2 import keys
from gbw_d2.class_tables import ids_of_colors
from gbw_d2.engine.build import architecture, build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.capabilities import ConsistencySettings
from gbw_d2.modeling.rois import views
from gbw_d2.modeling.rois.heads import predict_classes, predict_masks
from gbw_d2.modeling.rois.proposals import predict_anchors, proposals_of
from gbw_d2.uda import Context, build_strategy
from gbw_d2.uda.cvrn import CONSISTENCY, LABELLED, probability_distance
from gbw_d2.uda.parts.pseudo_label_files import PseudoLabelError
from gbw_d2.uda.stages import PSEUDO_LABELS

SPACE = LABEL_SPACES.get("cityscapes_16")
LEAF = "toy/panoptic_gbw models/panoptic_fpn_tiny uda/cvrn"
SIZE = (64, 96)
ROAD, CAR = (SPACE.class_names.index(name) for name in ("road", "car"))


def picture(seed: int) -> Tensor:
    coarse = torch.rand(
        3, SIZE[0] // 8, SIZE[1] // 8, generator=torch.Generator().manual_seed(seed)
    )
    return (coarse * 255).repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)


def batch_of(cfg: Any, seed: int, labelled: bool = True, things: bool = True) -> list[dict]:
    segments = np.zeros(SIZE, np.int32)
    segments[16:] = 1
    if things:
        segments[18:26, 4:16], segments[30:48, 30:60] = 2, 3
    info = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, ROAD), (2, CAR), (3, CAR))]
    classes = np.array([255, ROAD, CAR, CAR])[segments].astype(np.uint8)
    labels = {
        keys.SEM_SEG: torch.from_numpy(classes.astype(np.int64)),
        **architecture(cfg).target_generator(cfg, SPACE)(
            classes, None if cfg.MODEL.SEMANTIC_ONLY else segments, info
        ),
    }
    return [
        {keys.IMAGE: picture(2 * seed + n), keys.DRAW: 2 * seed + n, **(labels if labelled else {})}
        for n in range(2)
    ]


class Images:
    """Target pictures; ``limit`` of them can be read before the process "dies"."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit

    def ids(self) -> list[str]:
        return [f"city/{i}" for i in range(3)]

    def batches(self, skip: Container[str] = ()) -> OneByOne:
        return OneByOne([i for i in range(3) if f"city/{i}" not in skip], self._batch)

    def _batch(self, i: int) -> list[dict[str, Any]]:
        if self.limit == 0:
            raise KeyboardInterrupt
        self.limit -= 1
        size = {keys.HEIGHT: 2 * SIZE[0], keys.WIDTH: 2 * SIZE[1]}
        return [{keys.IMAGE: picture(50 + i), keys.IMAGE_ID: f"city/{i}", **size}]


@pytest.fixture
def make(tiny_config: Any) -> Any:
    """Returns a function: keys of UDA.CVRN, other words -> config, strategy of ten iterations."""

    def build(*words: Any, **settings: Any) -> Any:
        chosen = [w for k, v in settings.items() for w in (f"UDA.CVRN.{k}", v)]
        cfg = tiny_config(*chosen, *words, name=LEAF)
        torch.manual_seed(0)
        model = build_model(cfg, build_training_losses(cfg)).train()
        return cfg, build_strategy("cvrn", model, cfg.UDA, seed=0, max_iter=10)

    return build


def step(strategy: Any, source: list[dict], target: list[dict], iteration: int) -> list[dict]:
    torch.manual_seed(iteration)
    optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.01)
    found = []
    for losses in strategy.training_losses(source, target, iteration):
        torch.stack(list(losses.values())).sum().backward()
        found.append({name: value.detach() for name, value in losses.items()})
    optimizer.step()
    optimizer.zero_grad()
    return found


def test_distance_by_hand_and_its_gradient() -> None:
    # (0.5, 0.5) from (0.75, 0.25) at one pixel, nothing at the other: mean of 0.25, 0.25, 0, 0.
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    known = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    known[0, 0, 0, 0] = np.log(3.0)
    assert probability_distance(logits, known).item() == pytest.approx(0.125)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=rng, requires_grad=True)
    known = torch.randn(2, 3, 3, 5, dtype=torch.float64, generator=rng)
    assert torch.autograd.gradcheck(lambda x: probability_distance(x, known), logits)


def test_proposals_are_pooled_again_on_the_view(make: Any) -> None:
    cfg, strategy = make()
    model = strategy.model
    images = model.images(batch_of(cfg, 0))
    other = torch.nn.functional.interpolate(images, size=(96, 64), mode="bilinear")
    with torch.no_grad():
        clean = model.outputs(model.features(images), SIZE)
    view = model.outputs(model.features(other), (96, 64))
    found = model.consistency_losses(clean, view, ConsistencySettings(20, 2.0, 3.0))
    given, seen = clean.private, view.private
    anchors = predict_anchors(model.proposal_generator, given.pyramid)
    boxes = [
        each.proposal_boxes.tensor[:20]
        for each in proposals_of(model.proposal_generator, anchors, given.size)
    ]
    moved = [each * torch.tensor([64 / 96, 96 / 64, 64 / 96, 96 / 64]) for each in boxes]
    heads = model.roi_heads
    classes = [
        predict_classes(heads, pyramid, each)[1].softmax(1)
        for pyramid, each in ((given.pyramid, boxes), (seen.pyramid, moved))
    ]
    masks = [
        predict_masks(heads, pyramid, each).sigmoid()
        for pyramid, each in ((given.pyramid, boxes), (seen.pyramid, moved))
    ]
    names = ("loss_roi_cls", "loss_roi_mask")
    for name, weight, (a, b) in zip(names, (2.0, 3.0), (classes, masks), strict=True):
        assert len(a) <= 40 and found[name].item() > 0
        assert found[name].item() == pytest.approx(weight * (a - b).abs().mean().item(), rel=1e-5)
    torch.stack(list(found.values())).sum().backward()
    for part in (model.backbone, model.neck, heads):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    # Proposals themselves are no prediction that follows another.
    assert all(p.grad is None for p in model.proposal_generator.parameters())
    same = model.consistency_losses(clean, clean, ConsistencySettings(20, 2.0, 3.0))
    assert all(value == 0 for value in same.values())


def test_distances_are_over_the_proposals_of_all_processes(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_that_remain = ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 9999, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 9999)
    cfg, strategy = make(*all_that_remain)
    model = strategy.model
    images = model.images(batch_of(cfg, 0))
    other = torch.nn.functional.interpolate(images, size=(96, 64), mode="bilinear")

    @torch.no_grad()
    def distances(part: slice) -> dict[str, Tensor]:
        clean = model.outputs(model.features(images[part]), SIZE)
        view = model.outputs(model.features(other[part]), (96, 64))
        return model.consistency_losses(clean, view, ConsistencySettings(9999, 1.0, 1.0))

    numbers: list[Tensor] = []
    monkeypatch.setattr(views, "all_reduce_sum", lambda value: numbers.append(value) or value)
    whole = distances(slice(2))
    for n in range(2):
        distances(slice(n, n + 1))
    assert numbers[2] != numbers[4], "the images must have different numbers of proposals"
    # Both processes know the sums over both.
    sums = iter([*numbers[:2], *numbers[:2]])
    monkeypatch.setattr(views, "all_reduce_sum", lambda value: next(sums))
    monkeypatch.setattr(views, "world_size", lambda: 2)
    parts = [distances(slice(n, n + 1)) for n in range(2)]
    for name, value in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value)


def test_steps_of_the_first_stage(make: Any, tmp_path: Path) -> None:
    cfg, strategy = make("UDA.WARM_UP", 0.2, CONSISTENCY_SHARE=0.5)
    first, second = strategy.stages()
    assert (first.name, second.name) == (CONSISTENCY, LABELLED)
    assert (first.last, second.first, second.last) == (5, 5, 10)
    strategy.prepare(first, Context(True, tmp_path))
    data = strategy.data(first)
    assert data.with_target and data.pseudo_labels is None
    target = batch_of(cfg, 9, labelled=False)
    assert len(step(strategy, batch_of(cfg, 0), target, 1)) == 1
    supervised, consistency = step(strategy, batch_of(cfg, 1), target, 2)
    heads = ("semantic", "roi_cls", "roi_box", "roi_mask", "rpn_cls", "rpn_loc")
    assert set(supervised) == {f"loss_{head}" for head in heads}
    assert set(consistency) == {
        *("consistency_loss_semantic", "consistency_loss_roi_cls", "consistency_loss_roi_mask")
    }
    assert all(value.isfinite() and value > 0 for value in consistency.values())
    # A source without things, and a network without instances.
    source = batch_of(cfg, 2, things=False)
    assert all(v.isfinite() for part in step(strategy, source, target, 3) for v in part.values())
    cfg, semantic = make("MODEL.SEMANTIC_ONLY", True)
    source = batch_of(cfg, 2)
    _, consistency = step(semantic, source, target, 3)
    assert set(consistency) == {"consistency_loss_semantic"}


def test_views_are_of_one_size_and_pictures_in_the_style_before(make: Any) -> None:
    cfg, strategy = make(SCALE_RANGE=(0.5, 2.0))
    sizes = {strategy._view_size((128, 256), i) for i in range(20)}
    assert len(sizes) > 5 and all(side % 32 == 0 for size in sizes for side in size)
    assert all(64 <= rows <= 256 and 128 <= columns <= 512 for rows, columns in sizes)
    target = batch_of(cfg, 9, labelled=False)
    styles = strategy.style.before(target)
    shown = strategy._shown(target, styles)
    # The very first picture of a run has none before it.
    assert torch.equal(shown[0][keys.IMAGE], target[0][keys.IMAGE].float())
    counts = torch.bincount(target[0][keys.IMAGE][0].flatten().long(), minlength=256)
    assert torch.equal(styles[1][0], counts)
    assert shown[1][keys.IMAGE].ne(target[1][keys.IMAGE]).any()
    _, plain = make(RESTYLE=False)
    assert plain._shown(target, styles) is target


def labelled(strategy: Any, folder: Path, limit: int = 100, fresh: bool = True) -> Any:
    strategy.prepare(strategy.stages()[-1], Context(fresh, folder, target=Images(limit)))
    return strategy.data(strategy.stages()[-1]).pseudo_labels


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def sure(strategy: Any) -> Any:
    """An untrained network is confident of no class; here each proposal is a car."""
    with torch.no_grad():
        predictor = strategy.model.roi_heads.box_predictor.cls_score
        predictor.bias[:] = 0
        predictor.bias[SPACE.thing_ids.index(CAR)] = 5
        strategy.model.sem_seg_head.predictor.weight *= 30
    return strategy


def test_labels_are_written_once_and_resumed(make: Any, tmp_path: Path) -> None:
    _, strategy = make()
    found = labelled(sure(strategy), tmp_path / "whole")
    assert found.image_ids == Images().ids() and found.class_pixels.shape == (3, 16)
    whole = files_of(tmp_path / "whole")
    folder = "pseudo_labels/labelled"
    assert set(whole) == {
        *(f"{folder}/{kind}/city/{i}.png" for kind in ("labels", "instances") for i in range(3)),
        *(f"{folder}/{name}" for name in ("thresholds.json", "pixels.npy", "round.json")),
    }
    # Nothing of a picture is on disk but its labels.
    assert sum(map(len, whole.values())) < 3 * 2 * 4 * SIZE[0] * SIZE[1]
    labels = cv2.imread(str(found.folder / "city/0.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (128, 192) and 0.1 < (labels != 255).mean() < 0.5
    thresholds = json.loads(whole[f"{folder}/thresholds.json"])
    assert thresholds["instances"][CAR] > 0
    assert all(0.5 <= t <= 0.9 for t in thresholds["instance_thresholds"])
    instances = [
        ids_of_colors(cv2.imread(str(found.instance_folder / f"city/{i}.png"))) for i in range(3)
    ]
    numbers = np.unique(np.concatenate([each.ravel() for each in instances]))
    assert {n // 1000 for n in numbers.tolist()} == {0, CAR + 1}
    # Killed after the first picture has been labelled (all three are looked at before).
    _, other = make()
    with pytest.raises(KeyboardInterrupt):
        labelled(sure(other), tmp_path / "parts", limit=4)
    assert len(list((tmp_path / "parts").rglob("labels/**/*.png"))) == 1
    labelled(other, tmp_path / "parts")
    assert files_of(tmp_path / "parts") == whole
    # Resumed inside the stage nothing is labelled; without the files that is an error.
    labelled(make()[1], tmp_path / "whole", limit=0, fresh=False)
    with pytest.raises(PseudoLabelError, match="does not hold its pseudo-labels"):
        labelled(make()[1], tmp_path / "gone", fresh=False)
    (tmp_path / f"parts/{folder}/thresholds.json").unlink()
    with pytest.raises(PseudoLabelError, match=r"thresholds\.json' is damaged"):
        labelled(make()[1], tmp_path / "parts", fresh=False)


def test_a_network_that_finds_nothing(make: Any, tmp_path: Path, monkeypatch: Any) -> None:
    _, strategy = make()
    detected = strategy.model.detected
    monkeypatch.setattr(
        strategy.model, "detected", lambda batch: [(logits, []) for logits, _ in detected(batch)]
    )
    found = labelled(strategy, tmp_path)
    written = [cv2.imread(str(found.instance_folder / f"city/{i}.png")) for i in range(3)]
    assert not any(each.any() for each in written) and found.class_pixels.sum() > 0
    # ... and a network without instances writes none.
    _, semantic = make("MODEL.SEMANTIC_ONLY", True)
    assert labelled(semantic, tmp_path / "semantic").instance_folder is None


def test_second_stage_learns_labels_and_resumes_exactly(make: Any, tmp_path: Path) -> None:
    cfg, strategy = make(PSEUDO_LOSS_WEIGHT=2.0, CONSISTENCY_SHARE=0.5)
    labelled(strategy, tmp_path)

    def target(seed: int, things: bool = True) -> list[dict]:
        samples = batch_of(cfg, seed, things=things)
        image = (keys.IMAGE, keys.DRAW)
        return [
            {
                **{k: s[k] for k in image},
                PSEUDO_LABELS: {k: v for k, v in s.items() if k not in image},
            }
            for s in samples
        ]

    _, pseudo = step(strategy, batch_of(cfg, 0), target(5), 5)
    assert "pseudo_loss_mrkld" in pseudo and "pseudo_loss_roi_mask" in pseudo
    assert {term for _, term, _ in strategy.weight_log} == {keys.TERM_SOURCE, keys.TERM_PSEUDO}
    # Another strategy that is given the state goes on as this one does, a picture without things
    # included.
    _, other = make(PSEUDO_LOSS_WEIGHT=2.0, CONSISTENCY_SHARE=0.5)
    other.model.load_state_dict(strategy.model.state_dict())
    other.model.weighted_losses.load_state_dict(strategy.model.weighted_losses.state_dict())
    for name, module in strategy.modules().items():
        other.modules()[name].load_state_dict(copy.deepcopy(module.state_dict()))
    labelled(other, tmp_path, limit=0, fresh=False)
    for each in (strategy, other):
        step(each, batch_of(cfg, 1), target(6, things=False), 6)
    a, b = strategy.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(strategy.style.last, other.style.last) and strategy.style.last.any()


def test_stages_that_are_left_out(make: Any) -> None:
    assert [s.name for s in make(CONSISTENCY_SHARE=1.0)[1].stages()] == [CONSISTENCY]
    assert [s.name for s in make(CONSISTENCY_SHARE=0.0)[1].stages()] == [LABELLED]


def test_a_warm_up_as_long_as_the_first_stage_is_refused(make: Any) -> None:
    told = "UDA.WARM_UP is 0.5, but the consistency stage ends at .*SHARE 0.5 of the run"
    with pytest.raises(UserError, match=told):
        make("UDA.WARM_UP", 0.5, CONSISTENCY_SHARE=0.5)
    make("UDA.WARM_UP", 0.5, CONSISTENCY_SHARE=0.0)


def test_networks_that_cannot_are_refused(tiny_config: Any) -> None:
    cfg = tiny_config(name="toy/panoptic_gbw uda/cvrn")
    with pytest.raises(
        UserError, match="asks of the network what GBWPanopticDeepLab cannot do"
    ) as e:
        build_strategy("cvrn", build_model(cfg), cfg.UDA, seed=0, max_iter=10)
    assert "consistency_losses, detected" in str(e.value) and "\n" not in str(e.value)
