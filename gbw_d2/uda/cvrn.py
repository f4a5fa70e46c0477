"""cvrn: consistency between styles and between tasks (Huang et al., CVRN, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.keyed_random import keyed_rng
from gbw_d2.losses.regularisers import mrkld_loss
from gbw_d2.modeling.capabilities import ConsistencySettings
from gbw_d2.modeling.protocol import Losses, Outputs, SegmentationModel
from gbw_d2.uda.parts.cross_check_labeller import CrossCheckLabeller
from gbw_d2.uda.parts.pseudo_label_files import PseudoLabelError, RoundFiles
from gbw_d2.uda.parts.round_labeller import LabellingPolicy
from gbw_d2.uda.parts.style import StyleStream, restyled
from gbw_d2.uda.stages import PSEUDO_LABELS, Batch, Context, PseudoLabels, Stage, StageData
from gbw_d2.uda.strategy import STRATEGIES, RunSettings, Strategy, image_size, module_of

CONSISTENCY, LABELLED = "consistency", "labelled"
FOLDER = "pseudo_labels"

# Sides of rescaled views are multiples of this many pixels, the largest stride of an encoder.
_SIDE = 32


@STRATEGIES.register("cvrn")
class CrossViewRegularisation(Strategy):
    """Trains for consistency between styles and sizes, then on cross-checked pseudo-labels.

    Huang et al., Cross-View Regularization for Domain Adaptive Panoptic Segmentation, CVPR 2021,
    here with one network for both tasks; docs/equations.md 14. First stage (inter-style): the
    prediction on a restyled and rescaled target image is trained to equal that on the original
    image, for pixels and for proposals. Second stage (inter-task): the target gets pseudo-labels
    once, in which semantic labels and detections correct each other, and the network is trained on
    them. projects/CVRN/README.md lists the differences from the paper. Class weighting acts on the
    source term and the pseudo-label term.

    Args:
        model: the student.
        settings: ``UDA.CVRN``.
        run: the settings of the run that a strategy may use.

    Raises:
        UserError: the warm-up lasts as long as the first stage, or longer.
    """

    needs_target = True
    asks_for = ("consistency_losses", "detected")
    terms = (keys.TERM_SOURCE, keys.TERM_PSEUDO)
    own_thresholds = "thresholds that labelling finds per class (UDA.CVRN.PORTION)"

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        if 0 < settings.CONSISTENCY_SHARE <= run.warm_up:
            raise UserError(
                f"UDA.WARM_UP is {run.warm_up}, but the consistency stage ends at "
                f"UDA.CVRN.CONSISTENCY_SHARE {settings.CONSISTENCY_SHARE} of the run and would "
                "learn nothing from the target; set WARM_UP lower, or CONSISTENCY_SHARE 0"
            )
        self.style = StyleStream().to(next(module_of(model).parameters()).device)
        # The data of the second stage, while it is trained.
        self._files: RoundFiles | None = None
        self._images: Sequence[str] = ()

    def stages(self) -> Sequence[Stage]:
        """Returns the consistency and the pseudo-label stage, if they have iterations."""
        s = self.settings
        first = round(s.CONSISTENCY_SHARE * self.max_iter)
        stages = [
            Stage(CONSISTENCY, 0, first),
            Stage(LABELLED, first, self.max_iter, s.LR_FACTOR),
        ]
        return [stage for stage in stages if stage.first < stage.last]

    def prepare(self, stage: Stage, context: Context) -> None:
        """Makes the pseudo-labels of the second stage that do not exist yet.

        Raises:
            PseudoLabelError: the stage is resumed, but its pseudo-labels are missing.
        """
        self._files = None
        if stage.name != LABELLED:
            return
        files = RoundFiles(context.folder / FOLDER / stage.name)
        if context.fresh:
            self._label(files, context)
        if not files.summary():
            raise PseudoLabelError(
                f"the run resumes inside {stage.name}, but '{files.folder}' does not hold its "
                "pseudo-labels; copy them back, or resume from a checkpoint of an earlier stage"
            )
        chosen = files.chosen(self.model.label_space.num_classes)
        self._files, self._images = files, chosen["images"]

    def data(self, stage: Stage) -> StageData:
        """Returns which images a stage draws, and with which pseudo-labels."""
        files = self._files
        if files is None:
            return StageData(with_target=True)
        instances = files.instances if files.instances.is_dir() else None
        pixels = files.pixels(len(self._images), self.model.label_space.num_classes)
        labels = PseudoLabels(files.labels, self._images, pixels, instances)
        return StageData(with_target=True, pseudo_labels=labels)

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the losses of the restyled source, then those of consistency or pseudo-labels."""
        assert target is not None
        with torch.no_grad():
            styles = self.style.before(target)
        yield self.supervised_losses(self._shown(source, styles))
        shown = self._shown(target, styles)
        if self._files is not None:
            yield self._labelled_losses(target, shown)
        elif self.adapts(iteration):
            yield self._consistency_losses(target, shown, iteration)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the module that stores the style of the last target image."""
        return {"style": self.style}

    @torch.no_grad()
    def _shown(self, batch: Batch, styles: Tensor) -> Batch:
        return restyled(batch, styles) if self.settings.RESTYLE else batch

    def _consistency_losses(self, target: Batch, shown: Batch, iteration: int) -> Losses:
        """Returns the distances between predictions on view and image, ``consistency_...``."""
        s = self.settings
        images, other = self.model.images(target), self.model.images(shown)
        with torch.no_grad():
            clean = self._outputs_of(images, target)
            size = self._view_size(image_size(images), iteration)
            other = F.interpolate(other, size=size, mode="bilinear", align_corners=False)
        view = self._outputs_of(other, target)
        names = self.model.semantic_heads()
        pairs = zip(names, clean.predictions(), view.predictions(), strict=True)
        losses = {
            f"loss_{name}": s.SEMANTIC_WEIGHT * probability_distance(said.logits, known.logits)
            for name, known, said in pairs
        }
        settings = ConsistencySettings(s.PROPOSALS, s.CLASS_WEIGHT, s.MASK_WEIGHT)
        losses |= self.model.consistency_losses(clean, view, settings)
        return {f"consistency_{name}": value for name, value in losses.items()}

    def _outputs_of(self, images: Tensor, batch: Batch) -> Outputs:
        features = self.model.features(images, self.network_draws(batch))
        return self.model.outputs(features, image_size(images))

    def _view_size(self, size: tuple[int, int], iteration: int) -> tuple[int, int]:
        """Draws the size of the views, the same for all processes and parts of a batch."""
        scale = keyed_rng(self.seed, "cvrn scale", iteration).uniform(*self.settings.SCALE_RANGE)
        rows, columns = (max(1, round(side * scale / _SIDE)) * _SIDE for side in size)
        return rows, columns

    def _labelled_losses(self, target: Batch, shown: Batch) -> Losses:
        """Returns the losses of pseudo-labels on restyled target images, ``pseudo_...``."""
        targets = self.model.targets([sample[PSEUDO_LABELS] for sample in target])
        outputs = self.outputs(shown, targets.has_instances)
        losses = self.model.losses(outputs, targets, None, keys.TERM_PSEUDO, self.weight_log)
        if self.settings.MRKLD_WEIGHT > 0:
            assert targets.semantic is not None
            value = mrkld_loss(outputs.semantic.dense(), targets.semantic)
            losses["loss_mrkld"] = self.settings.MRKLD_WEIGHT * value
        return {f"pseudo_{k}": self.settings.PSEUDO_LOSS_WEIGHT * v for k, v in losses.items()}

    def _label(self, files: RoundFiles, context: Context) -> None:
        s = self.settings
        policy = LabellingPolicy(
            policy="class_balanced",
            portion=s.PORTION,
            min_pixels_per_class=1,
            target_portion=1.0,
            instance_pseudo_labels=s.INSTANCE_PSEUDO_LABELS,
        )
        shift = self.model.pseudo_label_shift()
        CrossCheckLabeller(self.model, policy, None, shift, files, context).label(0)


def probability_distance(logits: Tensor, known: Tensor) -> Tensor:
    """Computes the mean over pixels and classes of |softmax(logits) - softmax(known)|.

    Args:
        logits: (N, K, h, w); they are resized bilinearly to the size of ``known``.
        known: (N, K, h', w'), without gradient.
    """
    size = (known.shape[-2], known.shape[-1])
    wide, fixed = (x if x.dtype == torch.float64 else x.float() for x in (logits, known))
    moved = F.interpolate(wide, size=size, mode="bilinear", align_corners=False)
    return (moved.softmax(1) - fixed.softmax(1)).abs().mean()
