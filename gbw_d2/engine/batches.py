"""Builds the loaders of a run: batches of a stage, target images at test size, test sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.decoded_cache import DecodedCache
from gbw_d2.data.formats.files import few, read_image
from gbw_d2.data.loaders import PairedLoader, build_test_loader, build_train_loader
from gbw_d2.data.mappers import (
    RECORD_KEYS,
    ImageReader,
    PseudoLabelMapper,
    SourceMapper,
    TargetMapper,
    TestMapper,
)
from gbw_d2.data.padding import warn_of_padding
from gbw_d2.data.sampling import (
    EpochPermutation,
    RareClassMining,
    RareClassSampling,
    Stream,
    nested_subset,
)
from gbw_d2.data.shown_classes import log_shown
from gbw_d2.data.spec import DatasetError, Record
from gbw_d2.engine.build import architecture, is_panoptic
from gbw_d2.engine.run_data import RunData
from gbw_d2.label_spaces import IGNORE_LABEL
from gbw_d2.uda.stages import (
    PSEUDO_LABELS,
    Batch,
    Batches,
    Context,
    Mining,
    PseudoLabels,
    StageData,
)
from gbw_d2.uda.strategy import STRATEGIES

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

logger = logging.getLogger(__name__)


def _optional_size(cfg: CfgNode, key: str) -> tuple[int, int] | None:
    size = tuple(cfg.INPUT[key])
    if len(size) not in (0, 2):
        raise ConfigError(f"INPUT.{key} is {size}; expected (rows, columns), or () for none")
    return (int(size[0]), int(size[1])) if size else None


def _augmentation(cfg: CfgNode, domain: str) -> AugmentationSettings:
    return AugmentationSettings(
        resize=_optional_size(cfg, f"{domain}_SIZE"),
        scale_range=tuple(cfg.INPUT.SCALE_RANGE),
        short_sides=tuple(cfg.INPUT[f"{domain}_SHORT_SIDES"]),
        crop_size=_optional_size(cfg, "CROP_SIZE"),
        flip_probability=cfg.INPUT.FLIP_PROBABILITY,
        cat_max_ratio=cfg.INPUT.MAX_CLASS_SHARE,
        color_jitter=cfg.INPUT.COLOR_JITTER,
        pad_value=tuple(cfg.MODEL.PIXEL_MEAN),
    )


def _source_stream(
    cfg: CfgNode, num_images: int, class_counts: Callable[[], np.ndarray], mining: Mining | None
) -> Stream:
    """Builds the stream over the source images that a stage draws.

    Args:
        cfg: the config.
        num_images: their number.
        class_counts: returns their labelled pixels (images, K).
        mining: chooses crops that show a rare class, or None.
    """
    rare = cfg.DATASETS.RARE_CLASS_SAMPLING
    if not rare.ENABLED:
        stream = EpochPermutation(num_images, cfg.SEED, "source")
        return _mined(cfg, stream, class_counts, mining, "source")
    if mining is not None:
        # A stage may be one of several rounds.
        log_first_n(
            logging.INFO,
            "DATASETS.RARE_CLASS_SAMPLING chooses the source's images and crops, so the mining of "
            f"UDA.NAME '{cfg.UDA.NAME}' chooses crops of the target alone",
            name=__name__,
        )
    return RareClassSampling(
        class_counts(), cfg.SEED, "source", rare.TEMPERATURE, rare.MIN_PIXELS, rare.CROP_RATIO
    )


def _mined(
    cfg: CfgNode,
    stream: Stream,
    class_counts: Callable[[], np.ndarray],
    mining: Mining | None,
    name: str,
) -> Stream:
    if mining is None:
        return stream
    classes = (mining.first, mining.second)
    return RareClassMining(stream, class_counts(), *classes, mining.probability, cfg.SEED, name)


def build_batches(data: RunData, start: int, stage_data: StageData | None = None) -> Iterator[Any]:
    """Builds the endless iterator over (source batch, target batch or None).

    Args:
        data: the run's data.
        start: iteration of the first batch; batches do not depend on earlier ones.
        stage_data: the data that the stage draws; None for all source images, and all target images
            without labels if the strategy needs them.
    """
    cfg = data.cfg
    warn_of_padding(_augmentation(cfg, "SOURCE"), data.source.records, "DATASETS.TRAIN")
    if stage_data is None:
        stage_data = StageData(STRATEGIES.get(cfg.UDA.NAME).needs_target)
    shared = {
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "seed": cfg.SEED,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
        "start": start,
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
    }
    source = warn_of_void(_source_batches(data, stage_data, shared), cfg.SOLVER.LOG_PERIOD)
    source = log_shown(source, len(data.source.records), data.space.class_names)
    if not stage_data.with_target:
        return PairedLoader(source)
    records = data.target.records
    warn_of_padding(_augmentation(cfg, "TARGET"), records, "DATASETS.TARGET")
    if stage_data.pseudo_labels is not None:
        return PairedLoader(source, _labelled_target(data, stage_data, shared))
    target = build_train_loader(
        records,
        TargetMapper(_augmentation(cfg, "TARGET"), cfg.INPUT.FORMAT, _target_reader(data)),
        EpochPermutation(len(records), cfg.SEED, "target"),
        name="target",
        **shared,
    )
    return PairedLoader(source, target)


def warn_of_void(batches: Iterable[Batch], period: int) -> Iterator[Batch]:
    """Yields the batches, and warns once if the first ``period`` of them have no labelled pixel."""
    stream = iter(batches)
    for number, batch in enumerate(stream, 1):
        yield batch
        # Labels are checked until the first one is found, on the host, where the loader leaves
        # them.
        if any(bool((s[keys.SEM_SEG] != IGNORE_LABEL).any()) for s in batch):
            break
        if number == period:
            logger.warning(
                "No pixel of the source was labelled in %d iterations, so nothing is learned; "
                "check its labels with datasets/prepare_*.py --check",
                period,
            )
    yield from stream


def _source_batches(
    data: RunData, stage_data: StageData, shared: dict[str, Any]
) -> Iterator[Batch]:
    cfg, space = data.cfg, data.space
    spec, records = data.source.spec, data.source.records
    panoptic = is_panoptic(cfg)
    if spec.read_panoptic is None and panoptic:
        raise DatasetError(
            f"DATASETS.TRAIN '{spec.name}' has no instances; use a panoptic dataset, or set "
            "MODEL.SEMANTIC_ONLY True"
        )
    cache = _decoded_cache(cfg)
    if cache is None:
        read, learned = read_image, spec.in_space(space)
    else:
        cache.announce(records, cfg.INPUT.FORMAT, (spec, space, panoptic))
        read, learned = cache.read_image, cache.kept(spec, space)
    mapper = SourceMapper(
        learned.read_semantic,
        learned.read_panoptic if panoptic else None,
        space,
        _augmentation(cfg, "SOURCE"),
        architecture(cfg).target_generator(cfg, space),
        cfg.INPUT.FORMAT,
        read,
    )
    drawn = nested_subset(len(records), stage_data.source_portion, cfg.SEED, "source")

    def class_counts() -> np.ndarray:
        return data.source_counts[drawn]

    stream = _source_stream(cfg, len(drawn), class_counts, stage_data.mining)
    return build_train_loader([records[i] for i in drawn], mapper, stream, name="source", **shared)


def _decoded_cache(cfg: CfgNode) -> DecodedCache | None:
    folder = cfg.DATALOADER.DECODED_CACHE
    return DecodedCache(folder) if folder else None


def _target_reader(data: RunData) -> ImageReader:
    """Returns the reader of the target's training images."""
    cache = _decoded_cache(data.cfg)
    if cache is None:
        return read_image
    cache.announce(data.target.records, data.cfg.INPUT.FORMAT)
    return cache.read_image


