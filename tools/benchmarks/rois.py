"""A training step with RoI heads, with Detectron2's losses and with ours on the same network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.recipe import random_samples
from torch import Tensor

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.engine.setup import resolve
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.targets.instances import INSTANCE_CLASSES, INSTANCE_NUMBERS

from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

Candidate = Callable[[], None]
# benchmark.report: candidates, repetitions, device, with memory or without -> rows of a table.
Report = Callable[[dict[str, Candidate], int, torch.device, bool], dict[str, dict[str, float]]]


def run_rois(
    report: Report,
    repetitions: int,
    device: torch.device,
    config_file: str,
    overrides: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """Benchmarks forward and backward passes of a labelled batch, Detectron2's losses first."""
    candidates = step_candidates(config_file, overrides, device)
    return {"step with RoI heads": report(candidates, repetitions, device, True)}


def step_candidates(
    config_file: str, overrides: Sequence[str], device: torch.device
) -> dict[str, Candidate]:
    """Makes a step with Detectron2's losses, with ours unweighted, and with ours as configured.

    Detectron2's ``Instances`` are made beforehand, as by its loader. Ours are a map of instance
    numbers, so that computing their boxes and masks is part of the step.

    Raises:
        UserError: the config's network has no RoI heads.
    """

    def build(*more: str) -> tuple[Any, Any]:
        cfg = load_config(config_file, [*overrides, "MODEL.DEVICE", str(device), *more])
        resolve(cfg)
        torch.manual_seed(0)
        return cfg, build_model(cfg, build_training_losses(cfg)).train()

    cfg, plain = build("WEIGHTING.NAME", "none")
    if getattr(plain, "roi_heads", None) is None:
        raise UserError(f"the network of '{config_file}' has no RoI heads; choose one that has")
    cfg_weighted, weighted = build()
    batch = random_samples(cfg, cfg.SOLVER.IMS_PER_BATCH)
    instances = [_instances(sample, device) for sample in batch]
    labels = torch.stack([sample[keys.SEM_SEG] for sample in batch]).to(device)

    def theirs() -> None:
        with EventStorage():
            _backward(plain, _detectron2_losses(plain, batch, instances, labels))

    return {
        "Detectron2's losses": theirs,
        "ours, no weights": lambda: _backward(plain, plain(batch)),
        f"ours, {cfg_weighted.WEIGHTING.NAME}": lambda: _backward(weighted, weighted(batch)),
    }


def _detectron2_losses(
    model: Any, batch: list[dict[str, Any]], instances: list[Instances], labels: Tensor
) -> dict[str, Tensor]:
    images = model.images(batch)
    features = model.features(images)
    features = {**features, **model.neck(features)}
    size = (images.shape[-2], images.shape[-1])
    logits = model.sem_seg_head.layers(features)
    dense = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    semantic = F.cross_entropy(dense, labels, ignore_index=IGNORE_LABEL)
    listed = ImageList(images, [size] * len(batch))
    proposals, losses = model.proposal_generator(listed, features, instances)
    _, of_heads = model.roi_heads(listed, features, proposals, instances)
    return {"semantic": semantic, **losses, **of_heads}


def _instances(sample: dict[str, Any], device: torch.device) -> Instances:
    numbers, classes = sample[INSTANCE_NUMBERS], sample[INSTANCE_CLASSES]
    masks = numbers == torch.arange(1, len(classes) + 1).view(-1, 1, 1)
    made = Instances(tuple(numbers.shape))
    made.gt_masks, made.gt_classes = BitMasks(masks), classes
    made.gt_boxes = Boxes(made.gt_masks.get_bounding_boxes().tensor)
    return made.to(device)


def _backward(model: torch.nn.Module, losses: dict[str, Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()
    model.zero_grad(set_to_none=True)
