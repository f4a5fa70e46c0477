"""The datasets by name, the reader of SYNTHIA, and the errors of both."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zlib import compress, crc32

import cv2
import numpy as np
import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.data.formats.files import read_image
from gbw_d2.data.formats.synthia import LABEL_FILE, load_synthia
from gbw_d2.data.spec import DatasetError
from gbw_d2.registry import UnknownNameError

WritePng = Callable[[Path, np.ndarray], None]
ROAD, SKY, CAR = 0, 10, 13


def test_importing_the_datasets_loads_neither_torch_nor_detectron2() -> None:
    code = (
        "import sys, gbw_d2.catalog\n"
        "assert not {'torch', 'detectron2'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_root_is_read_when_a_dataset_is_loaded(
    synthia_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = get_dataset("synthia_panoptic_train")
    assert spec.load()[0]["file_name"].startswith(str(synthia_root))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthia_root / "elsewhere"))
    with pytest.raises(DatasetError, match="elsewhere"):
        spec.load()


def test_an_unknown_dataset_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'synthia_panoptic_train'"):
        get_dataset("synthia_panoptic_trian")


def test_synthia_records(synthia_root: Path) -> None:
    records = get_dataset("synthia_semantic_train").load()
    assert [r["image_id"] for r in records] == ["0000000", "0000001", "0000002"]
    assert (records[0]["height"], records[0]["width"]) == (24, 40)


def test_synthia_sequences_are_refused(synthia_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(synthia_root, tmp_path / "seqs")
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(path.name[1:]))
    with pytest.raises(DatasetError, match=r"six digits \(000000, .*SYNTHIA-SEQS.*seven digits"):
        load_synthia(root)


def test_synthia_labels(synthia_root: Path) -> None:
    spec = get_dataset("synthia_panoptic_train")
    assert spec.read_semantic is not None and spec.read_panoptic is not None
    record = spec.load()[0]
    semantic = spec.read_semantic(record)
    assert semantic.dtype == np.uint8
    assert set(np.unique(semantic)) == {ROAD, SKY, CAR, 255}
    assert (semantic[20:24, 10:14] == 255).all()  # lane marking is ignored, not road
    assert (semantic[0:2, 0:2] == SKY).all()

    segments, info = spec.read_panoptic(record)
    assert segments.dtype == np.int32
    found = {s["id"]: (s["category_id"], s["iscrowd"]) for s in info}
    small_car, large_car = 7 * 32 + 14, 300 * 32 + 14
    assert found == {
        1: (ROAD, 0),
        11: (SKY, 0),
        14: (CAR, 1),
        small_car: (CAR, 0),
        large_car: (CAR, 0),
    }
    assert (segments[5:15, 2:10] == small_car).all()
    assert (segments[20:24, 10:14] == 0).all()
    assert {s["id"]: s["area"] for s in info}[large_car] == 100
    category = np.zeros(segments.max() + 1, dtype=np.uint8) + 255
    for segment in info:
        category[segment["id"]] = segment["category_id"]
    np.testing.assert_array_equal(category[segments], semantic)


def test_the_largest_segment_id_fits_into_a_png(synthia_root: Path, write_png: WritePng) -> None:
    spec = get_dataset("synthia_panoptic_train")
    record = spec.load()[0]
    label = np.zeros((24, 40, 3), dtype=np.uint16)
    label[:] = (0, 65535, 11)  # bicycle, the last train id, with the largest instance id
    write_png(Path(record[LABEL_FILE]), label)
    assert spec.read_panoptic is not None
    segments, info = spec.read_panoptic(record)
    assert segments.max() == info[0]["id"] < 2**24
    assert info[0]["category_id"] == 18


def _grey(label: np.ndarray) -> np.ndarray:
    return label[:, :, 2]


def _eight_bit(label: np.ndarray) -> np.ndarray:
    return label.astype(np.uint8)


def _four_channels(label: np.ndarray) -> np.ndarray:
    return np.concatenate([label, label[:, :, :1]], axis=2)


def _unknown_class(label: np.ndarray) -> np.ndarray:
    label[3, 3, 2] = 23
    return label


def _smaller(label: np.ndarray) -> np.ndarray:
    return label[:20]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_grey, "1 channel"),
        (_eight_bit, "8 bits"),
        (_four_channels, "4 channel"),
        (_unknown_class, "23, which SYNTHIA"),
        (_smaller, "20x40 pixels .* 24x40"),
    ],
)
@pytest.mark.parametrize("reader", ["read_semantic", "read_panoptic"])
def test_synthia_labels_that_cannot_be_used(
    synthia_root: Path,
    write_png: WritePng,
    damage: Callable[[np.ndarray], np.ndarray],
    message: str,
    reader: str,
) -> None:
    spec = get_dataset("synthia_panoptic_train")
    record = spec.load()[1]
    path = Path(record[LABEL_FILE])
    write_png(path, damage(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    with pytest.raises(DatasetError, match=message) as error:
        getattr(spec, reader)(record)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"not an image", "not an image"),
        (lambda data: b"", "not an image"),
        (lambda data: data[:60] + b"\0\0\0\0" + data[64:], "not an image"),
    ],
)
def test_a_label_that_cannot_be_read(
    synthia_root: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    spec = get_dataset("synthia_semantic_train")
    record = spec.load()[0]
    path = Path(record[LABEL_FILE])
    path.write_bytes(damage(path.read_bytes()))
    assert spec.read_semantic is not None
    with pytest.raises(DatasetError, match=message):
        spec.read_semantic(record)


def test_synthia_files_that_are_missing(
    synthia_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = get_dataset("synthia_panoptic_train")
    (synthia_root / "GT" / "LABELS" / "0000001.png").unlink()
    (synthia_root / "RGB" / "0000002.png").unlink()
    # Of a partial download, what has both is used.
    assert [r["image_id"] for r in spec.load()] == ["0000000"]
    said = "left out 1 without a label (0000001) and 1 without an image (0000002.png)"
    assert f"{said}; 1 pairs are used" in caplog.text
    (synthia_root / "RGB" / "0000000.png").unlink()
    with pytest.raises(DatasetError, match=r"none of 1 images .* such as '.*0000001"):
        spec.load()
    (synthia_root / "GT" / "LABELS").rename(synthia_root / "GT" / "labels_elsewhere")
    with pytest.raises(DatasetError, match="README"):
        spec.load()


def test_an_image_that_is_no_png(synthia_root: Path) -> None:
    (synthia_root / "RGB" / "0000001.png").write_bytes(b"no PNG at all, but long enough")
    with pytest.raises(DatasetError, match=r"0000001\.png' is not a PNG"):
        get_dataset("synthia_panoptic_train").load()


@pytest.mark.parametrize("folder", ["RGB", "GT/LABELS"])
def test_an_empty_folder(synthia_root: Path, folder: str) -> None:
    for path in (synthia_root / folder).iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=rf"no file \*\.png in .*{folder}'.*README"):
        get_dataset("synthia_panoptic_train").load()


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_folder_that_looks_like_a_file(synthia_root: Path, kind: str) -> None:
    folder = synthia_root / ("RGB" if kind == "images" else "GT/LABELS")
    (folder / "0000001.png").unlink()
    (folder / "0000001.png").mkdir()
    spec = get_dataset("synthia_semantic_train")
    assert spec.read_semantic is not None
    with pytest.raises(DatasetError, match=r"cannot read '.*0000001\.png': Is a directory"):
        spec.read_semantic(spec.load()[1])


def test_an_image_that_ends_early(synthia_root: Path) -> None:
    record = get_dataset("synthia_panoptic_train").load()[0]
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=rf"'{path}' is a truncated PNG file; copy or unpack"):
        read_image(path, "RGB")


def test_a_size_that_opencv_refuses(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", compress(b"")), chunk(b"IEND", b""))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(
        DatasetError, match=r"huge\.png' is a damaged PNG file: its head promises more pixels"
    ):
        read_image(tmp_path / "huge.png", "RGB")


def test_registration_with_detectron2_is_made_once(cityscapes_root: Path) -> None:
    from gbw_d2.catalog import register_with_detectron2

    register_with_detectron2()
    register_with_detectron2()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    assert len(DatasetCatalog.get("cityscapes_panoptic_train")) == 3
    metadata = MetadataCatalog.get("toy_synthia_panoptic_train")
    assert metadata.ignore_label == 255
    assert metadata.stuff_classes[13] == "car"
