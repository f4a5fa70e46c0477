"""A network unlike those of the package, defined and registered in this one file.

Each pixel predicts an embedding of four numbers; things with near embeddings are one instance. Its
loss, its targets and its YAML text are below.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import (
    compat,  # noqa: F401  (repairs come before Detectron2)
    keys,
)
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES, LabelSpace
from gbw_d2.losses import ClassWeightedCrossEntropy, WeightedLoss, in_order
from gbw_d2.modeling.plain_losses import plain_losses
from gbw_d2.modeling.protocol import HeadSpec, Outputs, SemanticPrediction, Targets
from gbw_d2.modeling.views import merged_maps
from gbw_d2.ops.masks import mix
from gbw_d2.ops.segments import segment_attributes
from gbw_d2.weighting import WeightLog, element_statistics
from gbw_d2.weighting.pixels import per_pixel, prepare_labels

from detectron2.modeling import META_ARCH_REGISTRY

YAML = """
_BASE_: {root}/configs/toy/panoptic_gbw.yaml
VERSION: 2
MODEL:
  META_ARCHITECTURE: EmbeddingNet
WEIGHTING:
  HEADS: ["all"]
  WEIGHTS_FROM: []
UDA:
  WARM_UP: 0.0
  SELF_TRAINING:
    INSTANCE_PSEUDO_LABELS: True
  CBST:
    ROUNDS: 1
    MINING_PROBABILITY: 0.0
INPUT:
  CROP_SIZE: (64, 128)
SOLVER:
  MAX_ITER: 2
  LR_ITERS: 2
  LOG_PERIOD: 1
  CHECKPOINT_PERIOD: 1
DATALOADER:
  NUM_WORKERS: 0
TEST:
  EVAL_PERIOD: 0
