"""The two jobs of train_net.py: train, and evaluate only."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.engine.build import build_batches, build_criteria, build_model, prepare_datasets
from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.engine.distributed import broadcast_parameters
from gbw_d2.engine.evaluation import evaluate, write_results
from gbw_d2.engine.hooks import ClassWeights, Evaluation
from gbw_d2.engine.optimizer import SchedulePosition, build_lr_scheduler, build_optimizer
from gbw_d2.engine.trainer import Trainer
from gbw_d2.uda import Strategy, build_strategy

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter

logger = logging.getLogger(__name__)


def _evaluated_network(cfg: CfgNode, strategy: Strategy) -> nn.Module:
    networks = strategy.networks()
    if cfg.EVAL.WEIGHTS not in networks:
        raise ConfigError(
            f"EVAL.WEIGHTS is '{cfg.EVAL.WEIGHTS}', but strategy '{cfg.UDA.NAME}' has "
            f"{', '.join(networks)}"
        )
    return networks[cfg.EVAL.WEIGHTS]


def evaluate_only(cfg: CfgNode, resume: bool) -> dict[str, float]:
    """Scores MODEL.WEIGHTS, or with ``resume`` the last checkpoint of OUTPUT_DIR.

    Returns:
        flat metrics of the first test set; {} on all processes but the first.

    Raises:
        CheckpointError: there is nothing to score.
    """
    start = time.perf_counter()
    prepare_datasets(cfg, training=False)
    model = build_model(cfg, build_criteria(cfg, training=False))
    network = _evaluated_network(cfg, build_strategy(cfg.UDA.NAME, model, cfg.UDA, cfg.SEED, cfg.SOLVER.MAX_ITER))
    checkpointer = Checkpointer(network, cfg.OUTPUT_DIR)
    checkpointer.strict, checkpointer.trust = True, cfg.MODEL.TRUST_WEIGHTS
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise CheckpointError(
            "--eval-only has no weights: give MODEL.WEIGHTS <file>, or --resume for the last "
            f"checkpoint of OUTPUT_DIR '{cfg.OUTPUT_DIR}'"
        )
    rest = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = evaluate(cfg, network, Path(cfg.OUTPUT_DIR) / "pictures" / "evaluation.png")
    write_results(cfg, results, rest.get("iteration", -1) + 1, time.perf_counter() - start)
    return next(iter(results.values())).metrics if results else {}


def train(cfg: CfgNode, resume: bool) -> dict[str, float]:
    """Trains to SOLVER.MAX_ITER, evaluates, and writes results.json.

    Args:
        cfg: the frozen config.
        resume: go on from the last checkpoint of OUTPUT_DIR where there is one.

    Returns:
        flat metrics of the first test set; {} on all processes but the first.
    """
    start = time.perf_counter()
    prepare_datasets(cfg, training=True)
    criteria = build_criteria(cfg, training=True)
    model = build_model(cfg, criteria)
    strategy = build_strategy(cfg.UDA.NAME, model, cfg.UDA, cfg.SEED, cfg.SOLVER.MAX_ITER)
    network = _evaluated_network(cfg, strategy)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        optimizer=optimizer,
        schedule=SchedulePosition(scheduler),
        **{f"weighting_{head}": c.scheme for head, c in criteria.items()},
    )
    resume = resume and checkpointer.has_checkpoint()
    checkpointer.strict, checkpointer.trust = resume, cfg.MODEL.TRUST_WEIGHTS
    rest = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    first = rest.get("iteration", -1) + 1 if resume else 0
    broadcast_parameters(model)
    parameters = sum(p.numel() for p in model.parameters())
    logger.info("%s: %.1f M parameters", cfg.MODEL.META_ARCHITECTURE, parameters / 1e6)

    final: dict[str, float] = {}

    def evaluate_after(done: int) -> dict[str, float]:
        picture = Path(cfg.OUTPUT_DIR) / "pictures" / f"iteration_{done:07d}.png"
        results = evaluate(cfg, network, picture)
        if done >= cfg.SOLVER.MAX_ITER:
            write_results(cfg, results, done, time.perf_counter() - start)
        final.clear()
        final.update(next(iter(results.values())).metrics if results else {})
        return final

    if first >= cfg.SOLVER.MAX_ITER:
        logger.info("Training is complete at iteration %d; evaluating", first)
        return evaluate_after(first)
    trainer = Trainer(
        model, strategy, build_batches(cfg, first), optimizer, cfg.SOLVER.LOG_PERIOD, cfg.SEED
    )
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, scheduler),
            _when_main(
                lambda: hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            ),
            ClassWeights(
                criteria,
                model.label_space.class_names,
                cfg.SOLVER.LOG_PERIOD,
                Path(cfg.OUTPUT_DIR) / "class_weights.csv",
            ),
            Evaluation(cfg.TEST.EVAL_PERIOD, evaluate_after),
            _when_main(lambda: hooks.PeriodicWriter(_writers(cfg), cfg.SOLVER.LOG_PERIOD)),
        ]
    )
    trainer.train(first, cfg.SOLVER.MAX_ITER)
    return final


def _when_main(make: Any) -> Any:
    return make() if comm.is_main_process() else None


def _writers(cfg: CfgNode) -> list[Any]:
    folder = Path(cfg.OUTPUT_DIR)
    return [
        CommonMetricPrinter(cfg.SOLVER.MAX_ITER, cfg.SOLVER.LOG_PERIOD),
        JSONWriter(str(folder / "metrics.json")),
        TensorboardXWriter(str(folder / "tensorboard")),
    ]
