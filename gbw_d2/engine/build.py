"""Builds datasets, loaders, weighted losses and the network from a config."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.config import ConfigError
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.catalog import (
    DatasetError,
    DatasetSpec,
    Record,
    get_dataset,
    register_with_detectron2,
)
from gbw_d2.data.loaders import PairedLoader, build_test_loader, build_train_loader
from gbw_d2.data.mappers import (
    RECORD_KEYS,
    PseudoLabelMapper,
    SourceMapper,
    TargetMapper,
    TestMapper,
)
from gbw_d2.data.positions import class_position_counts
from gbw_d2.data.sampling import (
    EpochPermutation,
    RareClassMining,
    RareClassSampling,
    Stream,
    nested_subset,
)
from gbw_d2.data.statistics import image_class_counts
from gbw_d2.engine.precision import DTYPES, Precision
from gbw_d2.engine.weighted_losses import build_weighted_losses
from gbw_d2.errors import UserError
from gbw_d2.label_spaces import IGNORE_LABEL, LABEL_SPACES
from gbw_d2.losses import WeightedLosses
from gbw_d2.modeling.protocol import SegmentationModel
from gbw_d2.uda.strategy import (
    PSEUDO_LABELS,
    STRATEGIES,
    Batch,
    Context,
    Mining,
    PseudoLabels,
    StageData,
)
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm

logger = logging.getLogger(__name__)


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


def architecture(cfg: CfgNode) -> type[SegmentationModel]:
    """Returns the class that MODEL.META_ARCHITECTURE names."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)


def is_panoptic(cfg: CfgNode) -> bool:
    """True where the network predicts instances: they are read from labels, and PQ is asked for."""
    return architecture(cfg).predicts_instances(cfg)


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


def _source_stream(
    cfg: CfgNode, num_images: int, class_counts: Callable[[], np.ndarray], mining: Mining | None
) -> Stream:
    """Builds the stream over the source images that a stage draws.

    Args:
        cfg: the config.
        num_images: their number.
        class_counts: returns their labelled pixels (images, K).
        mining: which crops should show a rare class.
    """
    rare = cfg.DATASETS.RARE_CLASS_SAMPLING
    if not rare.ENABLED:
        stream = EpochPermutation(num_images, cfg.SEED, "source")
        return _mined(cfg, stream, class_counts, mining, "source")
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


def _class_counts(cfg: CfgNode, spec: DatasetSpec, records: list[Record]) -> np.ndarray:
    """Labelled pixels (images, K) by class id; counted by the first process, then cached."""
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    _first_process_first(lambda: image_class_counts(spec.name, records))
    return image_class_counts(spec.name, records, label_space=space)


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


def build_batches(cfg: CfgNode, start: int, data: StageData | None = None) -> Iterator[Any]:
    """Builds the endless iterator over (source batch, target batch or None).

    Args:
        cfg: the config.
        start: iteration of the first batch; what comes does not depend on what came before.
        data: what the stage draws; None for all source images, and all target images without
            labels where the strategy needs them.
    """
    if data is None:
        data = StageData(STRATEGIES.get(cfg.UDA.NAME).needs_target)
    shared = {
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "seed": cfg.SEED,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
        "start": start,
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda"),
    }
    source = warn_of_void(_source_batches(cfg, data, shared), cfg.SOLVER.LOG_PERIOD)
    if not data.with_target:
        return PairedLoader(source)
    _, records = load_records(cfg.DATASETS.TARGET, "DATASETS.TARGET")
    if data.pseudo_labels is not None:
        return PairedLoader(source, _labelled_target(cfg, data, records, shared))
    target = build_train_loader(
        records,
        TargetMapper(_augmentation(cfg, "TARGET_SIZE"), cfg.INPUT.FORMAT),
        EpochPermutation(len(records), cfg.SEED, "target"),
        name="target",
        **shared,
    )
    return PairedLoader(source, target)


def warn_of_void(batches: Iterable[Batch], period: int) -> Iterator[Batch]:
    """Passes batches on and warns once where ``period`` of them show no labelled pixel."""
    stream = iter(batches)
    for number, batch in enumerate(stream, 1):
        yield batch
        # Looked at until the first label only, and on the host, where the loader leaves them.
        if any(bool((s[keys.SEM_SEG] != IGNORE_LABEL).any()) for s in batch):
            break
        if number == period:
            logger.warning(
                "No pixel of the source was labelled in %d iterations, so nothing is learned; look "
                "at its labels with datasets/prepare_*.py --check",
                period,
            )
    yield from stream