"""

EMBEDDING, OWNER = "embedding", "owner"


class EmbeddingLoss(WeightedLoss):
    """1 / pixels of things sum_i w_{c(i)} |e_i - t_i|^2 over the pixels of things."""

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        owner: Tensor,
        term: str = keys.TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        place = torch.full((self.num_classes + 1,), len(self.class_ids))
        place[list(self.class_ids)] = torch.arange(len(self.class_ids))
        targets, invalid = prepare_labels(owner, self.num_classes, self.ignore_index)
        things = place[targets]
        errors = (prediction - target).square().sum(1)
        statistics = element_statistics(
            errors.detach(), 4 * errors.detach(), things, invalid, self.scheme.num_classes
        )
        weights = per_pixel(self.class_weights(statistics, term, log), things)
        return (weights * errors).sum() / (things < len(self.class_ids)).sum().clamp(min=1)


@dataclass(frozen=True)
class EmbeddingTargets:
    """Computes centre and extent of each thing, relative to the crop, at each of its pixels."""

    thing_ids: tuple[int, ...]

    def __call__(
        self,
        class_map: np.ndarray,
        segment_map: np.ndarray | None,
        segments_info: Sequence[Mapping[str, Any]],
    ) -> dict[str, Tensor]:
        if segment_map is None:
            return {}
        numbers, categories, crowds = segment_attributes(segment_map, segments_info)
        wanted = np.isin(categories, self.thing_ids) & ~crowds
        codes = np.zeros((4, len(categories)), np.float32)
        for number in np.flatnonzero(wanted):
            places = np.argwhere(numbers == number) / numbers.shape
            if len(places):
                codes[:, number] = *places.mean(0), *places.std(0)
        owner = np.where(wanted, categories, IGNORE_LABEL)[numbers]
        return {
            EMBEDDING: torch.from_numpy(codes[:, numbers]),
            OWNER: torch.from_numpy(owner.astype(np.int64)),
        }


@META_ARCH_REGISTRY.register()
class EmbeddingNet(nn.Module):
    """Two convolutions, a semantic classifier and an embedding, without parts of Detectron2."""

    waits_per_step = 0

    def __init__(self, cfg: Any, weighted_losses: Any = None) -> None:
        super().__init__()
        self.label_space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
        classes = self.label_space.num_classes
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Conv2d(8, classes, 1)
        self.embedder = None if cfg.MODEL.SEMANTIC_ONLY else nn.Conv2d(8, 4, 3, 1, 1)
        if weighted_losses is None:
            weighted_losses = plain_losses(self.heads(cfg, self.label_space), classes)
        self.__dict__["weighted_losses"] = weighted_losses

    @classmethod
    def heads(cls, cfg: Any, space: LabelSpace) -> dict[str, HeadSpec]:
        heads = {
            "pixels": HeadSpec(ClassWeightedCrossEntropy, tuple(range(space.num_classes)), True)
        }
        if cls.predicts_instances(cfg):
            heads[EMBEDDING] = HeadSpec(EmbeddingLoss, space.thing_ids)
        return heads

    @classmethod
    def predicts_instances(cls, cfg: Any) -> bool:
        return not cfg.MODEL.SEMANTIC_ONLY

    @classmethod
    def target_generator(cls, cfg: Any, space: LabelSpace) -> EmbeddingTargets:
        return EmbeddingTargets(space.thing_ids)

    def semantic_heads(self) -> tuple[str, ...]:
        return ("pixels",)

    def images(self, batch: Sequence[Mapping[str, Any]]) -> Tensor:
        return self.normalised(torch.stack([s[keys.IMAGE] for s in batch]) / 255)

    def normalised(self, pictures: Tensor) -> Tensor:
        return pictures * 2 - 1

    def pictures(self, images: Tensor) -> Tensor:
        return (images + 1) / 2

    def targets(self, batch: Sequence[Mapping[str, Any]]) -> Targets:
        def stacked(key: str) -> Tensor | None:
            return torch.stack([s[key] for s in batch]) if key in batch[0] else None

        own = {key: stacked(key) for key in (EMBEDDING, OWNER) if key in batch[0]}
        return Targets(stacked(keys.SEM_SEG), None, own or None)

    def features(self, images: Tensor, draws: Any = None) -> dict[str, Tensor]:
        return {"stem": self.backbone(images)}

    def outputs(
        self, features: dict[str, Tensor], image_size: tuple[int, int], instances: bool = True
    ) -> Outputs:
        stem, embedding = features["stem"], None
        if instances and self.embedder is not None:
            low = self.embedder(stem)
            embedding = F.interpolate(low, size=image_size, mode="bilinear", align_corners=False)
        return Outputs(SemanticPrediction(self.classifier(stem), image_size, stem), None, embedding)

    def losses(
        self, outputs: Outputs, targets: Targets, pixel_weights: Any, term: str, log: Any = None
    ) -> dict[str, Tensor]:
        calls = {}
        if targets.semantic is not None:
            calls["pixels"] = partial(
                *(self.weighted_losses["pixels"], outputs.semantic.dense(), targets.semantic),
                *(pixel_weights, outputs.semantic.classifier, term, log),
            )
        if targets.private is not None and outputs.private is not None:
            wanted = targets.private
            calls[EMBEDDING] = partial(
                *(self.weighted_losses[EMBEDDING], outputs.private),
                *(wanted[EMBEDDING], wanted[OWNER], term, log),
            )
        return {f"loss_{k}": v for k, v in in_order(self.weighted_losses, calls).items()}

    def pseudo_targets(self, outputs: Outputs, pseudo_labels: Any) -> Targets:
        if outputs.private is None:
            return Targets(pseudo_labels.labels)
        things = torch.zeros(self.label_space.num_classes, dtype=torch.bool)
        things[list(self.label_space.thing_ids)] = True
        sure = things[pseudo_labels.labels] & pseudo_labels.confident
        owner = torch.where(sure, pseudo_labels.labels, IGNORE_LABEL)
        return Targets(pseudo_labels.labels, None, {EMBEDDING: outputs.private, OWNER: owner})

    def mix_targets(self, mask: Tensor, source: Targets, target: Targets) -> Targets:
        own = None
        if source.private is not None and target.private is not None:
            own = {k: mix(mask, source.private[k], v) for k, v in target.private.items()}
        return Targets(mix(mask, source.semantic, target.semantic), None, own)

    def pseudo_label_shift(self) -> Tensor | None:
        return self.weighted_losses["pixels"].scheme.pseudo_label_shift()

    def frozen_copy(self) -> EmbeddingNet:
        copied = copy.deepcopy(self).requires_grad_(False).eval()
        copied.__dict__["weighted_losses"] = None
        return copied

    def frozen_encoder(self) -> Any:
        encoder = copy.deepcopy(self.backbone).requires_grad_(False).eval()

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, images: Tensor) -> dict[str, Tensor]:
                return {"stem": self.encoder(images)}

        return Encoder()

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        results = []
        for sample in batch:
            images = self.images([sample])
            size = tuple(images.shape[-2:])
            maps = self._maps(self.outputs(self.features(images), size))
            results.append(self._result({k: v[0] for k, v in maps.items()}, size, sample))
        return results

    def _maps(self, outputs: Outputs) -> dict[str, Tensor]:
        own = {} if outputs.private is None else {EMBEDDING: outputs.private}
        return {"logits": outputs.semantic.dense(), **own}

    def merge_views(self, views: Any, image_size: Any, sample: Any) -> dict[str, Any]:
        return self._result(
            merged_maps(views, image_size, self._maps, "logits"), image_size, sample
        )

    def export_outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(self.normalised(images / 255))
        return self._maps(self.outputs(features, tuple(images.shape[-2:])))

    def _result(self, maps: dict[str, Tensor], size: Any, sample: Any) -> dict[str, Any]:
        file_size = (sample.get(keys.HEIGHT, size[0]), sample.get(keys.WIDTH, size[1]))
        maps = {
            k: F.interpolate(v[None], file_size, mode="bilinear", align_corners=False)[0]
            for k, v in maps.items()
        }
        result = {keys.SEM_SEG: maps["logits"]}
        if EMBEDDING in maps:
            result[keys.PANOPTIC_SEG] = self._clustered(maps["logits"], maps[EMBEDDING])
        return result

    def _clustered(self, logits: Tensor, embedding: Tensor) -> tuple[Tensor, list[dict]]:
        """Makes segments: stuff by class, things by the nearest mean embedding of a cell."""
        probability, classes = logits.softmax(0).max(0)
        segments, info = torch.zeros(classes.shape, dtype=torch.int32), []

        def add(mask: Tensor, category: int, is_thing: bool) -> None:
            number = len(info) + 1
            segments[mask] = number
            score = probability[mask].mean().item()
            info.append(
                {"id": number, "category_id": category, "isthing": is_thing, "score": score}
                | {"area": int(mask.sum()), "iscrowd": 0}
            )

        for category in classes.unique().tolist():
            mask = classes == category
            if category not in self.label_space.thing_ids:
                add(mask, category, False)
                continue
            vectors = embedding[:, mask].T
            _, cell = (vectors * 4).round().unique(dim=0, return_inverse=True)
            cells = F.one_hot(cell).float()
            centroids = (cells.T @ vectors) / cells.sum(0)[:, None]
            nearest = torch.cdist(vectors, centroids).argmin(1)
            for number in nearest.unique().tolist():
                instance = torch.zeros_like(mask)
                instance[mask] = nearest == number
                add(instance, category, True)
        return segments, info
