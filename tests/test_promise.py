"""The promise: a different network, defined outside the package, can do all that ours can.

Nothing in the package refers to it; it is the single file tests/helpers/embedding_net.py.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from embedding_net import EMBEDDING, OWNER, YAML
from strategies import FOR_ALL

from gbw_d2 import keys
from gbw_d2.config import ConfigError, load_config
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.train import train
from gbw_d2.weighting import SCHEMES, WeightLog


@pytest.fixture
def promised(tmp_path: Path, repository: Path, toy_datasets: Path) -> Iterator[Any]:
    """Returns a function: overrides -> resolved config of the network above."""
    file = tmp_path / "embedding.yaml"
    file.write_text(YAML.format(root=repository))

    def make(*overrides: Any, out: str = "out") -> Any:
        folder = str(tmp_path / out)
        cfg = load_config(
            str(file), ["OUTPUT_DIR", folder, "MODEL.DEVICE", "cpu", *map(str, overrides)]
        )
        resolve(cfg)
        Path(folder).mkdir(exist_ok=True)
        return cfg

    yield make


def seeded_training(cfg: Any, resume: bool = False) -> dict[str, float]:
    torch.manual_seed(0)
    return train(cfg, resume)


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.mark.parametrize("name", FOR_ALL)
def test_it_trains_under_every_strategy_and_gets_a_pq(promised: Any, name: str) -> None:
    cfg = promised("UDA.NAME", name)
    start = {k: v.clone() for k, v in build_model(cfg).state_dict().items()}
    metrics = seeded_training(cfg)
    assert {"PQ_16", "mIoU_16"} <= metrics.keys() and math.isfinite(metrics["PQ_16"])
    saved = state_of(Path(cfg.OUTPUT_DIR))
    assert set(saved["model"]) == set(start)
    text = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    found = {key for line in text for key in json.loads(line)}
    assert {"loss_pixels", "loss_embedding"} <= found
    with Path(cfg.OUTPUT_DIR, "class_weights.csv").open() as file:
        assert {line.split(",")[1] for line in file} == {"head", "pixels", EMBEDDING}


@pytest.mark.parametrize("name", SCHEMES.names())
def test_every_scheme_on_every_head_works_or_refuses(
    promised: Any, samples: Any, name: str
) -> None:
    given = ("WEIGHTING.CLASS_WEIGHTS", list(range(1, 17))) if name == "fixed" else ()
    counts = torch.arange(1.0, 17.0)
    for head in ("pixels", EMBEDDING):
        named = ("WEIGHTING.NAME", name, *given, "WEIGHTING.HEADS", f"['{head}']")
        try:
            cfg = promised(*named)
        except ConfigError as error:
            assert "\n" not in str(error) and head in str(error)
            assert SCHEMES.get(name).scheme.needs_softmax and head == EMBEDDING
            continue
        model = build_model(cfg, build_training_losses(cfg, counts)).train()
        batch = [{**s, EMBEDDING: torch.rand(4, 32, 64), OWNER: s["sem_seg"]} for s in samples()]
        images, log = model.images(batch), WeightLog()
        outputs = model.outputs(model.features(images), (32, 64))
        losses = model.losses(outputs, model.targets(batch), None, keys.TERM_SOURCE, log)
        torch.stack(list(losses.values())).sum().backward()
        weights = log.get(head, keys.TERM_SOURCE).weights
        assert weights.sum().item() == pytest.approx(len(weights), rel=1e-4)


def test_it_resumes_exactly(promised: Any) -> None:
    strategy = ("UDA.NAME", "self_training")
    whole = promised(*strategy, out="whole")
    seeded_training(whole)
    seeded_training(promised(*strategy, "SOLVER.MAX_ITER", 1, out="parts"))
    parts = promised(*strategy, out="parts")
    seeded_training(parts, resume=True)
    one, two = (state_of(Path(cfg.OUTPUT_DIR)) for cfg in (whole, parts))
    assert one.keys() == two.keys() and {"teacher", "weighted_losses"} < one.keys()
    for part in ("model", "teacher", "weighted_losses"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(value, two[part][key]) for key, value in one[part].items()), part


def tool(repository: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, repository / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs_in_the_demo_and_is_exported(
    promised: Any, repository: Path, tmp_path: Path
) -> None:
    cfg = promised()
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "net.pth")
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    fixed = ["--config-file", str(tmp_path / "embedding.yaml")]
    fixed += ["--weights", str(tmp_path / "net.pth")]
    for views in ([], ["--flip", "--scales", "0.5", "1", "--window", "16", "32"]):
        arguments = [*fixed, "--output", str(tmp_path / "shown"), "--device", "cpu"]
        assert tool(repository, "demo").main([*arguments, *views, "--input", str(photo)]) == 0
        assert list((tmp_path / "shown").rglob("photo*.png"))
    out = tmp_path / "net.pt2"
    arguments = [*fixed, "--output", str(out), "--size", "32", "48"]
    assert tool(repository, "export").main(arguments) == 0
    images = torch.rand(1, 3, 32, 48) * 255
    found = torch.export.load(out).module()(images)
    for ours, theirs in zip(model.export_outputs(images).values(), found, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
