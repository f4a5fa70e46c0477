"""Makes and writes the pseudo-labels of one round of class-balanced self-training."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.modeling.protocol import SegmentationModel
from gbw_d2.uda.parts import labelling, round_summary
from gbw_d2.uda.parts.class_histogram import ConfidenceHistograms
from gbw_d2.uda.parts.pseudo_label_files import RoundFiles, weights_digest
from gbw_d2.uda.parts.spatial_prior import PriorAtSize, version_of
from gbw_d2.uda.stages import Batch, Batches, Context
from gbw_d2.uda.strategy import module_of
from gbw_d2.weighting.distributed import all_reduce_sum

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10  # of progress in the log

# For each UDA.CBST.POLICY the thresholds by histograms, portion and least number of pixels.
POLICIES: dict[str, Callable[[ConfidenceHistograms, float, int], Tensor]] = {
    "class_balanced": ConfidenceHistograms.class_balanced_thresholds,
    "global": lambda histograms, portion, _: histograms.global_thresholds(portion),
}


@dataclass(frozen=True)
class LabellingPolicy:
    """Chooses the pixels, instances and images of the target that get pseudo-labels.

    Attributes:
        policy: a name in ``POLICIES``: one threshold per class, or one for all.
        portion: share of the pixels predicted as a class, or of all pixels, that are labelled,
            0..1.
        min_pixels_per_class: at least so many pixels of a class are labelled, if so many are
            predicted.
        target_portion: share of the images, 0..1; those with the highest confidence are used.
        instance_pseudo_labels: whether a panoptic network's instances are labelled too.
    """

    policy: str
    portion: float
    min_pixels_per_class: int
    target_portion: float
    instance_pseudo_labels: bool


class RoundLabeller:
    """Labels all target images once with a network, and continues where it was interrupted.

    Zou et al., CBST, ECCV 2018; docs/equations.md 11. The network runs on all target images twice:
    for the thresholds, and for the labels. Derived classes define what is taken from the network's
    result.

    Args:
        model: the network that labels.
        policy: chooses pixels, instances and images.
        prior: (K, h, w) probabilities of the classes by position, or None.
        shift: (K,) to add to the logits before labels are taken, or None for 0.
        files: the files of the round's thresholds and labels.
        context: the target's images, and which process writes.

    Attributes:
        rule: name of the rule by which labels are made of results; labels made by another rule are
            not reused.
    """

    rule = "panoptic"

    def __init__(
        self,
        model: SegmentationModel,
        policy: LabellingPolicy,
        prior: Tensor | None,
        shift: Tensor | None,
        files: RoundFiles,
        context: Context,
    ) -> None:
        self.model = model
        self.policy = policy
        self.files = files
        self.context = context
        self.device = next(module_of(model).parameters()).device
        self.shift = None if shift is None else shift.to(self.device)
        self._priors = PriorAtSize(prior, self.device)
        # All that the labels depend on: labels of another key are not reused.
        self.key = {
            "weights": weights_digest(module_of(model)),
            "classes": list(model.label_space.class_names),
            **asdict(policy),
            "rule": self.rule,
            "prior": version_of(prior),
            "logit_shift": [] if shift is None else shift.tolist(),
            "images": hashlib.sha256("\n".join(context.target.ids()).encode()).hexdigest()[:24],
        }

    def label(self, number: int) -> None:
        """Writes those of the thresholds and labels of round ``number`` that are missing."""
        files, context, found = self.files, self.context, 0
        if context.is_main:
            files.start(self.key)
            found = bool(files.thresholds()) + bool(files.summary())
        # Other processes may see files late, so the first process tells them which exist.
        found = int(all_reduce_sum(torch.tensor(found, device=self.device)))
        if found == 2:
            logger.info("Pseudo-labels of round %d already exist: %s", number, files.folder)
            return
        with _evaluating(module_of(self.model)):
            if found == 0:
                chosen = self.find_thresholds()
                if context.is_main:
                    files.write_thresholds({"key": self.key, "round": number, **chosen})
            else:
                chosen = files.chosen(self.model.label_space.num_classes)
            pixels = self.write_labels(chosen)
        if context.is_main:
            files.finish(pixels, self._summary(number, chosen, pixels))
        self._wait()

    def _wait(self) -> None:
        """Waits until all processes have arrived."""
        all_reduce_sum(torch.zeros(1, device=self.device))

    def _look_at(
        self, task: str, batches: Batches, look: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Calls ``look`` with each image's id and the network's result at the image file's size."""
        start = said = time.monotonic()
        for number, batch in enumerate(batches, start=1):
            with torch.no_grad():
                results = self.results(batch)
            for sample, result in zip(batch, results, strict=True):
                look(sample[keys.IMAGE_ID], result)
            # The logits of an image must be freed before the next image.
            del results, result
            now = time.monotonic()
            if number == len(batches) or now - said >= _SECONDS_BETWEEN_LINES:
                said = now
                left = timedelta(seconds=round((now - start) / number * (len(batches) - number)))
                logger.info("%s: %d of %d target images, %s left", task, number, len(batches), left)

    def results(self, batch: Batch) -> list[dict[str, Any]]:
        """Returns each image's result, with ``sem_seg``, at the image file's size."""
        return self.model(batch)

    def thing_scores(self, result: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns scores (S,) in 0..1 and class ids (S,) of the things of a result."""
        segments = result[keys.PANOPTIC_SEG][1] if keys.PANOPTIC_SEG in result else ()
        return labelling.scores_of_things(segments)

    def thing_thresholds(self, totals: ConfidenceHistograms) -> Tensor:
        """Returns the score (K,) from which on things are labelled."""
        return POLICIES[self.policy.policy](totals, self.policy.portion, 1)

    def find_thresholds(self) -> dict[str, Any]:
        """Runs on all target images once; returns thresholds, and which images are labelled."""
        space, device, ids = self.model.label_space, self.device, list(self.context.target.ids())
        place = {image_id: i for i, image_id in enumerate(ids)}
        histograms = ConfidenceHistograms(space.num_classes, device)
        things = ConfidenceHistograms(space.num_classes, device)
        scores = torch.zeros(len(ids), dtype=torch.float64, device=device)

        def look(image_id: str, result: dict[str, Any]) -> None:
            logits = result[keys.SEM_SEG]
            confidence, classes = labelling.confidence_and_class(
                logits, self._priors.of(logits), self.shift
            )
            histograms.add(confidence, classes)
            scores[place[image_id]] = labelling.image_score(confidence, classes, space.num_classes)
            things.add(*(values.to(device) for values in self.thing_scores(result)))

        self._look_at("Thresholds", self.context.target.batches(), look)
        totals, thing_totals = histograms.all_reduced(), things.all_reduced()
        policy = self.policy
        find = POLICIES[policy.policy]
        count = max(1, round(policy.target_portion * len(ids)))
        best = all_reduce_sum(scores).argsort(descending=True, stable=True)[:count].sort().values
        return {
            "thresholds": find(totals, policy.portion, policy.min_pixels_per_class).tolist(),
            "predicted": totals.predicted().tolist(),
            "instance_thresholds": self.thing_thresholds(thing_totals).tolist(),
            "instances": thing_totals.predicted().tolist(),
            "images": [ids[i] for i in best.tolist()],
        }

    def write_labels(self, chosen: dict[str, Any]) -> np.ndarray:
        """Writes the missing labels; returns the labelled pixels (images, K) of all images."""
        space, device, images = self.model.label_space, self.device, chosen["images"]
        files, context = self.files, self.context
        thresholds = torch.tensor(chosen["thresholds"], device=device)
        place = {image_id: i for i, image_id in enumerate(images)}
        pixels = torch.zeros(len(images), space.num_classes, dtype=torch.int64)

        def count(image_id: str, labels: np.ndarray) -> None:
            counts = np.bincount(labels.ravel(), minlength=IGNORE_LABEL + 1)
            pixels[place[image_id]] = torch.from_numpy(counts[: space.num_classes])

        there = {image_id for image_id in images if files.path_of(image_id).is_file()}
        # No process writes before every process has listed the existing files.
        self._wait()
        if context.is_main:
            for image_id in there:
                count(image_id, files.read_labels(image_id))
        skipped = set(context.target.ids()) - (place.keys() - there)

        def look(image_id: str, result: dict[str, Any]) -> None:
            labels, instances = self.labels_and_instances(result, chosen, thresholds)
            count(image_id, labels)
            files.write_labels(image_id, labels, instances)

        self._look_at("Pseudo-labels", context.target.batches(skipped), look)
        return all_reduce_sum(pixels.to(device)).cpu().numpy()

    def labels_and_instances(
        self, result: dict[str, Any], chosen: dict[str, Any], thresholds: Tensor
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Makes the labels of an image.

        Args:
            result: of :meth:`results`.
            chosen: of :meth:`find_thresholds`.
            thresholds: (K,), those of pixels, on the device.

        Returns:
            (H, W) uint8 class ids, 255 = ignore; (H, W) int32 instances as
            :func:`gbw_d2.uda.parts.labelling.kept_instances` numbers them, or None for networks and
            settings without instances.
        """
        logits = result[keys.SEM_SEG]
        prior = self._priors.of(logits)
        labels = labelling.class_balanced_labels(logits, thresholds, prior, self.shift)
        instances = None
        if self.policy.instance_pseudo_labels and keys.PANOPTIC_SEG in result:
            least = chosen["instance_thresholds"]
            instances = labelling.kept_instances(*result[keys.PANOPTIC_SEG], least)
        return labels.cpu().numpy(), instances

    def _summary(self, number: int, chosen: dict[str, Any], pixels: np.ndarray) -> dict[str, Any]:
        """Summarises a round for its file, and writes the summary to the log."""
        labelled, predicted = pixels.sum(axis=0).tolist(), chosen["predicted"]
        names = self.model.label_space.class_names
        rows = round_summary.class_rows(names, chosen["thresholds"], predicted, labelled)
        logger.info("Pseudo-labels of round %d\n%s", number, round_summary.as_text(rows))
        never = round_summary.never_predicted(rows)
        if never:
            logger.warning(
                "Round %d: classes that are never predicted on the target and so have no "
                "pseudo-labels (threshold 1): %s. They are learned from the source alone in this "
                "round.",
                number,
                ", ".join(never),
            )
        return {
            "round": number,
            **self.key,
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
