"""mask_teacher: self-training on a mean teacher's segments (MC-PanDA and MC-PanDA++)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import Losses, SegmentationModel, SegmentWorth, TaughtSegments
from gbw_d2.ops.masks import mix
from gbw_d2.ops.owners import at_owners, owner_shares
from gbw_d2.uda.parts import ema
from gbw_d2.uda.parts.class_thresholds import build_thresholds
from gbw_d2.uda.parts.segment_mix import segment_mask
from gbw_d2.uda.parts.strong_augmentation import StrongAugmentation
from gbw_d2.uda.stages import Batch, Context, Stage
from gbw_d2.uda.strategy import STRATEGIES, RunSettings, Strategy, image_size, module_of

logger = logging.getLogger(__name__)

# Number of steps without any segment after which a warning is logged.
_PATIENCE = 100
SOURCE, ADAPTATION = "source", "adaptation"


@STRATEGIES.register("mask_teacher")
class MaskTeacher(Strategy):
    """Trains on source segments, and on a teacher's target segments with source segments pasted on.

    The loss of a segment is weighted by the segment's share of confident pixels: for mask
    classifiers the loss of its mask, for networks that classify pixels the loss at each of its
    pixels.

    Martinovic et al., MC-PanDA, ECCV 2024, and MC-PanDA++, IJCV 2026; docs/equations.md 13. The
    keys choose one stage or three: source training, a new student under the frozen result, a mean
    teacher. projects/MC-PanDA/README.md lists the differences from code and papers.
    """

    needs_target = True
    asks_for = ("taught_segments", "segment_targets")
    terms = (keys.TERM_SOURCE, keys.TERM_MIXED)
    own_thresholds = "UDA.MASK_TEACHER.THRESHOLDS"

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        if settings.NO_OBJECT not in ("all", "confident"):
            raise UserError(
                f"UDA.MASK_TEACHER.NO_OBJECT is '{settings.NO_OBJECT}'; expected all or confident"
            )
        if settings.SOURCE_SHARE + settings.BURN_IN_SHARE >= 1:
            raise UserError(
                f"UDA.MASK_TEACHER.SOURCE_SHARE {settings.SOURCE_SHARE} and BURN_IN_SHARE "
                f"{settings.BURN_IN_SHARE} leave nothing of the run for the teacher's mean; "
                "expected a sum below 1"
            )
        self.source_iterations = round(settings.SOURCE_SHARE * self.max_iter)
        self.burn_in_end = self.source_iterations + round(settings.BURN_IN_SHARE * self.max_iter)
        if settings.RESTART and 0 < self.source_iterations == self.burn_in_end:
            raise UserError(
                f"UDA.MASK_TEACHER.RESTART is True, but BURN_IN_SHARE {settings.BURN_IN_SHARE} of "
                f"SOLVER.MAX_ITER {self.max_iter} is no burn-in: the teacher's mean would mix what "
                "the source stage has learned with a new student's weights; make BURN_IN_SHARE or "
                "the run larger, or set RESTART False"
            )
        self.teacher = model.frozen_copy()
        # The initial weights that the new student starts from; only runs with a source stage need
        # them.
        self.start = model.frozen_copy() if self.source_iterations and settings.RESTART else None
        self.thresholds = build_thresholds(
            settings, model.label_space.num_classes, self.max_iter, "UDA.MASK_TEACHER"
        ).to(next(module_of(model).parameters()).device)
        self.augmentation = StrongAugmentation(
            settings.JITTER_STRENGTH,
            settings.JITTER_PROBABILITY,
            settings.BLUR_PROBABILITY,
            *settings.BLUR_SIGMA,
        )
        # Pixels of the teacher's segments in the last steps, and how many steps these are.
        self._pixels: Tensor | int = 0
        self._steps = 0

    @classmethod
    def needs_weights(cls, settings: Any) -> str:
        """Burn-in needs a trained teacher: from the source stage, or from MODEL.WEIGHTS."""
        if settings.SOURCE_SHARE > 0 or settings.BURN_IN_SHARE == 0:
            return ""
        return (
            f"UDA.MASK_TEACHER.BURN_IN_SHARE is {settings.BURN_IN_SHARE}, but SOURCE_SHARE is 0 "
            "and MODEL.WEIGHTS is not a whole trained network, so the frozen teacher would be "
            "untrained; set SOURCE_SHARE, set MODEL.WEIGHTS to a whole network, or set "
            "BURN_IN_SHARE to 0"
        )

    @classmethod
    def needs_instances(cls, settings: Any) -> str:
        """Source segments are pasted."""
        return "UDA.NAME mask_teacher"

    def stages(self) -> Sequence[Stage]:
        """Returns source training (if SOURCE_SHARE > 0), and self-training with its burn-in."""
        if not self.source_iterations:
            return [Stage(ADAPTATION, 0, self.max_iter)]
        return [
            Stage(SOURCE, 0, self.source_iterations),
            Stage(ADAPTATION, self.source_iterations, self.max_iter),
        ]

    def marks(self) -> dict[str, int]:
        """Adds the end of burn-in."""
        moving = {"the teacher's mean (UDA.MASK_TEACHER.BURN_IN_SHARE)": self.burn_in_end}
        return super().marks() | moving

    def prepare(self, stage: Stage, context: Context) -> None:
        """Copies the student to the teacher, and resets the student after the source stage."""
        if not context.fresh:
            return
        student = module_of(self.model)
        ema.update(module_of(self.teacher), student, 0.0)
        if self.start is None:
            return
        if stage.name == SOURCE:
            ema.update(module_of(self.start), student, 0.0)
        else:
            student.load_state_dict(module_of(self.start).state_dict())

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the losses of the source, then of target images with pasted source segments."""
        assert target is not None
        yield self.supervised_losses(source)
        if iteration >= self.source_iterations and self.adapts(iteration):
            yield self._target_losses(source, target, iteration)

    def after_step(self, iteration: int) -> None:
        """Updates the teacher, which is frozen during burn-in and then copied from the student."""
        if iteration < self.source_iterations:
            return
        if self.adapts(iteration):
            self._look()
        done = iteration + 1 - self.burn_in_end
        if done < 0:
            return
        decay = ema.ema_decay(done, self.settings.EMA_DECAY)
        buffers = self.settings.EMA_BUFFERS
        ema.update(module_of(self.teacher), module_of(self.model), decay, buffers)

    def networks(self) -> dict[str, nn.Module]:
        """Adds the teacher."""
        return {**super().networks(), "teacher": module_of(self.teacher)}

    def modules(self) -> dict[str, nn.Module]:
        """Returns the teacher, the thresholds, and the student's initial weights."""
        modules = {"teacher": module_of(self.teacher), "thresholds": self.thresholds}
        return modules if self.start is None else {**modules, "start": module_of(self.start)}

    def _target_losses(self, source: Batch, target: Batch, iteration: int) -> Losses:
        """Returns the losses of the target images, named ``target_...``."""
        with torch.no_grad():
            images, pasted = self.model.images(target), self.model.images(source)
            if images.shape != pasted.shape:
                raise UserError(
                    f"source and target batches are {tuple(pasted.shape)} and "
                    f"{tuple(images.shape)}; mixing needs equal sizes: set INPUT.CROP_SIZE"
                )
            features = self.teacher.features(images)
            outputs = self.teacher.outputs(features, image_size(images))
            found = self.teacher.taught_segments(outputs, self.model.pseudo_label_shift())
            self._pixels = self._pixels + (found.owners > 0).sum()
            worth = self._worth(found)
            taught = self.model.segment_targets(found, worth)
            mask = self._mask(source, images)
            # The weights of pixel losses; masks have their own weights.
            weights = mix(mask, torch.ones_like(worth.pixels), worth.pixels)
            targets = self.model.mix_targets(mask, self.model.targets(source), taught)
            # Source pixels are pasted without augmentation: only target pixels are augmented.
            shown = mix(mask, pasted, self._augmented(target, images))
            del features, outputs
        features = self.model.features(shown, self.network_draws(target, keys.TERM_MIXED))
        predicted = self.model.outputs(features, image_size(shown))
        losses = self.model.losses(predicted, targets, weights, keys.TERM_MIXED, self.weight_log)
        factor = self.settings.LOSS_WEIGHT
        return {f"target_{name}": factor * value for name, value in losses.items()}

    def _worth(self, found: TaughtSegments) -> SegmentWorth:
        """Returns the weights of a teacher's segments: mask-wide scaling and confident points."""
        s = self.settings
        self.thresholds.take(found.classes, found.owners, found.confidence)
        limits = at_owners(self.thresholds.of(found.classes), found.owners)
        everywhere = torch.ones_like(found.owners, dtype=torch.bool)
        reliable = found.confidence > limits if s.MASK_SCALING else everywhere
        usable = found.greatest >= s.POINT_THRESHOLD
        share = usable.float().mean((1, 2))
        counted = usable if s.POINT_FILTERING else everywhere
        shares = owner_shares(found.owners, found.classes.shape[1], reliable)
        return SegmentWorth(
            reliable,
            counted,
            share if s.NO_OBJECT == "confident" else torch.ones_like(share),
            s.LEAST_AREA,
            at_owners(shares, found.owners) * counted,
        )

    def _mask(self, source: Batch, images: Tensor) -> Tensor:
        """Returns (N, H, W) bool, the pixels of the source segments that are pasted."""
        rngs = self.generators("segment mix", source)
        masks = [
            segment_mask(sample[keys.SEGMENTS].numpy(), sample[keys.SEGMENTS_INFO], rng)
            for sample, rng in zip(source, rngs, strict=True)
        ]
        # Batches are padded at the right and the bottom; nothing is pasted on the padding.
        whole = np.zeros((len(masks), *image_size(images)), dtype=bool)
        for place, mask in zip(whole, masks, strict=True):
            place[: mask.shape[0], : mask.shape[1]] = mask
        return torch.from_numpy(whole).to(images.device, non_blocking=True)

    def _augmented(self, target: Batch, images: Tensor) -> Tensor:
        drawn = self.augmentation.draw(self.generators("strong augmentation", target))
        pictures = self.model.pictures(images).clamp(0, 1)
        drawn = drawn.to(images.device, non_blocking=True)
        return self.model.normalised(self.augmentation.apply(pictures, drawn))

    def _look(self) -> None:
        """Logs a warning if the teacher has found no segment in a hundred steps."""
        self._steps += 1
        if self._steps < _PATIENCE:
            return
        if int(self._pixels) == 0:
            logger.warning(
                "The teacher found no segment in the last %d steps: lower the network's class "
                "threshold (of a mask classifier MODEL.MASK2FORMER.CLASS_THRESHOLD), or train "
                "longer on the source (SOLVER.MAX_ITER, UDA.WARM_UP, "
                "UDA.MASK_TEACHER.SOURCE_SHARE)",
                _PATIENCE,
            )
        self._pixels, self._steps = 0, 0
