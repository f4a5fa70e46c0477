"""The settings that all weighting schemes share; each scheme's file adds its own."""

from __future__ import annotations

from dataclasses import dataclass

from gbw_d2.settings import check_settings, setting

SHAPED_BY = ("all", "source")
ACTS_ON = ("all", "source")


@dataclass(frozen=True)
class SchemeSettings:
    """Settings of which loss terms are weighted, and of the logit adjustment.

    Raises:
        ValueError: a value out of range, or settings that exclude each other.
    """

    pixel_weights_in_gradient: bool = setting(
        False, "Whether pixel weights (pseudo-label confidence) shape counts and class weights."
    )
    shaped_by: str = setting(
        "all",
        "all: each loss term has its own weights; source: every term uses the weights computed "
        "from source labels, so that pseudo-labels do not influence them.",
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
        "Share of the prior shift caused by the class weights that is removed from the logits "
        "(docs/equations.md 2c); 0: plain class weights.",
        low=0,
        high=1,
    )
    pseudo_label_adjustment: float = setting(
        0.0,
        "The same share for the logits that pseudo-labels are taken from; needs acts_on all, and "
        "has no effect below logit_adjustment.",
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
        """Whether the mean weights are tracked, which determine the prior shift of the logits."""
        return max(self.logit_adjustment, self.pseudo_label_adjustment) > 0
