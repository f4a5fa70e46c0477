"""Own data: the description, its example, and each of its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gbw_d2.catalog import get_dataset
from gbw_d2.data.spec import DatasetError, DatasetSpec
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.registry import UnknownNameError
from gbw_d2.toyworld.layouts import LAYOUTS, write_layout
from gbw_d2.toyworld.layouts.own import OWN_DESCRIPTION
from gbw_d2.toyworld.render import render

ROOT = Path(__file__).resolve().parents[2]
ROAD, SKY, CAR = 0, 10, 13
WritePng = Callable[[Path, np.ndarray], None]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_png: WritePng) -> Path:
    """A description of two images, one in a folder below, under ``$DETECTRON2_DATASETS``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "own"
    label = np.full((6, 8), 3, np.uint8)
    label[:2] = 1
    label[3:5, 1:4] = 7
    label[3:5, 5:7] = 8
    label[5, 7] = 0
    instances = np.zeros((6, 8), np.uint16)
    instances[3:5, 1:4] = 40000
    instances[0, 0] = 9  # on sky, where it does not matter
    for name in ("a", "more/b"):
        path = root / "images" / f"{name}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path, "jpeg")
        write_png(root / "labels" / f"{name}.png", label)
        write_png(root / "instances" / f"{name}_ids.png", instances)
    describe(root, {})
    return root


def describe(root: Path, changes: dict, name: str = "data.yaml") -> None:
    content = {
        "classes": {"road": 3, "sky": 1, "car": [7, 8], "void": 0},
        "splits": {
            "all": {
                "images": "images",
                "labels": "labels",
                "instances": "instances",
                "instance_suffix": "_ids.png",
            },
            "semantic": {"images": "images", "labels": "labels"},
            "target": {"images": "images"},
        },
    }
    text = json.dumps({**content, **changes})
    (root / name).write_text(text if name.endswith("json") else yaml.safe_dump(json.loads(text)))


@pytest.mark.parametrize("name", ["data.yaml", "data.json"])
def test_labels_by_hand(own: Path, name: str) -> None:
    describe(own, {}, name)
    spec = get_dataset(f"own/{name}:all")
    records = spec.load()
    assert [r["image_id"] for r in records] == ["a", "more__b"]
    assert (records[0]["height"], records[0]["width"]) == (6, 8)
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    semantic = spec.read_semantic(records[1])
    assert semantic[0, 0] == SKY and semantic[2, 0] == ROAD and semantic[5, 7] == 255
    assert (semantic[3:5, 1:4] == CAR).all() and (semantic[3:5, 5:7] == CAR).all()
    segments, info = spec.read_panoptic(records[1])
    assert {(s["category_id"], s["iscrowd"], s["area"]) for s in info} == {
        (ROAD, 0, 48 - 16 - 6 - 4 - 1),
        (SKY, 0, 16),
        (CAR, 0, 6),
        (CAR, 1, 4),
    }
    assert segments[5, 7] == 0


def test_names_that_differ_in_the_middle(own: Path) -> None:
    (own / "labels/more/b.png").rename(own / "labels/more/seen_c.png")
    (own / "labels/a.png").rename(own / "labels/seen_a.png")
    split = {"images": "images", "labels": "labels"}
    # One after the other: b, then c; "a" becomes "seen_a" alone.
    replace = {"b": "c", "more/": "more/seen_", "a": "seen_a"}
    describe(own, {"splits": {"all": {**split, "label_replace": replace}}})
    found = [r["label_file_name"] for r in get_dataset("own/data.yaml:all").load()]
    assert found == [str(own / "labels" / name) for name in ("seen_a.png", "more/seen_c.png")]
    describe(own, {"splits": {"all": split}})
    with pytest.raises(DatasetError, match=r"has its label.*\(label_suffix, label_replace"):
        get_dataset("own/data.yaml:all").load()
    for wrong in ({"a": 3}, {"": "x"}, ["a"]):
        describe(own, {"splits": {"all": {**split, "label_replace": wrong}}})
        with pytest.raises(DatasetError, match=r"label_replace is .*expected `label_replace: {rgb"):
            get_dataset("own/data.yaml:all")


def test_what_a_split_lacks_is_not_read(own: Path) -> None:
    semantic, target = (get_dataset(f"own/data.yaml:{s}") for s in ("semantic", "target"))
    assert semantic.read_panoptic is None and semantic.read_semantic is not None
    assert not target.is_labelled
    assert set(target.load()[0]) == {"file_name", "image_id", "height", "width"}


def test_a_linked_folder_and_an_absolute_path(own: Path) -> None:
    (own / "images" / "more").rename(own / "elsewhere")
    (own / "images" / "more").symlink_to(own / "elsewhere")
    assert len(get_dataset(f"{own}/data.yaml:target").load()) == 2


