"""Evaluates a network on the test sets and writes the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.data.spec import DatasetError, DatasetSpec, Record
from gbw_d2.engine.batches import build_test_batches, test_mapper
from gbw_d2.engine.build import is_panoptic
from gbw_d2.engine.pictures import PicturePanel
from gbw_d2.engine.run_data import RunData, first_process_first
from gbw_d2.errors import UserError
from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from gbw_d2.evaluation.label_free import CRITERIA
from gbw_d2.evaluation.protocols import PARTIAL, Protocol, chosen_protocols
from gbw_d2.evaluation.report import format_table, merge_per_class
from gbw_d2.keys import FILE_NAME
from gbw_d2.label_spaces import LABEL_SPACES, Scoring, scoring
from gbw_d2.results.reader import RESULTS, SCORES
from gbw_d2.results.run_info import run_info
from gbw_d2.results.writer import PerClass, write_per_class_csv, write_results_json

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluators, inference_context, inference_on_dataset
from detectron2.utils import comm

logger = logging.getLogger(__name__)


@dataclass
class Scores:
    """The scores on one test set.

    Args:
        metrics: metrics by name, 0..100.
        per_class: protocol -> class name -> scores.
        images: number of evaluated images.
        whole: number of images of the whole test set; metrics on fewer are named partial.
    """

    metrics: dict[str, float]
    per_class: PerClass
    images: int
    whole: int


def meet_test_set(cfg: CfgNode, spec: DatasetSpec) -> Scoring:
    """Determines how the network of a config is evaluated on a test set.

    Raises:
        UserError: the test set has no labels, or its classes do not fit the network's.
    """
    if spec.read_semantic is None:
        raise DatasetError(f"DATASETS.TEST '{spec.name}' has no labels to score by")
    return scoring(LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE), spec.classes)


def check_instances(cfg: CfgNode, spec: DatasetSpec) -> None:
    """Checks, before training, that a test set has the instances that PQ needs.

    Raises:
        DatasetError: the network predicts instances and the test set has none.
    """
    if is_panoptic(cfg) and spec.read_panoptic is None:
        raise DatasetError(
            f"DATASETS.TEST '{spec.name}' has no instances for PQ; use a panoptic dataset, or set "
            "MODEL.SEMANTIC_ONLY True"
        )


def _build_evaluators(
    cfg: CfgNode,
    spec: DatasetSpec,
    met: Scoring,
    protocols: tuple[Protocol, ...],
    folder: Path | None,
) -> list[Any]:
    """Builds the evaluators; the readers of ``spec`` give class ids of the evaluated label space.

    Without a folder they write nothing.
    """
    assert spec.read_semantic is not None
    evaluators: list[Any] = []
    predictions = folder / "predictions" if folder and cfg.TEST.SAVE_PREDICTIONS else None
    if is_panoptic(cfg):
        assert spec.read_panoptic is not None  # check_instances
        evaluators.append(
            PanopticEvaluator(
                spec.read_panoptic,
                met,
                protocols,
                folder,
                save_predictions=predictions,
                instance_ap=cfg.EVAL.INSTANCE_AP,
            )
        )
    evaluators.append(SemanticEvaluator(spec.read_semantic, met, protocols, folder))
    return evaluators


@dataclass
class _TestSet:
    """A test set with its class mapping and its evaluators."""

    records: list[Record]
    whole: int
    spec: DatasetSpec
    met: Scoring
    evaluators: list[Any]


def _test_set(data: RunData, name: str, folder: Path | None) -> _TestSet:
    cfg, listed = data.cfg, data.test_set(name)
    met = meet_test_set(cfg, listed.spec)
    protocols = chosen_protocols(met, cfg.EVAL.PROTOCOLS)
    if listed.is_partial:
        protocols = tuple(protocol.of_a_part() for protocol in protocols)
    spec = listed.spec.translated(met.truth, met.space)
    evaluators = _build_evaluators(cfg, spec, met, protocols, folder)
    return _TestSet(listed.records, listed.whole, spec, met, evaluators)


def best_metric(data: RunData) -> str:
    """Returns the first test set's name of the metric EVAL.BEST_ON, or "" if none is set."""
    metric = data.cfg.EVAL.BEST_ON
    if not metric or metric in CRITERIA:
        return metric
    partial = data.test_set(data.cfg.DATASETS.TEST[0]).is_partial
    return f"{metric}{PARTIAL}" if partial else metric


def _folder(cfg: CfgNode, name: str) -> Path:
    """Returns the folder of a test set's files, a different one for each test set."""
    output = Path(cfg.OUTPUT_DIR)
    return output if name == cfg.DATASETS.TEST[0] else output / name.replace("/", "_")


