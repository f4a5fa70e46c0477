"""cbst: rounds of class-balanced pseudo-labels and of training on them (ST, CBST, CRST)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.data.label_spaces import IGNORE_LABEL
from gbw_d2.errors import UserError
from gbw_d2.losses.regularisers import lrent_soft_labels, mrkld_loss, soft_cross_entropy
from gbw_d2.modeling.protocol import Losses, Outputs, SegmentationModel, Targets
from gbw_d2.uda.parts import ema, labelling, round_summary
from gbw_d2.uda.parts.class_histogram import ConfidenceHistograms
from gbw_d2.uda.parts.pseudo_label_files import PseudoLabelError, RoundFiles, weights_digest
from gbw_d2.uda.parts.spatial_prior import PriorAtSize, spatial_prior, version_of
from gbw_d2.uda.strategy import (
    PSEUDO_LABELS,
    STRATEGIES,
    Batch,
    Context,
    Mining,
    PseudoLabels,
    RunSettings,
    Stage,
    StageData,
    Strategy,
    module_of,
)
from gbw_d2.weighting.distributed import all_reduce_sum

logger = logging.getLogger(__name__)

FOLDER = "pseudo_labels"

# UDA.CBST.POLICY -> thresholds of the histograms for a portion and a least number of pixels.
POLICIES: dict[str, Callable[[ConfidenceHistograms, float, int], Tensor]] = {
    "class_balanced": ConfidenceHistograms.class_balanced_thresholds,
    "global": lambda histograms, portion, _: histograms.global_thresholds(portion),
}
REGULARISERS = ("none", "mrkld", "lrent")


@STRATEGIES.register("cbst")
class ClassBalancedSelfTraining(Strategy):
    """Trains on the source, then in rounds on the source and on pseudo-labels of the target.

    Zou et al., CBST, ECCV 2018, and CRST, ICCV 2019; docs/equations.md 11. A round labels the
    target with the student as it is at the round's start: pixels that are more confident than a
    threshold, of each class (CBST) or of all (ST); then it trains the student on both domains with
    equal weight per labelled pixel. Where this differs from the authors' code,
    projects/CBST/README.md says so and why. Class weighting acts on the source and on the pseudo
    term; LRENT's soft labels have no class, so its term is not weighted.

    Labels depend on the student at the round's start alone and are written once: a run that is
    killed while it labels goes on with the images that are missing, and one that is killed while it
    trains finds them complete.

    Args:
        model: the student.
        settings: ``UDA.CBST``.
        run: what it may know of the run.

    Raises:
        UserError: settings out of range, or that exclude each other.
    """

    needs_target = True

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        _check(settings)
        self.labeller = model.frozen_copy() if settings.REGULARISER == "lrent" else None
        self._target_losses = {
            "none": self._hard_losses,
            "mrkld": self._mrkld_losses,
            "lrent": self._lrent_losses,
        }[settings.REGULARISER]
        # Of the round that is being trained.
        self._files: RoundFiles | None = None
        self._chosen: dict[str, Any] = {}
        self._thresholds: Tensor | None = None
        # What is added to the logits that labels are made of, as it was at the round's start.
        self._shift: Tensor | None = None

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
        """Labels the target for a round, as far as that has not been done.

        Raises:
            PseudoLabelError: a round is resumed, but its labels are gone.
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
                f"the run goes on inside {stage.name}, but '{files.folder}' does not hold its "
                "pseudo-labels; copy them back, or resume from a checkpoint of an earlier stage"
            )
        self._files, self._chosen = files, files.thresholds()
        self._thresholds = torch.tensor(self._chosen["thresholds"], device=self._device())
        self._shift = self._shift_of(self._chosen["key"])

    def data(self, stage: Stage) -> StageData:
        """Says which images a stage draws, with which pseudo-labels and which crops."""
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
                self._files.pixels(),
                # There where the network predicts instances.
                self._files.instances if self._files.instances.is_dir() else None,
            ),
            mining=self._mining(np.array(self._chosen["predicted"])),
        )

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the source losses, and in a round those of the pseudo-labels."""
        yield self.supervised_losses(source)
        if target is None:
            return
        images = self.model.images(target)
        targets = self.model.targets([sample[PSEUDO_LABELS] for sample in target])
        # The instance branch runs where instances were labelled.
        heads = self.model.outputs if keys.CENTER in targets else self.model.semantic_outputs
        outputs = heads(self.model.features(images), (images.shape[-2], images.shape[-1]))
        losses = self._target_losses(images, outputs, targets)
        yield {f"pseudo_{k}": self.settings.LOSS_WEIGHT * v for k, v in losses.items()}

    def modules(self) -> dict[str, nn.Module]:
        """Names the network that gives LRENT's soft labels: the student at the round's start."""
        return {} if self.labeller is None else {"labeller": module_of(self.labeller)}

    def _hard_losses(self, images: Tensor, outputs: Outputs, targets: Targets) -> Losses:
        return self.model.losses(outputs, targets, None, keys.TERM_PSEUDO)

    def _mrkld_losses(self, images: Tensor, outputs: Outputs, targets: Targets) -> Losses:
        losses = self._hard_losses(images, outputs, targets)
        value = mrkld_loss(outputs[keys.SEMANTIC_LOGITS], targets[keys.SEM_SEG])
        return {**losses, "loss_mrkld": self.settings.MRKLD_WEIGHT * value}

    def _lrent_losses(self, images: Tensor, outputs: Outputs, targets: Targets) -> Losses:
        assert self.labeller is not None and self._thresholds is not None
        with torch.no_grad():
            size = (images.shape[-2], images.shape[-1])
            taught = self.labeller.semantic_outputs(self.labeller.features(images), size)
            logits = taught[keys.SEMANTIC_LOGITS]
            if self._shift is not None:
                logits = logits.float() + self._shift.view(1, -1, 1, 1)
            soft, kept = lrent_soft_labels(logits, self._thresholds, self.settings.LRENT_ALPHA)
        loss = soft_cross_entropy(outputs[keys.SEMANTIC_LOGITS], soft, kept)
        rest = {key: value for key, value in targets.items() if key != keys.SEM_SEG}
        return {"loss_lrent": loss, **self._hard_losses(images, outputs, rest)}

    def _shift_of(self, key: dict[str, Any]) -> Tensor | None:
        shift = key["logit_shift"]
        return torch.tensor(shift, device=self._device()) if shift else None

    def _device(self) -> torch.device:
        return next(module_of(self.model).parameters()).device

    def _grown(self, name: str, number: int) -> float:
        """Returns the portion ``name`` of a round: its start and a step per round, limited."""
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
        """Writes thresholds and labels of a round, or what of them is missing."""
        prior, shift = self._prior(context), self.model.pseudo_label_shift()
        key = {
            "weights": weights_digest(module_of(self.model)),
            "policy": self.settings.POLICY,
            "portion": self._grown("PORTION", number),
            "min_pixels_per_class": self.settings.MIN_PIXELS_PER_CLASS,
            "target_portion": self.settings.TARGET_PORTION,
            "instance_pseudo_labels": self.settings.INSTANCE_PSEUDO_LABELS,
            "prior": version_of(prior),
            "logit_shift": [] if shift is None else shift.tolist(),
            "images": hashlib.sha256("\n".join(context.target.ids()).encode()).hexdigest()[:24],
        }
        found = 0
        if context.is_main:
            files.start(key)
            found = bool(files.thresholds()) + bool(files.summary())
        # Files may be seen late by other processes, so the first one says what there is.
        found = int(all_reduce_sum(torch.tensor(found, device=self._device())))
        if found == 2:
            logger.info("Pseudo-labels of round %d are there: %s", number, files.folder)
            return
        priors = PriorAtSize(prior, self._device())
        self._shift = self._shift_of(key)
        with _evaluating(module_of(self.model)):
            if found == 0:
                chosen = self._find_thresholds(key["portion"], priors, context)
                if context.is_main:
                    files.write_thresholds({"key": key, "round": number, **chosen})
            else:
                chosen = files.thresholds()
            pixels = self._write_labels(files, chosen, priors, context)
        if context.is_main:
            files.finish(pixels, self._summary(number, key, chosen, pixels))
        self._wait()

    def _wait(self) -> None:
        """Lets all processes come here before any goes on."""
        all_reduce_sum(torch.zeros(1, device=self._device()))

    def _prior(self, context: Context) -> Tensor | None:
        if not self.settings.SPATIAL_PRIOR:
            return None
        counts = context.source_positions()
        return spatial_prior(counts, self.settings.PRIOR_KERNEL)

    def _look_at(
        self, batches: Iterable[Batch], look: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Calls ``look`` with each image's id and the network's result, at the file's size."""
        for number, batch in enumerate(batches, start=1):
            with torch.no_grad():
                results = self.model(batch)
            for sample, result in zip(batch, results, strict=True):
                look(sample[keys.IMAGE_ID], result)
            # The logits of an image must be gone when the next one comes.
            del results, result
            if number % 200 == 0:
                logger.info("%d target images", number)

    def _find_thresholds(
        self, portion: float, priors: PriorAtSize, context: Context
    ) -> dict[str, Any]:
        """Looks at all target images once; returns thresholds and which images are labelled."""
        space, device, ids = self.model.label_space, self._device(), list(context.target.ids())
        place = {image_id: i for i, image_id in enumerate(ids)}
        histograms = ConfidenceHistograms(space.num_classes, device)
        things = ConfidenceHistograms(space.num_classes, device)
        scores = torch.zeros(len(ids), dtype=torch.float64, device=device)

        def look(image_id: str, result: dict[str, Any]) -> None:
            logits = result[keys.SEM_SEG]
            confidence, classes = labelling.confidence_and_class(
                logits, priors.of(logits), self._shift
            )
            histograms.add(confidence, classes)
            scores[place[image_id]] = labelling.image_score(confidence, classes, space.num_classes)
            if keys.PANOPTIC_SEG in result:
                found = labelling.scores_of_things(result[keys.PANOPTIC_SEG][1])
                things.add(*(values.to(device) for values in found))

        self._look_at(context.target.batches(), look)
        totals, thing_totals = histograms.all_reduced(), things.all_reduced()
        s = self.settings
        find = POLICIES[s.POLICY]
        count = max(1, round(s.TARGET_PORTION * len(ids)))
        best = all_reduce_sum(scores).argsort(descending=True, stable=True)[:count].sort().values
        return {
            "thresholds": find(totals, portion, s.MIN_PIXELS_PER_CLASS).tolist(),
            "predicted": totals.predicted().tolist(),
            "instance_thresholds": find(thing_totals, portion, 1).tolist(),
            "instances": thing_totals.predicted().tolist(),
            "images": [ids[i] for i in best.tolist()],
        }

    def _write_labels(
        self, files: RoundFiles, chosen: dict[str, Any], priors: PriorAtSize, context: Context
    ) -> np.ndarray:
        """Writes the labels that are missing; returns labelled pixels (images, K) of all."""
        space, device, images = self.model.label_space, self._device(), chosen["images"]
        thresholds = torch.tensor(chosen["thresholds"], device=device)
        place = {image_id: i for i, image_id in enumerate(images)}
        pixels = torch.zeros(len(images), space.num_classes, dtype=torch.int64)

        def count(image_id: str, labels: np.ndarray) -> None:
            counts = np.bincount(labels.ravel(), minlength=IGNORE_LABEL + 1)
            pixels[place[image_id]] = torch.from_numpy(counts[: space.num_classes])

        there = {image_id for image_id in images if files.path_of(image_id).is_file()}
        # Nobody writes before everybody has looked.
        self._wait()
        if context.is_main:
            for image_id in there:
                count(image_id, space.from_train_id[files.read_labels(image_id)])
        skipped = set(context.target.ids()) - (place.keys() - there)

        def look(image_id: str, result: dict[str, Any]) -> None:
            logits = result[keys.SEM_SEG]
            prior = priors.of(logits)
            labels = labelling.class_balanced_labels(logits, thresholds, prior, self._shift)
            mine = labels.cpu().numpy()
            count(image_id, mine)
            instances = self._instances(result, chosen["instance_thresholds"])
            files.write_labels(image_id, space.to_train_id[mine], instances)

        self._look_at(context.target.batches(skipped), look)
        return all_reduce_sum(pixels.to(device)).cpu().numpy()

    def _instances(self, result: dict[str, Any], thresholds: list[float]) -> np.ndarray | None:
        """Returns the instances that are kept, None for networks and settings without."""
        if not self.settings.INSTANCE_PSEUDO_LABELS or keys.PANOPTIC_SEG not in result:
            return None
        table = self.model.label_space.to_train_id
        return labelling.kept_instances(*result[keys.PANOPTIC_SEG], thresholds, table)

    def _summary(
        self, number: int, key: dict[str, Any], chosen: dict[str, Any], pixels: np.ndarray
    ) -> dict[str, Any]:
        """Returns what is told of a round in its file, and tells it in the log."""
        labelled, predicted = pixels.sum(axis=0).tolist(), chosen["predicted"]
        names = self.model.label_space.class_names
        rows = round_summary.class_rows(names, chosen["thresholds"], predicted, labelled)
        logger.info("Pseudo-labels of round %d\n%s", number, round_summary.as_text(rows))
        never = round_summary.never_predicted(rows)
        if never:
            logger.warning(
                "Round %d: never predicted on the target, so without pseudo-labels (threshold 1): "
                "%s. Only the source teaches them in this round.",
                number,
                ", ".join(never),
            )
        return {
            "round": number,
            **key,
            "labelled_images": len(chosen["images"]),
            "kept_share": sum(labelled) / max(1, sum(predicted)),
            "never_predicted": never,
            "classes": rows,
        }


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _round_of(stage: Stage) -> int | None:
    """Returns a round's number, None for the warm-up."""
    word, _, number = stage.name.rpartition("_")
    return int(number) if word == "round" else None


