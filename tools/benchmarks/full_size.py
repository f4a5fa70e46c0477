"""Full-size training samples, compared with decoding of their files alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.decoded_cache import DecodedCache
from gbw_d2.data.formats import synthia
from gbw_d2.data.formats.files import read_image
from gbw_d2.data.mappers import SourceMapper, TargetMapper
from gbw_d2.keys import FILE_NAME
from gbw_d2.label_spaces import CITYSCAPES_19
from gbw_d2.modeling.targets.centers import CenterTargetGenerator
from gbw_d2.toyworld.settings import ToyWorldSettings
from gbw_d2.toyworld.writer import SUBFOLDERS, write_toy_world

Candidate = Callable[[], None]
# Written once, 19 MB, and 42 MB decoded. The next image would be the one with many instances.
FOLDER = Path("output/full_size_toy")
SETTINGS = ToyWorldSettings(
    seed=3, image_size=(1024, 2048), num_source=4, num_target_train=1, num_target_val=1
)
CROP = (512, 1024)
# Images per second on which one H200 trains (docs/training.md).
USED = 85


def full_size_candidates(folder: Path, settings: ToyWorldSettings) -> dict[str, Candidate]:
    """Makes candidates that decode, or make samples of, all source images.

    Colours are not augmented. The first candidate decodes image and label by OpenCV. Source samples
    have panoptic targets, and their crops are redrawn if one class fills too much of them; target
    samples are the same images without labels. Cached samples are read from decoded files
    (DATALOADER.DECODED_CACHE) from their second call on.

    Args:
        folder: of a toy world, which is made if it is missing.
        settings: of that toy world.
    """
    write_toy_world(folder, settings)
    records = synthia.load_synthia(folder / SUBFOLDERS["source"])
    rows, columns = settings.image_size
    crop = (min(CROP[0], rows // 2), min(CROP[1], columns // 2))
    judged = AugmentationSettings(crop_size=crop, cat_max_ratio=0.75)
    generate = CenterTargetGenerator(CITYSCAPES_19.thing_ids, 8.0)
    cache = DecodedCache(folder.with_name(f"{folder.name}_decoded"))
    plain = next(synthia.synthia_specs("full_size", lambda: folder / SUBFOLDERS["source"]))
    kept = cache.kept(plain, CITYSCAPES_19)
    source, cached_source = (
        SourceMapper(
            spec.read_semantic, spec.read_panoptic, CITYSCAPES_19, judged, generate, read=read
        )
        for spec, read in ((plain, read_image), (kept, cache.read_image))
    )
    settled = AugmentationSettings(crop_size=crop)
    target, cached_target = TargetMapper(settled), TargetMapper(settled, read=cache.read_image)

    def decode(*names: str) -> Candidate:
        def run() -> None:
            for record in records:
                for name in names:
                    cv2.imread(record[name], cv2.IMREAD_UNCHANGED)

        return run

    def draw(mapper: SourceMapper | TargetMapper) -> Candidate:
        def run() -> None:
            for number, record in enumerate(records):
                mapper(record, np.random.default_rng(number))

        return run

    return {
        "image and label": decode(FILE_NAME, synthia.LABEL_FILE),
        "source sample": draw(source),
        "source sample, cached": draw(cached_source),
        "image": decode(FILE_NAME),
        "target sample": draw(target),
        "target sample, cached": draw(cached_target),
    }


def run_full_size(
    report: Callable[..., dict[str, dict[str, float]]], repetitions: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Benchmarks samples of 1024x2048 images on one core; ``ms`` and ``cpu_ms`` are per image.

    ``cores`` is the number of cores that supply 85 such images a second, by processor time.
    """
    threads, cpu = (cv2.getNumThreads(), torch.get_num_threads()), torch.device("cpu")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        candidates = full_size_candidates(FOLDER, SETTINGS)
        # Makes the cache if there is none.
        for candidate in candidates.values():
            candidate()
        rows = report(candidates, repetitions, cpu, False)
        spent = {name: _processor_ms(candidate) for name, candidate in candidates.items()}
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    for name, row in rows.items():
        row["ms"] /= SETTINGS.num_source
        row["cpu_ms"] = spent[name] / SETTINGS.num_source
        row["cores"] = USED * row["cpu_ms"] / 1000
    for name in ("target sample", "target sample, cached"):
        rows[name]["ratio"] = rows[name]["ms"] / rows["image"]["ms"]
    return {"1024x2048, per image; ratio to what was decoded": rows}


def _processor_ms(candidate: Candidate) -> float:
    """Returns the processor time of a call, the median of five; other work changes it less."""
    spent = []
    for _ in range(5):
        start = time.process_time()
        candidate()
        spent.append(time.process_time() - start)
    return 1000 * statistics.median(spent)
