"""Computes the label-free criteria on a fixed sample of the target's images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.engine.batches import build_context
from gbw_d2.engine.run_data import RunData, first_process_first
from gbw_d2.evaluation.label_free import CRITERIA, PREFIX, Look, criteria_of, look_at
from gbw_d2.keyed_random import keyed_rng
from gbw_d2.uda.stages import Batch
from gbw_d2.uda.strategy import image_size

from detectron2.evaluation import inference_context
from detectron2.utils import comm

logger = logging.getLogger(__name__)

STUDENT, TEACHER = "student", "teacher"
# Pixels sampled per image; the code of the soft neighbourhood density's authors uses 100.
PIXELS = 256
# Gamma of the darker view, an exponent on intensities in 0..1.
GAMMA = 1.5


class LabelFree:
    """Evaluates label-free criteria on EVAL.LABEL_FREE_IMAGES images of DATASETS.TARGET.

    Every run uses the same images of a target and the same pixels, for any seed, so that runs can
    be compared. Each process evaluates its share; the results are gathered in the order of the
    images, so that they do not depend on the number of processes.

    Args:
        data: the run's data; all processes must construct this object, because it counts the
            source's classes.
        networks: the strategy's networks by name.
        scored: name of the evaluated network, EVAL.WEIGHTS.

    Raises:
        ConfigError: EVAL.BEST_ON names a criterion that this strategy does not have.
    """

    def __init__(self, data: RunData, networks: Mapping[str, nn.Module], scored: nn.Module) -> None:
        asked = data.cfg.EVAL.BEST_ON
        if asked in CRITERIA and CRITERIA[asked].needs_teacher and TEACHER not in networks:
            raise ConfigError(
                f"EVAL.BEST_ON is '{asked}', but strategy '{data.cfg.UDA.NAME}' has no teacher; "
                f"take one of {', '.join(n for n, c in CRITERIA.items() if not c.needs_teacher)}"
            )
        self.data = data
        self.networks = networks
        self.scored: Any = scored
        self.source_pixels = data.class_counts
        self.images = build_context(data, fresh=False).target
        every = sorted(self.images.ids())
        number = min(data.cfg.EVAL.LABEL_FREE_IMAGES, len(every))
        drawn = keyed_rng(0, "label-free images").choice(len(every), number, replace=False)
        self.chosen = {every[i] for i in drawn.tolist()}
        logger.info("Label-free criteria: %d of %d target images", number, len(every))

    def try_once(self) -> None:
        """Evaluates one image in the first process, so that errors appear before training."""
        first_process_first(lambda: self._looks(self._batches(self.images.ids()[:1])))

    def measure(self) -> dict[str, float]:
        """Returns the criteria by name; {} on all processes except the first."""
        gathered = comm.gather(self._looks(self._batches(self.chosen)))
        if not comm.is_main_process():
            return {}
        looks = {image_id: look for each in gathered for image_id, look in each.items()}
        found = criteria_of([looks[image_id] for image_id in sorted(looks)], self.source_pixels)
        logger.info(
            "Label-free criteria of %d target images: %s",
            len(looks),
            ", ".join(f"{name.removeprefix(PREFIX)} {value:.3f}" for name, value in found.items()),
        )
        return found

    def _batches(self, image_ids: Iterable[str]) -> Iterable[Batch]:
        return self.images.batches(skip=set(self.images.ids()).difference(image_ids))

    @torch.no_grad()
    def _looks(self, batches: Iterable[Batch]) -> dict[str, Look]:
        with inference_context(self.scored):
            return {sample[keys.IMAGE_ID]: self._look(sample) for (sample,) in batches}

    def _look(self, sample: dict[str, Any]) -> Look:
        logits = semantic_logits(self.scored, sample)
        classes = logits.argmax(0)
        image = sample[keys.IMAGE]
        mirrored = (
            semantic_logits(self.scored, {**sample, keys.IMAGE: image.flip(-1)}).argmax(0).flip(-1)
        )
        shade = ((image / 255) ** GAMMA * 255).round().to(image.dtype)
        darker = semantic_logits(self.scored, {**sample, keys.IMAGE: shade}).argmax(0)
        return look_at(
            logits,
            _drawn_pixels(sample[keys.IMAGE_ID], logits),
            (mirrored, darker),
            self._with_teacher(sample, classes),
        )

    def _with_teacher(
        self, sample: dict[str, Any], classes: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        if TEACHER not in self.networks:
            return None
        other = TEACHER if self.scored is self.networks[STUDENT] else STUDENT
        network = self.networks[other]
        with inference_context(network):
            return classes, semantic_logits(network, sample).argmax(0)


def semantic_logits(network: Any, sample: dict[str, Any]) -> Tensor:
    """Returns the semantic logits (K, H, W) of one sample's image, without padding."""
    rows, columns = sample[keys.IMAGE].shape[-2:]
    images = network.images([sample])
    outputs = network.outputs(network.features(images), image_size(images), False)
    return outputs.semantic.dense()[0, :, :rows, :columns]


def _drawn_pixels(image_id: str, logits: Tensor) -> Tensor:
    number = logits[0].numel()
    rng = keyed_rng(0, "label-free pixels", image_id)
    return torch.from_numpy(rng.choice(number, min(PIXELS, number), replace=False))
