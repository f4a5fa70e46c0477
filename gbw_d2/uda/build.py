"""Builds a strategy, its loss terms and its masked consistency from the config."""

from __future__ import annotations

import logging
from typing import Any

from gbw_d2 import keys
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import SegmentationModel
from gbw_d2.uda.parts.masked_consistency import MaskedConsistency
from gbw_d2.uda.strategy import STRATEGIES, RunSettings, Strategy

logger = logging.getLogger(__name__)


def build_strategy(
    name: str, model: SegmentationModel, uda_keys: Any, seed: int = 0, max_iter: int = 1
) -> Strategy:
    """Builds the strategy named ``name`` from its config node ``UDA.<NAME>``.

    Args:
        name: the strategy's registry name. model: the student.
        uda_keys: the config's node ``UDA``.
        seed: the run's seed.
        max_iter: iterations of the whole run.

    Raises:
        UnknownNameError: no such strategy; the message lists the known ones.
        UserError: a key out of range, or a network that the strategy cannot adapt.
    """
    masked = masked_consistency(name, uda_keys)
    run = RunSettings(seed, max_iter, uda_keys.WARM_UP, masked)
    strategy = STRATEGIES.get(name)
    lacking = [method for method in strategy.asks_for if not hasattr(model, method)]
    if lacking:
        raise UserError(
            f"UDA.NAME '{name}' asks of the network what {type(model).__name__} cannot do "
            f"({', '.join(lacking)}); take another network or strategy (docs/training.md)"
        )
    names = model.label_space.class_names
    if len(names) < strategy.least_classes:
        raise UserError(
            f"UDA.NAME '{name}' compares the probabilities of classes, but the network has only "
            f"{', '.join(names)}; make the rest a class of its own instead of void, or take "
            "another strategy (self_training, cbst)"
        )
    if run.warm_up > 0 and not strategy.follows_warm_up:
        logger.info(
            "UDA.WARM_UP %g changes nothing under UDA.NAME '%s', whose own key is UDA.%s.WARM_UP",
            *(run.warm_up, name, name.upper()),
        )
    return strategy(model, uda_keys.get(name.upper()), run)


def masked_consistency(name: str, uda_keys: Any) -> MaskedConsistency | None:
    """Builds what ``UDA.MASKED_CONSISTENCY`` configures, or returns None where it is off.

    Args:
        name: of the strategy.
        uda_keys: the config's node ``UDA``.

    Raises:
        UserError: it is on under a strategy without pseudo-labels.
    """
    settings = uda_keys.MASKED_CONSISTENCY
    if settings.LOSS_WEIGHT == 0:
        return None
    if not STRATEGIES.get(name).has_pseudo_labels:
        able = [n for n in STRATEGIES.names() if STRATEGIES.get(n).has_pseudo_labels]
        raise UserError(
            f"UDA.MASKED_CONSISTENCY.LOSS_WEIGHT is {settings.LOSS_WEIGHT}, but UDA.NAME '{name}' "
            f"makes no pseudo-labels for masked images; set it to 0, or take {' or '.join(able)}"
        )
    return MaskedConsistency(settings.LOSS_WEIGHT, settings.BLOCK, settings.RATIO)


def check_thresholds(name: str, uda_keys: Any) -> None:
    """Raises UserError where thresholds are to be adaptive that a strategy does not read.

    Args:
        name: of the strategy.
        uda_keys: the config's node ``UDA``.
    """
    own, wanted = STRATEGIES.get(name).own_thresholds, uda_keys.SELF_TRAINING.THRESHOLDS
    if own and wanted != "fixed":
        raise UserError(
            f"UDA.SELF_TRAINING.THRESHOLDS is '{wanted}', but UDA.NAME '{name}' goes by {own}; "
            "leave it 'fixed', or take self_training"
        )


def loss_terms(name: str, uda_keys: Any) -> tuple[str, ...]:
    """Returns the names of a strategy's loss terms with class labels under a config.

    Args:
        name: of the strategy.
        uda_keys: the config's node ``UDA``.

    Raises:
        UserError: masked consistency is on under a strategy without pseudo-labels.
    """
    terms = STRATEGIES.get(name).loss_terms(uda_keys.get(name.upper()))
    return terms if masked_consistency(name, uda_keys) is None else (*terms, keys.TERM_MASKED)
