"""self_training: a teacher's pseudo-labels on images mixed of both domains (DACS, DAFormer)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.capabilities import full_worth
from gbw_d2.modeling.protocol import (
    Features,
    Losses,
    PixelPseudoLabels,
    SegmentationModel,
    Targets,
)
from gbw_d2.ops.masks import mix
from gbw_d2.ops.owners import at_owners
from gbw_d2.uda.parts import class_mix, ema
from gbw_d2.uda.parts.class_thresholds import build_thresholds
from gbw_d2.uda.parts.feature_distance import feature_distance, thing_cells
from gbw_d2.uda.parts.label_confidence import PER, label_weights
from gbw_d2.uda.parts.pseudo_labels import pseudo_labels, rows_outside_margins
from gbw_d2.uda.parts.strong_augmentation import StrongAugmentation
from gbw_d2.uda.stages import Batch, Context, Stage
from gbw_d2.uda.strategy import STRATEGIES, RunSettings, Strategy, image_size, module_of


@dataclass(frozen=True)
class Taught:
    """A teacher's pseudo-labels of a target batch.

    Args:
        images: (N, 3, H, W), the batch's normalised images.
        targets: the pseudo-labels.
        weights: (N, H, W) float32 weights of the pseudo-labels, 0..1.
        where: (N, H, W) bool, pixels of the things to paste on source images, or None.
        things: the targets of these things.
    """

    images: Tensor
    targets: Targets
    weights: Tensor
    where: Tensor | None = None
    things: Targets | None = None


@STRATEGIES.register("self_training")
class SelfTraining(Strategy):
    """Trains on source labels, and on mixed source and target images with pseudo-labels.

    Tranheden et al., DACS, WACV 2021, with the confidence weight, the feature distance and the
    schedule of Hoyer et al., DAFormer, CVPR 2022; docs/equations.md 10.
    projects/SelfTraining/README.md lists the differences from their code. Class weighting acts on
    the source term, the mixed term and, with UDA.MASKED_CONSISTENCY, the masked term. The instance
    mixing of LIDAPS (WACV 2025) in the last part of the run is optional and has a term of its own.
    """

    needs_target = True
    terms = (keys.TERM_SOURCE, keys.TERM_MIXED)
    has_pseudo_labels = True

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        if settings.CONFIDENCE_PER not in PER:
            raise UserError(
                f"UDA.SELF_TRAINING.CONFIDENCE_PER is '{settings.CONFIDENCE_PER}'; expected "
                f"{', '.join(PER[:-1])} or {PER[-1]}"
            )
        margins = settings.IGNORE_TOP, settings.IGNORE_BOTTOM
        if min(margins) < 0 or sum(margins) >= 1:
            raise UserError(
                "UDA.SELF_TRAINING.IGNORE_TOP and IGNORE_BOTTOM are "
                f"{margins[0]} and {margins[1]}, shares of the image's rows; expected numbers >= 0 "
                "that leave some, 0 for none"
            )
        if settings.INSTANCE_MIX_WEIGHT > 0 and not hasattr(model, "taught_segments"):
            raise UserError(
                f"UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT is {settings.INSTANCE_MIX_WEIGHT}, but "
                f"{type(model).__name__} cannot teach by segments (taught_segments); set it to 0"
            )
        self.teacher = model.frozen_copy()
        has_distance = settings.FEATURE_DISTANCE_WEIGHT > 0
        self.initial_encoder = model.frozen_encoder() if has_distance else None
        device = next(module_of(model).parameters()).device
        self.thresholds = build_thresholds(
            settings, model.label_space.num_classes, self.max_iter, "UDA.SELF_TRAINING"
        ).to(device)
        is_thing = torch.zeros(IGNORE_LABEL + 1, dtype=torch.bool)
        is_thing[list(model.label_space.thing_ids)] = True
        self._is_thing = is_thing.to(device)
        self.augmentation = StrongAugmentation(
            settings.JITTER_STRENGTH,
            settings.JITTER_PROBABILITY,
            settings.BLUR_PROBABILITY,
            *settings.BLUR_SIGMA,
        )

    @classmethod
    def loss_terms(cls, settings: Any) -> tuple[str, ...]:
        """Adds the term of pasted instances where instance mixing is on."""
        return (*cls.terms, keys.TERM_PASTED) if settings.INSTANCE_MIX_WEIGHT > 0 else cls.terms

    @classmethod
    def terms_without_semantics(cls, settings: Any) -> dict[str, str]:
        """Returns the term of pasted instances, which has losses of the instance heads alone."""
        made_by = cls.needs_instances(settings)
        return {keys.TERM_PASTED: made_by} if made_by else {}

    @classmethod
    def needs_instances(cls, settings: Any) -> str:
        """Instance mixing pastes them."""
        weight = settings.INSTANCE_MIX_WEIGHT
        return f"UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT {weight}" if weight > 0 else ""

    def pastes_instances(self, iteration: int) -> bool:
        """True in the last part of the run, where instance mixing is on."""
        s = self.settings
        first = self.max_iter - round(s.INSTANCE_MIX_SHARE * self.max_iter)
        return s.INSTANCE_MIX_WEIGHT > 0 and iteration >= first

    def prepare(self, stage: Stage, context: Context) -> None:
        """Copies the student to the teacher, and to the encoder of the feature distance."""
        if not context.fresh:
            return
        ema.update(module_of(self.teacher), module_of(self.model), 0.0)
        if self.initial_encoder is not None:
            initial = module_of(self.model.frozen_encoder()).state_dict()
            module_of(self.initial_encoder).load_state_dict(initial)

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the source's losses with the feature distance, then those of mixed images."""
        assert target is not None
        images, targets = self.model.images(source), self.model.targets(source)
        features = self.model.features(images, self.network_draws(source))
        outputs = self.model.outputs(features, image_size(images))
        losses = self.model.losses(outputs, targets, None, keys.TERM_SOURCE, self.weight_log)
        if self.initial_encoder is not None:
            losses["loss_feature_distance"] = self._feature_distance(images, features, targets)
        yield losses
        if not self.adapts(iteration):
            return
        # Their graphs must be freed after the backward pass that has just run.
        del features, outputs, losses
        # Without instance targets the instance branch has no loss here, so it is not run.
        instances = self.settings.INSTANCE_PSEUDO_LABELS and targets.has_instances
        taught = self._taught(target, instances, self.pastes_instances(iteration))
        yield self._mixed_losses(source, images, targets, taught)
        if taught.things is not None:
            yield self._pasted_losses(source, images, targets, taught)
        if self.masked is not None:
            seen = self._augmented("masked augmentation", target, taught.images)
            yield self.masked_losses(target, seen, taught.targets, taught.weights)

    def after_step(self, iteration: int) -> None:
        """Updates the teacher's running mean of the student's weights."""
        decay = ema.ema_decay(iteration + 1, self.settings.EMA_DECAY)
        buffers = self.settings.EMA_BUFFERS
        ema.update(module_of(self.teacher), module_of(self.model), decay, buffers)

    def networks(self) -> dict[str, nn.Module]:
        """Adds the teacher."""
        return {**super().networks(), "teacher": module_of(self.teacher)}

    def modules(self) -> dict[str, nn.Module]:
        """Returns the teacher, other parts with state, and the encoder of the feature distance."""
        modules = {"teacher": module_of(self.teacher)}
        if self.thresholds.is_adaptive:
            modules["thresholds"] = self.thresholds
        if self.initial_encoder is not None:
            modules["initial_encoder"] = module_of(self.initial_encoder)
        return modules

    def _feature_distance(self, images: Tensor, features: Features, targets: Targets) -> Tensor:
        assert self.initial_encoder is not None
        name = self.settings.FEATURE_DISTANCE_MAP or list(features)[-1]
        if name not in features:
            raise UserError(
                f"UDA.SELF_TRAINING.FEATURE_DISTANCE_MAP is '{name}'; the encoder gives "
                f"{', '.join(features)}"
            )
        with torch.no_grad():
            reference = self.initial_encoder(images)[name]
        space = self.model.label_space
        names = self.settings.FEATURE_DISTANCE_CLASSES
        cells = thing_cells(
            targets.semantic,
            (reference.shape[-2], reference.shape[-1]),
            [i for i, name in enumerate(space.class_names) if name in names],
            space.num_classes,
            self.settings.FEATURE_DISTANCE_SHARE,
        )
        weight = self.settings.FEATURE_DISTANCE_WEIGHT
        return weight * feature_distance(features[name], reference, cells)

    @torch.no_grad()
    def _taught(self, target: Batch, instances: bool, pasted: bool) -> Taught:
        """Makes the pseudo-labels of target images without strong augmentation.

        Args:
            target: the samples.
            instances: whether the instance heads are trained on pseudo-labels.
            pasted: whether things are pasted on source images.
        """
        images = self.model.images(target)
        features = self.teacher.features(images)
        outputs = self.teacher.outputs(features, image_size(images), instances or pasted)
        shift = self.model.pseudo_label_shift()
        labels, confidence = pseudo_labels(outputs.semantic.dense(), shift)
        rows = self._kept_rows(confidence, target)
        weights = label_weights(
            labels, confidence, self.thresholds, self.settings.CONFIDENCE_PER, rows
        )
        everywhere = torch.ones_like(confidence, dtype=torch.bool)
        kept = everywhere if rows is None else everywhere & rows.unsqueeze(2)
        pixels = PixelPseudoLabels(labels, confidence, kept, self.thresholds.values)
        targets = self.model.pseudo_targets(outputs, pixels)
        if not instances:
            targets = replace(targets, private=None)
        if not pasted:
            return Taught(images, targets, weights)
        found = self.teacher.taught_segments(outputs, shift, self.settings.INSTANCE_MIX_SCORE)
        where = self._is_thing[at_owners(found.classes, found.owners)]
        things = self.model.segment_targets(found, full_worth(found))
        return Taught(images, targets, weights, where, things)

    def _mixed_losses(
        self, source: Batch, images: Tensor, targets: Targets, taught: Taught
    ) -> Losses:
        """Returns the losses of the mixed images, named ``mixed_...``."""
        if images.shape != taught.images.shape:
            raise UserError(
                f"source and target batches are {tuple(images.shape)} and "
                f"{tuple(taught.images.shape)}; mixing needs equal sizes: set INPUT.CROP_SIZE"
            )
        assert targets.semantic is not None
        with torch.no_grad():
            mask = self._mask(source, targets.semantic)
            mixed_targets = self.model.mix_targets(mask, targets, taught.targets)
            mixed_weights = mix(mask, torch.ones_like(taught.weights), taught.weights)
            pasted = mix(mask, images, taught.images)
            mixed = self._augmented("strong augmentation", source, pasted)
        features = self.model.features(mixed, self.network_draws(source, keys.TERM_MIXED))
        instances = taught.targets.has_instances
        outputs = self.model.outputs(features, image_size(images), instances)
        losses = self.model.losses(
            outputs, mixed_targets, mixed_weights, keys.TERM_MIXED, self.weight_log
        )
        factor = self.settings.LOSS_WEIGHT
        return {f"mixed_{name}": factor * value for name, value in losses.items()}

    def _kept_rows(self, confidence: Tensor, target: Batch) -> Tensor | None:
        """Returns (N, H) bool, the rows whose pseudo-labels are used, or None for all."""
        s = self.settings
        if s.IGNORE_TOP == 0 and s.IGNORE_BOTTOM == 0:
            return None
        if any(keys.IMAGE_ROWS not in sample for sample in target):
            raise ValueError(
                f"a target sample has no '{keys.IMAGE_ROWS}', where its rows lie in the whole "
                "image, which UDA.SELF_TRAINING.IGNORE_TOP and IGNORE_BOTTOM go by; "
                "gbw_d2.data.mappers.TargetMapper gives it"
            )
        places = [sample[keys.IMAGE_ROWS] for sample in target]
        kept = rows_outside_margins(places, confidence.shape[1], s.IGNORE_TOP, s.IGNORE_BOTTOM)
        return kept.to(confidence.device, non_blocking=True)

    def _pasted_losses(
        self, source: Batch, images: Tensor, targets: Targets, taught: Taught
    ) -> Losses:
        """Returns the instance losses of source images with pasted things, ``pasted_...``."""
        assert taught.where is not None and taught.things is not None
        with torch.no_grad():
            shown = mix(taught.where, taught.images, images)
            pasted = self.model.mix_targets(taught.where, taught.things, targets)
            pasted = replace(pasted, semantic=None)
        features = self.model.features(shown, self.network_draws(source, keys.TERM_PASTED))
        outputs = self.model.outputs(features, image_size(shown))
        losses = self.model.losses(outputs, pasted, None, keys.TERM_PASTED, self.weight_log)
        factor = self.settings.INSTANCE_MIX_WEIGHT
        return {f"pasted_{name}": factor * value for name, value in losses.items()}

    def _mask(self, source: Batch, labels: Tensor) -> Tensor:
        rngs = self.generators("class mix", source)
        scores = class_mix.class_scores(rngs, self.model.label_space.num_classes)
        drawn = class_mix.drawn_classes(labels, scores.to(labels.device, non_blocking=True))
        return class_mix.mix_mask(labels, drawn)

    def _augmented(self, purpose: str, batch: Batch, images: Tensor) -> Tensor:
        drawn = self.augmentation.draw(self.generators(purpose, batch))
        pictures = self.model.pictures(images).clamp(0, 1)
        drawn = drawn.to(images.device, non_blocking=True)
        return self.model.normalised(self.augmentation.apply(pictures, drawn))
