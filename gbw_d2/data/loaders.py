"""Loaders whose ``i``-th sample is the same for any number of workers, processes and restarts."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gbw_d2 import keys
from gbw_d2.data.augmentation import WantedPixels
from gbw_d2.data.mappers import Sample
from gbw_d2.data.sampling import Stream
from gbw_d2.data.shown_classes import note_shown
from gbw_d2.data.spec import Record
from gbw_d2.errors import UserError
from gbw_d2.keyed_random import keyed_rng

ENOUGH_OPEN_FILES = 8192

Batch = list[Sample]
TrainMapper = Callable[[Record, np.random.Generator, WantedPixels | None], Sample]


class _DrawDataset(Dataset[Sample]):
    """A dataset whose item ``i`` is the sample of draw ``i``."""

    def __init__(
        self, records: Sequence[Record], mapper: TrainMapper, stream: Stream, seed: int, name: str
    ) -> None:
        self.records = records
        self.mapper = mapper
        self.stream = stream
        self.seed = seed
        self.name = name

    def __getitem__(self, index: int) -> Sample:
        draw = self.stream(index)
        rng = keyed_rng(self.seed, self.name, "augmentation", index)
        try:
            sample = self.mapper(self.records[draw.image], rng, draw.wanted)
        except UserError as error:
            return error
        sample[keys.DRAW] = index
        if draw.wanted is not None:
            note_shown(sample, draw.wanted)
        return sample


class _TestDataset(Dataset[Sample]):
    def __init__(self, records: Sequence[Record], mapper: Callable[[Record], Sample]) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        try:
            return self.mapper(self.records[index])
        except UserError as error:
            return error


class _Loader(DataLoader[Sample]):
    """Raises a worker's error unchanged; PyTorch would add the worker's traceback to its text."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            for sample in batch:
                if isinstance(sample, UserError):
                    raise sample
            yield batch


class _RankBatches(Sampler[list[int]]):
    """The draws of one process, its slice of every global batch, from iteration ``start`` on."""

    def __init__(self, batch_size: int, rank: int, world_size: int, start: int) -> None:
        self.batch_size = batch_size
        self.share = batch_size // world_size
        self.rank = rank
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start
        while True:
            first = iteration * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))
            iteration += 1


def _as_list(samples: Batch) -> Batch:
    return samples


def _start_worker(_: int) -> None:
    # Workers run in parallel; threads inside them would only compete for the same cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _allow_many_open_files() -> None:
    # Every tensor from a worker is an open file of this process until it is freed, so the usual
    # soft limit of 1024 is soon reached; a process may raise it up to the hard limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_OPEN_FILES if hard == resource.RLIM_INFINITY else min(ENOUGH_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def build_train_loader(
    records: Sequence[Record],
    mapper: TrainMapper,
    stream: Stream,
    *,
    batch_size: int,
    seed: int,
    name: str,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Builds an endless iterator over batches.

    Sample ``j`` of a process in an iteration is draw ``iteration * batch_size + rank * batch_size /
    world_size + j``, independent of earlier iterations.

    Args:
        records: the dataset.
        mapper: makes a sample from record, generator and wanted class.
        stream: returns the record and the wanted class of a draw.
        batch_size: images per iteration over all processes.
        seed: the run's seed, >= 0.
        name: part of the augmentations' seeds, so that "source" and "target" are independent.
        num_workers: loader processes of this process; 0 loads in this process.
        rank: index of this process, 0 .. ``world_size`` - 1.
        world_size: number of processes.
        start: iteration of the first batch.
        pin_memory: whether tensors are page-locked, for asynchronous copies to a GPU.

    Raises:
        ValueError: the batch cannot be divided equally among the processes.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UserError(
            f"the batch of {batch_size} {name} images cannot be shared by {world_size} processes; "
            f"choose a multiple of {world_size}"
        )
    if num_workers > 0:
        _allow_many_open_files()
    loader = _Loader(
        _DrawDataset(records, mapper, stream, seed, name),
        batch_sampler=_RankBatches(batch_size, rank, world_size, start),
        num_workers=num_workers,
        collate_fn=_as_list,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
    )
    return iter(loader)


class PairedLoader:
    """Source and target batches side by side.

    Args:
        source: endless iterator over source batches.
        target: endless iterator over target batches; None for strategies without a target.
    """

    def __init__(self, source: Iterator[Batch], target: Iterator[Batch] | None = None) -> None:
        self.source = source
        self.target = target

    def __iter__(self) -> PairedLoader:
        return self

    def __next__(self) -> tuple[Batch, Batch | None]:
        return next(self.source), None if self.target is None else next(self.target)


def build_test_loader(
    records: Sequence[Record],
    mapper: Callable[[Record], Sample],
    *,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Sample]:
    """Builds a loader over this process's contiguous share of the images, one per batch."""
    bounds = [len(records) * part // world_size for part in (rank, rank + 1)]
    return _Loader(
        _TestDataset(records[bounds[0] : bounds[1]], mapper),
        batch_size=1,
        num_workers=num_workers,
        collate_fn=_as_list,
        worker_init_fn=_start_worker,
    )
