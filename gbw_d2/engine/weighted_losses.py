"""Builds the class-weighted losses of the network's heads from WEIGHTING."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LabelSpace
from gbw_d2.losses import WeightedLoss, WeightedLosses
from gbw_d2.modeling.protocol import HeadSpec, SegmentationModel
from gbw_d2.settings import SettingError, config_keys, declarations
from gbw_d2.uda import STRATEGIES
from gbw_d2.weighting import (
    SCHEMES,
    SharedWeights,
    WeightingScheme,
    build_scheme,
    build_scheme_for,
)

from detectron2.config import CfgNode

ALL = "all"
# Settings that need a softmax over the classes.
_OF_SOFTMAX = ("logit_adjustment", "pseudo_label_adjustment")

logger = logging.getLogger(__name__)


def weighted_heads(
    cfg: CfgNode, network: type[SegmentationModel], space: LabelSpace
) -> dict[str, HeadSpec]:
    """Returns the heads whose loss is weighted: WEIGHTING.HEADS, or all for which it is defined.

    Instance heads are left out, with a log message, if MODEL.SEMANTIC_ONLY removes their branch
    from the network.

    Args:
        cfg: the config.
        network: the architecture.
        space: the classes.

    Raises:
        ConfigError: a head that the network does not have, or a text instead of a list.
    """
    heads, named = network.heads(cfg, space), cfg.WEIGHTING.HEADS
    if named is None or named == ALL or list(named) == [ALL]:
        return {name: head for name, head in heads.items() if _is_defined(cfg, head)}
    if isinstance(named, str):
        raise ConfigError(
            f"WEIGHTING.HEADS is the text {named!r}, not a list; write "
            f"\"['{next(iter(heads))}']\", each name in quotes of its own, or '{ALL}'"
        )
    absent = [name for name in named if name not in heads]
    if absent and cfg.MODEL.SEMANTIC_ONLY:
        whole = cfg.clone()
        whole.defrost()
        whole.MODEL.SEMANTIC_ONLY = False
        left_out = [name for name in absent if name in network.heads(whole, space)]
        absent = [name for name in absent if name not in left_out]
        logger.info(
            "MODEL.SEMANTIC_ONLY: heads %s of WEIGHTING.HEADS are left out", ", ".join(left_out)
        )
    if absent:
        raise ConfigError(
            f"WEIGHTING.HEADS names {', '.join(absent)}; {cfg.MODEL.META_ARCHITECTURE} with these "
            f"keys has {', '.join(heads)} ('{ALL}' takes those that the scheme is defined for)"
        )
    return {name: head for name, head in heads.items() if name in named}


def _is_defined(cfg: CfgNode, head: HeadSpec) -> bool:
    """Whether the scheme can weight a head at all, regardless of its settings."""
    scheme = SCHEMES.get(cfg.WEIGHTING.NAME).scheme
    return head.loss.has_softmax or not scheme.needs_softmax


def check_weighting(cfg: CfgNode, network: type[SegmentationModel], space: LabelSpace) -> None:
    """Checks WEIGHTING's keys against the network's heads.

    Raises:
        ConfigError: an unknown head, a key that the scheme does not have or that is out of range,
            or weights taken over from a head that has none, be it in one loss term alone.
    """
    # The counts are not known yet, and no check depends on their values.
    build_weighted_losses(cfg, network, space, torch.ones(space.num_classes), ())
    _check_shared_terms(cfg, network, space)


def _check_shared_terms(cfg: CfgNode, network: type[SegmentationModel], space: LabelSpace) -> None:
    """Checks that no instance head takes over weights in a term whose semantic heads have none."""
    strategy = STRATEGIES.get(cfg.UDA.NAME)
    terms = strategy.terms_without_semantics(cfg.UDA.get(cfg.UDA.NAME.upper()))
    if not terms:
        return
    reduced = cfg.clone()
    reduced.defrost()
    reduced.MODEL.SEMANTIC_ONLY = True
    semantic = network.heads(reduced, space)
    for head, other in _weight_sources(cfg, weighted_heads(cfg, network, space)).items():
        if head not in semantic and other in semantic:
            term, made_by = next(iter(terms.items()))
            raise ConfigError(
                f"WEIGHTING.WEIGHTS_FROM gives head '{head}' the weights of '{other}', which has "
                f"no loss and so no weights in term '{term}' ({made_by}); take the pair out, or "
                "change those keys"
            )


def build_weighted_losses(
    cfg: CfgNode,
    network: type[SegmentationModel],
    space: LabelSpace,
    class_counts: Tensor | None,
    terms: Sequence[str],
) -> WeightedLosses:
    """Builds the loss of each head, class-weighted for the heads of WEIGHTING.HEADS.

    Args:
        cfg: the config.
        network: the architecture.
        space: the classes.
        class_counts: (K,) labelled pixels of each class in the source, for static schemes.
        terms: names of the loss terms of the strategy.

    Raises:
        ConfigError: a setting out of range, or a scheme that is not defined for a head.
    """
    chosen = weighted_heads(cfg, network, space)
    weight_sources = _weight_sources(cfg, chosen)
    losses: dict[str, WeightedLoss] = {}
    for name, head in network.heads(cfg, space).items():
        try:
            if name not in chosen:
                scheme = build_scheme("none", len(head.class_ids), terms=terms)
            elif name in weight_sources:
                places = [chosen[weight_sources[name]].class_ids.index(i) for i in head.class_ids]
                scheme = SharedWeights(weight_sources[name], places)
            else:
                scheme = _scheme(cfg, name, head, space, class_counts, terms)
            losses[name] = head.loss(scheme, head.class_ids, space.num_classes, name)
        except UserError:
            raise
        except SettingError as error:
            key = _key_of(cfg, error.name)
            raise ConfigError(f"WEIGHTING.{key} {error.found}") from error
        except ValueError as error:
            raise ConfigError(f"WEIGHTING, head '{name}': {error}") from error
    return WeightedLosses(losses)


def _key_of(cfg: CfgNode, field: str) -> str:
    """Returns the key of WEIGHTING that sets a field of its scheme's settings."""
    keys = config_keys(SCHEMES.get(cfg.WEIGHTING.NAME).scheme.Settings)
    return next((key for key, name in keys.items() if name == field), field)


