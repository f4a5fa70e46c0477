"""The Detectron2 wrappers, from records and model outputs to metrics, in one and two processes."""

from __future__ import annotations

import csv
import json
import math
import runpy
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from gbw_d2.evaluation import PROTOCOLS
from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from gbw_d2.evaluation.metric_names import metric_names
from gbw_d2.evaluation.protocols import default_protocols, protocols_of
from gbw_d2.label_spaces import CITYSCAPES_19, LABEL_SPACES, scoring
from gbw_d2.registry import UnknownNameError
from gbw_d2.results.reader import read_confusion

from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm

SPACE = LABEL_SPACES.get("cityscapes_16")
MET = scoring(SPACE, CITYSCAPES_19)
PROTOCOLS_16 = default_protocols(MET, protocols_of(MET))

# A road (0), a car (13) and a truck (14), which this label space does not have.
SEMANTIC = np.array(
    [[0, 0, 0, 0], [13, 13, 14, 14], [13, 13, 14, 14], [255, 255, 255, 255]], np.uint8
)
SEGMENTS = np.array([[1, 1, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3], [0, 0, 0, 0]], np.int32)
SEGMENTS_INFO = [
    {"id": 1, "category_id": 0, "iscrowd": 0},
    {"id": 2, "category_id": 13, "iscrowd": 0},
    {"id": 3, "category_id": 14, "iscrowd": 0},
]
CAR = int(SPACE.from_family[13])  # 12: class ids and train ids differ


def record(name="a.png"):
    return {"file_name": name, "image_id": name[:-4], "height": 4, "width": 4}


def output():
    """The car is found, and the truck is called a second car."""
    classes = np.where(SEMANTIC == 0, 0, CAR)
    logits = torch.nn.functional.one_hot(torch.as_tensor(classes).long(), 16).permute(2, 0, 1)
    segments = [
        {"id": 70001, "category_id": 0, "isthing": False},
        {"id": 70002, "category_id": CAR, "isthing": True},
        {"id": 70003, "category_id": CAR, "isthing": True},
    ]
    seg = torch.as_tensor(np.where(SEGMENTS > 0, SEGMENTS + 70000, 0))
    return {"sem_seg": logits.float(), "panoptic_seg": (seg, segments)}


def make(protocols=PROTOCOLS_16, output_dir=None):
    scores = [PROTOCOLS.get(name) for name in protocols]
    return (
        SemanticEvaluator(lambda r: SEMANTIC, MET, scores, output_dir),
        PanopticEvaluator(lambda r: (SEGMENTS, SEGMENTS_INFO), MET, scores, output_dir),
    )


