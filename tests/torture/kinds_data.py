"""Kinds of files of datasets: labels, images, data.yaml, COCO panoptic, pseudo-labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import mutations as m
import numpy as np
from kind import Kind, holds
from own_data import write_coco, write_own_data, write_png

from gbw_d2 import keys
from gbw_d2.class_tables import colors_of_ids
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.formats import camvid, cityscapes, gta5, synthia, vistas
from gbw_d2.data.formats.files import image_record, read_image
from gbw_d2.data.formats.own import description, own_dataset, own_label_space, read_description
from gbw_d2.data.mappers import PseudoLabelMapper
from gbw_d2.data.spec import Record
from gbw_d2.data.statistics import load_counts, save_counts
from gbw_d2.evaluation.panoptic_files import score_files
from gbw_d2.inference.inputs import read_photo
from gbw_d2.label_spaces import CITYSCAPES_19, LabelSpace
from gbw_d2.modeling.targets.centers import CenterTargetGenerator
from gbw_d2.uda.parts.pseudo_label_files import RoundFiles

SIZE = (24, 40)


def check_semantic(label: np.ndarray, record: Record, space: LabelSpace) -> None:
    holds(label.dtype == np.uint8 and label.shape == (record[keys.HEIGHT], record[keys.WIDTH]))
    holds(set(np.unique(label).tolist()) <= {*range(space.num_classes), 255}, "class ids")


def check_panoptic(label: tuple[np.ndarray, Any], record: Record, space: LabelSpace) -> None:
    segments, info = label
    holds(segments.shape == (record[keys.HEIGHT], record[keys.WIDTH]), "size")
    ids = [segment["id"] for segment in info]
    holds(set(np.unique(segments).tolist()) - {0} == set(ids) and len(set(ids)) == len(ids))
    for segment in info:
        holds(type(segment["id"]) is int and 0 < segment["id"] < 2**31, "segment id")
        category = segment["category_id"]
        holds(type(category) is int and 0 <= category < space.num_classes, "category")
        holds(segment["iscrowd"] in (0, 1), "crowd")


def check_space(space: LabelSpace) -> None:
    holds(all(isinstance(n, str) and n.strip() for n in space.class_names), "class names")
    holds(all(type(c.is_thing) is bool for c in space.classes), "things")
    colors = [v for c in space.classes for v in c.color]
    holds(all(type(v) is int and 0 <= v <= 255 for v in colors), "colours")
    holds(len(colors) == 3 * space.num_classes and space.colors.shape == (256, 3), "colours")
    for subset, names in space.subsets.items():
        holds(bool(subset) and set(names) <= set(space.class_names), "subsets")


def _read_own(path: Path) -> None:
    check_space(own_label_space(str(path)))
    for name in read_description(path).splits:
        spec = own_dataset(f"{path}:{name}")
        top, bottom = spec.ignore_rows
        holds(top >= 0 and bottom >= 0 and top + bottom < 1, "ignore_rows")
        for record in spec.load():
            image = read_image(record[keys.FILE_NAME], "RGB")
            if image.shape[:2] != (record[keys.HEIGHT], record[keys.WIDTH]):
                continue  # the mapper compares them
            if spec.read_semantic is not None:
                check_semantic(spec.read_semantic(record), record, spec.classes)
            if spec.read_panoptic is not None:
                check_panoptic(spec.read_panoptic(record), record, spec.classes)


def own_numbers(folder: Path) -> Iterator[Kind]:
    path = write_own_data(folder, 6, images=1)
    pngs = {folder / f"{part}/0.png": m.PNG for part in ("images", "labels", "instances")}
    yield Kind("data.yaml", 12, {path: m.YAML}, lambda: _read_own(path))
    yield Kind("own labels, numbers", 4, pngs, lambda: _read_own(path))


def own_colours(folder: Path) -> Iterator[Kind]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, SIZE)
    table = np.array([[0, 0, 255], [9, 200, 3], [0, 0, 0]], np.uint8)
    write_png(folder / "images/0.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
    write_png(folder / "labels/0.png", table[ids])
    write_png(folder / "instances/0.png", colors_of_ids(np.where(ids == 1, 70000, 0)))
    content = {
        "label_space": "own",
        "classes": {"road": [255, 0, 0], "car": ["#03c809"], "void": [0, 0, 0]},
        "things": ["car"],
        "colors": {"car": [0, 0, 142]},
        "merge": {"tar": ["road"]},
        "splits": {
            "a": {
                **{"images": "images", "labels": "labels", "instances": "instances"},
                **{"label_coding": "colors", "instance_coding": "rgb", "crowd": [7]},
                "ignore_rows": {"bottom": 0.1},
            }
        },
    }
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    pngs = {folder / f"{part}/0.png": m.PNG for part in ("labels", "instances")}
    yield Kind("data.json", 6, {path: m.JSON}, lambda: _read_own(path))
    yield Kind("own labels, colours", 3, pngs, lambda: _read_own(path))


def own_coco(folder: Path) -> Iterator[Kind]:
    write_coco(folder, 6, images=1)
    path = folder / "data.yaml"
    path.write_text("splits: {a: {images: images, labels: png, annotations: panoptic.json}}\n")

    def read() -> None:
        description._cached_annotations.cache_clear()
        _read_own(path)

    yield Kind("COCO panoptic JSON, own", 10, {folder / "panoptic.json": m.JSON}, read)
    yield Kind("COCO panoptic PNG, own", 3, {folder / f"png/{0:012d}.png": m.PNG}, read)


def _image(folder: Path, name: str, seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    write_png(folder / name, array)
    return array


def cityscapes_files(folder: Path) -> Iterator[Kind]:
    ids = np.full(SIZE, 7)
    ids[:10], ids[5:15, 2:10], ids[18:20, 30:38], ids[22:] = 23, 26001, 26, 0
    _image(folder, "leftImg8bit/val/a/a_0_leftImg8bit.png")
    train_ids = np.select([ids == 7, ids == 23, ids >= 26], [0, 10, 13], 255).astype(np.uint8)
    label, panoptic = folder / "gtFine/val/a/a_0_gtFine_labelTrainIds.png", "a_0.png"
    write_png(label, train_ids)
    path = cityscapes.panoptic_json(folder, "val")
    write_png(path.with_suffix("") / panoptic, colors_of_ids(ids))
    table = [(7, 0, 0), (23, 10, 0), (26, 13, 1), (26001, 13, 0)]
    segments = [dict(zip(("id", "category_id", "iscrowd"), row, strict=True)) for row in table]
    entry = {"image_id": "a_0", "file_name": panoptic, "segments_info": segments}
    path.write_text(json.dumps({"annotations": [entry]}))

    def read() -> None:
        for record in cityscapes.load_panoptic(folder, "val"):
            check_semantic(cityscapes.read_semantic(record), record, CITYSCAPES_19)
            check_panoptic(cityscapes.read_panoptic(record), record, CITYSCAPES_19)

    pngs = {label: m.PNG, path.with_suffix("") / panoptic: m.PNG}
    yield Kind("COCO panoptic JSON, Cityscapes", 6, {path: m.JSON}, read)
    yield Kind("Cityscapes labels", 4, pngs, read)


def vistas_files(folder: Path) -> Iterator[Kind]:
    image = _image(folder, "unused.png")
    photo = folder / "validation/images/a.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    ids = np.full(SIZE, 1)
    ids[:9], ids[12:20, 3:9] = 2, 70000
    path = vistas.panoptic_json(folder, "val")
    write_png(path.parent / "a.png", colors_of_ids(ids))
    table = [(1, 14, 0), (2, 28, 0), (70000, 56, 0)]
    segments = [dict(zip(("id", "category_id", "iscrowd"), row, strict=True)) for row in table]
    entry = {"image_id": "a", "file_name": "a.png", "segments_info": segments}
    categories = [{"id": i + 1, "name": str(i)} for i in range(66)]
    path.write_text(json.dumps({"categories": categories, "annotations": [entry]}))

    def read() -> None:
        for record in vistas.load_labelled(folder, "val"):
            check_semantic(vistas.read_semantic(record), record, CITYSCAPES_19)
            check_panoptic(vistas.read_panoptic(record), record, CITYSCAPES_19)
            read_image(record[keys.FILE_NAME], "BGR")

    yield Kind("COCO panoptic JSON, Vistas", 5, {path: m.JSON}, read)
    yield Kind("Vistas label and photo", 3, {path.parent / "a.png": m.PNG, photo: m.BINARY}, read)


def other_labels(folder: Path) -> Iterator[Kind]:
    name = f"{0:07d}.png"
    _image(folder, f"synthia/RGB/{name}")
    raw = np.zeros((*SIZE, 3), np.uint16)
    raw[..., 2], raw[5:15, 2:10] = 3, (0, 300, 8)
    write_png(folder / "synthia/GT/LABELS" / name, raw)

    def read_synthia() -> None:
        for record in synthia.load_synthia(folder / "synthia"):
            check_semantic(synthia.read_semantic(record), record, CITYSCAPES_19)
            check_panoptic(synthia.read_panoptic(record), record, CITYSCAPES_19)

    yield Kind("SYNTHIA label", 3, {folder / "synthia/GT/LABELS" / name: m.PNG}, read_synthia)
    _image(folder, "gta5/images/00001.png")
    write_png(folder / "gta5/labels/00001.png", np.full(SIZE, 7, np.uint8))

    def read_gta5() -> None:
        for record in gta5.load_gta5(folder / "gta5"):
            check_semantic(gta5.read_semantic(record), record, CITYSCAPES_19)

    yield Kind("GTA5 label", 2, {folder / "gta5/labels/00001.png": m.PNG}, read_gta5)
    for part in ("train", "val", "test"):
        (folder / f"camvid/{part}annot").mkdir(parents=True)
        (folder / f"camvid/{part}").mkdir()
    _image(folder, "camvid/train/0006R0_f00930.png")
    write_png(folder / "camvid/trainannot/0006R0_f00930.png", np.full(SIZE, 3, np.uint8))

    def read_camvid() -> None:
        for record in camvid.load_camvid(folder / "camvid", "train"):
            check_semantic(camvid.read_semantic(record), record, camvid.CAMVID_11)

    camvid_label = folder / "camvid/trainannot/0006R0_f00930.png"
    yield Kind("CamVid label", 2, {camvid_label: m.PNG}, read_camvid)


def photos(folder: Path) -> Iterator[Kind]:
    image = _image(folder, "a.png")
    for name in ("a.jpg", "a.webp", "a.bmp", "a.tiff"):
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, image)[1].tobytes())

    def read(path: Path) -> Callable[[], None]:
        def look() -> None:
            record = image_record(path, "a")
            found = read_photo(path)
            holds(found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3, "photo")
            holds(found.shape[:2] == (record[keys.HEIGHT], record[keys.WIDTH]), "size")

        return look

    for path in sorted(folder.glob("a.*")):
        change = m.PNG if path.suffix == ".png" else m.BINARY
        yield Kind(f"photo {path.suffix}", 2, {path: change}, read(path))


def scored_files(folder: Path) -> Iterator[Kind]:
    content = write_coco(folder, 5, images=1)
    categories = [{**c, "color": [1, 2, 3]} for c in content["categories"]]
    paths = (folder / "truth.json", folder / "guess.json")
    for path in paths:
        path.write_text(json.dumps({**content, "categories": categories}))
        path.with_suffix("").mkdir()
        (path.with_suffix("") / f"{0:012d}.png").write_bytes(
            (folder / f"png/{0:012d}.png").read_bytes()
        )

    def read() -> None:
        found = score_files(*paths, workers=1).compute()
        values = [found[name] for name in ("PQ", "SQ", "RQ")]
        holds(all(v is None or 0 <= v <= 100 + 1e-9 for v in values), "scores")

    yield Kind("COCO panoptic JSON, scored", 6, dict.fromkeys(paths, m.JSON), read)


def pseudo_labels(folder: Path) -> Iterator[Kind]:
    space, ids = CITYSCAPES_19, ["a", "b"]
    key = {"weights": "w", "classes": list(space.class_names), "logit_shift": [0.0] * 19}
    chosen = {
        "key": key,
        "round": 0,
        "thresholds": [0.5] * 19,
        "predicted": [9] * 19,
        "instance_thresholds": [0.9] * 19,
        "instances": [3] * 19,
        "images": ids,
    }
    files = RoundFiles(folder / "round_0")
    files.start(key)
    files.write_thresholds(chosen)
    records = []
    for i, name in enumerate(ids):
        _image(folder, f"images/{name}.png", i)
        labels = np.full(SIZE, 13, np.uint8)
        labels[:9], labels[20:] = 0, 255
        files.write_labels(name, labels, np.where(labels == 13, 14001, 0).astype(np.int32))
        records.append(image_record(folder / f"images/{name}.png", name))
    files.finish(np.full((2, 19), 5), {"round": 0, **key})
    mapper = PseudoLabelMapper(
        files.labels,
        space,
        AugmentationSettings(crop_size=(16, 16)),
        "RGB",
        "pseudo",
        CenterTargetGenerator(space.thing_ids, 8),
        files.instances,
    )

    def read_round() -> None:
        found = files.chosen(space.num_classes)
        files.summary()
        holds(len(found["thresholds"]) == len(found["predicted"]) == 19, "thresholds")
        holds(all(isinstance(n, str) for n in found["images"]), "images")
        pixels = files.pixels(len(found["images"]), space.num_classes)
        holds(pixels.shape == (len(found["images"]), 19) and (pixels >= 0).all(), "pixels")

    def read_maps() -> None:
        for name, record in zip(ids, records, strict=True):
            label = files.read_labels(name)
            holds(label.dtype == np.uint8 and label.ndim == 2, "pseudo-labels")
            sample = mapper(record, np.random.default_rng(0))["pseudo"]
            classes = sample[keys.SEM_SEG]
            holds(set(classes.unique().tolist()) <= {*range(19), 255}, "pseudo-labels")
            for segment in sample[keys.SEGMENTS_INFO]:
                holds(0 <= segment["category_id"] < 19, "category of a pseudo-label")

    tables = {
        folder / "round_0/thresholds.json": m.JSON,
        folder / "round_0/round.json": m.JSON,
        folder / "round_0/pixels.npy": m.ARRAY,
    }
    maps = {folder / f"round_0/{part}/a.png": m.PNG for part in ("labels", "instances")}
    yield Kind("tables of a round", 7, tables, read_round)
    yield Kind("pseudo-labels", 4, maps, read_maps)


def caches(folder: Path) -> Iterator[Kind]:
    path = folder / "counts.npz"
    save_counts(path, np.full((2, 19), 4))

    def read() -> None:
        found = load_counts(path)
        assert found is not None
        holds(found.dtype.kind in "iu" and found.ndim >= 2 and (found >= 0).all(), "counts")

    yield Kind("class statistics", 3, {path: m.ARRAY}, read)


ALL = (
    *(own_numbers, own_colours, own_coco, cityscapes_files, vistas_files, other_labels),
    *(photos, scored_files, pseudo_labels, caches),
)
