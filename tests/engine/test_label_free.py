"""Label-free criteria of a network on target images: the same for every run, no label read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from gbw_d2.config import ConfigError
from gbw_d2.engine.build import build_model
from gbw_d2.engine.label_free import LabelFree
from gbw_d2.engine.run_data import RunData
from gbw_d2.engine.train import train
from gbw_d2.evaluation.label_free import CRITERIA
from gbw_d2.modeling import meta_arch  # noqa: F401  (spawned processes need them registered)
from gbw_d2.results.reader import read_metrics, read_results
from gbw_d2.uda import build_strategy

IMAGES = 3


def keys(folder: Path, *more: Any) -> tuple[Any, ...]:
    return (
        *("OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", 0, "EVAL.LABEL_FREE_IMAGES", IMAGES),
        *("INPUT.TEST_SIZE", (32, 64), *more),
    )


def networks(cfg: Any) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    model = build_model(cfg)
    return build_strategy(cfg.UDA.NAME, model, cfg.UDA, cfg.SEED, 1).networks()


@pytest.fixture
def measuring(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> Callable[..., LabelFree]:
    """Returns a function: keys -> the criteria of an untrained network of a toy recipe."""

    def make(*more: Any) -> LabelFree:
        cfg = tiny_config(*keys(tmp_path, *more), name="toy/semantic_gbw")
        known = networks(cfg)
        return LabelFree(RunData(cfg), known, known[cfg.EVAL.WEIGHTS])

    return make


def test_the_sample_does_not_depend_on_the_run(measuring: Callable[..., LabelFree]) -> None:
    first, second = measuring("SEED", 1), measuring("SEED", 2)
    assert first.chosen == second.chosen and len(first.chosen) == IMAGES
    first.scored.train()
    found = first.measure()
    assert set(found) == set(CRITERIA) and found == first.measure() == second.measure()
    assert first.scored.training
    # Teacher and student are copies of each other at the start.
    assert found["label_free/teacher_agreement"] == found["label_free/teacher_miou"] == 100
    assert len(measuring("EVAL.LABEL_FREE_IMAGES", 100).chosen) == 5  # all that there are


def test_a_teacher_that_is_scored_is_compared_with_the_student(
    measuring: Callable[..., LabelFree],
) -> None:
    taught = measuring("EVAL.WEIGHTS", "teacher")
    with torch.no_grad():
        for parameter in taught.networks["student"].parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert taught.measure()["label_free/teacher_agreement"] < 100


def test_views_are_laid_over_the_image(
    measuring: Callable[..., LabelFree], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A network that sees the brightness of a pixel alone: mirroring changes nothing, shade does.
    bright = torch.tensor([[[0, 255, 255], [255, 0, 0]]]).expand(3, 2, 3).byte()
    grey = bright.clone()
    grey[:, 0, 1] = 150  # 150 of 255 is bright, its darker view 115 is not

    def logits(network: Any, sample: Any) -> torch.Tensor:
        level = sample["image"][0].float() / 255 - 0.5
        return torch.stack([-level, level])

    monkeypatch.setattr("gbw_d2.engine.label_free.semantic_logits", logits)
    looker = measuring()
    for image, pairs in ((bright, [[3, 0], [0, 3]]), (grey, [[3, 0], [1, 2]])):
        look = looker._look({"image": image, "image_id": "x"})
        assert look.views.tolist() == pairs


def test_a_strategy_without_a_teacher(measuring: Callable[..., LabelFree]) -> None:
    plain = ("UDA.NAME", "source_only")
    found = measuring(*plain).measure()
    assert set(found) == {name for name, c in CRITERIA.items() if not c.needs_teacher}
    with pytest.raises(ConfigError, match=r"no teacher; take one of label_free/entropy, .*_kl$"):
        measuring(*plain, "EVAL.BEST_ON", "label_free/teacher_miou")


def test_no_label_of_the_target_is_read(
    measuring: Callable[..., LabelFree], monkeypatch: pytest.MonkeyPatch
) -> None:
    looker = measuring("DATASETS.TARGET", "('toy_cityscapes_semantic_train',)")
    seen: list[dict] = []
    look = LabelFree._look
    monkeypatch.setattr(LabelFree, "_look", lambda self, s: seen.append(s) or look(self, s))
    looker.measure()
    assert {frozenset(s) for s in seen} == {
        frozenset({"file_name", "image_id", "height", "width", "image"})
    }


@pytest.mark.slow
def test_a_run_writes_them_and_keeps_the_best(
    tiny_config: Any, toy_datasets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(folder: str, *more: Any) -> dict:
        cfg = tiny_config(
            *keys(tmp_path / folder, "INPUT.CROP_SIZE", (32, 64), "SOLVER.IMS_PER_BATCH", 2),
            *("SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 2, "SOLVER.LOG_PERIOD", 1),
            *("EVAL.BEST_ON", "label_free/entropy", "EVAL.PICTURES", 0, *more),
            name="toy/semantic_gbw",
        )
        (tmp_path / folder).mkdir()
        torch.manual_seed(0)
        with caplog.at_level(logging.INFO, "gbw_d2"):
            train(cfg, False)
        return torch.load(tmp_path / folder / "model_final.pth", weights_only=True)["model"]

    with_them = run("with")
    assert "Label-free criteria: 3 of 5 target images" in caplog.text
    entries = [e for e in read_metrics(tmp_path / "with/metrics.json") if "mIoU_16" in e]
    assert [e["iteration"] for e in entries] == [1, 3]
    assert all(set(CRITERIA) <= set(entry) for entry in entries)
    results = read_results(tmp_path / "with")
    assert results["run"]["label_free"] == {name: entries[-1][name] for name in CRITERIA}
    best = results["run"]["best_label_free"]
    assert best["value"] == min(e["label_free/entropy"] for e in entries)
    state = torch.load(tmp_path / "with/model_best_label_free.pth", weights_only=True)
    assert state["iteration"] == best["iterations"] - 1
    # Looking changes nothing.
    without = run("without", "EVAL.LABEL_FREE_IMAGES", 0, "EVAL.BEST_ON", "")
    assert all(torch.equal(value, without[key]) for key, value in with_them.items())
    # Without a labelled test set the choice can be made all the same.
    run("unlabelled", "DATASETS.TEST", "()")
    results = read_results(tmp_path / "unlabelled")
    assert results["run"]["best_label_free"]["value"] == best["value"] and not results["metrics"]


def _measured_by(rank: int, cfg: Any, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    known = networks(cfg)
    found = LabelFree(RunData(cfg), known, known["student"]).measure()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(
    measuring: Callable[..., LabelFree], tiny_config: Any, tmp_path: Path
) -> None:
    one = measuring()
    mp.spawn(_measured_by, (one.data.cfg, str(tmp_path)), nprocs=2)
    # Sums of parts round differently from the sum of all.
    assert torch.load(tmp_path / "0.pt") == pytest.approx(one.measure(), rel=1e-6)
    assert torch.load(tmp_path / "1.pt") == {}
