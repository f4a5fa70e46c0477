"""Builds datasets, loaders, loss criteria and the network from a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.catalog import (
    DatasetError,
    DatasetSpec,
    Record,
    get_dataset,
    register_with_detectron2,
)
from gbw_d2.data.label_spaces import LABEL_SPACES
from gbw_d2.data.loaders import PairedLoader, build_test_loader, build_train_loader
from gbw_d2.data.mappers import SourceMapper, TargetMapper, TestMapper
from gbw_d2.data.sampling import EpochPermutation, RareClassSampling, Stream
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.engine.criteria import Criterion, make_criteria
from gbw_d2.engine.precision import DTYPES, Precision
from gbw_d2.errors import UserError
from gbw_d2.uda.strategy import STRATEGIES
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm


def prepare_datasets(cfg: CfgNode, training: bool) -> None:
    """Makes what can be made (the toy world) and fills Detectron2's catalogs.

    Args:
        cfg: the config.
        training: False where only DATASETS.TEST is needed.
    """
    register_with_detectron2()
    names = list(cfg.DATASETS.TEST)
    if training:
        names += [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET]
    prepare = [p for p in (get_dataset(name).prepare for name in names) if p is not None]
    _first_process_first(lambda: [p() for p in prepare])


def is_panoptic(cfg: CfgNode) -> bool:
    """True where the network predicts instances: they are read from labels, and PQ is asked for."""
    return cfg.MODEL.META_ARCHITECTURE != "GBWSemanticSegmentor" and not cfg.MODEL.SEMANTIC_ONLY


def load_records(names: tuple[str, ...], key: str) -> tuple[DatasetSpec, list[Record]]:
    """Lists the images of the dataset that a config key names.

    Args:
        names: value of the key.
        key: its name, for errors.

    Raises:
        DatasetError: not exactly one dataset, or an empty one.
    """
    if len(names) != 1:
        raise DatasetError(f"{key} is {tuple(names)}; expected the name of exactly one dataset")
    records = DatasetCatalog.get(names[0])
    if not records:
        raise DatasetError(f"{key}: dataset '{names[0]}' has no images")
    return get_dataset(names[0]), records


def _optional_size(cfg: CfgNode, key: str) -> tuple[int, int] | None:
    size = tuple(cfg.INPUT[key])
    if len(size) not in (0, 2):
        raise ConfigError(f"INPUT.{key} is {size}; expected (rows, columns), or () for none")
    return (int(size[0]), int(size[1])) if size else None


def _augmentation(cfg: CfgNode, size_key: str) -> AugmentationSettings:
    return AugmentationSettings(
        resize=_optional_size(cfg, size_key),
        scale_range=tuple(cfg.INPUT.SCALE_RANGE),
        crop_size=_optional_size(cfg, "CROP_SIZE"),
        flip_probability=cfg.INPUT.FLIP_PROBABILITY,
        cat_max_ratio=cfg.INPUT.MAX_CLASS_SHARE,
        color_jitter=cfg.INPUT.COLOR_JITTER,
        pad_value=tuple(cfg.MODEL.PIXEL_MEAN),
    )


def _source_stream(cfg: CfgNode, spec: DatasetSpec, records: list[Record]) -> Stream:
    rare = cfg.DATASETS.RARE_CLASS_SAMPLING
    if not rare.ENABLED:
        return EpochPermutation(len(records), cfg.SEED, "source")
    return RareClassSampling(
        _class_counts(cfg, spec, records),
        cfg.SEED,
        "source",
        rare.TEMPERATURE,
        rare.MIN_PIXELS,
        rare.CROP_RATIO,
    )


def _class_counts(cfg: CfgNode, spec: DatasetSpec, records: list[Record]) -> np.ndarray:
    """Labelled pixels (images, K) by class id; counted by the first process, then cached."""
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    _first_process_first(lambda: image_class_counts(spec.name, records))
    return image_class_counts(spec.name, records)[:, list(space.train_ids)]


def _first_process_first(work: Callable[[], Any]) -> None:
    """Runs ``work`` in the first process while the others wait; its error stops them all."""
    error: UserError | None = None
    if comm.is_main_process():
        try:
            work()
        except UserError as caught:
            error = caught
    errors = comm.all_gather(error)
    if errors[0] is not None:
        raise errors[0]


def build_batches(cfg: CfgNode, start: int) -> Iterator[Any]:
    """Builds the endless iterator over (source batch, target batch or None).

    Args:
        cfg: the config.
        start: iteration of the first batch; what comes does not depend on what came before.
    """
    spec, records = load_records(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    panoptic = is_panoptic(cfg)
    if spec.read_panoptic is None and panoptic:
        raise DatasetError(
            f"DATASETS.TRAIN '{spec.name}' has no instances; use a panoptic dataset, or set "
            "MODEL.SEMANTIC_ONLY True"
        )
    shared = {
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "seed": cfg.SEED,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
        "start": start,
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
    }
    mapper = SourceMapper(
        spec.read_semantic,
        spec.read_panoptic if panoptic else None,
        LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE),
        _augmentation(cfg, "SOURCE_SIZE"),
        cfg.INPUT.FORMAT,
        cfg.INPUT.GAUSSIAN_SIGMA,
    )
    stream = _source_stream(cfg, spec, records)
    source = build_train_loader(records, mapper, stream, name="source", **shared)
    if not STRATEGIES.get(cfg.UDA.NAME).needs_target:
        return PairedLoader(source)
    _, target_records = load_records(cfg.DATASETS.TARGET, "DATASETS.TARGET")
    target = build_train_loader(
        target_records,
        TargetMapper(_augmentation(cfg, "TARGET_SIZE"), cfg.INPUT.FORMAT),
        EpochPermutation(len(target_records), cfg.SEED, "target"),
        name="target",
        **shared,
    )
    return PairedLoader(source, target)


def build_test_batches(cfg: CfgNode, records: list[Record]) -> Any:
    """Builds this process's share of a test set, one image per batch."""
    return build_test_loader(
        records,
        TestMapper(cfg.INPUT.FORMAT, _optional_size(cfg, "TEST_SIZE")),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def build_criteria(cfg: CfgNode, training: bool) -> dict[str, Criterion]:
    """Builds the loss of each head that WEIGHTING.HEADS names.

    Args:
        cfg: the config.
        training: False for evaluation, where no weights are needed and none are computed.
    """
    if not training:
        return {}
    counts = None
    if SCHEMES.get(cfg.WEIGHTING.NAME).needs_class_counts:
        spec, records = load_records(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        counts = torch.from_numpy(_class_counts(cfg, spec, records).sum(axis=0))
    return make_criteria(cfg, counts)


def build_model(cfg: CfgNode, criteria: dict[str, Criterion]) -> nn.Module:
    """Builds MODEL.META_ARCHITECTURE on MODEL.DEVICE."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg, criteria=criteria)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def build_precision(cfg: CfgNode) -> Precision:
    """Builds what SOLVER.AMP asks for."""
    amp = cfg.SOLVER.AMP
    device_type = torch.device(cfg.MODEL.DEVICE).type
    return Precision(device_type, DTYPES.get(amp.DTYPE) if amp.ENABLED else None)