def test_other_classes_are_counted_anew(own: Path) -> None:
    name = "own/data.yaml:semantic"
    first = image_class_counts(get_dataset(name))
    assert first[0, [ROAD, SKY, CAR]].tolist() == [21, 16, 10]
    describe(own, {"classes": {"road": [3, 1], "car": [7, 8], "void": 0}})
    assert image_class_counts(get_dataset(name))[0, [ROAD, SKY, CAR]].tolist() == [37, 0, 10]


def test_detectron2_sees_it(own: Path) -> None:
    get_dataset(f"{own}/data.yaml:target")
    from gbw_d2.catalog import register_with_detectron2

    register_with_detectron2()
    from detectron2.data import DatasetCatalog

    assert len(DatasetCatalog.get(f"{own}/data.yaml:target")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": {"raod": 3}, "label_space": "cityscapes"},
            r"classes raod are none of its 19 \(known: road, ",
        ),
        ({"label_space": "voc"}, "label_space is 'voc'; expected own or cityscapes"),
        ({"things": ["bus"]}, "things names bus, which is no class"),
        ({"label_space": "cityscapes", "things": ["car"]}, "things of label_space cityscapes"),
        (
            {"colors": {"car": [0, 0]}},
            r"colour of 'car' is \[0, 0\]; expected \[red, green, blue\]",
        ),
        ({"subsets": {"rare": ["sofa"]}}, "subset 'rare' names sofa; expected classes"),
        ({"merge": {"vehicle": ["bus"]}}, "merge makes vehicle, which is no class"),
        ({"merge": {"car": ["sky"], "road": ["sky"]}}, "merge joins 'sky' into two classes"),
        ({"merge": {"car": ["sky"], "road": ["car"]}}, "merge joins others into car, and it"),
        ({"ignore_rows": {"top": 0.6, "bottom": 0.4}}, "ignore_rows leaves no row"),
        ({"ignore_rows": {"bottom": 10}}, "ignore_rows, bottom is 10; expected a share"),
        ({"classes": {"road": 70000}}, "class 'road' has value 70000; expected whole numbers"),
        ({"classes": {"road": True}}, "class 'road' has value True"),
        ({"classes": {"road": 3, "void": [0, 3]}}, "two classes have the value 3"),
        ({"classes": {}}, "split 'all' has labels, but no classes"),
        ({"splits": {}}, "splits is empty"),
        ({"splits": {"all": {"labels": "x"}}}, "split 'all' lacks images"),
        ({"splits": {"all": {"images": None}}}, "split 'all' names no folder of images"),
        ({"splits": {"all": {"image": "x"}}}, "unknown entries image and lacks images"),
        ({"splits": {"all": {"images": 3}}}, "split 'all': images must be text"),
        ({"splits": {"all": "images"}}, "split 'all' is 'images'; expected entries"),
        (
            {"splits": {"all": {"images": "x", "instances": "y"}}},
            "split 'all' has instances but no labels",
        ),
        ({"split": {}}, "the file has unknown entries split"),
    ],
)
def test_mistakes_in_the_description(own: Path, changes: dict, message: str) -> None:
    describe(own, changes)
    with pytest.raises(DatasetError, match=message) as error:
        get_dataset("own/data.yaml:all")
    assert str(own / "data.yaml") in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2", "\x00", "3", ""])
def test_a_description_that_is_none(own: Path, text: str) -> None:
    (own / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"neither YAML nor JSON|the file is "):
        get_dataset("own/data.yaml:all")


def test_names_that_lead_nowhere(own: Path) -> None:
    with pytest.raises(DatasetError, match=r"no split 'train' \(it has all, semantic, target\)"):
        get_dataset("own/data.yaml:train")
    with pytest.raises(DatasetError, match=r"cannot read '.*none\.yaml'.*datasets' root"):
        get_dataset("own/none.yaml:all")
    with pytest.raises(UnknownNameError, match="unknown dataset 'own/data:all'"):
        get_dataset("own/data:all")


def test_a_file_named_as_seen_from_the_current_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    for root, hint in (("own", "data.yaml"), ("elsewhere", own / "data.yaml")):
        monkeypatch.setenv("DETECTRON2_DATASETS", root)
        with pytest.raises(DatasetError, match=rf"moves it\), '{root}'\. Write '{hint}'$"):
            get_dataset("own/data.yaml:all")
    with pytest.raises(DatasetError, match=r"'elsewhere'\.$"):
        get_dataset("own/none.yaml:all")


def _all(own: Path) -> tuple[DatasetSpec, dict]:
    spec = get_dataset("own/data.yaml:all")
    return spec, spec.load()[0]


