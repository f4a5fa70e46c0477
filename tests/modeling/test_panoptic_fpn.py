"""GBWPanopticFPN: losses against Detectron2's own, and images with few or no objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gbw_d2 import keys
from gbw_d2.engine.build import architecture, build_model
from gbw_d2.label_spaces import LABEL_SPACES

from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

SPACE = LABEL_SPACES.get("cityscapes_16")
SIZE = (64, 128)
CAR, PERSON = (SPACE.class_names.index(name) for name in ("car", "person"))


@pytest.fixture
def make(tiny_config: Any) -> Any:
    """Returns a function: overrides -> config and network of the small Panoptic FPN."""

    def build(*overrides: Any) -> Any:
        cfg = tiny_config(*overrides, name="toy/panoptic_gbw models/panoptic_fpn_tiny")
        torch.manual_seed(0)
        return cfg, build_model(cfg).train()

    return build


def sample_of(cfg: Any, segments: np.ndarray, categories: list[int], seed: int = 0) -> dict:
    info = [{"id": i + 1, "category_id": c, "iscrowd": 0} for i, c in enumerate(categories)]
    classes = np.array([0, *categories])[segments].astype(np.uint8)
    road = [{"id": 1000, "category_id": 0, "iscrowd": 0}]
    segments = np.where(segments == 0, 1000, segments)
    made = architecture(cfg).target_generator(cfg, SPACE)(classes, segments, road + info)
    image = np.random.default_rng(seed).integers(0, 256, (3, *SIZE), np.uint8)
    return {
        keys.IMAGE: torch.from_numpy(image),
        keys.SEM_SEG: torch.from_numpy(classes.astype(np.int64)),
        **made,
    }


def cars_and_a_person(cfg: Any, seed: int = 0) -> dict:
    segments = np.zeros(SIZE, np.int64)
    segments[20:40, 10:50], segments[25:35, 44:60], segments[30:58, 90:100] = 1, 2, 3
    return sample_of(cfg, segments, [CAR, CAR, PERSON], seed)


def losses_of(model: Any, batch: list[dict], draws: Any = None) -> dict[str, torch.Tensor]:
    outputs = model.outputs(model.features(model.images(batch), draws), SIZE)
    return model.losses(outputs, model.targets(batch), None, keys.TERM_SOURCE)


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_are_detectron2s(make: Any, agnostic: bool) -> None:
    cfg, model = make(
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic),
        # All anchors and proposals, so that no draw is left to chance.
        *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 20_000, "MODEL.RPN.POSITIVE_FRACTION", 0.5),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1_000),
    )
    batch = [cars_and_a_person(cfg, 0), cars_and_a_person(cfg, 1)]
    ours = losses_of(model, batch)

    images = model.images(batch)
    pyramid = model.neck(model.features(images))
    instances = []
    for sample in batch:
        numbers = sample["instance_numbers"]
        masks = torch.stack([numbers == i for i in (1, 2, 3)])
        each = Instances(SIZE)
        each.gt_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor)
        each.gt_classes, each.gt_masks = sample["instance_classes"], BitMasks(masks)
        instances.append(each)
    listed = ImageList(images, [SIZE] * 2)
    with EventStorage():
        proposals, theirs = model.proposal_generator(listed, pyramid, instances)
        _, heads = model.roi_heads(listed, pyramid, proposals, instances)
    theirs |= heads
    names = {"roi_cls": "cls", "roi_box": "box_reg", "roi_mask": "mask"}
    names |= {"rpn_cls": "rpn_cls", "rpn_loc": "rpn_loc"}
    for one, two in names.items():
        torch.testing.assert_close(ours[f"loss_{one}"], theirs[f"loss_{two}"])
        assert ours[f"loss_{one}"] > 0


@pytest.mark.parametrize("count", [0, 1, 300])
def test_none_one_pixel_and_many_instances(make: Any, count: int) -> None:
    cfg, model = make()
    segments = np.zeros(SIZE, np.int64)
    places = np.arange(count) * 27
    segments.reshape(-1)[places] = np.arange(count) + 1
    batch = [sample_of(cfg, segments, [CAR] * count), cars_and_a_person(cfg)]
    losses = losses_of(model, batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    # A picture without things switches nothing off for the other.
    assert losses["loss_roi_mask"] > 0 and losses["loss_rpn_loc"] > 0


def test_a_batch_without_things_teaches_background_alone(make: Any) -> None:
    cfg, model = make()
    losses = losses_of(model, [sample_of(cfg, np.zeros(SIZE, np.int64), [])])
    assert losses["loss_roi_cls"] > 0 and losses["loss_rpn_cls"] > 0
    assert losses["loss_roi_box"] == losses["loss_roi_mask"] == losses["loss_rpn_loc"] == 0


def test_rois_are_drawn_by_their_images_generators(make: Any) -> None:
    cfg, model = make("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8)
    batch = [cars_and_a_person(cfg)]

    def drawn(seed: int, noise: int) -> float:
        torch.manual_seed(noise)
        return losses_of(model, batch, [np.random.default_rng(seed)])["loss_roi_cls"].item()

    assert drawn(1, 5) == drawn(1, 6)
    assert len({drawn(seed, 5) for seed in range(4)}) > 1


# Operators whose result has a shape, or is a number, that depends on values.
_LOOKS_AT_VALUES = {"_local_scalar_dense", "nonzero", "_unique2", "nms", "repeat_interleave"}


class CountedWaits(TorchDispatchMode):
    """Counts operators for which the host would wait for a device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        by_mask = name.startswith(("index", "_index")) and any(
            index is not None and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        self.count += by_mask or name in _LOOKS_AT_VALUES
        return func(*args, **(kwargs or {}))


def test_waits_of_a_step_are_those_declared(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few proposals that suppression is one call, as for any number of them on a GPU.
    cfg, model = make("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50)
    copies: list[Any] = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda t, *a: copies.append(t.shape) or original(t, *a)
    )
    for images, expected in ((1, model.waits_per_step), (2, model.waits_per_step + 4)):
        batch = [cars_and_a_person(cfg, seed) for seed in range(images)]
        targets = model.targets(batch)
        outputs = model.outputs(model.features(model.images(batch)), SIZE)
        copies.clear()
        with CountedWaits() as waits:
            model._rois(outputs.private, targets.private)
        assert len(copies) == 1 and waits.count + 1 == expected


def test_without_instances_there_is_no_branch(make: Any) -> None:
    _, model = make("MODEL.SEMANTIC_ONLY", True)
    assert model.roi_heads is None and model.proposal_generator is None and model.neck is None


def test_a_picture_of_any_size_is_padded_and_merged(make: Any) -> None:
    _, model = make("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0)
    assert model.size_divisibility == 16
    image = torch.randint(0, 256, (3, 50, 75), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model.eval()([{keys.IMAGE: image, keys.HEIGHT: 100, keys.WIDTH: 150}])
    segments, table = result[keys.PANOPTIC_SEG]
    assert segments.shape == (100, 150) and result[keys.SEM_SEG].shape == (16, 100, 150)
    assert {s["id"] for s in table} == set(segments.unique().tolist()) - {0}
