"""The settings that all weighting schemes share; a scheme adds its own in its file."""

from __future__ import annotations

from dataclasses import dataclass

from gbw_d2.settings import check_settings, setting

SHAPED_BY = ("all", "source")
ACTS_ON = ("all", "source")


@dataclass(frozen=True)
class SchemeSettings:
    """Which loss terms are weighted, and what is taken out of the logits again.

    Raises:
        ValueError: a value out of range, or settings that exclude each other.
    """

    pixel_weights_in_gradient: bool = setting(
        False, "Whether pixel weights (pseudo-label confidence) shape counts and class weights."
    )
    shaped_by: str = setting(
        "all",
        "all: each loss term has weights of its own; source: those of the source's loss act on "
        "every term, so that pseudo-labels do not shape them.",
        choices=lambda: SHAPED_BY,
    )
    acts_on: str = setting(
        "all",
        "all: every loss term is weighted; source: pixels with pseudo-labels, and images mixed "
        "with them, weigh 1.",
        choices=lambda: ACTS_ON,
    )
    logit_adjustment: float = setting(
        0.0,
        "Share of the prior shift caused by the class weights that is taken out of the logits "
        "(docs/equations.md 2c); 0: plain class weights.",
        low=0,
        high=1,
    )
    pseudo_label_adjustment: float = setting(
        0.0,
        "The same share for the logits that pseudo-labels are made of; needs acts_on all, and has "
        "no effect below logit_adjustment.",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.acts_on == "source" and self.pseudo_label_adjustment > self.logit_adjustment:
            raise ValueError(
                f"pseudo_label_adjustment is {self.pseudo_label_adjustment}, but acts_on is "
                "'source': the target's labels are not weighted, so the logits have less prior "
                "shift than would be taken out of them; set it to 0, or acts_on to 'all'"
            )

    @property
    def knows_prior_shift(self) -> bool:
        """Whether the mean weights, which shift the prior of the logits, are kept."""
        return max(self.logit_adjustment, self.pseudo_label_adjustment) > 0
