"""The jobs of train_net.py: training, evaluation, and checking all that training needs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.engine.batches import build_batches, build_context
from gbw_d2.engine.build import build_model, build_precision, build_training_losses
from gbw_d2.engine.check_report import log_data
from gbw_d2.engine.checkpoint import Checkpointer, scored_weights
from gbw_d2.engine.distributed import broadcast_parameters
from gbw_d2.engine.evaluation import best_metric, evaluate, try_evaluation, write_results
from gbw_d2.engine.hooks import ClassWeights, Evaluation, Log, is_due, periodic_checkpointer
from gbw_d2.engine.label_free import LabelFree
from gbw_d2.engine.missed_evaluation import (
    evaluate_and_record,
    evaluate_if_missed,
    is_recorded,
)
from gbw_d2.engine.optimizer import build_optimizer, schedule_from
from gbw_d2.engine.precision import Precision
from gbw_d2.engine.resume import MARKS, check_resumed, config_entries
from gbw_d2.engine.run_data import RunData
from gbw_d2.engine.selection import BestCheckpoint
from gbw_d2.engine.trainer import Trainer
from gbw_d2.engine.weighted_losses import weighted_heads
from gbw_d2.files.atomic import cut_to_whole_lines, naming
from gbw_d2.losses import WeightedLosses
from gbw_d2.modeling.backbones.timm_backbone import TimmBackbone
from gbw_d2.results.reader import LOSSES, WEIGHTS
from gbw_d2.uda import ExtraOptimizer, Stage, Strategy, build_strategy
from gbw_d2.weighting import WeightingScheme

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter

logger = logging.getLogger(__name__)

FINAL = "model_final"  # as Detectron2's PeriodicCheckpointer names the last checkpoint


@dataclass
class _Run:
    """The objects that all stages of a run share."""

    data: RunData
    model: nn.Module
    strategy: Strategy
    losses: WeightedLosses
    optimizer: torch.optim.Optimizer
    rates: list[float]
    extra: dict[str, ExtraOptimizer]
    precision: Precision
    checkpointer: Checkpointer

    @property
    def cfg(self) -> CfgNode:
        return self.data.cfg


def _evaluated_network(cfg: CfgNode, strategy: Strategy) -> nn.Module:
    networks = strategy.networks()
    if cfg.EVAL.WEIGHTS not in networks:
        raise ConfigError(
            f"EVAL.WEIGHTS is '{cfg.EVAL.WEIGHTS}', but strategy '{cfg.UDA.NAME}' has "
            f"{', '.join(networks)}"
        )
    return networks[cfg.EVAL.WEIGHTS]


def _label_free(data: RunData, strategy: Strategy, network: nn.Module) -> LabelFree | None:
    """Builds the evaluation of label-free criteria, or returns None if it is off."""
    if not data.cfg.EVAL.LABEL_FREE_IMAGES:
        return None
    return LabelFree(data, strategy.networks(), network)


def evaluate_only(cfg: CfgNode, resume: bool) -> dict[str, float]:
    """Evaluates MODEL.WEIGHTS or, with ``resume``, the last checkpoint of OUTPUT_DIR.

        Returns:
            metrics of the first test set by name; {} on all processes except the first.

    Raises:
        CheckpointError: the weights cannot be read or are of another network.
    """
    start = time.perf_counter()
    model = build_model(cfg)
    strategy = build_strategy(cfg.UDA.NAME, model, cfg.UDA, cfg.SEED, cfg.SOLVER.MAX_ITER)
    network = _evaluated_network(cfg, strategy)
    beside = {name: m for name, m in strategy.modules().items() if m is network}
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, **beside)
    checkpointer.strict, checkpointer.trust = True, cfg.MODEL.TRUST_WEIGHTS
    path = scored_weights(cfg, resume)
    rest = checkpointer.load(path)
    if cfg.EVAL.LABEL_FREE_IMAGES:
        logger.warning("--eval-only measures no label-free criteria: training does")
    # After the weights: wrong ones are reported in a second, and the toy world takes half a minute.
    data = RunData(cfg)
    data.prepare(training=False)
    results = evaluate(data, network, Path(cfg.OUTPUT_DIR) / "pictures" / "evaluation.png")
    write_results(cfg, results, rest.get("iteration", -1) + 1, time.perf_counter() - start)
    return next(iter(results.values())).metrics if results else {}


def check(cfg: CfgNode, resume: bool) -> dict[str, float]:
    """Builds all that a run needs, reads a batch, evaluates an image of each test set, and stops.

    Raises:
        UserError: an error at which training or its evaluation would stop.
    """
    data = RunData(cfg)
    data.prepare(training=True)
    run = _build_run(data)
    network = _evaluated_network(cfg, run.strategy)
    stages = run.strategy.stages()
    done = _load(run, resume)
    label_free = _label_free(data, run.strategy, network)
    next(build_batches(data, done))
    _try(data, network, label_free)
    log_data(data)
    names = ", ".join(stage.name for stage in stages)
    logger.info("Checked; training would begin at iteration %d (stages: %s)", done, names)
    return {}


def train(cfg: CfgNode, resume: bool) -> dict[str, float]:
    """Trains to SOLVER.MAX_ITER, evaluates, and writes results.json.

    Args:
        cfg: the frozen config.
        resume: whether to resume from the last checkpoint of OUTPUT_DIR if there is one.

    Returns:
        flat metrics of the first test set; {} on all processes but the first.
    """
    start = time.perf_counter()
    data = RunData(cfg)
    data.prepare(training=True)
    run = _build_run(data)
    network = _evaluated_network(cfg, run.strategy)
    done = _load(run, resume)
    label_free = _label_free(data, run.strategy, network)
    folder = Path(cfg.OUTPUT_DIR)
    writers = partial(_metric_writers, folder)
    best = BestCheckpoint(best_metric(data), run.checkpointer, folder, done)
    final: dict[str, float] = {}

    def evaluate_after(iterations: int) -> dict[str, float]:
        picture = folder / "pictures" / f"iteration_{iterations:07d}.png"
        results = evaluate(data, network, picture)
        criteria = label_free.measure() if label_free else {}
        final.clear()
        final.update((next(iter(results.values())).metrics if results else {}) | criteria)
        best.add(final, iterations)
        if iterations >= cfg.SOLVER.MAX_ITER:
            more = {"label_free": criteria, best.name: best.record}
            more = {name: entry for name, entry in more.items() if entry}
            write_results(cfg, results, iterations, time.perf_counter() - start, more)
        return final

    if done >= cfg.SOLVER.MAX_ITER:
        logger.info("Training is complete at iteration %d; evaluating", done)
        if not (folder / f"{FINAL}.pth").is_file():
            # The run was killed between writing its last two checkpoints, which are equal.
            run.checkpointer.save(FINAL, iteration=done - 1)
        if is_recorded(folder, done):
            return evaluate_after(done)
        return dict(evaluate_and_record(done, evaluate_after, writers))
    _try(data, network, label_free)
    ends = [stage.last for stage in run.strategy.stages()]
    due = partial(is_due, period=cfg.TEST.EVAL_PERIOD, ends=ends)
    evaluate_if_missed(folder, done, due, evaluate_after, writers)
    for stage in run.strategy.stages():
        if done < stage.last:
            _train_stage(run, stage, max(done, stage.first), evaluate_after)
    return final


def _try(data: RunData, network: nn.Module, label_free: LabelFree | None) -> None:
    """Evaluates one image of each test set and of the target, as a trial."""
    try_evaluation(data, network)
    if label_free is not None:
        label_free.try_once()


def _build_run(data: RunData) -> _Run:
    cfg = data.cfg
    losses = build_training_losses(cfg, data.weighting_counts)
    model = build_model(cfg, losses)
    strategy = build_strategy(cfg.UDA.NAME, model, cfg.UDA, cfg.SEED, cfg.SOLVER.MAX_ITER)
    optimizer = build_optimizer(cfg, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    extra = strategy.optimizers()
    precision = build_precision(cfg)
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        optimizer=optimizer,
        precision=precision,
        weighted_losses=losses,
        **strategy.modules(),
        **{f"optimizer_{name}": each.optimizer for name, each in extra.items()},
    )
    checkpointer.trust = cfg.MODEL.TRUST_WEIGHTS
    checkpointer.reinitialise = cfg.MODEL.REINITIALISE_MISMATCHED
    checkpointer.why_whole = strategy.needs_weights(strategy.settings)
    marks = strategy.marks()
    checkpointer.entries = {**config_entries(cfg), MARKS: marks}
    checkpointer.check_entries = partial(check_resumed, cfg=cfg, marks=marks)
    parameters = sum(p.numel() for p in model.parameters())
    logger.info("%s: %.1f M parameters", cfg.MODEL.META_ARCHITECTURE, parameters / 1e6)
    return _Run(data, model, strategy, losses, optimizer, rates, extra, precision, checkpointer)


def _load(run: _Run, resume: bool) -> int:
    """Loads the last checkpoint or the initial weights; returns the iterations done so far."""
    resume = resume and run.checkpointer.has_checkpoint()
    run.checkpointer.strict = resume
    if resume:
        run.checkpointer.leave_out_damaged()
    else:
        for module in run.model.modules():
            if isinstance(module, TimmBackbone):
                module.load_pretrained()
    rest = run.checkpointer.resume_or_load(run.cfg.MODEL.WEIGHTS, resume=resume)
    for module in (run.model, *run.strategy.modules().values()):
        broadcast_parameters(module)
    return rest.get("iteration", -1) + 1 if resume else 0


def _train_stage(run: _Run, stage: Stage, first: int, evaluate_after: Any) -> None:
    """Trains one stage from iteration ``first`` on."""
    cfg, folder = run.cfg, Path(run.cfg.OUTPUT_DIR)
    fresh = first == stage.first
    if fresh:
        run.optimizer.state.clear()
        # All processes start the stage with the first process's buffers, as in a resumed run.
        for module in (run.model, *run.strategy.modules().values()):
            broadcast_parameters(module)
    run.strategy.prepare(stage, build_context(run.data, fresh))
    rates = [rate * stage.lr_factor for rate in run.rates]
    length = cfg.SOLVER.LR_ITERS or stage.last - stage.first
    scheduler = schedule_from(cfg, run.optimizer, rates, length, first - stage.first)
    trainer = Trainer(
        run.model,
        run.strategy,
        build_batches(run.data, first, run.strategy.data(stage)),
        run.optimizer,
        cfg.SOLVER.LOG_PERIOD,
        cfg.SEED,
        cfg.SOLVER.GRADIENT_ACCUMULATION,
        run.precision,
        list(run.extra.values()),
        cfg.SOLVER.LR_ITERS or cfg.SOLVER.MAX_ITER,
        run.losses.flags,
    )
    due = partial(is_due, period=cfg.TEST.EVAL_PERIOD, ends=[stage.last])
    log = _when_main(lambda: Log(_writers(cfg), cfg.SOLVER.LOG_PERIOD, due))
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(run.optimizer, scheduler),
            # Class weights and losses are written before the checkpoint: a resumed run repeats
            # what came after it, and nothing else.
            ClassWeights(
                _schemes_by_head(run),
                run.strategy.weight_log,
                run.model.label_space.class_names,
                cfg.SOLVER.LOG_PERIOD,
                folder / WEIGHTS,
            ),
            log and log.before_checkpoint,
            _when_main(
                lambda: periodic_checkpointer(
                    run.checkpointer,
                    cfg.SOLVER.CHECKPOINT_PERIOD,
                    cfg.SOLVER.CHECKPOINTS_KEPT,
                    [each.last for each in run.strategy.stages()],
                )
            ),
            Evaluation(cfg.TEST.EVAL_PERIOD, evaluate_after),
            log,
        ]
    )
    with naming(folder):
        trainer.train(first, stage.last)


def _schemes_by_head(run: _Run) -> dict[str, WeightingScheme]:
    """Returns the schemes of the heads that are weighted."""
    heads = weighted_heads(run.cfg, type(run.model), run.model.label_space)
    return {head: run.losses[head].scheme for head in heads}


def _when_main(make: Any) -> Any:
    return make() if comm.is_main_process() else None


def _writers(cfg: CfgNode) -> list[Any]:
    printer = CommonMetricPrinter(cfg.SOLVER.MAX_ITER, cfg.SOLVER.LOG_PERIOD)
    return [printer, *_metric_writers(Path(cfg.OUTPUT_DIR))]


def _metric_writers(folder: Path) -> list[Any]:
    # Otherwise a line that a killed run left incomplete would be the beginning of the next line.
    cut_to_whole_lines(folder / LOSSES)
    return [JSONWriter(str(folder / LOSSES)), TensorboardXWriter(str(folder / "tensorboard"))]