def test_end_to_end(tmp_path):
    semantic, panoptic = make(output_dir=tmp_path)
    both = DatasetEvaluators([semantic, panoptic])
    both.reset()
    both.process([record("a.png"), record("b.png")], [output(), output()])
    metrics = both.evaluate()
    # Car: 4 pixels hit, 4 on the truck. Road: all hit.
    assert metrics["mIoU_16"] == pytest.approx((100 + 50) / 2)
    assert metrics["mIoU_16_void"] == pytest.approx(100.0)
    assert metrics["recall_16"] == pytest.approx(100.0)
    assert metrics["precision_16"] == pytest.approx(75.0)
    assert metrics["mIoU_classes_16"] == 2
    # The second car is a false positive, or forgiven where the truck is void.
    assert metrics["PQ_16"] == pytest.approx((100 + 100 / 1.5) / 2)
    assert metrics["SQ_16"] == pytest.approx(100.0)
    assert metrics["PQ_th_16"] == metrics["RQ_th_13"] == pytest.approx(100 / 1.5)
    assert metrics["PQ_st_16"] == pytest.approx(100.0)
    assert metrics["PQ_16_void"] == metrics["PQ_13_void"] == pytest.approx(100.0)
    assert metrics["PQ_classes_16"] == 2
    assert not any("-" in name for name in metrics)
    counts = {name for name in metrics if "_classes_" in name}
    assert {*metrics} - counts == {*metric_names([*semantic.protocols], True, False)}
    assert all(isinstance(v, float) for v in metrics.values())

    assert semantic.per_class["16"]["car"]["IoU"] == pytest.approx(50.0)
    assert panoptic.per_class["16"]["car"]["FP"] == 2
    assert panoptic.per_class["16_void"]["car"]["FP"] == 0
    assert panoptic.per_class["16"]["bus"]["PQ"] is None
    assert panoptic.per_class["16"]["car"]["train_id"] == 13
    assert set(panoptic.per_class) == set(PROTOCOLS_16)

    with open(tmp_path / "panoptic_per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == ["a.png", "b.png"]
    assert float(rows[0]["PQ_16"]) == pytest.approx(metrics["PQ_16"])
    with open(tmp_path / "semantic_per_image.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["mIoU_16"]) == pytest.approx(75.0)
    names, predicted, pixels = read_confusion(tmp_path / "confusion.csv")
    assert names == list(CITYSCAPES_19.class_names) and predicted == [*names, "no class"]
    assert pixels.tolist() == semantic.confusion.state.tolist()
    assert pixels[names.index("truck"), names.index("car")] == 2 * 4


def test_reset_starts_again():
    for evaluator in make():
        evaluator.process([record()], [output()])
        first = evaluator.evaluate()
        evaluator.reset()
        evaluator.process([record()], [output()])
        assert evaluator.evaluate() == first


def test_a_mean_over_no_class_is_nan_since_hooks_take_floats():
    evaluator = make(["16"])[1]
    evaluator.read_panoptic = lambda r: (np.ones((4, 4), np.int32), SEGMENTS_INFO[:1])
    sky = [{"id": 1, "category_id": 0, "isthing": False}]
    evaluator.process([record()], [{"panoptic_seg": (torch.ones(4, 4, dtype=torch.int32), sky)}])
    metrics = evaluator.evaluate()
    assert math.isnan(metrics["PQ_th_16"])
    assert metrics["PQ_16"] == 100.0


@pytest.mark.parametrize("which", [0, 1])
def test_a_size_mismatch_names_the_file_and_both_sizes(which):
    small = output()
    seg, segments = small["panoptic_seg"]
    small = {"sem_seg": small["sem_seg"][:, :2, :3], "panoptic_seg": (seg[:2, :3], segments)}
    with pytest.raises(ValueError, match=r"street\.png: .*2 x 3.*4 x 4"):
        make()[which].process([record("street.png")], [small])


def test_wrong_number_of_logits_is_an_error():
    wrong = {"sem_seg": torch.zeros(19, 4, 4)}
    with pytest.raises(ValueError, match=r"must be \(16, H, W\).*\(19, 4, 4\)"):
        make()[0].process([record()], [wrong])


def test_a_train_id_in_place_of_a_class_id_is_an_error():
    seg, segments = output()["panoptic_seg"]
    segments[2]["category_id"] = 18
    with pytest.raises(ValueError, match="70003 has category_id 18"):
        make()[1].process([record()], [{"panoptic_seg": (seg, segments)}])


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_scored_or_scored_twice_is_an_error(which):
    evaluator = make()[which]
    with pytest.raises(ValueError, match="saw no image"):
        evaluator.evaluate()
    evaluator.process([record(), record()], [output(), output()])
    with pytest.raises(ValueError, match=r"a\.png was scored more than once"):
        evaluator.evaluate()


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="16_void"):
        make(["16void"])
    with pytest.raises(ValueError, match="no protocol"):
        make([])


@pytest.mark.parametrize("which", [0, 1])
def test_what_other_processes_counted_is_added(which, monkeypatch):
    first, second, alone = (make()[which] for _ in range(3))
    first.process([record("a.png")], [output()])
    second.process([record("b.png")], [output()])
    alone.process([record("a.png"), record("b.png")], [output(), output()])
    sent = []
    monkeypatch.setattr(comm, "gather", lambda data: sent.append(data) or sent)
    with monkeypatch.context() as other_rank:
        other_rank.setattr(comm, "is_main_process", lambda: False)
        assert second.evaluate() is None
    metrics = first.evaluate()
    monkeypatch.undo()
    assert metrics == pytest.approx(alone.evaluate(), abs=1e-9, nan_ok=True)
    assert {row["file_name"] for row in first.per_image} == {"a.png", "b.png"}
    assert first.per_class.keys() == alone.per_class.keys()


TWO_PROCESSES = """
    import json
    import sys

    import numpy as np
    import torch
    import torch.distributed as dist

    from gbw_d2.label_spaces import CITYSCAPES_19, scoring
    from gbw_d2.evaluation import PROTOCOLS
    from gbw_d2.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator

    def labels(image, seed):
        return np.random.default_rng((image, seed)).integers(0, 19, (16, 16)).astype(np.uint8)

    def panoptic(image, seed):
        seg = np.kron(labels(image, seed)[:2, :2], np.ones((8, 8), int)).astype(np.int32) + 1
        info = [{"id": int(k), "category_id": int(k) - 1, "iscrowd": 0} for k in np.unique(seg)]
        return seg, info

    def evaluate(rank, world):
        met = scoring(CITYSCAPES_19, CITYSCAPES_19)
        scores = [PROTOCOLS.get(name) for name in ("19", "16_void")]
        evaluators = [
            SemanticEvaluator(lambda r: labels(r["image_id"], 0), met, scores),
            PanopticEvaluator(lambda r: panoptic(r["image_id"], 0), met, scores),
        ]
        for image in range(rank, 5, world):
            seed = image % 2  # even images are perfect
            logits = torch.nn.functional.one_hot(torch.as_tensor(labels(image, seed)).long(), 19)
            seg, info = panoptic(image, seed)
            out = {"sem_seg": logits.permute(2, 0, 1), "panoptic_seg": (torch.as_tensor(seg), info)}
            for evaluator in evaluators:
                evaluator.process([{"file_name": f"{image}.png", "image_id": image}], [out])
        return [[e.evaluate(), len(e.per_image)] for e in evaluators]

    if __name__ == "__main__":
        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
        with open(f"{folder}/{rank}.json", "w") as file:
            json.dump(evaluate(rank, 2), file)
        dist.barrier()
        dist.destroy_process_group()
"""


@pytest.mark.slow  # each process imports Detectron2 afresh
def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    jobs = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors
    (semantic, _), (panoptic, images) = json.loads((tmp_path / "0.json").read_text())
    (semantic_alone, _), (panoptic_alone, _) = runpy.run_path(str(script))["evaluate"](0, 1)
    assert images == 5
    assert semantic == dict(semantic_alone)
    assert panoptic == pytest.approx(dict(panoptic_alone), abs=1e-9)
    assert 0 < panoptic["PQ_19"] < 100
    assert json.loads((tmp_path / "1.json").read_text()) == [[None, 2], [None, 2]]
