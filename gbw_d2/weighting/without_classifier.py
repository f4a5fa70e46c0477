"""Which scheme a head without a classifier has, where the named one measures at a classifier."""

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
    """Builds the named scheme, or ``gbw_norm`` where that measures at a classifier that is not had.

    What the user set holds for both, but the measure, and a power of the frequency, which norms
    have in them already. What all schemes have (which terms are weighted, what shapes their
    weights, what is taken out of the logits) stays the named scheme's choice: pseudo-labels are no
    safer for one head than for another.

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