def _labelled_target(
    data: RunData, stage_data: StageData, shared: dict[str, Any]
) -> Iterator[Batch]:
    """Builds batches of target images with the pseudo-labels that the strategy wrote."""
    labels: PseudoLabels | None = stage_data.pseudo_labels
    assert labels is not None
    cfg, space = data.cfg, data.space
    by_id = {record[keys.IMAGE_ID]: record for record in data.target.records}
    mapper = PseudoLabelMapper(
        labels.folder,
        space,
        # Target crops are not chosen by their largest class share, as those without labels are not.
        replace(_augmentation(cfg, "TARGET"), cat_max_ratio=1.0),
        cfg.INPUT.FORMAT,
        PSEUDO_LABELS,
        architecture(cfg).target_generator(cfg, space),
        labels.instance_folder,
        _target_reader(data),
    )
    stream = EpochPermutation(len(labels.image_ids), cfg.SEED, "target")
    mined = _mined(cfg, stream, lambda: labels.class_pixels, stage_data.mining, "target")
    gone = [image_id for image_id in labels.image_ids if image_id not in by_id]
    if gone:
        raise DatasetError(
            f"DATASETS.TARGET '{data.target.spec.name}' has no images {few(gone)} any more, which "
            f"have pseudo-labels in '{labels.folder}'; put them back, or resume from a checkpoint "
            "of an earlier stage"
        )
    drawn = [by_id[image_id] for image_id in labels.image_ids]
    return build_train_loader(drawn, mapper, mined, name="target", **shared)


class _TargetImages:
    """The images of DATASETS.TARGET at test size; see :class:`gbw_d2.uda.strategy.TargetImages`."""

    def __init__(self, data: RunData) -> None:
        self.data = data

    @cached_property
    def records(self) -> list[Record]:
        """The images' records without labels and paths of labels."""
        return [{key: record[key] for key in RECORD_KEYS} for record in self.data.target.records]

    def ids(self) -> list[str]:
        """Returns the ids of all images."""
        return [record[keys.IMAGE_ID] for record in self.records]

    def batches(self, skip: Container[str] = ()) -> Batches:
        """Returns this process's share of the images except ``skip``, one image per batch."""
        # The images are divided before any is skipped, because another process may already see
        # other files.
        bounds = [
            len(self.records) * part // comm.get_world_size()
            for part in (comm.get_rank(), comm.get_rank() + 1)
        ]
        mine = [r for r in self.records[slice(*bounds)] if r[keys.IMAGE_ID] not in skip]
        cfg = self.data.cfg
        return build_test_loader(
            mine,
            TestMapper(cfg.INPUT.FORMAT, _optional_size(cfg, "TEST_SIZE")),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )


def build_context(data: RunData, fresh: bool) -> Context:
    """Builds what a strategy can use to prepare a stage; data are read when first used.

    Args:
        data: of the run.
        fresh: whether the stage begins, instead of being resumed after its first iteration.
    """
    return Context(
        fresh,
        Path(data.cfg.OUTPUT_DIR),
        comm.is_main_process(),
        _TargetImages(data),
        lambda: data.source_positions,
    )


def test_mapper(cfg: CfgNode) -> TestMapper:
    """Returns the mapper from a test image's record to a network's input."""
    return TestMapper(cfg.INPUT.FORMAT, _optional_size(cfg, "TEST_SIZE"))


def build_test_batches(cfg: CfgNode, records: list[Record]) -> Any:
    """Builds this process's share of a test set, one image per batch."""
    return build_test_loader(
        records,
        test_mapper(cfg),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
