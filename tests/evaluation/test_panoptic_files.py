"""PQ of files: equal to PQ of arrays, on one thread and on several; one-line errors."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbw_d2.class_tables import colors_of_ids
from gbw_d2.errors import UserError
from gbw_d2.evaluation import PanopticQuality
from gbw_d2.evaluation.panoptic_files import score_files

CATEGORIES = [{"id": 0, "name": "road", "isthing": 0}, {"id": 7, "name": "car", "isthing": 1}]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, PanopticQuality]:
    """Writes truth and predictions of five images; returns both JSON files and the scores."""
    rng, quality = np.random.default_rng(0), PanopticQuality(CATEGORIES)
    rows: dict[str, list] = {"gt": [], "pred": []}
    for number in range(5):
        maps = [rng.integers(1, 3, (6, 8)) * scale for scale in (1, 70000)]
        maps[1][:4] = maps[0][:4] * 70000
        lists = []
        for (name, entries), segments in zip(rows.items(), maps, strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), colors_of_ids(segments))
            lists.append(
                [
                    {"id": int(i), "category_id": 7 * n, "iscrowd": 0}
                    for n, i in enumerate(np.unique(segments))
                ]
            )
            entry = {"image_id": str(number), "file_name": f"{number}.png"}
            entries.append(entry | {"segments_info": lists[-1]})
        quality.update(maps[1], lists[1], maps[0], lists[0])
    for name, entries in rows.items():
        content = {"annotations": entries, "categories": CATEGORIES}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path / "gt.json", tmp_path / "pred.json", quality


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_files_score_as_arrays(
    pair: tuple[Path, Path, PanopticQuality], workers: int | None
) -> None:
    truth, prediction, quality = pair
    assert quality.compute()["per_class"][0]["TP"] > 0
    np.testing.assert_array_equal(score_files(truth, prediction, workers).state, quality.state)


def test_an_image_without_prediction(pair: tuple[Path, Path, PanopticQuality]) -> None:
    truth, prediction, _ = pair
    content = json.loads(prediction.read_text())
    del content["annotations"][2]
    prediction.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no prediction for 1 images: 2"):
        score_files(truth, prediction)


def test_what_is_wrong_names_its_file(pair: tuple[Path, Path, PanopticQuality]) -> None:
    truth, prediction, _ = pair
    content = json.loads(prediction.read_text())
    content["annotations"][2]["segments_info"][0]["id"] = 9
    prediction.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"2\.png': predicted segments"):
        score_files(truth, prediction)
    prediction.write_text("{}")
    with pytest.raises(UserError, match=r"pred\.json' is not a COCO panoptic file"):
        score_files(truth, prediction)


def test_odd_entries_are_told(pair: tuple[Path, Path, PanopticQuality]) -> None:
    truth, prediction, _ = pair
    whole = truth.read_text()
    for change, word in (
        (lambda c: c["annotations"].append(c["annotations"][0]), "an image is listed twice"),
        (lambda c: c["annotations"][0].update(image_id=[1]), "unhashable"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=2**64), "category"),
        (lambda c: c["categories"][0].update(id="0"), "other categories than COCO's"),
        (lambda c: c["categories"][0].pop("isthing"), "other categories than COCO's"),
    ):
        content = json.loads(whole)
        change(content)
        truth.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"gt\.json' .*{word}") as caught:
            score_files(truth, prediction)
        assert "\n" not in str(caught.value)


def test_the_command_prints_the_scores(
    pair: tuple[Path, Path, PanopticQuality], repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository / "tools/score_files.py"
    spec = importlib.util.spec_from_file_location("score_files", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    truth, prediction, quality = pair
    assert tool.main([str(truth), str(prediction)]) == 0
    first = capsys.readouterr().out.splitlines()[1].split()
    assert first[:2] == ["all", f"{quality.compute()['PQ']:.2f}"]
    assert tool.main([str(truth), str(truth.with_name("none.json"))]) == 2
    assert "cannot read" in capsys.readouterr().err
