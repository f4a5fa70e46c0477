"""The prior shift: logits are shifted as they should be, and what is saved scores the same."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2.engine.build import build_model
from gbw_d2.errors import UserError
from gbw_d2.modeling.heads.deeplab_v2 import DilatedClassifier
from gbw_studies import shift_prior as tool

DATASET = "toy_cityscapes_semantic_val"


@pytest.fixture
def run(tiny_config: Any, toy_datasets: Path, tmp_path: Path) -> Path:
    """The OUTPUT_DIR of a run: random weights, a config."""
    cfg = tiny_config(
        "DATASETS.TEST", f"('{DATASET}',)", name="toy/semantic_source_only uda/self_training"
    )
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path


def test_shifts_by_hand() -> None:
    counts = torch.tensor([8, 2, 0])
    shifts = tool.shifts_of(counts, [0.0, 0.5])
    # The class of a fifth against that of four fifths: sqrt 4 = 2; the third is not known.
    half = math.log(2) / 2
    torch.testing.assert_close(shifts, torch.tensor([[0.0, 0, 0], [-half, half, 0]]))


@pytest.mark.parametrize("classifier", ["predictor", "branches"])
def test_a_shift_in_the_bias_is_one_of_the_logits(
    tiny_config: Any, samples: Any, classifier: str
) -> None:
    network = build_model(tiny_config(name="toy/semantic_source_only uda/self_training")).eval()
    if classifier == "branches":
        network.sem_seg_head.predictor = DilatedClassifier(32, 16, (1, 2))
    shift = torch.linspace(-2, 2, 16)
    with torch.no_grad():
        before = [result["sem_seg"] for result in network(samples())]
        tool.shift_prior_(network, shift)
        after = [result["sem_seg"] for result in network(samples())]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one + shift.view(-1, 1, 1), other)


def test_a_classifier_without_bias_is_refused(tiny_config: Any) -> None:
    network = build_model(tiny_config(name="toy/semantic_source_only uda/self_training"))
    network.sem_seg_head.predictor = torch.nn.Conv2d(32, 16, 1, bias=False)
    with pytest.raises(UserError, match="Conv2d has no bias"):
        tool.shift_prior_(network, torch.zeros(16))
    network.sem_seg_head = torch.nn.Identity()  # as a mask classifier's, without a predictor
    with pytest.raises(UserError, match="Identity has no classifier of pixels"):
        tool.shift_prior_(network, torch.zeros(16))


def test_each_evaluator_sees_its_own_shift() -> None:
    class Seen(list):
        def process(self, batch: Any, results: Any) -> None:
            self.extend(result["sem_seg"].argmax(0).item() for result in results)

    logits = torch.tensor([1.0, 0.0, 2.0]).view(3, 1, 1)
    plain, shifted = Seen(), Seen()
    shifts = torch.tensor([[0.0, 0, 0], [0, 5, 0]])
    tool.score(lambda batch: [{"sem_seg": logits} for _ in batch], ["ab"], [plain, shifted], shifts)
    assert (plain, shifted) == ([2, 2], [1, 1])
    assert logits.flatten().tolist() == [1, 0, 2]


def test_scores_csv_picture_and_what_is_saved(run: Path, capsys: Any) -> None:
    from gbw_d2.config import load_config
    from gbw_d2.engine.setup import resolve
    from gbw_d2.engine.train import evaluate_only

    file = run / "shifted.pth"
    arguments = [str(run), "--strengths", "0", "3", "--save", "3", str(file)]
    assert tool.main(arguments) == 0
    assert "| 3 |" in capsys.readouterr().out
    assert (run / "plots/prior_shift.png").stat().st_size > 1000
    rows = list(csv.DictReader((run / "plots/prior_shift.csv").open()))
    assert [(row["dataset"], row["strength"]) for row in rows] == [
        (DATASET, "0.0"),
        (DATASET, "3.0"),
    ]
    assert float(rows[1]["mIoU"]) != pytest.approx(float(rows[0]["mIoU"]), abs=0.1)
    for weights, row in ((run / "model_final.pth", rows[0]), (file, rows[1])):
        cfg = load_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(weights)])
        cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(run / weights.stem), "cpu"
        resolve(cfg)
        metrics = evaluate_only(cfg, resume=False)
        for name in ("mIoU", "recall", "precision"):
            assert float(row[name]) == pytest.approx(metrics[f"{name}_16"], abs=2e-3)


def test_runs_of_one_name_are_averaged() -> None:
    def point(name: str, value: float | None) -> Any:
        scores = dict.fromkeys(tool.MEASURES, value)
        return tool.Point(name, "r", "student", "d", 0.1, scores)

    points = [point("a", 1.0), point("b", None), point("a", 2.0)]
    means = tool.averaged(points)
    assert [(p.name, p.run, p.scores["mIoU"]) for p in means] == [("a", "2", 1.5), ("b", "1", None)]
    assert "| a | student | 2 | 0.1 | 1.5 |" in tool.as_text(means)
    assert tool.draw(means).axes[0].get_xlabel() == "rare recall"


def test_rare_classes_are_classes_of_source_and_protocol(tiny_config: Any) -> None:
    cfg = tiny_config(name="toy/semantic_source_only uda/self_training")
    counts = torch.arange(16, 0, -1)
    counts[15], counts[3] = 0, 1  # no bicycle; few walls, which the next protocol lacks
    cfg.EVAL.PROTOCOLS = ("13",)
    basis = tool.basis_of(cfg, counts, 2)
    assert basis == tool.Basis("13", ("motorcycle", "bus"))


def test_a_run_with_its_teacher_and_one_without(run: Path, tmp_path: Path, capsys: Any) -> None:
    state = torch.load(run / "model_final.pth", weights_only=True)
    torch.save({**state, "teacher": state["model"]}, run / "model_final.pth")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("WEIGHTS: student", "WEIGHTS: teacher"))
    other = tmp_path / "other" / run.name
    other.mkdir(parents=True)
    for name in ("config.yaml", "last_checkpoint"):
        (other / name).write_bytes((run / name).read_bytes())
    (other / "config.yaml").write_text(config)
    torch.save(state, other / "model_final.pth")
    out = ["--out", str(tmp_path / "out"), "--strengths", "0"]
    assert tool.main([str(run), str(other), *out, "--save", "0.2", str(tmp_path / "t.pth")]) == 0
    printed = capsys.readouterr().out
    assert "score it with EVAL.WEIGHTS student" in printed
    rows = list(csv.DictReader((tmp_path / "out/prior_shift.csv").open()))
    # Folders of one name are two networks, and one set of weights gives one score.
    assert [(row["name"], row["weights"]) for row in rows] == [
        (str(run), "teacher"),
        (str(other), "student"),
    ]
    assert rows[0]["mIoU"] == rows[1]["mIoU"]
    (other / "config.yaml").write_text(config.replace("- '16'", "- '13'"))
    fresh = ["--out", str(tmp_path / "fresh"), "--strengths", "0"]
    assert tool.main([str(run), str(other), *fresh]) == 2
    said = capsys.readouterr()
    # Before the first is scored, not after it.
    assert "cannot be compared" in said.err and "(1 of 2)" not in said.out
    assert not (tmp_path / "fresh").exists()


def test_errors_for_people(run: Path, tmp_path: Path, capsys: Any) -> None:
    folder, file = str(run), str(tmp_path / "model_final.pth")
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "nowhere' has no config.yaml; give the OUTPUT_DIR of a run"),
        ([folder, "--test", "toy_cityscapes_unlabelled_train"], "no labels to score by"),
        ([folder, "--test", "toy_cityscapes_semantic_vall"], "toy_cityscapes_semantic_val"),
        ([folder, "--names", "a", "b"], "2 names for 1 runs"),
        ([folder] * 8, "group them: --names"),
        ([folder, "--rare", "0"], "expected 1 or more"),
        ([folder, "--save", "much", "a.pth"], "strength is 'much'"),
        ([folder, "--save", "0.2", file], "expected a new one that ends with .pth"),
        ([folder, "--save", "0.2", "a.pkl"], "expected a new one that ends with .pth"),
    ):
        if len(arguments) == 8:
            arguments += ["--names", *"abcdefgh"]
        assert tool.main(arguments) == 2
        assert message in capsys.readouterr().err
