"""datasets/examples: each description reads files that are made in its data set's form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.own import own_label_space, read_description
from gbw_d2.data.spec import DatasetSpec
from gbw_d2.label_spaces import CITYSCAPES_19, scoring

EXAMPLES = Path(__file__).resolve().parents[2] / "datasets/examples"
WritePng = Callable[[Path, np.ndarray], None]
# One image of 2 x 3 pixels: road and void, two cars that touch and a sky.
IDS = np.array([[0, 255, 10], [13, 13, 13]])
CARS = np.array([[0, 0, 0], [1, 1, 2]])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_png: WritePng) -> Path:
    """A datasets' root with each example in a folder of its name, and one image per split."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for example in EXAMPLES.glob("*.yaml"):
        folder = tmp_path / example.stem
        folder.mkdir()
        shutil.copy(example, folder / "data.yaml")
    return tmp_path


def values(name: str, ids: np.ndarray, void: int) -> np.ndarray:
    """What a data set's label file holds for train ids."""
    table = {
        "kitti": {0: 7, 10: 23, 13: 26},
        "carla": {0: 1, 10: 11, 13: 14},
        "bdd100k": {0: 0, 10: 10, 13: 13},
    }[name]
    return np.vectorize(lambda i: table.get(i, void))(ids)


def check(spec: DatasetSpec) -> None:
    (record,) = spec.load()
    assert spec.read_semantic is not None
    np.testing.assert_array_equal(spec.read_semantic(record), IDS)
    assert spec.classes.class_names == CITYSCAPES_19.class_names
    if spec.read_panoptic is not None:
        segments, info = spec.read_panoptic(record)
        cars = [s for s in info if s["category_id"] == 13]
        assert sorted(s["area"] for s in cars) == [1, 2] and not any(s["iscrowd"] for s in cars)
        assert segments[1, 0] == segments[1, 1] != segments[1, 2]


def test_kitti(place: Path, write_png: WritePng) -> None:
    labels = values("kitti", IDS, 0)
    folder = place / "kitti/training"
    write_png(folder / "image_2/000000_10.png", np.zeros((2, 3, 3), np.uint8))
    write_png(folder / "semantic/000000_10.png", labels.astype(np.uint8))
    write_png(folder / "instance/000000_10.png", (256 * labels + CARS).astype(np.uint16))
    check(get_dataset("kitti/data.yaml:labelled"))


def test_carla(place: Path, write_png: WritePng) -> None:
    labels = values("carla", IDS, 0)
    zeros = np.zeros_like(labels)
    # Blue, green, red, as OpenCV writes; the number of an object is spread over two channels.
    semantic = np.stack((zeros, zeros, labels), axis=2).astype(np.uint8)
    instance = np.stack((CARS + 40, CARS * 3, labels), axis=2).astype(np.uint8)
    for name, array in (("rgb", semantic), ("semantic", semantic), ("instance", instance)):
        write_png(place / "carla" / name / "000001.png", array)
    check(get_dataset("carla/data.yaml:source"))


def test_bdd100k(place: Path, write_png: WritePng) -> None:
    write_png(place / "bdd100k/images/10k/val/a.png", np.zeros((2, 3, 3), np.uint8))
    labels = values("bdd100k", IDS, 255).astype(np.uint8)
    write_png(place / "bdd100k/labels/sem_seg/masks/val/a.png", labels)
    check(get_dataset("bdd100k/data.yaml:val"))


def test_virtual_kitti_2(place: Path, write_png: WritePng) -> None:
    root = place / "virtual_kitti_2"
    colours = {0: (100, 60, 100), 255: (80, 80, 80), 10: (90, 200, 255), 13: (0, 139, 139)}
    label = np.array([[colours[i][::-1] for i in row] for row in IDS.tolist()], np.uint8)
    for scene in ("Scene01/clone", "Scene20/rain"):
        paths = {
            kind: root / f"vkitti_2.0.3_{kind}" / scene / f"frames/{kind}/Camera_0"
            for kind in ("rgb", "classSegmentation", "instanceSegmentation")
        }
        paths["rgb"].mkdir(parents=True)
        image = Image.fromarray(np.zeros((2, 3, 3), np.uint8))
        image.save(paths["rgb"] / "rgb_00001.jpg")
        write_png(paths["classSegmentation"] / "classgt_00001.png", label)
        numbers = Image.fromarray(CARS.astype(np.uint8))
        numbers.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        paths["instanceSegmentation"].mkdir(parents=True)
        numbers.save(paths["instanceSegmentation"] / "instancegt_00001.png")
    spec = get_dataset("virtual_kitti_2/data.yaml:source")
    first, second = spec.load()
    assert first["image_id"] == "Scene01__clone__frames__rgb__Camera_0__rgb_00001"
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    names = spec.classes.class_names
    road, sky, car = (names.index(name) for name in ("road", "sky", "car"))
    expected = [[road, 255, sky], [car, car, car]]
    np.testing.assert_array_equal(spec.read_semantic(second), expected)
    _, info = spec.read_panoptic(first)
    assert sorted(s["area"] for s in info if s["category_id"] == car) == [1, 2]
    # The classes of KITTI's photos that it lacks count as nothing where a network with its classes
    # is scored on them.
    met = scoring(own_label_space("virtual_kitti_2/data.yaml"), CITYSCAPES_19)
    assert met.space.class_names == names


def test_every_example_is_read(place: Path) -> None:
    found = {path.parent.name for path in place.glob("*/data.yaml")}
    assert found == {"kitti", "carla", "bdd100k", "virtual_kitti_2"}
    for path in place.glob("*/data.yaml"):
        data = read_description(path)
        assert data.classes is not None
        names = set(data.classes.space.class_names)
        assert names <= set(CITYSCAPES_19.class_names)
        assert len(names) == (10 if path.parent.name == "virtual_kitti_2" else 19)
