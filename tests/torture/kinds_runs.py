"""Kinds of files of runs: configs, weights, checkpoints, results, studies."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutations as m
import numpy as np
import timm
import torch
from kind import Kind, NonsenseError, holds
from kinds_data import check_space
from safetensors.torch import save_file
from torch import nn

from gbw_d2.catalog.preflight import check_data, check_keys
from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model, build_precision, build_training_losses
from gbw_d2.engine.checkpoint import Checkpointer, scored_weights
from gbw_d2.engine.class_transfer import checkpoint_space
from gbw_d2.engine.optimizer import build_optimizer
from gbw_d2.engine.resume import check_resumed, config_entries
from gbw_d2.engine.selection import ON_LABELS, BestCheckpoint
from gbw_d2.engine.setup import resolve
from gbw_d2.errors import UserError
from gbw_d2.modeling.backbones.pretrained import load_encoder, read_weights
from gbw_d2.results.class_weights import COLUMNS, ClassWeightsFile
from gbw_d2.results.reader import (
    read_confusion,
    read_metrics,
    read_results,
    read_run,
)
from gbw_d2.toyworld.folder import MARKER, claim
from gbw_d2.unread_keys import check_unread
from gbw_studies.grid.ledger import read_rows
from gbw_studies.grid.plan import load_study

ROOT = Path(__file__).resolve().parents[2]


def configs(folder: Path) -> Iterator[Kind]:
    leaves = {
        "semantic": ROOT / "configs/toy/semantic_gbw.yaml",
        "panoptic": ROOT / "configs/toy/panoptic_gbw.yaml",
        "fpn": ROOT / "configs/toy/panoptic_fpn_gbw.yaml",
    }
    for name, leaf in leaves.items():
        if not leaf.is_file():
            continue
        path = folder / f"{name}.yaml"
        # All keys of the recipe in one file, so that each of them can be changed.
        cfg = load_config(str(leaf))
        cfg.OUTPUT_DIR = str(folder / "output")
        own = _changed_keys(cfg)
        path.write_text(_as_yaml(own))
        yield Kind(f"config, {name}", 8, {path: m.YAML}, lambda path=path: _read_config(path))


def _changed_keys(cfg: Any) -> dict[str, Any]:
    from gbw_d2.config import add_gbw_config

    from detectron2.config import get_cfg

    defaults = get_cfg()
    add_gbw_config(defaults)

    def differing(node: Any, other: Any) -> dict[str, Any]:
        found = {}
        for key, value in node.items():
            if isinstance(value, dict) and isinstance(other.get(key), dict):
                inner = differing(value, other[key])
                if inner:
                    found[key] = inner
            elif value != other.get(key):
                found[key] = list(value) if isinstance(value, tuple) else value
        return found

    return differing(cfg, defaults)


def _as_yaml(content: Any) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False)


def _read_config(path: Path) -> None:
    arguments = ["--config-file", str(path)]
    check_keys(arguments)
    check_data(arguments)
    cfg = load_config(str(path))
    check_unread(cfg)
    cfg.MODEL.DEVICE = "cpu"
    resolve(cfg)
    check_space_of(cfg)


def check_space_of(cfg: Any) -> None:
    """Checks that values of a resolved config have the types of their defaults."""
    holds(cfg.SOLVER.MAX_ITER >= 1 and cfg.SOLVER.IMS_PER_BATCH >= 1, "numbers")
    holds(type(cfg.SOLVER.MAX_ITER) is int, "MAX_ITER")
    holds(all(isinstance(n, str) for n in cfg.DATASETS.TEST), "names")
    for pair in (cfg.INPUT.CROP_SIZE, cfg.INPUT.TEST_SIZE):
        holds(all(type(v) is int and v > 0 for v in pair), "sizes")


def networks(folder: Path) -> Iterator[Kind]:
    """Makes a run's checkpoint, read as for resuming, evaluation, the demo and a new run."""
    cfg = load_config(str(ROOT / "configs/toy/semantic_gbw.yaml"), ["MODEL.DEVICE", "cpu"])
    resolve(cfg)
    cfg.OUTPUT_DIR = str(folder)
    cfg.freeze()
    torch.manual_seed(0)
    counts = torch.ones(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, dtype=torch.int64)

    def checkpointer() -> Checkpointer:
        losses = build_training_losses(cfg, counts)
        model = build_model(cfg, losses)
        optimizer = build_optimizer(cfg, model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        beside = {"optimizer": optimizer, "precision": build_precision(cfg)}
        made = Checkpointer(model, str(folder), weighted_losses=losses, **beside)
        made.entries = config_entries(cfg)
        made.check_entries = lambda found: check_resumed(found, cfg)
        return made

    ours = checkpointer()
    ours.save("model_0000003", iteration=3)
    path = folder / "model_0000003.pth"
    plain = {"model": ours.model.state_dict()}
    torch.save(plain, folder / "weights.pth")
    arrays = {k: v.numpy() for k, v in ours.model.state_dict().items()}
    (folder / "weights.pkl").write_bytes(
        pickle.dumps({"model": arrays, "__author__": "us"}, protocol=4)
    )

    def check_model() -> None:
        for name, value in ours.model.state_dict().items():
            holds(bool(torch.isfinite(value).all()), f"{name} is not finite")

    def resume() -> None:
        ours.strict = True
        rest = ours.resume_or_load("", resume=True)
        holds(type(rest.get("iteration", -1)) is int, "iteration")
        check_model()

    def evaluate() -> None:
        space = checkpoint_space(str(folder))
        if space is not None:
            check_space(space)
        ours.strict = False
        ours.load(scored_weights(Namespace(OUTPUT_DIR=str(folder)), True))
        check_model()

    def begin(file: Path) -> Any:
        def load() -> None:
            ours.strict = False
            ours.load(str(file))
            check_model()

        return load

    yield Kind("checkpoint, --resume", 4, {path: m.PTH}, resume)
    yield Kind("checkpoint, --eval-only and demo", 3, {path: m.PTH}, evaluate)
    yield Kind("last_checkpoint", 1, {folder / "last_checkpoint": m.TEXT}, evaluate)
    for file in (folder / "weights.pth", folder / "weights.pkl"):
        change = m.PTH if file.suffix == ".pth" else m.PKL
        yield Kind(f"MODEL.WEIGHTS, {file.suffix}", 4, {file: change}, begin(file))


def encoders(folder: Path) -> Iterator[Kind]:
    torch.manual_seed(0)
    encoder: nn.Module = timm.create_model("test_resnet", features_only=True)
    state = {k: v.contiguous() for k, v in encoder.state_dict().items()}
    torch.save({"state_dict": state}, folder / "encoder.pth")
    save_file(state, folder / "encoder.safetensors")

    def read(path: Path) -> Any:
        def load() -> None:
            load_encoder(encoder, read_weights(str(path)), str(path))
            values = encoder.state_dict().values()
            holds(all(bool(torch.isfinite(v).all()) for v in values), "not finite")

        return load

    for path in sorted(folder.glob("encoder.*")):
        change = m.PTH if path.suffix == ".pth" else m.SAFETENSORS
        yield Kind(f"MODEL.TIMM.PRETRAINED, {path.suffix}", 4, {path: change}, read(path))


def results(folder: Path) -> Iterator[Kind]:
    rows = [f"{i},semantic,source,{c},1.5,0.2,99" for i in (20, 40) for c in ("road", "car")]
    (folder / "class_weights.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    losses = [{"iteration": i, "total_loss": 1.5, "loss_sem": 1.0, "time": 0.1} for i in (19, 39)]
    (folder / "metrics.json").write_text("".join(json.dumps(each) + "\n" for each in losses))
    (folder / "per_class.csv").write_text("protocol,class,IoU,PQ\n16,road,50.0,\n16,car,1.5,2.5\n")
    (folder / "confusion.csv").write_text("truth,road,car,no class\nroad,5,1,0\ncar,2,3,1\n")
    run = {"config": {"EVAL": {"PROTOCOLS": ["16"]}}, "iterations": 40}
    content = {"run": run, "datasets": {"val": {"mIoU_16": 25.75, "PQ_16": None}}}
    (folder / "results.json").write_text(json.dumps(content))
    best = {"criterion": "mIoU_16", "value": 25.0, "iterations": 40, "metrics": {"mIoU_16": 25.0}}
    best_file = folder / f"model_{ON_LABELS}.json"
    best_file.write_text(json.dumps(best))

    def curves() -> None:
        found = read_run(folder, "run")
        for by_term in found.weights.values():
            for by_class in by_term.values():
                for x, y in by_class.values():
                    holds(bool(np.isfinite(x).all() and np.isfinite(y).all()), "weights")
        holds(all(np.isfinite(y).all() for _, y in found.losses.values()), "losses")
        for table in found.scores.values():
            for scores in table.values():
                numbers = [v for v in scores.values() if v is not None]
                holds(all(np.isfinite(v) for v in numbers), "scores")

    def confusion() -> None:
        truth, predicted, counts = read_confusion(folder / "confusion.csv")
        holds(counts.shape == (len(truth), len(predicted)) and (counts >= 0).all(), "confusion")

    def whole() -> None:
        found = read_results(folder)
        holds(isinstance(found["run"], dict) and isinstance(found["datasets"], dict), "results")
        for metrics in found["datasets"].values():
            numbers = [v for v in metrics.values() if v is not None]
            holds(all(isinstance(v, (int, float)) and v == v for v in numbers), "metrics")

    def resumed() -> None:
        ClassWeightsFile(folder / "class_weights.csv").start(30)
        read_metrics(folder / "metrics.json")

    def chosen() -> None:
        found = BestCheckpoint("mIoU_16", None, folder, 50).record  # type: ignore[arg-type]
        holds(not found or isinstance(found["value"], (int, float)), "best value")

    curves_of = {
        folder / "class_weights.csv": m.CSV,
        folder / "metrics.json": m.JSON_LINES,
        folder / "per_class.csv": m.CSV,
    }
    yield Kind("class_weights.csv, metrics.json, per_class.csv", 5, curves_of, curves)
    yield Kind("class_weights.csv, --resume", 2, {folder / "class_weights.csv": m.CSV}, resumed)
    yield Kind("confusion.csv", 2, {folder / "confusion.csv": m.CSV}, confusion)
    yield Kind("results.json", 3, {folder / "results.json": m.JSON}, whole)
    yield Kind("best checkpoint's JSON", 2, {best_file: m.JSON}, chosen)


def studies(folder: Path) -> Iterator[Kind]:
    study = folder / "study.yaml"
    study.write_text(
        "title: t\nquestion: q\nbaseline: none\nrivals: [a]\nproposed: [b]\nrare: [bus]\n"
        "recipes:\n  one: {config: configs/toy/semantic_gbw.yaml, SOLVER.MAX_ITER: 5}\n"
        "arms:\n  none: {with: [weighting/none]}\n  a: {SEED: 3}\n  b:\n"
        "choose: {datasets: [val], metrics: [mIoU_16]}\noverrides: {SEED: 1}\nthreads: 1\n"
        "rungs:\n  - {seeds: [0, 1], best: 2, always: [none]}\n  - {seeds: [2]}\n"
    )
    row = {
        **{"recipe": "one", "arm": "none", "seed": 0, "config": "c", "package": "p", "threads": 1},
        **{"iterations": 5, "wall_seconds": 1.0, "step_seconds": 0.1, "peak_memory_mb": 9.0},
        **{"torch": "2", "device": "cpu"},
        "scores": {"val": {"metrics": {"mIoU_16": 25.0}, "classes": {"bus": {"IoU": 1.0}}}},
    }
    (folder / "results.jsonl").write_text((json.dumps(row) + "\n") * 2)
    marker = folder / "toy" / MARKER
    marker.parent.mkdir()
    wanted = {"format_version": 3, "images": 5, "factors": [1.0, 2.0]}
    marker.write_text(json.dumps(wanted))

    def plan() -> None:
        found = load_study(study)
        for rung in found.rungs:
            holds(all(type(seed) is int for seed in rung.seeds), "seeds")
            for job in found.jobs(found.arms, rung.seeds):
                holds(all(isinstance(word, str) for word in job.words), "words")
                holds(isinstance(job.config_file, str), "config")

    def ledger() -> None:
        for each in read_rows(folder):
            holds(isinstance(each["scores"], dict), "scores")

    def toy() -> None:
        if not marker.is_file():
            raise NonsenseError
        try:
            claim(marker.parent, wanted)
        finally:
            (marker.parent / "toyworld.in_progress.json").unlink(missing_ok=True)

    yield Kind("study", 3, {study: m.YAML}, plan)
    yield Kind("results of a study", 2, {folder / "results.jsonl": m.JSON_LINES}, ledger)
    yield Kind("marker of the toy world", 1, {marker: m.JSON}, toy)


ALL = (configs, networks, encoders, results, studies)
__all__ = ["ALL", "UserError"]
