"""The log says how often crops that were chosen for a class contain it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2.data.augmentation import WantedPixels
from gbw_d2.data.loaders import build_train_loader
from gbw_d2.data.sampling import Draw, RareClassSampling
from gbw_d2.data.shown_classes import log_shown, note_shown

NAMES = ("road", "rider")
LABELS = [
    torch.tensor([[0, 0, 0, 255]]),
    torch.tensor([[0, 1, 1, 1]]),
    torch.tensor([[0, 1, 0, 0]]),
]


def batches(wanted: Any, count: int, start: int = 0) -> Any:
    def mapper(record: dict, rng: np.random.Generator, wanted: Any = None) -> dict:
        return {"sem_seg": LABELS[record["number"]]}

    records = [{"number": number} for number in range(3)]
    loader = build_train_loader(
        records,
        mapper,
        lambda index: Draw(index % 3, wanted(index)),
        batch_size=1,
        seed=0,
        name="source",
        start=start,
    )
    return [next(loader) for _ in range(count)]


def test_the_table_of_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    made = batches(lambda index: WantedPixels(1, 2.0), 7)
    with caplog.at_level(logging.INFO, "gbw_d2"):
        assert list(log_shown(made, 3, NAMES)) == made
    assert len(caplog.records) == 2  # the third epoch has not ended
    lines = caplog.records[0].getMessage().splitlines()
    assert lines[0] == "What the 3 crops of epoch 1 showed that were drawn for a class:"
    assert [line.split() for line in lines[2:]] == [
        ["road", "0", "0", "3", "63.636%"],
        ["rider", "3", "1", "2", "36.364%"],
    ]


def test_a_part_of_an_epoch_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gbw_d2"):
        [*log_shown(batches(lambda index: WantedPixels(1, 2.0), 2, start=2), 3, NAMES)]
    assert "the 1 crops of epoch 1 showed that were drawn for a class (of 3, in" in caplog.text


def test_nothing_is_counted_or_said_where_no_class_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = batches(lambda index: None, 7)
    with caplog.at_level(logging.INFO, "gbw_d2"):
        [*log_shown(made, 3, NAMES)]
    assert not caplog.records and set(made[0][0]) == {"sem_seg", "draw"}
    target: dict = {"image": 0}
    note_shown(target, WantedPixels(1, 2.0))
    assert set(target) == {"image"}


def test_what_was_drawn_is_what_the_sampler_says() -> None:
    counts = np.array([[3, 0], [1, 3], [3, 1]])
    stream = RareClassSampling(counts, 0, min_pixels=0, temperature=0.5)
    wanted = [stream(index).wanted for index in range(300)]
    made = batches(lambda index: wanted[index], 300)
    asked = [sample["asked"][0] for (sample,) in made]
    assert np.mean(asked) == pytest.approx(stream.probabilities[1], abs=0.1)
