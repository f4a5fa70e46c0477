"""Target images with pseudo-labels, nested source subsets, crops that show a rare class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.class_tables import colors_of_ids
from gbw_d2.data.augmentation import AugmentationSettings, WantedPixels
from gbw_d2.data.mappers import PseudoLabelMapper
from gbw_d2.data.sampling import Draw, EpochPermutation, RareClassMining, nested_subset
from gbw_d2.data.spec import DatasetError
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.modeling.targets.centers import (
    CENTER,
    CENTER_WEIGHTS,
    INSTANCE_CLASS,
    OFFSET,
    OFFSET_WEIGHTS,
    CenterTargetGenerator,
)

SPACE = LABEL_SPACES.get("cityscapes_16")
CAR = SPACE.class_names.index("car")
WritePng = Callable[[Path, np.ndarray], None]

GENERATE = CenterTargetGenerator(SPACE.thing_ids, 3.0)


def write_pair(folder: Path, write_png: WritePng) -> dict:
    """Writes an image whose grey levels are the class ids of its pseudo-labels."""
    labels = np.random.default_rng(0).integers(0, 16, (24, 40), dtype=np.uint8)
    labels[3:6] = 255
    write_png(folder / "image.png", labels[:, :, None].repeat(3, axis=2))
    write_png(folder / "labels/city/0.png", labels)
    record = {"file_name": str(folder / "image.png"), "image_id": "city/0"}
    return {**record, "height": 24, "width": 40, "label_file_name": "must not be read"}


def test_pseudo_labels_follow_the_image(tmp_path: Path, write_png: WritePng) -> None:
    record = write_pair(tmp_path, write_png)
    settings = AugmentationSettings(crop_size=(20, 32), flip_probability=0.5)
    mapper = PseudoLabelMapper(tmp_path / "labels", SPACE, settings, "RGB", "mine", GENERATE)
    crops = set()
    for seed in range(8):
        sample = mapper(record, np.random.default_rng(seed))
        labels = sample["mine"][keys.SEM_SEG]
        image = sample[keys.IMAGE][0].numpy()
        assert torch.equal(labels, torch.from_numpy(image).long())
        crops.add(image.tobytes())
        # Apart from the sample's own entries, so that nobody takes them for the target's labels.
        assert set(sample) == {"file_name", "image_id", "height", "width", "image", "mine"}
        assert set(sample["mine"]) == {keys.SEM_SEG}
    assert len(crops) > 4


def test_instances_by_hand(tmp_path: Path, write_png: WritePng) -> None:
    record = write_pair(tmp_path, write_png)
    # Road (0); a car (12) whose instance is kept, another whose instance is not; void.
    labels = np.zeros((24, 40), dtype=np.uint8)
    labels[2:6, 2:8], labels[10:14, 20:28], labels[20:] = CAR, CAR, 255
    instances = np.zeros((24, 40), dtype=np.int32)
    instances[2:6, 2:10] = (CAR + 1) * 1000 + 1  # two columns more than the semantic labels
    write_png(tmp_path / "labels/city/0.png", labels)
    write_png(tmp_path / "instances/city/0.png", colors_of_ids(instances))
    folders = (
        tmp_path / "labels",
        SPACE,
        AugmentationSettings(flip_probability=0),
        "RGB",
        "mine",
        GENERATE,
    )
    sample = PseudoLabelMapper(*folders, tmp_path / "instances")(record, np.random.default_rng(0))[
        "mine"
    ]
    # The semantic labels are as they were written.
    assert torch.equal(sample[keys.SEM_SEG], torch.from_numpy(labels).long())
    owned = torch.from_numpy(instances > 0)
    assert torch.equal(sample[INSTANCE_CLASS] == CAR, owned)
    assert torch.equal(sample[OFFSET_WEIGHTS] > 0, owned)
    assert sample[OFFSET][:, 2, 2].tolist() == [1.5, 3.5]
    assert sample[CENTER].max() == 1 and sample[CENTER][4, 6] == 1
    # Nothing is known of centres where a car has no kept instance, or nothing is labelled.
    unknown = torch.from_numpy((labels == 255) | ((labels == CAR) & (instances == 0)))
    assert torch.equal(sample[CENTER_WEIGHTS] == 0, unknown)


def test_a_missing_file_is_told(tmp_path: Path, write_png: WritePng) -> None:
    record = write_pair(tmp_path, write_png)
    mapper = PseudoLabelMapper(tmp_path, SPACE, AugmentationSettings(), "RGB", "mine", GENERATE)
    with pytest.raises(DatasetError, match=r"city/0\.png"):
        mapper(record, np.random.default_rng(0))


def test_pseudo_labels_of_other_classes_are_told(tmp_path: Path, write_png: WritePng) -> None:
    record = write_pair(tmp_path, write_png)
    settings = AugmentationSettings()
    instances = tmp_path / "instances"
    mapper = PseudoLabelMapper(
        tmp_path / "labels", SPACE, settings, "RGB", "mine", GENERATE, instances
    )
    # A road is no instance; neither is a number of another size than its labels.
    for ids in (np.full((24, 40), 1001), np.full((9, 9), (CAR + 1) * 1000 + 1)):
        write_png(instances / "city/0.png", colors_of_ids(ids))
        with pytest.raises(DatasetError, match=r"instances/city/0\.png'.*delete the round"):
            mapper(record, np.random.default_rng(0))
    for labels in (np.full((24, 40), 16, np.uint8), np.zeros((24, 40, 3), np.uint8)):
        write_png(tmp_path / "labels/city/0.png", labels)
        with pytest.raises(DatasetError, match=r"class ids 0\.\.15 and 255; delete the round"):
            mapper(record, np.random.default_rng(0))


def test_subsets_grow() -> None:
    shares = [nested_subset(200, portion, 5, "source") for portion in (0.001, 0.1, 0.4, 1.0)]
    assert [len(s) for s in shares] == [1, 20, 80, 200]
    for small, large in pairwise(shares):
        assert set(small) < set(large) and (np.diff(large) > 0).all()
    assert shares[-1].tolist() == list(range(200))
    assert set(nested_subset(200, 0.1, 6, "source")) != set(shares[1])


def test_mining_asks_for_rare_classes_that_are_there() -> None:
    # Image 0 shows classes 0 and 3, image 1 classes 1 and 2, image 2 class 4 alone.
    pixels = np.array([[9, 0, 0, 1, 0], [0, 5, 5, 0, 0], [0, 0, 0, 0, 7]])
    base = EpochPermutation(3, 0, "target")
    stream = RareClassMining(base, pixels, [3], [1, 2, 3], 0.8, 0, "target")
    draws = [stream(i) for i in range(3000)]
    assert draws == [stream(i) for i in range(3000)]
    assert [d.image for d in draws] == [base(i).image for i in range(3000)]
    asked = Counter((d.image, None if d.wanted is None else d.wanted.class_id) for d in draws)
    assert set(asked) == {(0, None), (0, 3), (1, None), (1, 1), (1, 2), (2, None)}
    assert asked[0, 3] == pytest.approx(800, abs=60)
    assert asked[1, 1] == pytest.approx(400, abs=60) and asked[1, 2] == pytest.approx(400, abs=60)
    assert asked[2, None] == 1000
    assert all(d.wanted is None or d.wanted.pixels == 0 for d in draws)


def test_what_rare_class_sampling_wants_comes_first() -> None:
    wanted = Draw(0, WantedPixels(1, 5.0))
    stream = RareClassMining(lambda _: wanted, np.ones((1, 3)), [2], [2], 1.0, 0, "source")
    assert stream(0) == wanted
