"""The recipe benchmark measures the step that its config asks for. No timings are asserted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from benchmarks import operators, recipe

from gbw_d2.engine.build import build_model
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.losses.weighted_loss import WeightedLoss

TINY = [
    *("INPUT.CROP_SIZE", "(32, 64)", "SOLVER.IMS_PER_BATCH", "1"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "32"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark", repository / "tools/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(repository: Path, name: str) -> str:
    return str(repository / f"configs/toy/{name}.yaml")


def test_labels_have_every_class_and_instances(repository: Path) -> None:
    cfg = recipe._config(config(repository, "panoptic_gbw"), ["INPUT.CROP_SIZE", "(64, 128)"], CPU)
    (sample,) = recipe.random_samples(cfg, 1)
    space = LABEL_SPACES.get("cityscapes_16")
    labels = sample["sem_seg"]
    assert set(labels.unique().tolist()) == {*range(16), 255}
    assert (labels[:4] == 255).all()
    found = sample["instance_class"]
    assert set(found.unique().tolist()) == {*space.thing_ids, 255}
    things = np.isin(labels.numpy(), space.thing_ids)
    np.testing.assert_array_equal((found == labels).numpy(), things | (labels == 255).numpy())
    assert sample["center"].max() == 1 and sample["offset"].abs().max() > 0
    assert {key: tuple(sample[key].shape) for key in ("image", "offset")} == {
        "image": (3, 64, 128),
        "offset": (2, 64, 128),
    }
    semantic = recipe._config(config(repository, "semantic_gbw"), [], CPU)
    assert "center" not in recipe.random_samples(semantic, 1)[0]


def test_steps_are_of_the_config(repository: Path) -> None:
    more = [*TINY, "SOLVER.AMP.ENABLED", "True", "SOLVER.GRADIENT_ACCUMULATION", "1"]
    steps, words = recipe.recipe_candidates(config(repository, "panoptic_gbw"), more, CPU)
    assert list(steps) == ["none", "gbw"]
    assert words == (
        "self_training, 1 source and 1 target images of 32x64 a step, bfloat16, random weights"
    )
    step = steps["gbw"]
    assert step.trainer.precision.dtype == torch.bfloat16
    assert type(step.strategy).__name__ == "SelfTraining" and step.strategy.adapts(0)
    names = {
        name: {head: loss.scheme.name for head, loss in each.model.weighted_losses.items()}
        for name, each in steps.items()
    }
    assert names["none"] == dict.fromkeys(("semantic", "center", "offset"), "none")
    shared = "weights of head center"
    assert names["gbw"] == {"semantic": "gbw", "center": "gbw_norm", "offset": shared}
    parameters = list(step.model.parameters())
    before = [p.detach().clone() for p in parameters]
    step()
    log = {(head, term): entry.weights for head, term, entry in step.strategy.weight_log}
    assert {("semantic", "source"), ("semantic", "mixed"), ("center", "source")} <= set(log)
    assert (log["semantic", "source"] - 1).abs().max() > 1e-3
    # The student's weights stay, so that every step is as much work.
    assert all(map(torch.equal, before, parameters))
    assert all(p.grad is None for p in parameters)
    moments = [step.optimizer.state[p]["exp_avg"] for p in parameters]
    assert all(m.abs().sum() > 0 for m in moments[:3])
    # The student, the teacher and two moments of Adam.
    size = sum(p.nbytes for p in parameters) / 2**20
    assert step.held_mb() == pytest.approx(4 * size, rel=1e-3)


def test_keys_of_the_benchmark_are_refused(repository: Path) -> None:
    for key, value in (("MODEL.DEVICE", "cpu"), ("UDA.WARM_UP", "0.5")):
        with pytest.raises(UserError, match=f"{key} is set by the benchmark"):
            recipe.recipe_candidates(config(repository, "semantic_gbw"), [*TINY, key, value], CPU)


def test_static_weights_need_no_dataset_and_none_has_one_row(repository: Path) -> None:
    name = config(repository, "semantic_source_only")
    static = [*TINY, "WEIGHTING.NAME", "inverse_frequency"]
    steps, words = recipe.recipe_candidates(name, static, CPU)
    assert list(steps) == ["none", "inverse_frequency"]
    steps["inverse_frequency"]()
    assert words.startswith("source_only, 1 source and 0 target images of 32x64 a step")
    assert list(recipe.recipe_candidates(name, TINY, CPU)[0]) == ["none"]


def test_random_weights_of_a_deep_encoder_stay_finite(repository: Path) -> None:
    path = str(repository / "configs/gta5_semantic_source_only.yaml")
    cfg = recipe._config(path, ["INPUT.CROP_SIZE", "(32, 64)"], CPU)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    images = model.images(recipe.random_samples(cfg, 1))
    with torch.no_grad():
        wild = model.features(images)["res5"].std()
        recipe._tame(model.backbone)
        tame = model.features(images)["res5"].std()
    assert wild > 300 * images.std() and tame < 10 * images.std()


def test_shares_and_memory_follow_from_the_measured_rows(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Step:
        images = (4, 2)

        def held_mb(self) -> float:
            return 100.0

    steps = {"none": Step(), "gbw": Step()}
    monkeypatch.setattr(recipe, "recipe_candidates", lambda *_: (steps, "words"))

    def report(candidates: dict, *arguments: object) -> dict:
        assert candidates is steps and arguments == (3, CPU, True)
        rows = {"none": (300.0, 1.0, 7.0), "gbw": (400.0, 1.25, 9.0)}
        return {n: dict(zip(("ms", "ratio", "peak_mb"), v, strict=True)) for n, v in rows.items()}

    (rows,) = recipe.run_recipe(report, 3, CPU, "a/b.yaml", []).values()
    assert rows["none"] == {"images_per_s": 20.0, "ms": 300.0, "share": 0.0, "peak_mb": 107.0}
    # (1.25 - 1) / 1.25
    assert rows["gbw"] == pytest.approx(
        {"images_per_s": 15.0, "ms": 400.0, "share": 20.0, "peak_mb": 109.0}
    )


def test_the_command(
    tool: ModuleType, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.json"
    words = ["recipe", "--config-file", config(repository, "semantic_source_only")]
    words += ["--with", "weighting/gbw_balanced", *TINY]
    assert tool.main([*words, "--repetitions", "1", "--device", "cpu", "--out", str(out)]) == 0
    ((title, rows),) = json.loads(out.read_text())["results"].items()
    name = "semantic_source_only weighting/gbw_balanced"
    assert title.startswith(f"{name}: source_only, 1 source and 0 target images")
    assert list(rows) == ["none", "gbw_balanced"] and rows["gbw_balanced"]["peak_mb"] > 1
    assert f"\n{title}\n" in capsys.readouterr().out
    assert tool.main([*words, "SOLVER.MAXITER", "3"]) == 2
    assert "did you mean" in capsys.readouterr().err
    for wrong in (["recipe"], ["step", "SEED", "1"], ["step", "--config-file", "a.yaml"]):
        with pytest.raises(SystemExit):
            tool.main(wrong)


def test_a_profile_shows_operators_and_what_weighting_does(repository: Path) -> None:
    before = WeightedLoss.class_weights
    tables = operators.run_operators(1, CPU, config(repository, "panoptic_gbw"), TINY)
    (title, found), (_, weighting) = tables.items()
    assert title.startswith("operators of self_training") and len(found) == operators.MOST
    # The mixed images take over the source's weights; centres and offsets learn from the source.
    calls = {name: row["calls"] for name, row in weighting.items()}
    assert calls == {
        **{"class_statistics": 2, "measure_prepared": 1, "element_statistics": 2},
        **{"class_weights": 4, "together": 9},
    }
    assert 0 < weighting["class_weights"]["share"] < weighting["together"]["share"] < 100
    assert WeightedLoss.class_weights is before