def evaluate(data: RunData, model: nn.Module, pictures: Path | None = None) -> dict[str, Scores]:
    """Evaluates a network on every dataset of DATASETS.TEST.

    Args:
        data: of the run.
        model: the network; its training mode is restored afterwards.
        pictures: file for a picture panel of the first test set, or None for none.

    Returns:
        The scores by dataset name; empty on all processes except the first.
    """
    cfg = data.cfg
    results: dict[str, Scores] = {}
    for index, name in enumerate(cfg.DATASETS.TEST):
        test = _test_set(data, name, _folder(cfg, name))
        extra = []
        if pictures is not None and index == 0 and cfg.EVAL.PICTURES > 0:
            look = (cfg.EVAL.PICTURES, cfg.INPUT.FORMAT, pictures)
            extra = [PicturePanel(test.spec, test.met, *look)]
        metrics = inference_on_dataset(
            model,
            build_test_batches(cfg, test.records),
            DatasetEvaluators([*test.evaluators, *extra]),
        )
        if comm.is_main_process():
            per_class = merge_per_class(*(e.per_class for e in test.evaluators))
            results[name] = Scores(dict(metrics), per_class, len(test.records), test.whole)
            logger.info("%s\n%s", name, format_table(metrics, per_class))
            for warning in warnings_of(name, per_class):
                logger.warning(warning)
    return results


def try_evaluation(data: RunData, model: nn.Module) -> None:
    """Evaluates the first image of each test set, so that errors appear before training.

    Only the first process evaluates, and its error stops all processes. Nothing is written or kept.

    Args:
        data: of the run.
        model: as in :func:`evaluate`.

    Raises:
        UserError: a label cannot be read, or the network cannot be evaluated at INPUT.TEST_SIZE.
    """
    cfg = data.cfg
    read = test_mapper(cfg)

    def score_one_of_each() -> None:
        for name in cfg.DATASETS.TEST:
            test = _test_set(data, name, None)
            try:
                sample = read(test.records[0])
                with torch.no_grad(), inference_context(model):
                    outputs = model([sample])
                for evaluator in test.evaluators:
                    evaluator.process([sample], outputs)
            except UserError:
                raise
            except (RuntimeError, ValueError, MemoryError, cv2.error) as error:
                raise ConfigError(
                    f"DATASETS.TEST '{name}' cannot be scored with INPUT.TEST_SIZE "
                    f"{tuple(cfg.INPUT.TEST_SIZE)} ('{test.records[0][FILE_NAME]}': "
                    f"{' '.join(str(error).split())})"
                ) from error

    first_process_first(score_one_of_each)


def warnings_of(name: str, per_class: PerClass) -> list[str]:
    """Returns warnings about averaged classes that a test set's labels do not contain, and about a
    network that predicts no segment at all.

    A single pixel predicted as such a class makes the class count with a score of 0. If the labels
    contain no class at all, they are entirely void, or encoded differently than the reader expects.
    """
    found: dict[str, list[str]] = {}
    void: list[str] = []
    for protocol, rows in per_class.items():
        absent = [c for c, row in rows.items() if not row.get("share")]
        if rows and len(absent) == len(rows):
            void.append(protocol)
            continue
        stray = [c for c in absent if rows[c].get("IoU") is not None]
        if stray:
            words = (
                f"the labels of {name} never show {', '.join(absent)}; of these "
                f"{', '.join(stray)} are predicted and count as 0 in the means"
            )
            found.setdefault(words, []).append(protocol)
    told = [
        f"{words} (protocol {', '.join(names)}). If the test set has no such class, say so: "
        "`label_space: own` with its own classes, and `merge:` (docs/your_own_data.md)"
        for words, names in found.items()
    ]
    if void:
        told.insert(
            0,
            f"the labels of {name} show no class that is scored (protocol {', '.join(void)}): they "
            "are void throughout, or coded in another way; look at them with the dataset's script "
            "(datasets/prepare_*.py --check)",
        )
    panoptic = [row for rows in per_class.values() for row in rows.values() if "TP" in row]
    if panoptic and not void and not any(row["TP"] or row["FP"] for row in panoptic):
        told.append(
            f"no image of {name} has a predicted segment: the network has hardly learned yet, or "
            "its thresholds are too high (of a mask classifier MODEL.MASK2FORMER.CLASS_THRESHOLD)"
        )
    return told


def write_results(
    cfg: CfgNode,
    results: Mapping[str, Scores],
    iterations: int,
    wall_seconds: float,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes results.json and each test set's per_class.csv, on the first process only.

    Args:
        cfg: the config.
        results: of :func:`evaluate`.
        iterations: training iterations behind the network.
        wall_seconds: seconds since the start of the program.
        more: further entries of ``run`` in results.json: the label-free criteria, the best
            checkpoint.
    """
    if not comm.is_main_process() or not (results or more):
        return
    first = next(iter(results.values()), Scores({}, {}, 0, 0))
    run = run_info(yaml.safe_load(cfg.dump()), cfg.SEED, iterations, wall_seconds, cfg.MODEL.DEVICE)
    run["test_images"] = {n: {"scored": s.images, "of": s.whole} for n, s in results.items()}
    run["processes"] = comm.get_world_size()
    run |= {"weights": cfg.EVAL.WEIGHTS, "selection": "last iteration"}
    run |= more or {}
    folder = Path(cfg.OUTPUT_DIR)
    write_results_json(
        folder / RESULTS,
        first.metrics,
        {name: scores.metrics for name, scores in results.items()},
        first.per_class,
        run,
    )
    for name, scores in results.items():
        write_per_class_csv(_folder(cfg, name) / SCORES, scores.per_class)
    logger.info("Wrote %s and %s", folder / RESULTS, SCORES)
