"""Confidence regularisers of self-training: MRKLD and LRENT (CRST; Zou et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gbw_d2.weighting.distributed import all_reduce_sum, world_size


def mrkld_loss(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Computes the mean over labelled pixels of -1/K sum_c log p_c = KL(uniform, p) + log K.

    The model regulariser of CRST. The authors' code multiplies it by the setting 0.1 twice, so
    their results have a weight of 0.01. In several processes the divisor is the mean over processes
    of the number of labelled pixels, so that the mean of the processes' losses equals the loss of
    one process with all the images; every process must make the call.

    Args:
        logits: (N, K, H, W), any floating dtype.
        labels: (N, H, W) integer pseudo-labels, 0..K-1 or ``ignore_index``.
        ignore_index: label of pixels without a class.

    Returns:
        A tensor without axes, >= log K; 0 with gradient 0 where no pixel is labelled.

    Raises:
        ValueError: shapes that do not match.
    """
    _check_map(logits, labels, "labels")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    values = wide.logsumexp(1) - wide.mean(1)
    kept = labels != ignore_index
    count = all_reduce_sum(kept.sum(dtype=torch.float32)) / world_size()
    return torch.where(kept, values, torch.zeros_like(values)).sum() / count.clamp(min=1)


@torch.no_grad()
def lrent_soft_labels(logits: Tensor, thresholds: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Returns LRENT's soft labels y_c ~ (p_c / t_c)^(1 / alpha), and the pixels that have one.

    The label regulariser of CRST. A pixel has a label where
    sum_c (-y_c log p_c + alpha y_c log y_c) < -sum_c y_c log t_c, which is equivalent to sum_c (p_c
    / t_c)^(1 / alpha) > 1, a slightly weaker condition than the hard rule max_c p_c / t_c >= 1.

    Args:
        logits: (N, K, H, W) of the network that makes the pseudo-labels, any floating dtype.
        thresholds: (K,) t_c > 0, the thresholds of class-balanced pseudo-labels.
        alpha: weight of the labels' entropy, > 0; smaller values give harder labels. CRST uses
            0.25.

    Returns:
        (N, K, H, W) float32 that sums to 1 over K, and (N, H, W) bool.

    Raises:
        ValueError: not one threshold per class, or an alpha that is not positive.
    """
    if logits.ndim != 4 or tuple(thresholds.shape) != (logits.shape[1],):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and thresholds {tuple(thresholds.shape)}; "
            "expected (N, K, H, W) and (K,)"
        )
    if alpha <= 0:
        raise ValueError(f"alpha is {alpha}; expected a number > 0 (CRST has 0.25)")
    limits = thresholds.float().clamp(min=torch.finfo(torch.float32).tiny).log().view(1, -1, 1, 1)
    scores = (logits.float().log_softmax(1) - limits) / alpha
    return scores.softmax(1), scores.logsumexp(1) > 0


def soft_cross_entropy(logits: Tensor, soft_labels: Tensor, kept: Tensor) -> Tensor:
    """Computes the mean over all pixels of -sum_c y_c log p_c, 0 at pixels without a label.

    It is a plain mean over N H W, like this project's cross-entropy with hard labels, so that a
    labelled target pixel has the same weight as a source pixel.

    Args:
        logits: (N, K, H, W), any floating dtype.
        soft_labels: (N, K, H, W) >= 0, constants in the backward pass.
        kept: (N, H, W) bool, the pixels that have a label.

    Returns:
        A tensor without axes, >= 0.

    Raises:
        ValueError: shapes that do not match.
    """
    _check_map(logits, kept, "kept")
    if soft_labels.shape != logits.shape:
        raise ValueError(
            f"soft labels have shape {tuple(soft_labels.shape)}; expected that of the logits, "
            f"{tuple(logits.shape)}"
        )
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # PyTorch's function accepts probabilities as labels and stores only one log-softmax for the
    # backward pass.
    values = F.cross_entropy(wide, soft_labels.detach().to(wide.dtype), reduction="none")
    return torch.where(kept, values, torch.zeros_like(values)).mean()


def _check_map(logits: Tensor, values: Tensor, name: str) -> None:
    if logits.ndim != 4 or tuple(values.shape) != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and {name} {tuple(values.shape)}; expected "
            "(N, K, H, W) and (N, H, W)"
        )
