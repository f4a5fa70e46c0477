"""The settings of every weighting scheme; each scheme brings its own defaults for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gbw_d2.weighting.classifier_measures import FORMULAS
from gbw_d2.weighting.gbw import SCALES as PROGRAMME_SCALES
from gbw_d2.weighting.gbw import check_programme

NORM = "norm"
# Measured at the classifier.
CLASSIFIER_MEASURES = tuple(FORMULAS)
MEASURES = (NORM, *CLASSIFIER_MEASURES)
# The relative scale, at a strength that falls with the gradients: the scheme keeps their start.
INITIAL = "initial"
SCALES = (*PROGRAMME_SCALES, INITIAL)
SHAPED_BY = ("all", "source")
ACTS_ON = ("all", "source")
BUDGETS = ("all", "present")


@dataclass(frozen=True)
class WeightingSettings:
    """Settings of a weighting scheme; a scheme reads those it needs and ignores the rest.

    Attributes:
        measure: "norm" of the logit channels' gradients (released), or "hindrance",
            "interference" or "class_gradient" at the classifier (docs/equations.md 2b).
        scale: "released", "relative" or "initial" (docs/equations.md 2).
        power: exponent of the measure, but on the released scale.
        lam: lambda of the programme, in units of the scale.
        momentum: 0..<1 of the running mean of the measure, kept per loss term; 0 for none.
        budget: "all" classes share the weights' sum (released), or those "present" in the batch.
        min_pixels: classes with fewer pixels in the batch leave the budget and get weight 1.
        min_weight: floor of the weights in the budget, 0..1.
        max_weight: cap of the weights in the budget, >= 1.
        pixel_weights_in_gradient: whether pixel weights shape counts and measures.
        shaped_by: "all" loss terms have weights of their own, or those of the "source" term act
            on every term, so that pseudo-labels do not shape them.
        acts_on: "all" loss terms are weighted, or the "source" term alone: pixels with
            pseudo-labels, and those mixed with them, weigh 1.
        logit_adjustment: 0..1, tau: by this part the logits are freed of the tilt that weights
            give them (``gbw_d2.weighting.mean_weights``); 0 for plain class weights.
        pseudo_label_adjustment: 0..1, the same for the logits that pseudo-labels are made of; below
            ``logit_adjustment`` it has no effect, for those logits are free of that part already.
        qp_solver: "closed_form" or "cvxopt".
        frequency_power: inverse frequency: 1 plain, 0.5 its square root. GBW: exponent of the
            class's share of the pixels, by which the measure is divided; 0 for none.
        beta: effective number: (N - 1) / N for N distinct samples per class, here pixels.
        gamma: focal loss: exponent of 1 - p at the label.
        class_weights: fixed: K numbers >= 0, in proportion to the weights.
    """

    measure: str = "norm"
    scale: str = "relative"
    power: float = 1.0
    lam: float = 1.0
    momentum: float = 0.0
    budget: str = "present"
    min_pixels: float = 0
    min_weight: float = 0.0
    max_weight: float = math.inf
    pixel_weights_in_gradient: bool = False
    shaped_by: str = "all"
    acts_on: str = "all"
    logit_adjustment: float = 0.0
    pseudo_label_adjustment: float = 0.0
    qp_solver: str = "closed_form"
    frequency_power: float = 1.0
    beta: float = 0.999999
    gamma: float = 2.0
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            ValueError: the first one that is out of range.
        """
        check_programme(self.lam, self.power, self.min_weight, self.max_weight, self.qp_solver)
        _check_choice("scale", self.scale, SCALES)
        _check_choice("measure", self.measure, MEASURES)
        _check_choice("budget", self.budget, BUDGETS)
        _check_choice("shaped_by", self.shaped_by, SHAPED_BY)
        _check_choice("acts_on", self.acts_on, ACTS_ON)
        _check_range("momentum", self.momentum, 0, 1)
        _check_range("min_pixels", self.min_pixels, 0, math.inf)
        _check_range("frequency_power", self.frequency_power, 0, math.inf)
        _check_range("beta", self.beta, 0, 1)
        _check_range("gamma", self.gamma, 0, math.inf)
        for name in ("logit_adjustment", "pseudo_label_adjustment"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0..1")
        if self.acts_on == "source" and self.pseudo_label_adjustment > self.logit_adjustment:
            raise ValueError(
                f"pseudo_label_adjustment is {self.pseudo_label_adjustment}, but acts_on is "
                "'source': the target's labels are not weighted, so the logits have less tilt than "
                "would be taken out of them; set it to 0, or acts_on to 'all'"
            )
        if not isinstance(self.pixel_weights_in_gradient, bool):
            raise ValueError(
                f"pixel_weights_in_gradient is {self.pixel_weights_in_gradient!r}; "
                "expected True or False"
            )

    @property
    def knows_tilt(self) -> bool:
        """Whether the mean weights, which tilt the logits, are kept."""
        return max(self.logit_adjustment, self.pseudo_label_adjustment) > 0

    @classmethod
    def merge(cls, *layers: Mapping[str, Any]) -> WeightingSettings:
        """Builds settings from layers of values, later ones first in rank; None means "not set".

        Raises:
            ValueError: a key that is no setting, or a value that is no number or out of range;
                the text "inf" is a number.
        """
        known = [field.name for field in fields(cls)]
        numbers = [field.name for field in fields(cls) if field.type == "float"]
        merged: dict[str, Any] = {}
        for layer in layers:
            for key, value in layer.items():
                if key not in known:
                    raise ValueError(
                        f"unknown weighting setting '{key}' (known: {', '.join(known)})"
                    )
                if value is not None:
                    merged[key] = _number(key, value) if key in numbers else value
        return cls(**merged)


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float):
        return value
    # YAML and command lines leave inf a text.
    if value == "inf":
        return math.inf
    raise ValueError(f"{name} is {value!r}; expected a number")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is '{value}'; expected one of {', '.join(choices)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise ValueError(f"{name} is {value}; expected a number >= {low} and < {high}")