def _check(settings: Any) -> None:
    """Raises UserError for settings out of range, or that exclude each other."""
    for name, known in (("POLICY", tuple(POLICIES)), ("REGULARISER", REGULARISERS)):
        if settings[name] not in known:
            raise UserError(
                f"UDA.CBST.{name} is '{settings[name]}'; expected one of {', '.join(known)}"
            )
    shares = ("WARM_UP", "PORTION_START", "PORTION_MAX", "MINING_PROBABILITY", "MINING_SHARE")
    for name in shares:
        if not 0 <= settings[name] <= 1:
            raise UserError(f"UDA.CBST.{name} is {settings[name]}; expected 0..1")
    for name in ("SOURCE_PORTION_START", "SOURCE_PORTION_MAX", "TARGET_PORTION"):
        if not 0 < settings[name] <= 1:
            raise UserError(f"UDA.CBST.{name} is {settings[name]}; expected more than 0, up to 1")
    if settings.ROUNDS < 1 or settings.WARM_UP == 1:
        raise UserError(
            f"UDA.CBST.ROUNDS is {settings.ROUNDS} and WARM_UP {settings.WARM_UP}; expected 1 "
            "round or more, and a warm-up that leaves iterations for them"
        )
    if settings.REGULARISER == "lrent" and settings.SPATIAL_PRIOR:
        raise UserError(
            "UDA.CBST.REGULARISER lrent makes soft labels of crops, which have no place in a "
            "prior; set SPATIAL_PRIOR False, or another regulariser"
        )
