"""cbst: self-training in rounds with class-balanced pseudo-labels (ST, CBST, CRST)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.losses.regularisers import lrent_soft_labels, mrkld_loss, soft_cross_entropy
from gbw_d2.modeling.protocol import Losses, Outputs, SegmentationModel, Targets
from gbw_d2.uda.parts import ema
from gbw_d2.uda.parts.pseudo_label_files import PseudoLabelError, RoundFiles
from gbw_d2.uda.parts.round_labeller import POLICIES, LabellingPolicy, RoundLabeller
from gbw_d2.uda.parts.spatial_prior import spatial_prior
from gbw_d2.uda.stages import PSEUDO_LABELS, Batch, Context, Mining, PseudoLabels, Stage, StageData
from gbw_d2.uda.strategy import STRATEGIES, RunSettings, Strategy, image_size, module_of

FOLDER = "pseudo_labels"

REGULARISERS = ("none", "mrkld", "lrent")


@STRATEGIES.register("cbst")
class ClassBalancedSelfTraining(Strategy):
    """Trains on the source, then in rounds on the source and on pseudo-labels of the target.

    Zou et al., CBST, ECCV 2018, and CRST, ICCV 2019; docs/equations.md 11. A round labels the
    target with the student's weights at the round's start: pixels whose confidence exceeds a
    threshold, one per class (CBST) or one for all classes (ST). Then it trains the student on both
    domains with equal weight per labelled pixel. Where this differs from the authors' code,
    projects/CBST/README.md says so and why. Class weighting acts on the source term and the
    pseudo-label term; LRENT's labels are soft, so its term is not weighted.

    Pseudo-labels depend only on the student at the round's start and are written once: a run that
    is killed during labelling resumes with the missing images, and a run that is killed during
    training finds all of them.

    Args:
        model: the student.
        settings: ``UDA.CBST``.
        run: the settings of the run that a strategy may use.

    Raises:
        UserError: unknown names, or settings that exclude each other; numbers: gbw_d2/ranges.py.
    """

    needs_target = True
    # The target comes in with the first round: UDA.CBST.WARM_UP.
    follows_warm_up = False
    terms = (keys.TERM_SOURCE, keys.TERM_PSEUDO)
    has_pseudo_labels = True
    own_thresholds = "thresholds that each round finds per class (UDA.CBST.POLICY, PORTION_START)"

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        _check(settings)
        self.labeller = model.frozen_copy() if settings.REGULARISER == "lrent" else None
        self._target_losses = {
            "none": self._hard_losses,
            "mrkld": self._mrkld_losses,
            "lrent": self._lrent_losses,
        }[settings.REGULARISER]
        # The files of the round that is being trained.
        self._files: RoundFiles | None = None
        self._chosen: dict[str, Any] = {}
        self._thresholds: Tensor | None = None
        # The logit adjustment of pseudo-labels, as it was at the round's start.
        self._shift: Tensor | None = None

    @classmethod
    def terms_without_semantics(cls, settings: Any) -> dict[str, str]:
        """Returns the pseudo-label term under LRENT, whose soft labels have a loss of their own."""
        soft = settings.REGULARISER == "lrent" and settings.INSTANCE_PSEUDO_LABELS
        made_by = "UDA.CBST.REGULARISER lrent with INSTANCE_PSEUDO_LABELS True"
        return {keys.TERM_PSEUDO: made_by} if soft else {}

    def stages(self) -> list[Stage]:
        """Returns the warm-up, where there is one, and the rounds."""
        s = self.settings
        first = round(s.WARM_UP * self.max_iter)
        rest = self.max_iter - first
        if rest < s.ROUNDS:
            raise UserError(
                f"SOLVER.MAX_ITER {self.max_iter} leaves {rest} iterations after the warm-up "
                f"(UDA.CBST.WARM_UP {s.WARM_UP}) for {s.ROUNDS} rounds; make the run longer"
            )
        stages = [Stage("warm_up", 0, first)] if first else []
        for number in range(s.ROUNDS):
            start, end = (first + rest * n // s.ROUNDS for n in (number, number + 1))
            factor = s.LR_FACTOR * s.LR_DECAY**number
            stages.append(Stage(f"round_{number}", start, end, factor))
        return stages

    def prepare(self, stage: Stage, context: Context) -> None:
        """Makes the pseudo-labels of a round that do not exist yet.

        Raises:
            PseudoLabelError: a round is resumed, but its pseudo-labels are missing.
        """
        self._files, self._chosen, self._thresholds, self._shift = None, {}, None, None
        number = _round_of(stage)
        if number is None:
            return
        files = RoundFiles(context.folder / FOLDER / stage.name)
        if context.fresh:
            self._label(number, files, context)
            if self.labeller is not None:
                ema.update(module_of(self.labeller), module_of(self.model), 0.0)
        if not files.summary():
            raise PseudoLabelError(
                f"the run resumes inside {stage.name}, but '{files.folder}' does not hold its "
                "pseudo-labels; copy them back, or resume from a checkpoint of an earlier stage"
            )
        self._files, self._chosen = files, files.chosen(self.model.label_space.num_classes)
        self._thresholds = torch.tensor(self._chosen["thresholds"], device=self._device())
        self._shift = self._shift_of(self._chosen["key"])

    def data(self, stage: Stage) -> StageData:
        """Returns which images a stage draws, with which pseudo-labels and crops."""
        number = _round_of(stage)
        if number is None:
            return StageData(with_target=False)
        assert self._files is not None, "prepare() comes first"
        return StageData(
            with_target=True,
            source_portion=self._grown("SOURCE_PORTION", number),
            pseudo_labels=PseudoLabels(
                self._files.labels,
                self._chosen["images"],
                self._files.pixels(len(self._chosen["images"]), self.model.label_space.num_classes),
                # The folder exists where the network predicts instances.
                self._files.instances if self._files.instances.is_dir() else None,
            ),
            mining=self._mining(np.array(self._chosen["predicted"])),
        )

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the losses of the source and, in a round, of pseudo-labels and masked images."""
        yield self.supervised_losses(source)
        if target is None:
            return
        targets = self.model.targets([sample[PSEUDO_LABELS] for sample in target])
        # The instance branch runs only where instances have pseudo-labels.
        outputs = self.outputs(target, targets.has_instances)
        losses = self._target_losses(target, outputs, targets)
        yield {f"pseudo_{k}": self.settings.LOSS_WEIGHT * v for k, v in losses.items()}
        if self.masked is not None:
            # Their graphs must be freed after the backward pass that has just run.
            del outputs, losses
            yield self.masked_losses(target, self.model.images(target), targets, None)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the network that makes LRENT's soft labels: the student at the round's start."""
        return {} if self.labeller is None else {"labeller": module_of(self.labeller)}

    def _hard_losses(self, target: Batch, outputs: Outputs, targets: Targets) -> Losses:
        return self.model.losses(outputs, targets, None, keys.TERM_PSEUDO, self.weight_log)

    def _mrkld_losses(self, target: Batch, outputs: Outputs, targets: Targets) -> Losses:
        losses = self._hard_losses(target, outputs, targets)
        assert targets.semantic is not None
        value = mrkld_loss(outputs.semantic.dense(), targets.semantic)
        return {**losses, "loss_mrkld": self.settings.MRKLD_WEIGHT * value}

    def _lrent_losses(self, target: Batch, outputs: Outputs, targets: Targets) -> Losses:
        assert self.labeller is not None and self._thresholds is not None
        with torch.no_grad():
            images = self.model.images(target)
            features = self.labeller.features(images)
            taught = self.labeller.outputs(features, image_size(images), instances=False)
            logits = taught.semantic.dense()
            if self._shift is not None:
                logits = logits.float() + self._shift.view(1, -1, 1, 1)
            soft, kept = lrent_soft_labels(logits, self._thresholds, self.settings.LRENT_ALPHA)
        loss = soft_cross_entropy(outputs.semantic.dense(), soft, kept)
        rest = replace(targets, semantic=None)
        return {"loss_lrent": loss, **self._hard_losses(target, outputs, rest)}

    def _shift_of(self, key: dict[str, Any]) -> Tensor | None:
        shift = key["logit_shift"]
        return torch.tensor(shift, device=self._device()) if shift else None

    def _device(self) -> torch.device:
        return next(module_of(self.model).parameters()).device

    def _grown(self, name: str, number: int) -> float:
        """Returns the portion ``name`` of a round, which grows per round up to its limit."""
        start, step, most = (self.settings[f"{name}_{end}"] for end in ("START", "STEP", "MAX"))
        return min(start + number * step, most)

    def _mining(self, predicted: np.ndarray) -> Mining | None:
        s = self.settings
        if s.MINING_PROBABILITY == 0:
            return None
        rare = np.flatnonzero(predicted < s.MINING_SHARE * predicted.sum())
        rarest = predicted.argsort(kind="stable")[: s.MINING_CLASSES]
        return Mining(s.MINING_PROBABILITY, rare.tolist(), sorted(rarest.tolist()))

    def _label(self, number: int, files: RoundFiles, context: Context) -> None:
        """Writes those of a round's thresholds and pseudo-labels that are missing."""
        s = self.settings
        policy = LabellingPolicy(
            policy=s.POLICY,
            portion=self._grown("PORTION", number),
            min_pixels_per_class=s.MIN_PIXELS_PER_CLASS,
            target_portion=s.TARGET_PORTION,
            instance_pseudo_labels=s.INSTANCE_PSEUDO_LABELS,
        )
        prior = None
        if s.SPATIAL_PRIOR:
            prior = spatial_prior(context.source_positions(), s.PRIOR_KERNEL)
        shift = self.model.pseudo_label_shift()
        RoundLabeller(self.model, policy, prior, shift, files, context).label(number)


def _round_of(stage: Stage) -> int | None:
    """Returns a round's number, or None for the warm-up."""
    word, _, number = stage.name.rpartition("_")
    return int(number) if word == "round" else None


def _check(settings: Any) -> None:
    """Raises UserError for unknown names and settings that exclude each other."""
    for name, known in (("POLICY", tuple(POLICIES)), ("REGULARISER", REGULARISERS)):
        if settings[name] not in known:
            raise UserError(
                f"UDA.CBST.{name} is '{settings[name]}'; expected one of {', '.join(known)}"
            )
    if settings.REGULARISER == "lrent" and settings.SPATIAL_PRIOR:
        raise UserError(
            "UDA.CBST.REGULARISER lrent makes soft labels of crops, to which a spatial prior does "
            "not apply; set SPATIAL_PRIOR False, or another regulariser"
        )
