"""From the command line to a checked, frozen config."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError, load_config
from gbw_d2.data.catalog import get_dataset
from gbw_d2.engine.optimizer import OPTIMIZERS
from gbw_d2.engine.precision import DTYPES
from gbw_d2.engine.weighted_losses import check_weighting
from gbw_d2.evaluation.protocols import PROTOCOLS, compatibility_protocols, protocols_of
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling import meta_arch  # noqa: F401  (registers the architectures)
from gbw_d2.uda import STRATEGIES
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from detectron2.utils.registry import Registry


def setup(args: Any) -> CfgNode:
    """Loads and checks the config, derives what is left open, and starts logging.

    Args:
        args: of Detectron2's argument parser (``config_file``, ``opts``).

    Returns:
        the frozen config; it is also written to OUTPUT_DIR/config.yaml.

    Raises:
        ValueError: the config names something unknown or contradicts itself.
    """
    cfg = load_config(args.config_file, args.opts)
    resolve(cfg)
    cfg.freeze()
    check_output_dir(cfg.OUTPUT_DIR)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="gbw_d2")
    return cfg


def check_output_dir(folder: str) -> None:
    """Makes the folder of a run where there is none, and tries to write into it.

    Raises:
        ConfigError: no name, no folder can be made there, or nothing can be written into it.
    """
    if not folder:
        raise ConfigError("OUTPUT_DIR is '', so nothing would be kept; set it to a folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # A folder on a read-only or full disk may exist: only writing tells.
        with tempfile.TemporaryFile(dir=folder, prefix=".probe") as file:
            file.write(b"\0")
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR '{folder}' cannot be written to ({error.strerror}); set it to a folder "
            "that you may write to, on a disk with room"
        ) from error


def resolve(cfg: CfgNode) -> None:
    """Checks names and fills in what follows from other keys, in place.

    Raises:
        ValueError: an unknown name, or a class count that does not fit the label space.
    """
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed() % 2**31
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    _check_names(cfg)
    _check_numbers(cfg)
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NUM_CLASSES not in (0, space.num_classes):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but DATASETS.LABEL_SPACE "
            f"'{space.name}' has {space.num_classes} classes; leave it at 0 to follow that"
        )
    head.NUM_CLASSES = space.num_classes
    check_weighting(cfg, META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), space)
    fitting, compatible = protocols_of(space.train_ids), compatibility_protocols()
    wrong = [p for p in cfg.EVAL.PROTOCOLS if p not in (*fitting, *compatible)]
    if wrong:
        raise ConfigError(
            f"EVAL.PROTOCOLS asks for {', '.join(wrong)}, but label space '{space.name}' can be "
            f"scored by {', '.join(fitting)}"
        )
    if cfg.EVAL.PROTOCOLS and cfg.EVAL.PROTOCOLS[0] in compatible:
        raise ConfigError(
            f"EVAL.PROTOCOLS begins with '{cfg.EVAL.PROTOCOLS[0]}', which only serves to compare "
            f"with published tables; put one of {', '.join(fitting)} before it"
        )
    cfg.EVAL.PROTOCOLS = tuple(cfg.EVAL.PROTOCOLS or fitting)
    if STRATEGIES.get(cfg.UDA.NAME).needs_target and not cfg.DATASETS.TARGET:
        raise ConfigError(f"UDA.NAME '{cfg.UDA.NAME}' needs target images; set DATASETS.TARGET")


def _check_in_detectron2(registry: Registry, kind: str, name: str) -> None:
    # Its own meta-architectures have another interface than ours (modeling/protocol.py).
    ours = registry is META_ARCH_REGISTRY
    known = sorted(n for n, entry in registry if not ours or hasattr(entry, "target_generator"))
    if name not in known:
        raise ConfigError(f"unknown {kind} '{name}' (known: {', '.join(known)})")


def _check_numbers(cfg: CfgNode) -> None:
    if cfg.SOLVER.LR_ITERS and cfg.SOLVER.LR_ITERS < cfg.SOLVER.MAX_ITER:
        raise ConfigError(
            f"SOLVER.LR_ITERS is {cfg.SOLVER.LR_ITERS}, less than SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}; the schedule must last as long as the run, 0 makes it so"
        )
    for key, value, least in (
        ("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, 1),
        ("SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, 1),
        ("SOLVER.GRADIENT_ACCUMULATION", cfg.SOLVER.GRADIENT_ACCUMULATION, 1),
        ("SOLVER.LOG_PERIOD", cfg.SOLVER.LOG_PERIOD, 1),
        ("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD, 1),
        ("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, 0),
    ):
        if value < least:
            raise ConfigError(f"{key} is {value}; expected {least} or more")
    try:
        # Putting a number there is the one question that covers name, driver and index.
        torch.zeros(1, device=cfg.MODEL.DEVICE)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"MODEL.DEVICE '{cfg.MODEL.DEVICE}' cannot be used ({reason}); 'auto' always can"
        ) from error


def _check_names(cfg: CfgNode) -> None:
    STRATEGIES.get(cfg.UDA.NAME)
    SCHEMES.get(cfg.WEIGHTING.NAME)
    OPTIMIZERS.get(cfg.SOLVER.OPTIMIZER)
    DTYPES.get(cfg.SOLVER.AMP.DTYPE)
    LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    for protocol in cfg.EVAL.PROTOCOLS:
        PROTOCOLS.get(protocol)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET, *cfg.DATASETS.TEST):
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
