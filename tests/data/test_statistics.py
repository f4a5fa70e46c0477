"""Class statistics are counted once, kept, and counted anew when the files change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.data import statistics
from gbw_d2.data.formats.synthia import LABEL_FILE
from gbw_d2.data.spec import DatasetError
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import LABEL_SPACES

NAME = "synthia_semantic_train"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets that were counted, as they are."""
    names: list[str] = []
    count = statistics._count

    def spy(spec: statistics.DatasetSpec, records: list[statistics.Record]) -> np.ndarray:
        names.append(spec.name)
        return count(spec, records)

    monkeypatch.setattr(statistics, "_count", spy)
    return names


def test_counts_by_hand(synthia_root: Path) -> None:
    counts = image_class_counts(get_dataset(NAME))
    assert counts.shape == (3, 19)
    # Two cars of 80 and 100 pixels and 16 pixels without identity; 16 of lane marking are void.
    car, lane = 80 + 100 + 16, 16
    sky = 10 * 40 - 5 * 8 - 2 * 10
    expected = np.zeros(19, dtype=np.int64)
    expected[[0, 10, 13]] = 24 * 40 - car - lane - sky, sky, car
    np.testing.assert_array_equal(counts, [expected] * 3)
    space = LABEL_SPACES.get("cityscapes_16")
    by_class = image_class_counts(get_dataset(NAME), label_space=space).sum(axis=0)
    assert by_class.shape == (16,)
    assert by_class[space.class_names.index("car")] == 3 * car
    assert by_class.sum() == counts.sum()


def test_counts_are_kept(synthia_root: Path, counted: list[str]) -> None:
    first = image_class_counts(get_dataset(NAME))
    np.testing.assert_array_equal(image_class_counts(get_dataset(NAME)), first)
    assert counted == [NAME]
    # The panoptic dataset has the same files.
    np.testing.assert_array_equal(image_class_counts(get_dataset("synthia_panoptic_train")), first)
    assert counted == [NAME]
    assert len(list((synthia_root.parent / ".class_statistics").iterdir())) == 1


def test_another_label_or_a_new_version_is_counted_anew(
    synthia_root: Path,
    counted: list[str],
    write_png: Callable[[Path, np.ndarray], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = image_class_counts(get_dataset(NAME))
    record = get_dataset(NAME).load()[2]
    label = np.zeros((24, 40, 3), dtype=np.uint16)
    label[:, :, 2] = 3
    write_png(Path(record[LABEL_FILE]), label)
    second = image_class_counts(get_dataset(NAME))
    assert second[2, 0] == 24 * 40
    np.testing.assert_array_equal(second[:2], first[:2])
    monkeypatch.setattr(statistics, "VERSION", 2)
    image_class_counts(get_dataset(NAME))
    assert len(counted) == 3


def test_no_labelled_pixel_is_an_error(
    synthia_root: Path, write_png: Callable[[Path, np.ndarray], None]
) -> None:
    for record in get_dataset(NAME).load():
        write_png(Path(record[LABEL_FILE]), np.zeros((24, 40, 3), dtype=np.uint16))
    with pytest.raises(DatasetError, match="no labelled pixel"):
        image_class_counts(get_dataset(NAME))
    assert not list((synthia_root.parent / ".class_statistics").iterdir())


def test_a_dataset_without_labels_cannot_be_counted(cityscapes_root: Path) -> None:
    with pytest.raises(DatasetError, match="no semantic labels"):
        image_class_counts(get_dataset("cityscapes_unlabelled_train"))


def test_a_broken_cache_is_an_error(synthia_root: Path) -> None:
    image_class_counts(get_dataset(NAME))
    (path,) = (synthia_root.parent / ".class_statistics").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="delete it"):
        image_class_counts(get_dataset(NAME))


def test_a_folder_that_cannot_be_written(synthia_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="another folder"):
        image_class_counts(get_dataset(NAME), cache_folder=tmp_path / "file" / "cache")
    image_class_counts(get_dataset(NAME), cache_folder=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1


COUNT_SLOWLY = """
import sys, time
from pathlib import Path
from gbw_d2.catalog import get_dataset
from gbw_d2.data import statistics

def count(spec, records, original=statistics._count):
    with open(sys.argv[1], "a") as log:
        log.write("counted\\n")
    time.sleep(1.0)
    return original(spec, records)

statistics._count = count
print(statistics.image_class_counts(get_dataset("synthia_semantic_train")).sum())
"""


def test_one_process_counts_and_the_others_wait(synthia_root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", COUNT_SLOWLY, str(log)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert log.read_text() == "counted\n"
    assert outputs == {f"{image_class_counts(get_dataset(NAME)).sum()}\n"}
    assert len(list((synthia_root.parent / ".class_statistics").iterdir())) == 1
