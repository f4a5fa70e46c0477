"""max_squares: source labels and the target's maximum squares loss (Chen et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.losses.max_squares import check_max_squares_settings, max_squares_loss
from gbw_d2.modeling.protocol import SegmentationModel
from gbw_d2.uda.stages import Batch
from gbw_d2.uda.strategy import STRATEGIES, RunSettings, Strategy


@STRATEGIES.register("max_squares")
class MaxSquares(Strategy):
    """Adds the target's maximum squares loss, and trains the auxiliary head on both heads' labels.

    Chen et al., Domain Adaptation for Semantic Segmentation with Maximum Squares Loss, ICCV 2019;
    docs/equations.md 8. As in the released code all target pixels are used. Class weighting acts on
    the labelled terms only. Arguments are those of :class:`Strategy`.

    Raises:
        UserError: MULTI_LEVEL without an auxiliary head, or settings that the loss does not accept.
    """

    needs_target = True
    least_classes = 2

    def __init__(self, model: SegmentationModel, settings: Any, run: RunSettings) -> None:
        super().__init__(model, settings, run)
        ratio = settings.IMAGE_WEIGHTING_RATIO
        self._ratio = None if ratio < 0 else ratio
        try:
            check_max_squares_settings(self._ratio, settings.HALF)
        except ValueError as error:
            raise UserError(f"UDA.MAX_SQUARES: {error}") from error
        if settings.MULTI_LEVEL and len(model.semantic_heads()) < 2:
            raise UserError(
                "UDA.MAX_SQUARES.MULTI_LEVEL is True, but the network has no auxiliary head; set "
                "MODEL.AUXILIARY_HEAD.ENABLED True (and IN_FEATURE), or MULTI_LEVEL False"
            )

    def training_losses(
        self, source: Batch, target: Batch | None, iteration: int
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the supervised losses, then the target's."""
        assert target is not None
        yield self.supervised_losses(source)
        if not self.adapts(iteration):
            return
        outputs = self.outputs(target, instances=False)
        logits = [prediction.dense() for prediction in outputs.predictions()]
        s = self.settings
        squares = max_squares_loss(logits[0], self._ratio, s.HALF, s.MEAN_OVER_CLASSES)
        losses = {"loss_max_squares": s.LOSS_WEIGHT * squares}
        if s.MULTI_LEVEL:
            labels = multi_level_labels(logits[0], logits[1], s.THRESHOLD)
            weight = s.AUXILIARY_FACTOR * s.LOSS_WEIGHT
            losses["loss_multi_level"] = weight * kept_cross_entropy(logits[1], labels)
        yield losses


@torch.no_grad()
def multi_level_labels(logits: Tensor, auxiliary_logits: Tensor, threshold: float) -> Tensor:
    """Labels target pixels by the mean of both heads' probabilities (self-produced guidance).

    Args:
        logits: (N, K, H, W) of the main head.
        auxiliary_logits: likewise of the auxiliary head.
        threshold: a pixel gets a label where the probability of a class in either head exceeds
            this, 0..1.

    Returns:
        (N, H, W) int64 class ids, 255 elsewhere.
    """
    main, auxiliary = logits.float().softmax(1), auxiliary_logits.float().softmax(1)
    kept = (main.amax(1) > threshold) | (auxiliary.amax(1) > threshold)
    return (main + auxiliary).argmax(1).masked_fill(~kept, IGNORE_LABEL)


def kept_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the cross-entropy's mean over each image's labelled pixels, then over the images.

    The mean is per image, so that it does not depend on how many processes share a batch; the
    released code has one image per batch.

    Args:
        logits: (N, K, H, W), any floating dtype.
        labels: (N, H, W) int64 class ids, 255 = ignore.

    Returns:
        A tensor without axes; an image without labelled pixels adds 0 and has gradient 0.
    """
    values = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction="none")
    counts = (labels != IGNORE_LABEL).sum((1, 2)).clamp(min=1)
    return (values.sum((1, 2)) / counts).mean()