def _weight_sources(cfg: CfgNode, chosen: Mapping[str, HeadSpec]) -> dict[str, str]:
    """Returns for each head that takes over weights the head that has them."""
    if cfg.WEIGHTING.WEIGHTS_FROM is None:
        wanted = {name: head.weights_from for name, head in chosen.items()}
        return {name: other for name, other in wanted.items() if other in chosen}
    pairs = dict(cfg.WEIGHTING.WEIGHTS_FROM)
    weight_sources = {head: other for head, other in pairs.items() if head in chosen}
    for head, other in weight_sources.items():
        if other not in chosen or other in pairs:
            raise ConfigError(
                f"WEIGHTING.WEIGHTS_FROM gives head '{head}' the weights of '{other}', which has "
                f"no weights of its own; name it in WEIGHTING.HEADS (weighted: {', '.join(chosen)})"
            )
        if set(chosen[head].class_ids) - set(chosen[other].class_ids):
            raise ConfigError(
                f"WEIGHTING.WEIGHTS_FROM gives head '{head}' the weights of '{other}', which has "
                "no weights for some of its classes"
            )
    return weight_sources


def _scheme(
    cfg: CfgNode,
    name: str,
    head: HeadSpec,
    space: LabelSpace,
    class_counts: Tensor | None,
    terms: Sequence[str],
) -> WeightingScheme:
    """Builds the scheme of one head over its own classes."""
    settings = _settings(cfg, space)
    if not head.loss.has_softmax:
        settings |= dict.fromkeys(_OF_SOFTMAX, 0.0)
    for field in _per_class(cfg):
        if settings.get(field) is not None:
            settings[field] = [settings[field][i] for i in head.class_ids]
    counts = None if class_counts is None else class_counts[list(head.class_ids)]
    asked = cfg.WEIGHTING.NAME
    scheme = build_scheme_for(
        asked, head.has_classifier, len(head.class_ids), settings, counts, terms
    )
    if scheme.name != asked:
        logger.info(
            "Head '%s' has no classifier for scheme '%s' to measure at: its weights are those of "
            "'%s' (docs/equations.md 7)",
            name,
            asked,
            scheme.name,
        )
    return scheme


def _settings(cfg: CfgNode, space: LabelSpace) -> dict[str, Any]:
    """Returns WEIGHTING's values by field; keys that the scheme lacks must not be set."""
    keys = config_keys(SCHEMES.get(cfg.WEIGHTING.NAME).scheme.Settings)
    own = {"NAME", "HEADS", "WEIGHTS_FROM"}
    foreign = [
        key
        for key, value in cfg.WEIGHTING.items()
        if value is not None and key not in keys and key not in own
    ]
    if foreign:
        raise ConfigError(
            f"WEIGHTING.{foreign[0]} is {cfg.WEIGHTING[foreign[0]]}, but scheme "
            f"'{cfg.WEIGHTING.NAME}' has no such key (it has: {', '.join(sorted(keys))}); take it "
            "out, or set it to None"
        )
    settings = {field: cfg.WEIGHTING[key] for key, field in keys.items()}
    for field in _per_class(cfg):
        _check_per_class(field, settings[field], space.num_classes)
    return settings


def _per_class(cfg: CfgNode) -> list[str]:
    """Returns the names of the scheme's settings that hold one value per class."""
    settings = SCHEMES.get(cfg.WEIGHTING.NAME).scheme.Settings
    return [field.name for field, declared in declarations(settings) if declared.per_class]


def _check_per_class(field: str, given: Any, num_classes: int) -> None:
    if given is not None and (not isinstance(given, list | tuple) or len(given) != num_classes):
        raise ConfigError(
            f"WEIGHTING.{field.upper()} is {given}; expected {num_classes} numbers, one per class "
            "id"
        )
