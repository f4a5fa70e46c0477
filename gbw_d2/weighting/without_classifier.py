"""The scheme of a head without a classifier, where the named scheme measures at a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from gbw_d2.keys import TERMS
from gbw_d2.weighting.scheme import WeightingScheme, build_scheme
from gbw_d2.weighting.settings import SchemeSettings

# Measures the norm of the gradient with respect to the head's own prediction.
WITHOUT_CLASSIFIER = "gbw_norm"


def build_scheme_for(
    name: str,
    has_classifier: bool,
    num_classes: int,
    overrides: Mapping[str, Any] | None = None,
    class_counts: Sequence[float] | Tensor | None = None,
    terms: Sequence[str] = TERMS,
) -> WeightingScheme:
    """Builds the named scheme, or ``gbw_norm`` where it measures at a classifier and there is none.

    The user's settings hold for both, except the measure, and the power of the frequency, which
    norms already contain. The settings that all schemes share (which terms are weighted, which
    labels the weights are computed from, how much prior shift is removed) keep the named scheme's
    values: pseudo-labels are no more reliable for one head than for another.

    Args:
        name: a name in ``SCHEMES``.
        has_classifier: whether the head has a classifier to measure at.
        num_classes: as in ``build_scheme``, like all that follow.
        overrides: likewise.
        class_counts: likewise.
        terms: likewise.

    Raises:
        ValueError: as ``build_scheme``.
    """
    scheme = build_scheme(name, num_classes, overrides, class_counts, terms)
    if has_classifier or not scheme.needs_classifier:
        return scheme
    shared = {**(overrides or {}), "measure": None, "frequency_power": None}
    shared |= {field.name: getattr(scheme.settings, field.name) for field in fields(SchemeSettings)}
    return build_scheme(WITHOUT_CLASSIFIER, num_classes, shared, class_counts, terms)
