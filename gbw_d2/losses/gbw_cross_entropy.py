"""GBW as a stand-alone loss for any PyTorch project."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.losses.cross_entropy import ClassWeightedCrossEntropy
from gbw_d2.weighting.log import LogEntry, WeightLog
from gbw_d2.weighting.scheme import build_scheme
from gbw_d2.weighting.without_classifier import WITHOUT_CLASSIFIER, build_scheme_for

logger = logging.getLogger(__name__)

_HEAD = "loss"


class GBWCrossEntropyLoss(nn.Module):
    """Cross-entropy with gradient-based class weights, computed anew from every batch.

    loss = mean over all N H W pixels of q_i w_{y_i} CE_i. By default the weights are computed from
    each class's gradient at the classifier (docs/equations.md 2b), the scheme that this project
    recommends. This needs the classifier: pass its layer here, or its input and output in each
    call. A call without either computes the weights from the norms of the logit channels' gradients
    (scheme "gbw_norm", docs/equations.md 2, with the named scheme's logit adjustment), and the
    first such call logs this.

    State is updated in ``train()`` mode only. With logit adjustment, which the scheme "gbw" uses,
    the network's logits keep only the part of the prior shift that ``logit_adjustment`` leaves.

    Args:
        num_classes: K.
        ignore_index: label of pixels without a class.
        classifier: the layer that makes the logits, such as the network's last 1x1 convolution; its
            input and output in each training pass are kept until the loss of that pass has been
            computed.
        scheme: name of a weighting scheme (``gbw_d2.weighting.SCHEMES``) that needs no class
            counts.
        terms: the values that a call's ``term`` may have.
        settings: settings of the scheme that replace its defaults, such as ``lam`` or ``momentum``
            (all of them: docs/weighting_keys.md).

    Raises:
        ValueError: an unknown scheme or setting, or one out of range.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        classifier: nn.Module | None = None,
        scheme: str = "gbw",
        terms: Sequence[str] = (TERM_SOURCE,),
        **settings: Any,
    ) -> None:
        super().__init__()
        named = build_scheme(scheme, num_classes, settings, terms=terms)
        self.named = ClassWeightedCrossEntropy(named, head=_HEAD, ignore_index=ignore_index)
        self.by_norms: ClassWeightedCrossEntropy | None = None
        if named.needs_classifier:
            norms = build_scheme_for(scheme, False, num_classes, settings, terms=terms)
            self.by_norms = ClassWeightedCrossEntropy(norms, head=_HEAD, ignore_index=ignore_index)
        self._log = WeightLog()
        self._last: LogEntry | None = None
        # Held in a tuple, so that the layer is not registered as a sub-module a second time.
        self._last_scheme = (named,)
        self._has_layer = classifier is not None
        self._recorded: tuple[Tensor, Tensor] | None = None
        # The training passes since the last loss, and whether the last one was in eval mode.
        self._passes = 0
        self._predicted = False
        self._told = False
        if classifier is not None:
            classifier.register_forward_hook(self._record)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        pixel_weights: Tensor | None = None,
        classifier: tuple[Tensor, Tensor] | None = None,
        term: str = TERM_SOURCE,
    ) -> Tensor:
        """Computes the loss; errors are those of ``ClassWeightedCrossEntropy``.

        Args:
            logits: (N, K, h, w), any floating dtype: the classifier's output. They are upsampled
                bilinearly to the labels' size, without ever being stored at that size.
            labels: (N, H, W) integer class ids 0..K-1 or ``ignore_index``, of any size.
            pixel_weights: (N, H, W) q_i >= 0, or None for 1.
            classifier: (features (N, D, h, w), logits (N, K, h, w)), the classifier's input and
                output at its own resolution; None for those of the layer given at construction.
            term: which images these are, one of ``terms``; state is kept apart per term.

        Returns:
            A tensor without axes.
        """
        at_classifier = self._at_classifier(classifier)
        loss = self.named
        if at_classifier is None and self.by_norms is not None:
            loss = self.by_norms
            self._tell()
        value: Tensor = loss(logits, labels, pixel_weights, at_classifier, term, self._log)
        self._last, self._last_scheme = self._log.get(_HEAD, term), (loss.scheme,)
        return value

    @property
    def weights(self) -> Tensor | None:
        """The weights (K,) of the last call; None before the first."""
        return None if self._last is None else self._last.weights

    @property
    def measure(self) -> Tensor | None:
        """The scheme's measure (K,) in the last call; None before the first."""
        return None if self._last is None else self._last.measure

    @property
    def norms(self) -> Tensor | None:
        """The measure (K,) where it is the norm of the logit channels' gradients, else None."""
        return self.measure if self._last_scheme[0].needs_norms else None

    def pseudo_label_shift(self) -> Tensor | None:
        """Returns (K,) to add to logits before pseudo-labels are taken, or None for none."""
        return self._last_scheme[0].pseudo_label_shift()

    def _record(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A pass in training mode without gradients, such as one for pseudo-labels, has no loss.
        if layer.training and not torch.is_grad_enabled():
            return
        # Predictions in eval mode need no loss, so only the last of them is kept in case it has
        # one.
        self._passes += layer.training
        self._predicted = not layer.training
        self._recorded = inputs[0].detach(), output.detach()

    def _at_classifier(self, given: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
        """Returns the given pair, or else the layer's kept input and output, which are released."""
        recorded, passes = self._recorded, self._passes + self._predicted
        self._recorded, self._passes, self._predicted = None, 0, False
        if given is not None or not self._has_layer:
            return given
        if passes != 1:
            raise ValueError(
                f"the classifier ran {passes} times since the last loss; expected once per loss. "
                "Compute the loss of each pass before the next one, or pass "
                "classifier=(features, logits)"
            )
        return recorded

    def _tell(self) -> None:
        if not self._told:
            logger.warning(
                "GBWCrossEntropyLoss has no classifier, so its weights are computed from the "
                "norms of the logit channels' gradients (scheme '%s'); to compute them from "
                "class gradients, pass classifier=, the layer or its input and output",
                WITHOUT_CLASSIFIER,
            )
            self._told = True
