"""Runs a semantic head of Detectron2 and also returns the input of its classifier."""

from __future__ import annotations

from torch import Tensor, nn

from gbw_d2.modeling.protocol import Features


def classifier_input_and_logits(head: nn.Module, features: Features) -> tuple[Tensor, Tensor]:
    """Runs a semantic head of Detectron2 and captures the input of its last layer, ``predictor``.

    Returns:
        the classifier's input (N, D, h, w), and its logits (N, K, h, w).
    """
    recorded: list[tuple[Tensor, Tensor]] = []
    hook = head.predictor.register_forward_hook(
        lambda _module, inputs, output: recorded.append((inputs[0], output))
    )
    try:
        head.layers(features)
    finally:
        hook.remove()
    return recorded[-1]
