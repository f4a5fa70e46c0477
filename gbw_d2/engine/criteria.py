"""The class-weighted losses that WEIGHTING asks for, one per head."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.losses import (
    ClassWeightedCenterLoss,
    ClassWeightedCrossEntropy,
    ClassWeightedInstanceLoss,
    ClassWeightedOffsetLoss,
)
from gbw_d2.weighting import SharedWeights, WeightingScheme, build_scheme

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

Criterion = ClassWeightedCrossEntropy | ClassWeightedInstanceLoss

# Config key -> field of gbw_d2.weighting.WeightingSettings.
WEIGHTING_FIELDS = {
    "MEASURE": "measure",
    "SCALE": "scale",
    "POWER": "power",
    "LAMBDA": "lam",
    "MOMENTUM": "momentum",
    "BUDGET": "budget",
    "MIN_PIXELS": "min_pixels",
    "MIN_WEIGHT": "min_weight",
    "MAX_WEIGHT": "max_weight",
    "PIXEL_WEIGHTS_IN_GRADIENT": "pixel_weights_in_gradient",
    "SHAPED_BY": "shaped_by",
    "ACTS_ON": "acts_on",
    "LOGIT_ADJUSTMENT": "logit_adjustment",
    "PSEUDO_LABEL_ADJUSTMENT": "pseudo_label_adjustment",
    "QP_SOLVER": "qp_solver",
    "FREQUENCY_POWER": "frequency_power",
    "BETA": "beta",
    "GAMMA": "gamma",
    "CLASS_WEIGHTS": "class_weights",
}

# Heads whose loss is over things; the order in which a model computes them.
INSTANCE_LOSSES: dict[str, type[ClassWeightedInstanceLoss]] = {
    "center": ClassWeightedCenterLoss,
    "offset": ClassWeightedOffsetLoss,
}

# The scheme of a head that has no classifier, where WEIGHTING.NAME measures at one.
WITHOUT_CLASSIFIER = "gbw_norm"

OWN = "own"
# Values of WEIGHTING.OFFSET_WEIGHTS_FROM: heads whose loss comes before the offsets'.
OFFSET_WEIGHTS_FROM = (OWN, "center", "semantic")

logger = logging.getLogger(__name__)


def check_heads(cfg: CfgNode) -> None:
    """Checks WEIGHTING.HEADS and WEIGHTING.OFFSET_WEIGHTS_FROM against MODEL.META_ARCHITECTURE.

    Raises:
        ConfigError: a head that the architecture does not have, or nothing to share.
    """
    heads, name = cfg.WEIGHTING.HEADS, cfg.MODEL.META_ARCHITECTURE
    known = META_ARCH_REGISTRY.get(name).weighted_heads
    wrong = [h for h in heads if h not in known]
    if wrong:
        raise ConfigError(
            f"WEIGHTING.HEADS names {', '.join(wrong)}; {name} has {', '.join(known)}"
        )
    lender = cfg.WEIGHTING.OFFSET_WEIGHTS_FROM
    if lender not in OFFSET_WEIGHTS_FROM:
        raise ConfigError(
            f"WEIGHTING.OFFSET_WEIGHTS_FROM is '{lender}'; expected one of "
            f"{', '.join(OFFSET_WEIGHTS_FROM)}"
        )
    if "offset" in heads and lender not in (OWN, *heads):
        raise ConfigError(
            f"WEIGHTING.OFFSET_WEIGHTS_FROM is '{lender}', but WEIGHTING.HEADS does not name "
            f"'{lender}', so that it has no weights to share; add it there"
        )


def make_criteria(cfg: CfgNode, class_counts: Tensor | None) -> dict[str, Criterion]:
    """Builds the loss of each head that WEIGHTING.HEADS names.

    Args:
        cfg: the config.
        class_counts: (K,) labelled pixels of each class in the source, for static schemes.

    Raises:
        ConfigError: a setting out of range, or a scheme that is not defined for a head.
    """
    heads = _heads_in_use(cfg)
    settings = {field: cfg.WEIGHTING[key] for key, field in WEIGHTING_FIELDS.items()}
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    _check_class_weights(settings["class_weights"], space.num_classes)
    criteria: dict[str, Criterion] = {}
    for head in heads:
        try:
            if head not in INSTANCE_LOSSES:
                criteria[head] = ClassWeightedCrossEntropy(
                    build_scheme(cfg.WEIGHTING.NAME, space.num_classes, settings, class_counts)
                )
                continue
            lender = cfg.WEIGHTING.OFFSET_WEIGHTS_FROM if head == "offset" else OWN
            scheme = (
                _instance_scheme(cfg.WEIGHTING.NAME, head, space.thing_ids, settings, class_counts)
                if lender == OWN
                else _shared_weights(lender, criteria[lender], space.thing_ids)
            )
            criteria[head] = INSTANCE_LOSSES[head](scheme, space.thing_ids, space.num_classes)
        except ValueError as error:
            raise ConfigError(f"WEIGHTING, head '{head}': {error}") from error
    return criteria


def _check_class_weights(given: Any, num_classes: int) -> None:
    if given is not None and (not isinstance(given, list | tuple) or len(given) != num_classes):
        raise ConfigError(
            f"WEIGHTING.CLASS_WEIGHTS is {given}; expected {num_classes} numbers, one per class id"
        )


def _heads_in_use(cfg: CfgNode) -> list[str]:
    """Returns WEIGHTING.HEADS, those that share their weights before those that take them."""
    dense = [h for h in cfg.WEIGHTING.HEADS if h not in INSTANCE_LOSSES]
    instance = [h for h in INSTANCE_LOSSES if h in cfg.WEIGHTING.HEADS]
    if instance and cfg.MODEL.SEMANTIC_ONLY:
        logger.info(
            "MODEL.SEMANTIC_ONLY: there is no instance branch, so heads %s of WEIGHTING.HEADS are "
            "left out",
            ", ".join(instance),
        )
        return dense
    return dense + instance


def _instance_scheme(
    name: str,
    head: str,
    thing_ids: tuple[int, ...],
    settings: dict[str, Any],
    class_counts: Tensor | None,
) -> WeightingScheme:
    """Builds the scheme over the things; one that measures at a classifier becomes `gbw_norm`."""
    counts = None if class_counts is None else class_counts[list(thing_ids)]
    # Centres and offsets have no logits.
    settings = {**settings, "logit_adjustment": 0.0, "pseudo_label_adjustment": 0.0}
    if settings["class_weights"] is not None:
        things = [settings["class_weights"][i] for i in thing_ids]
        settings = {**settings, "class_weights": things}
    scheme = build_scheme(name, len(thing_ids), settings, counts)
    if not scheme.needs_classifier:
        return scheme
    logger.info(
        "Head '%s' has no classifier for scheme '%s' to measure at: its weights are those of "
        "'%s' (docs/equations.md 7)",
        head,
        name,
        WITHOUT_CLASSIFIER,
    )
    # What the user set holds for both, but the measure, and a power that norms have in them. Which
    # terms are weighted, and what shapes their weights, is the named scheme's: pseudo-labels of
    # instances are no safer than others.
    shared = {**settings, "measure": None, "frequency_power": None}
    shared["acts_on"], shared["shaped_by"] = scheme.settings.acts_on, scheme.settings.shaped_by
    return build_scheme(WITHOUT_CLASSIFIER, len(thing_ids), shared, counts)


def _shared_weights(name: str, lender: Criterion, thing_ids: tuple[int, ...]) -> SharedWeights:
    def weights_of(term: str) -> Tensor | None:
        last = lender.last.get(term)
        return None if last is None else last.weights

    return SharedWeights(name, [lender.class_ids.index(i) for i in thing_ids], weights_of)
