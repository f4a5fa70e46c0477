"""Builds a checked, frozen config from the command line."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.catalog import find_label_space, get_dataset
from gbw_d2.config import ConfigError, load_config
from gbw_d2.engine.build import is_panoptic
from gbw_d2.engine.checkpoint import CheckpointError, look_for_weights, scored_weights
from gbw_d2.engine.class_transfer import checkpoint_space
from gbw_d2.engine.evaluation import check_instances, meet_test_set
from gbw_d2.engine.optimizer import OPTIMIZERS
from gbw_d2.engine.precision import DTYPES
from gbw_d2.engine.resume import check_unused
from gbw_d2.engine.weighted_losses import check_weighting
from gbw_d2.evaluation.label_free import CRITERIA
from gbw_d2.evaluation.metric_names import metric_names
from gbw_d2.evaluation.protocols import (
    Protocol,
    chosen_protocols,
    default_protocols,
    protocols_of,
)
from gbw_d2.files.atomic import naming
from gbw_d2.label_spaces import LABEL_SPACES, LabelSpace, Scoring
from gbw_d2.modeling import meta_arch  # noqa: F401  (registers the architectures)
from gbw_d2.ranges import check_ranges
from gbw_d2.uda import STRATEGIES, check_thresholds, loss_terms
from gbw_d2.unread_keys import check_unread
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from detectron2.utils.registry import Registry


def setup(args: Any) -> CfgNode:
    """Loads and checks the config, derives its open values, and starts logging.

    Args:
        args: of Detectron2's argument parser (``config_file``, ``opts``).

    Returns:
        the frozen config; it is also written to OUTPUT_DIR/config.yaml.

    Raises:
        ValueError: the config names something unknown or contradicts itself.
    """
    cfg = load_config(args.config_file, args.opts)
    check_unread(cfg)
    asked = cfg.DATASETS.LABEL_SPACE
    if args.eval_only:
        # The classes are those of the weights, whose training data need not be available.
        weights = scored_weights(cfg, args.resume)
        if not weights:
            raise CheckpointError(
                "--eval-only has no weights: give MODEL.WEIGHTS <file>, or --resume for the last "
                f"checkpoint of OUTPUT_DIR '{cfg.OUTPUT_DIR}'"
            )
        resolve(cfg, checkpoint_space(weights), data=("TEST",))
    else:
        resolve(cfg)
        check_unused(cfg.OUTPUT_DIR, args.resume)
        weights = scored_weights(cfg, args.resume)
        if weights:
            # Checked before data are generated and classes counted.
            look_for_weights(weights)
    cfg.freeze()
    check_output_dir(cfg.OUTPUT_DIR)
    with naming(cfg.OUTPUT_DIR):
        default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="gbw_d2")
    if asked != cfg.DATASETS.LABEL_SPACE:
        logger.info(
            "The classes are those of the weights, label space '%s'; the config names '%s'",
            cfg.DATASETS.LABEL_SPACE,
            asked,
        )
    return cfg


def check_output_dir(folder: str) -> None:
    """Makes the folder of a run if it does not exist, and checks that it is writable.

    Raises:
        ConfigError: the name is empty, the folder cannot be made, or it is not writable.
    """
    if not folder:
        raise ConfigError("OUTPUT_DIR is '', so nothing would be kept; set it to a folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Only writing shows whether a disk is read-only or full.
        with tempfile.TemporaryFile(dir=folder, prefix=".probe") as file:
            file.write(b"\0")
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR '{folder}' cannot be written to ({error.strerror}); set it to a folder "
            "that you may write to, on a disk with room"
        ) from error


DATA_KEYS = ("TRAIN", "TARGET", "TEST")


def resolve(
    cfg: CfgNode, space: LabelSpace | None = None, data: tuple[str, ...] = DATA_KEYS
) -> None:
    """Checks names and derives open values from other keys, in place.

    Args:
        cfg: the config.
        space: the label space of existing weights; None for that of DATASETS.LABEL_SPACE.
        data: keys of DATASETS whose datasets are used and must exist.

    Raises:
        ValueError: an unknown name, or a class count that does not fit the label space.
    """
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed() % 2**31
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    _check_names(cfg, data)
    _check_numbers(cfg)
    if space is None:
        space = find_label_space(cfg.DATASETS.LABEL_SPACE)
    cfg.DATASETS.LABEL_SPACE = LABEL_SPACES.adopt(space).name
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NUM_CLASSES not in (0, space.num_classes):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but DATASETS.LABEL_SPACE "
            f"'{space.name}' has {space.num_classes} classes; leave it at 0 to follow that"
        )
    head.NUM_CLASSES = space.num_classes
    if is_panoptic(cfg) and not space.thing_ids:
        raise ConfigError(
            f"label space '{space.name}' has no things, but MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE} predicts instances; name some (`things: [...]`), or "
            "set MODEL.SEMANTIC_ONLY True"
        )
    check_weighting(cfg, META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), space)
    if "TEST" in data:
        _choose_protocols(cfg)
    _take_ignored_rows(cfg, cfg.DATASETS.TARGET if "TARGET" in data else ())
    if "TRAIN" in data and not is_panoptic(cfg):
        asking = STRATEGIES.get(cfg.UDA.NAME).needs_instances(cfg.UDA.get(cfg.UDA.NAME.upper()))
        if asking:
            raise ConfigError(
                f"{asking} needs instances of the source, which "
                f"{cfg.MODEL.META_ARCHITECTURE} does not learn here; set MODEL.SEMANTIC_ONLY False "
                "with a panoptic network, or take another strategy"
            )
    needs_target = "TARGET" in data and STRATEGIES.get(cfg.UDA.NAME).needs_target
    if needs_target and not cfg.DATASETS.TARGET:
        raise ConfigError(f"UDA.NAME '{cfg.UDA.NAME}' needs target images; set DATASETS.TARGET")
    if "TARGET" in data and cfg.EVAL.LABEL_FREE_IMAGES and not cfg.DATASETS.TARGET:
        raise ConfigError("EVAL.LABEL_FREE_IMAGES needs target images; set DATASETS.TARGET")


def _choose_protocols(cfg: CfgNode) -> None:
    """Derives EVAL.PROTOCOLS from all test sets, beginning with the first."""
    known: dict[str, Protocol] = {}
    defaults: dict[str, None] = {}
    sets: list[Scoring] = []
    for name in cfg.DATASETS.TEST:
        spec = get_dataset(name)
        met = meet_test_set(cfg, spec)
        sets.append(met)
        check_instances(cfg, spec)
        fitting = protocols_of(met)
        known = {**fitting, **known}
        defaults |= dict.fromkeys(default_protocols(met, fitting))
    asked = tuple(cfg.EVAL.PROTOCOLS)
    unknown = [name for name in asked if known and name not in known]
    if unknown:
        raise ConfigError(
            f"EVAL.PROTOCOLS asks for {', '.join(unknown)}, but label space "
            f"'{cfg.DATASETS.LABEL_SPACE}' on DATASETS.TEST can be scored by {', '.join(known)}"
        )
    if asked and known and known[asked[0]].is_compatibility:
        raise ConfigError(
            f"EVAL.PROTOCOLS begins with '{asked[0]}', which only serves to compare with published "
            f"tables; put one of {', '.join(defaults)} before it"
        )
    cfg.EVAL.PROTOCOLS = asked or tuple(defaults)
    _check_metrics(cfg, sets)


def _check_metrics(cfg: CfgNode, sets: Sequence[Scoring]) -> None:
    """Checks that the first test set has the metric that EVAL.BEST_ON names.

    Raises:
        UserError: it lacks the metric, or a test set has none of the protocols.
    """
    protocols = [chosen_protocols(met, cfg.EVAL.PROTOCOLS) for met in sets]
    asked = cfg.EVAL.BEST_ON
    if not asked:
        return
    if asked in CRITERIA:
        if not cfg.EVAL.LABEL_FREE_IMAGES:
            raise ConfigError(
                f"EVAL.BEST_ON is '{asked}', which is measured on EVAL.LABEL_FREE_IMAGES target "
                "images, and that is 0; set it to some, such as 32"
            )
        return
    leading = protocols[0] if protocols else ()
    known = metric_names(leading, is_panoptic(cfg), cfg.EVAL.INSTANCE_AP)
    if asked not in known:
        near = difflib.get_close_matches(asked, (*known, *CRITERIA), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(
            f"EVAL.BEST_ON is '{asked}', which is no metric of the first test set: "
            f"{hint}It has {', '.join(known) or 'none, since DATASETS.TEST is empty'}; without "
            f"labels there are {', '.join(CRITERIA)}"
        )


def _take_ignored_rows(cfg: CfgNode, target: tuple[str, ...]) -> None:
    """Derives open values of the ignored image margins from the target dataset."""
    rows = get_dataset(target[0]).ignore_rows if target else (0.0, 0.0)
    for key, share in zip(("IGNORE_TOP", "IGNORE_BOTTOM"), rows, strict=True):
        if cfg.UDA.SELF_TRAINING[key] is None:
            cfg.UDA.SELF_TRAINING[key] = share


def _check_in_detectron2(registry: Registry, kind: str, name: str) -> None:
    # Detectron2's meta-architectures lack the interface of modeling/protocol.py.
    ours = registry is META_ARCH_REGISTRY
    known = sorted(n for n, entry in registry if not ours or hasattr(entry, "target_generator"))
    if name not in known:
        raise ConfigError(f"unknown {kind} '{name}' (known: {', '.join(known)})")


def _check_numbers(cfg: CfgNode) -> None:
    check_ranges(cfg)
    if cfg.SOLVER.LR_ITERS and cfg.SOLVER.LR_ITERS < cfg.SOLVER.MAX_ITER:
        raise ConfigError(
            f"SOLVER.LR_ITERS is {cfg.SOLVER.LR_ITERS}, less than SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}; the schedule must last as long as the run, 0 makes it so"
        )
    try:
        # Moving a number to the device checks its name, its driver and its index at once.
        torch.zeros(1, device=cfg.MODEL.DEVICE)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"MODEL.DEVICE '{cfg.MODEL.DEVICE}' cannot be used ({reason}); 'auto' always can"
        ) from error


def _check_names(cfg: CfgNode, data: tuple[str, ...]) -> None:
    loss_terms(cfg.UDA.NAME, cfg.UDA)
    check_thresholds(cfg.UDA.NAME, cfg.UDA)
    untrained = STRATEGIES.get(cfg.UDA.NAME).needs_weights(cfg.UDA.get(cfg.UDA.NAME.upper()))
    if untrained and not cfg.MODEL.WEIGHTS:
        raise ConfigError(untrained)
    SCHEMES.get(cfg.WEIGHTING.NAME)
    OPTIMIZERS.get(cfg.SOLVER.OPTIMIZER)
    DTYPES.get(cfg.SOLVER.AMP.DTYPE)
    for key in data:
        names = cfg.DATASETS[key]
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ConfigError(f"DATASETS.{key} is {names!r}; expected a list of names")
        for name in names:
            get_dataset(name)
    _check_in_detectron2(
        META_ARCH_REGISTRY, "architecture (MODEL.META_ARCHITECTURE)", cfg.MODEL.META_ARCHITECTURE
    )
    _check_in_detectron2(
        BACKBONE_REGISTRY, "backbone (MODEL.BACKBONE.NAME)", cfg.MODEL.BACKBONE.NAME
    )
    _check_in_detectron2(
        SEM_SEG_HEADS_REGISTRY, "head (MODEL.SEM_SEG_HEAD.NAME)", cfg.MODEL.SEM_SEG_HEAD.NAME
    )
