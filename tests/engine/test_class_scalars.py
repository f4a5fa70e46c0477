"""What the class-weight hook writes to TensorBoard and metrics.json."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.engine.hooks import ClassWeights
from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import WeightLog, build_scheme

from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter

NAMES = ("road", "traffic light", "bus")


@pytest.mark.parametrize(("scheme", "has_measure"), [("gbw_norm", True), ("none", False)])
def test_class_scalars(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
    has_measure: bool,
) -> None:
    log, built = WeightLog(), build_scheme(scheme, 3)
    criterion = ClassWeightedCrossEntropy(built, head="semantic")
    torch.manual_seed(0)
    criterion(torch.randn(1, 3, 8, 8), torch.randint(0, 2, (1, 8, 8)), log=log)
    hook = ClassWeights({"semantic": built}, log, NAMES, 1, tmp_path / "class_weights.csv")
    with EventStorage(0) as storage:
        hook.trainer = SimpleNamespace(iter=0, start_iter=0, max_iter=1, storage=storage)
        hook.before_train()
        hook.after_step()
        JSONWriter(str(tmp_path / "metrics.json")).write()
        with caplog.at_level("INFO"):
            CommonMetricPrinter(1).write()
    line = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    last = log.get("semantic", "source")
    for index, name in enumerate(("road", "traffic_light", "bus")):
        place = f"semantic_source/{name}"
        assert line[f"class_weights/{place}"] == pytest.approx(float(last.weights[index]), rel=1e-5)
        assert line[f"class_pixels/{place}"] == int(last.counts[index])
        assert (f"class_measure/{place}" in line) == has_measure
    if has_measure:
        assert last.measure is not None
        measured = line["class_measure/semantic_source/road"]
        assert measured == pytest.approx(float(last.measure[0]), rel=1e-5)
    assert line["weights/semantic_calls"] == (1 if has_measure else 0)
    assert "traffic_light" not in caplog.text