def _source_batches(cfg: CfgNode, data: StageData, shared: dict[str, Any]) -> Iterator[Batch]:
    spec, records = load_records(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    panoptic = is_panoptic(cfg)
    if spec.read_panoptic is None and panoptic:
        raise DatasetError(
            f"DATASETS.TRAIN '{spec.name}' has no instances; use a panoptic dataset, or set "
            "MODEL.SEMANTIC_ONLY True"
        )
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    learned = spec.in_space(space)
    mapper = SourceMapper(
        learned.read_semantic,
        learned.read_panoptic if panoptic else None,
        space,
        _augmentation(cfg, "SOURCE_SIZE"),
        architecture(cfg).target_generator(cfg, space),
        cfg.INPUT.FORMAT,
    )
    drawn = nested_subset(len(records), data.source_portion, cfg.SEED, "source")

    def class_counts() -> np.ndarray:
        return _class_counts(cfg, spec, records)[drawn]

    stream = _source_stream(cfg, len(drawn), class_counts, data.mining)
    return build_train_loader([records[i] for i in drawn], mapper, stream, name="source", **shared)


def _labelled_target(
    cfg: CfgNode, data: StageData, records: list[Record], shared: dict[str, Any]
) -> Iterator[Batch]:
    """Builds the batches of target images with the labels that the strategy wrote."""
    labels: PseudoLabels | None = data.pseudo_labels
    assert labels is not None
    by_id = {record[keys.IMAGE_ID]: record for record in records}
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    mapper = PseudoLabelMapper(
        labels.folder,
        space,
        # Crops of the target are judged by no class, as those without labels are not.
        replace(_augmentation(cfg, "TARGET_SIZE"), cat_max_ratio=1.0),
        cfg.INPUT.FORMAT,
        PSEUDO_LABELS,
        architecture(cfg).target_generator(cfg, space),
        labels.instance_folder,
    )
    stream = EpochPermutation(len(labels.image_ids), cfg.SEED, "target")
    mined = _mined(cfg, stream, lambda: labels.class_pixels, data.mining, "target")
    drawn = [by_id[image_id] for image_id in labels.image_ids]
    return build_train_loader(drawn, mapper, mined, name="target", **shared)


class _TargetImages:
    """DATASETS.TARGET at test size, for :class:`gbw_d2.uda.strategy.TargetImages`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    @cached_property
    def records(self) -> list[Record]:
        """Records without anything that names or holds a label."""
        _, records = load_records(self.cfg.DATASETS.TARGET, "DATASETS.TARGET")
        return [{key: record[key] for key in RECORD_KEYS} for record in records]

    def ids(self) -> list[str]:
        """Returns the ids of all images."""
        return [record[keys.IMAGE_ID] for record in self.records]

    def batches(self, skip: Container[str] = ()) -> Iterable[Batch]:
        """Yields this process's share without ``skip``, one image per batch."""
        # Shared before any is skipped: another process may see other files by now.
        bounds = [
            len(self.records) * part // comm.get_world_size()
            for part in (comm.get_rank(), comm.get_rank() + 1)
        ]
        mine = [r for r in self.records[slice(*bounds)] if r[keys.IMAGE_ID] not in skip]
        return build_test_loader(
            mine,
            TestMapper(self.cfg.INPUT.FORMAT, _optional_size(self.cfg, "TEST_SIZE")),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )


def build_context(cfg: CfgNode, fresh: bool) -> Context:
    """Builds what a strategy may use to prepare a stage; nothing is read before it is asked for.

    Args:
        cfg: the config.
        fresh: none of the stage's iterations has been done.
    """

    def source_positions() -> np.ndarray:
        spec, records = load_records(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
        _first_process_first(lambda: class_position_counts(spec.name, records))
        space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
        return class_position_counts(spec.name, records, label_space=space)

    return Context(
        fresh,
        Path(cfg.OUTPUT_DIR),
        comm.is_main_process(),
        _TargetImages(cfg),
        source_positions,
    )


def build_test_batches(cfg: CfgNode, records: list[Record]) -> Any:
    """Builds this process's share of a test set, one image per batch."""
    return build_test_loader(
        records,
        TestMapper(cfg.INPUT.FORMAT, _optional_size(cfg, "TEST_SIZE")),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )


def source_class_counts(cfg: CfgNode) -> torch.Tensor:
    """Returns (K,) labelled pixels of the source by class id; counted once, then cached."""
    spec, records = load_records(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    return torch.from_numpy(_class_counts(cfg, spec, records).sum(axis=0))


def build_training_losses(cfg: CfgNode, class_counts: torch.Tensor | None = None) -> WeightedLosses:
    """Builds the loss of each head of the network, with the class weights of WEIGHTING.

    Args:
        cfg: the config.
        class_counts: (K,) labelled pixels of the source by class id; None for those of
            DATASETS.TRAIN, which are read only where the scheme needs them.
    """
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    if class_counts is None and SCHEMES.get(cfg.WEIGHTING.NAME).needs_class_counts:
        class_counts = source_class_counts(cfg)
    terms = STRATEGIES.get(cfg.UDA.NAME).terms
    losses = build_weighted_losses(cfg, architecture(cfg), space, class_counts, terms)
    return losses.to(torch.device(cfg.MODEL.DEVICE))


def build_model(cfg: CfgNode, weighted_losses: WeightedLosses | None = None) -> nn.Module:
    """Builds MODEL.META_ARCHITECTURE on MODEL.DEVICE.

    Args:
        cfg: the config.
        weighted_losses: of :func:`build_training_losses`; None for losses without class weights.
    """
    losses = {} if weighted_losses is None else {"weighted_losses": weighted_losses}
    device = torch.device(cfg.MODEL.DEVICE)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg, **losses)
    # They are beside the network, so that moving it passes them by.
    model.weighted_losses.to(device)
    return model.to(device)


def has_native_bfloat16() -> bool:
    """Returns whether the CPU computes in bfloat16; True where torch cannot tell."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return asked is None or platform.machine() not in ("x86_64", "AMD64") or bool(asked())


def build_precision(cfg: CfgNode) -> Precision:
    """Builds what SOLVER.AMP asks for."""
    amp = cfg.SOLVER.AMP
    device_type = torch.device(cfg.MODEL.DEVICE).type
    if amp.ENABLED and device_type == "cpu" and not has_native_bfloat16():
        logger.warning(
            "SOLVER.AMP is on, but this processor has no native half precision: steps were 2.4 to "
            "3.9 times slower on such ones than in float32; SOLVER.AMP.ENABLED False"
        )
    return Precision(device_type, DTYPES.get(amp.DTYPE) if amp.ENABLED else None)