def test_mistakes_in_the_files(own: Path, write_png: WritePng) -> None:
    spec, record = _all(own)
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    write_png(own / "labels/a.png", np.full((6, 8), 77, np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png' holds 77, which .*data\.yaml' does not list"):
        spec.read_semantic(record)
    write_png(own / "labels/a.png", np.zeros((6, 9), np.uint8))
    with pytest.raises(DatasetError, match=r"6x9 pixels .* image has 6x8"):
        spec.read_semantic(record)
    write_png(own / "labels/a.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(
        DatasetError, match=r"mode RGB, expected 8 or 16 bits .*label_coding: colors"
    ):
        spec.read_semantic(record)
    write_png(own / "instances/a_ids.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match="is not a grey PNG file of 8 or 16 bits"):
        spec.read_panoptic(record)


def test_files_that_are_missing_or_double(own: Path) -> None:
    for path in (own / "instances").rglob("*_ids.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"none of 2 images .*a_ids\.png'\. Names must be"):
        _all(own)
    (own / "images/a.png").write_bytes((own / "images/a.JPG").read_bytes())
    with pytest.raises(DatasetError, match=r"a\.png' is not a PNG file"):
        _all(own)
    (own / "images/a.png").unlink()
    (own / "images/a.jpeg").write_bytes((own / "images/a.JPG").read_bytes())
    with pytest.raises(DatasetError, match=r"several images in .* have one name: a"):
        _all(own)
    (own / "images/a.jpeg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"a\.jpeg' is not an image that can be read"):
        _all(own)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's example with fewer and smaller images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    layout = LAYOUTS.get("own")
    settings = replace(
        layout.settings, image_size=(64, 128), num_source=3, num_target_train=2, num_target_val=2
    )
    small = replace(layout, settings=settings)
    monkeypatch.setitem(LAYOUTS._entries, "own", small)
    write_layout(tmp_path / "toy_own", small, workers=1)
    return tmp_path / "toy_own"


def test_the_example_holds_what_was_drawn(example: Path) -> None:
    settings = LAYOUTS.get("own").settings
    for split, key in (("source", ("source", "train")), ("val", ("target", "val"))):
        spec = get_dataset(f"toy_own/data.yaml:{split}")
        assert spec.read_semantic is not None and spec.read_panoptic is not None
        for index, record in enumerate(spec.load()):
            sample = render(settings, *key, index)
            np.testing.assert_array_equal(spec.read_semantic(record), sample.class_map)
            segments, info = spec.read_panoptic(record)
            things = [s for s in info if s["category_id"] > 10 and not s["iscrowd"]]
            assert len(things) == len(np.unique(sample.instance_map)) - 1
            assert ((segments == 0) == (sample.class_map == 255)).all()


def test_training_reads_the_example(example: Path, tiny_config: Callable) -> None:
    from gbw_d2.engine.batches import build_batches
    from gbw_d2.engine.run_data import RunData

    names = {"TRAIN": "source", "TARGET": "target", "TEST": "val"}
    overrides = [("DATASETS." + k, f"('toy_own/data.yaml:{v}',)") for k, v in names.items()]
    flat = [word for pair in overrides for word in pair]
    cfg = tiny_config(*flat, "UDA.NAME", "min_entropy", "DATALOADER.NUM_WORKERS", 0)
    data = RunData(cfg)
    data.prepare(training=True)
    source, target = next(build_batches(data, 0))
    assert "center" in source[0] and source[0]["file_name"].startswith(str(example / "synthetic"))
    assert target[0]["file_name"].startswith(str(example / "real_unlabelled"))
    assert "sem_seg" in source[0] and "sem_seg" not in target[0]


def test_the_page_shows_the_example() -> None:
    page = (ROOT / "docs/your_own_data.md").read_text()
    description, names, leaf = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[:3]
    assert description == OWN_DESCRIPTION
    shown = yaml.safe_load(names)["DATASETS"]
    base = yaml.safe_load((ROOT / "configs/base/datasets/toy_own.yaml").read_text())["DATASETS"]
    assert shown == {key: base[key] for key in shown}
    for path in yaml.safe_load(leaf)["_BASE_"]:
        assert (ROOT / "configs" / path).is_file(), path


def test_the_script(example: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "datasets/prepare_own.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = run("toy_own/data.yaml")
    assert found.returncode == 0, found.stderr
    assert "toy_own/data.yaml:source: 3 images, labels and instances" in found.stdout
    assert "toy_own/data.yaml:target: 2 images, no labels" in found.stdout
    (example / "synthetic/instances/frame_0001.png").write_bytes(b"")
    found = run("toy_own/data.yaml", "--check")
    assert found.returncode == 2
    assert "frame_0001.png" in found.stderr and "Traceback" not in found.stderr
