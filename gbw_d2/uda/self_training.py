"""self_training: a teacher's pseudo-labels on images mixed of both domains (DACS, DAFormer)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.protocol import Features, Losses, Outputs, SegmentationModel, Targets
from gbw_d2.uda.parts import class_mix, ema
from gbw_d2.uda.parts.feature_distance import feature_distance, thing_cells
from gbw_d2.uda.parts.pseudo_labels import confidence_weights, pseudo_labels, rows_outside_margins
from gbw_d2.uda.parts.strong_augmentation import StrongAugmentation
from gbw_d2.uda.strategy import STRATEGIES, Batch, Context, RunSettings, Stage, Strategy, module_of


@STRATEGIES.register("self_training")
class SelfTraining(Strategy):
    """Learns from source labels, and from half-source, half-target images with pseudo-labels.

    Tranheden et al., DACS, WACV 2021, with the confidence weight, the feature distance and the
    schedule of Hoyer et al., DAFormer, CVPR 2022; docs/equations.md 10. Where this differs from
    their code, projects/SelfTraining/README.md says so and why. Class weighting acts on the source
    and on the mixed term.
    """

    needs_target = True

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        if settings.CONFIDENCE_PER not in ("batch", "image"):
            raise UserError(
                f"UDA.SELF_TRAINING.CONFIDENCE_PER is '{settings.CONFIDENCE_PER}'; expected "
                "batch or image"
            )
        margins = settings.IGNORE_TOP, settings.IGNORE_BOTTOM
        if min(margins) < 0 or sum(margins) >= 1:
            raise UserError(
                "UDA.SELF_TRAINING.IGNORE_TOP and IGNORE_BOTTOM are "
                f"{margins[0]} and {margins[1]}, shares of the image's rows; expected numbers >= 0 "
                "that leave some, 0 for none"
            )
        self.teacher = model.frozen_copy()
        has_distance = settings.FEATURE_DISTANCE_WEIGHT > 0
        self.initial_encoder = model.frozen_encoder() if has_distance else None
        self.augmentation = StrongAugmentation(
            settings.JITTER_STRENGTH,
            settings.JITTER_PROBABILITY,
            settings.BLUR_PROBABILITY,
            *settings.BLUR_SIGMA,
        )

    def prepare(self, stage: Stage, context: Context) -> None:
        """Makes the teacher, and the encoder of the feature distance, copies of the student."""
        if not context.fresh:
            return
        ema.update(module_of(self.teacher), module_of(self.model), 0.0)
        if self.initial_encoder is not None:
            initial = module_of(self.model.frozen_encoder()).state_dict()
            module_of(self.initial_encoder).load_state_dict(initial)

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the source losses with the feature distance, then those of the mixed images."""
        assert target is not None
        images, targets = self.model.images(source), self.model.targets(source)
        features = self.model.features(images)
        size = (images.shape[-2], images.shape[-1])
        outputs = self.model.outputs(features, size)
        losses = self.model.losses(outputs, targets, None, keys.TERM_SOURCE)
        if self.initial_encoder is not None:
            losses["loss_feature_distance"] = self._feature_distance(images, features, targets)
        yield losses
        if not self.adapts(iteration):
            return
        # Their graphs must not outlive the backward pass that has just run.
        del features, outputs, losses
        yield self._mixed_losses(source, images, targets, target)

    def after_step(self, iteration: int) -> None:
        """Moves the teacher towards the student."""
        decay = ema.ema_decay(iteration + 1, self.settings.EMA_DECAY)
        buffers = self.settings.EMA_BUFFERS
        ema.update(module_of(self.teacher), module_of(self.model), decay, buffers)

    def networks(self) -> dict[str, nn.Module]:
        """Adds the teacher."""
        return {**super().networks(), "teacher": module_of(self.teacher)}

    def modules(self) -> dict[str, nn.Module]:
        """Names the teacher, and the initial encoder where there is a feature distance."""
        modules = {"teacher": module_of(self.teacher)}
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
            targets[keys.SEM_SEG],
            (reference.shape[-2], reference.shape[-1]),
            [i for i, name in enumerate(space.class_names) if name in names],
            space.num_classes,
            self.settings.FEATURE_DISTANCE_SHARE,
        )
        weight = self.settings.FEATURE_DISTANCE_WEIGHT
        return weight * feature_distance(features[name], reference, cells)

    def _mixed_losses(
        self, source: Batch, images: Tensor, targets: Targets, target: Batch
    ) -> Losses:
        """Returns the losses of the mixed images, named ``mixed_...``."""
        target_images = self.model.images(target)
        if images.shape != target_images.shape:
            raise UserError(
                f"source and target batches are {tuple(images.shape)} and "
                f"{tuple(target_images.shape)}; mixing needs equal sizes: set INPUT.CROP_SIZE"
            )
        labels = targets[keys.SEM_SEG]
        size = (images.shape[-2], images.shape[-1])
        # Without instance targets the instance branch has nothing to learn from here: leave it out.
        with_instances = self.settings.INSTANCE_PSEUDO_LABELS and keys.CENTER in targets
        with torch.no_grad():
            taught = _outputs(self.teacher, target_images, size, with_instances)
            shift = self.model.pseudo_label_shift()
            pseudo, confidence = pseudo_labels(taught[keys.SEMANTIC_LOGITS], shift)
            weights = self._pixel_weights(confidence, target)
            mask = self._mask(source, labels)
            mixed_targets = {keys.SEM_SEG: class_mix.mix(mask, labels, pseudo)}
            if with_instances:
                taught_targets = self._instance_targets(taught, pseudo, confidence, weights)
                for key, value in taught_targets.items():
                    mixed_targets[key] = class_mix.mix(mask, targets[key], value)
            mixed_weights = class_mix.mix(mask, torch.ones_like(weights), weights)
            mixed = self._augmented(source, class_mix.mix(mask, images, target_images))
        del taught
        outputs = _outputs(self.model, mixed, size, with_instances)
        losses = self.model.losses(outputs, mixed_targets, mixed_weights, keys.TERM_MIXED)
        factor = self.settings.LOSS_WEIGHT
        return {f"mixed_{name}": factor * value for name, value in losses.items()}

    def _pixel_weights(self, confidence: Tensor, target: Batch) -> Tensor:
        s, kept = self.settings, None
        if s.IGNORE_TOP > 0 or s.IGNORE_BOTTOM > 0:
            if any(keys.IMAGE_ROWS not in sample for sample in target):
                raise ValueError(
                    f"a target sample has no '{keys.IMAGE_ROWS}', where its rows lie in the whole "
                    "image, which UDA.SELF_TRAINING.IGNORE_TOP and IGNORE_BOTTOM go by; "
                    "gbw_d2.data.mappers.TargetMapper gives it"
                )
            places = [sample[keys.IMAGE_ROWS] for sample in target]
            kept = rows_outside_margins(places, confidence.shape[1], s.IGNORE_TOP, s.IGNORE_BOTTOM)
            kept = kept.to(confidence.device, non_blocking=True)
        per_image = s.CONFIDENCE_PER == "image"
        return confidence_weights(confidence, s.CONFIDENCE_THRESHOLD, per_image, kept)

    def _mask(self, source: Batch, labels: Tensor) -> Tensor:
        rngs = self.generators("class mix", source)
        scores = class_mix.class_scores(rngs, self.model.label_space.num_classes)
        drawn = class_mix.drawn_classes(labels, scores.to(labels.device, non_blocking=True))
        return class_mix.mix_mask(labels, drawn)

    def _augmented(self, source: Batch, images: Tensor) -> Tensor:
        drawn = self.augmentation.draw(self.generators("strong augmentation", source))
        pictures = self.model.pictures(images).clamp(0, 1)
        drawn = drawn.to(images.device, non_blocking=True)
        return self.model.normalised(self.augmentation.apply(pictures, drawn))

    def _instance_targets(
        self, taught: Outputs, pseudo: Tensor, confidence: Tensor, weights: Tensor
    ) -> Targets:
        """Returns the teacher's centres and offsets as targets, with weight where it is confident.

        A pixel is confident where its class reaches CONFIDENCE_THRESHOLD, outside the margins.
        """
        space = self.model.label_space
        confident = (confidence >= self.settings.CONFIDENCE_THRESHOLD) & (weights > 0)
        is_thing = torch.zeros(space.num_classes, dtype=torch.bool)
        is_thing[list(space.thing_ids)] = True
        things = is_thing.to(pseudo.device, non_blocking=True)[pseudo]
        return {
            keys.CENTER: taught[keys.CENTER].squeeze(1).float().clamp(0, 1),
            keys.CENTER_WEIGHTS: confident.float(),
            keys.OFFSET: taught[keys.OFFSET].float(),
            keys.OFFSET_WEIGHTS: (confident & things).float(),
            keys.INSTANCE_CLASS: torch.where(things, pseudo, IGNORE_LABEL),
        }


def _outputs(
    model: SegmentationModel, images: Tensor, size: tuple[int, int], with_instances: bool
) -> Outputs:
    features = model.features(images)
    return (model.outputs if with_instances else model.semantic_outputs)(features, size)
