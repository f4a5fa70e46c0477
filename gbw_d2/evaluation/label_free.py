"""Criteria that evaluate a network on images without labels.

They measure the prediction's entropy, its agreement between two views of an image, its agreement
with the teacher, and the difference between predicted class shares and the source's.
docs/which_checkpoint.md shows how well they rank checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PREFIX = "label_free/"
# Temperature of the similarities in the soft neighbourhood density.
TEMPERATURE = 0.05
# Replaces a probability of 0 in a logarithm.
_LEAST = 1e-12


@dataclass(frozen=True)
class Criterion:
    """The properties of a criterion.

    Args:
        greater_is_better: whether greater values are better.
        needs_teacher: whether it needs a strategy with a teacher.
    """

    greater_is_better: bool
    needs_teacher: bool = False


CRITERIA: Mapping[str, Criterion] = {
    f"{PREFIX}entropy": Criterion(greater_is_better=False),
    f"{PREFIX}neighbourhood_density": Criterion(greater_is_better=True),
    f"{PREFIX}view_agreement": Criterion(greater_is_better=True),
    f"{PREFIX}view_miou": Criterion(greater_is_better=True),
    f"{PREFIX}teacher_agreement": Criterion(greater_is_better=True, needs_teacher=True),
    f"{PREFIX}teacher_miou": Criterion(greater_is_better=True, needs_teacher=True),
    f"{PREFIX}class_share_kl": Criterion(greater_is_better=False),
}


@dataclass(frozen=True)
class Look:
    """The statistics of one image, on the host.

    Args:
        entropy: mean entropy of the prediction over the pixels, 0..1.
        density: soft neighbourhood density of some of its pixels, 0..1.
        shares: (K,) float64, mean probability of each class.
        views: (K, K) int64, number of pixels by the predicted classes in two views.
        teacher: the same for the student and its teacher; None without a teacher.
    """

    entropy: float
    density: float
    shares: Tensor
    views: Tensor
    teacher: Tensor | None = None


def mean_entropy(log_probabilities: Tensor) -> Tensor:
    """Returns the mean over pixels of -sum_c p_c log p_c / log K, 0 (certain) to 1 (uniform).

    Args:
        log_probabilities: (K, H, W) float32, natural logarithms.
    """
    num_classes = log_probabilities.shape[0]
    entropy = -(log_probabilities.exp() * log_probabilities).sum(0).mean()
    return entropy / math.log(max(num_classes, 2))


def neighbourhood_density(probabilities: Tensor) -> Tensor:
    """Returns the soft neighbourhood density of pixels, 0 (each has one neighbour) to 1.

    Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft
    Neighborhood Density", ICCV 2021 (arXiv 2108.10860), of softmax outputs: similarities are
    cosines divided by 0.05; each pixel has the softmax of its similarities to all other pixels; the
    density is the mean entropy of these distributions, here divided by its maximum, log(P - 1).

    Args:
        probabilities: (P, K) float32; fewer than three pixels have no density, 0.
    """
    number = len(probabilities)
    if number < 3:
        return probabilities.new_zeros(())
    features = F.normalize(probabilities)
    similarity = features @ features.T / TEMPERATURE
    # A pixel is not its own neighbour.
    others = ~torch.eye(number, dtype=torch.bool, device=similarity.device)
    log_shares = similarity[others].view(number, number - 1).log_softmax(1)
    return -(log_shares.exp() * log_shares).sum(1).mean() / math.log(number - 1)


def class_pairs(first: Tensor, second: Tensor, num_classes: int) -> Tensor:
    """Counts pixels by their classes in two maps (H, W) of class ids: (K, K) int64."""
    pairs = first.flatten() * num_classes + second.flatten()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def agreement(pairs: Tensor) -> float:
    """Returns the share of pixels, 0..1, that have the same class in both maps."""
    return float(pairs.diagonal().sum() / pairs.sum())


def agreement_miou(pairs: Tensor) -> float:
    """Returns the mean IoU, 0..1, between the two maps.

    Classes in neither map are left out, as in mIoU.
    """
    both = pairs.diagonal().double()
    either = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    return float((both / either)[either > 0].mean())


def class_share_kl(predicted: Tensor, source: Tensor) -> float:
    """Returns sum_c s_c log(s_c / p_c), the divergence of predicted class shares from the source's.

    Args:
        predicted: (K,) mean probability of each class, sum 1.
        source: (K,) labelled pixels of the source by class.

    Returns:
        Natural units, >= 0; 0 where the shares are equal.
    """
    known = source.double() / source.sum()
    ratio = known.clamp_min(_LEAST).log() - predicted.double().clamp_min(_LEAST).log()
    return float((known * ratio).sum())


def look_at(
    logits: Tensor,
    pixels: Tensor,
    views: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor] | None,
) -> Look:
    """Computes the statistics of one image.

    Args:
        logits: (K, H, W), any floating dtype.
        pixels: (P,) int64, flat indices of the pixels for the neighbourhood density.
        views: (H, W) int64 class ids of each of two views.
        teacher: the same for the student and its teacher; None without a teacher.
    """
    num_classes = logits.shape[0]
    log_probabilities = logits.float().log_softmax(0)
    probabilities = log_probabilities.exp().flatten(1)
    sampled = probabilities[:, pixels.to(logits.device)].T
    return Look(
        entropy=float(mean_entropy(log_probabilities)),
        density=float(neighbourhood_density(sampled)),
        shares=probabilities.mean(1).double().cpu(),
        views=class_pairs(*views, num_classes).cpu(),
        teacher=None if teacher is None else class_pairs(*teacher, num_classes).cpu(),
    )


def criteria_of(looks: Sequence[Look], source_pixels: Tensor) -> dict[str, float]:
    """Returns the criteria of :data:`CRITERIA` of some images.

    Args:
        looks: statistics of each image, of all processes.
        source_pixels: (K,) labelled pixels of the source by class.

    Returns:
        The values by name, in per cent, except the divergence, which is in nats.
    """
    views = torch.stack([look.views for look in looks]).sum(0)
    found = {
        "entropy": 100 * sum(look.entropy for look in looks) / len(looks),
        "neighbourhood_density": 100 * sum(look.density for look in looks) / len(looks),
        "view_agreement": 100 * agreement(views),
        "view_miou": 100 * agreement_miou(views),
        "class_share_kl": class_share_kl(
            torch.stack([look.shares for look in looks]).mean(0), source_pixels
        ),
    }
    taught = [look.teacher for look in looks if look.teacher is not None]
    if taught:
        pairs = torch.stack(taught).sum(0)
        found["teacher_agreement"] = 100 * agreement(pairs)
        found["teacher_miou"] = 100 * agreement_miou(pairs)
    return {f"{PREFIX}{name}": value for name, value in found.items()}
