"""Histogram matching against scikit-image's formula, and the stream of target pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.uda.parts import style
from gbw_d2.uda.parts.style import StyleStream, histograms, matching_tables, restyled


def matched(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One channel as skimage.exposure.match_histograms computes it."""
    _, place, counts = np.unique(image.ravel(), return_inverse=True, return_counts=True)
    levels, other_counts = np.unique(other.ravel(), return_counts=True)
    quantiles = np.cumsum(counts) / image.size
    other_quantiles = np.cumsum(other_counts) / other.size
    return np.interp(quantiles, other_quantiles, levels)[place].reshape(image.shape)


def picture(seed: int, rows: int = 9, columns: int = 13, levels: int = 256) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(0, levels, (3, rows, columns)) * (256 // levels)
    return torch.from_numpy(drawn.astype(np.uint8))


@pytest.mark.parametrize("levels", [2, 8, 256])
def test_as_scikit_image(levels: int) -> None:
    images = [picture(0), picture(1, levels=8), torch.full((3, 9, 13), 7, dtype=torch.uint8)]
    others = [picture(2, 20, 30, levels), picture(3, 5, 7, levels), picture(4, levels=levels)]
    batch = [{keys.IMAGE: image, "label": i} for i, image in enumerate(images)]
    found = restyled(batch, histograms(others))
    assert [sample["label"] for sample in found] == [0, 1, 2]
    for sample, image, other in zip(found, images, others, strict=True):
        for channel in range(3):
            expected = matched(image[channel].numpy(), other[channel].numpy())
            np.testing.assert_allclose(sample[keys.IMAGE][channel], expected, atol=1e-4)


def test_its_own_colours_and_none_change_nothing() -> None:
    image = picture(0)
    own = histograms([image])
    levels = torch.arange(256, dtype=torch.float32)
    for wanted in (own, torch.zeros_like(own)):
        table = matching_tables(own, wanted)[0]
        shown = own[0] > 0
        torch.testing.assert_close(table[shown], levels.expand(3, -1)[shown])


def test_each_picture_gets_the_one_before() -> None:
    pictures = [picture(seed) for seed in range(5)]
    batches = [[{keys.IMAGE: p} for p in part] for part in (pictures[:2], pictures[2:4])]
    stream, counts = StyleStream(), histograms(pictures)
    assert torch.equal(
        stream.before(batches[0]), torch.stack([torch.zeros_like(counts[0]), counts[0]])
    )
    # Nothing else is remembered: a stream with this state goes on as the first one does.
    again = StyleStream()
    again.load_state_dict(stream.state_dict())
    for each in (stream, again):
        assert torch.equal(each.before(batches[1]), counts[1:3])
    assert torch.equal(stream.last, counts[3])


def test_processes_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [picture(seed) for seed in range(4)]
    counts, streams = histograms(pictures), [StyleStream(), StyleStream()]
    zeros = torch.zeros_like(counts[:2])
    monkeypatch.setattr(style, "world_size", lambda: 2)
    for rank, stream in enumerate(streams):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)

        def summed(mine: Any, rank: int = rank) -> Any:
            other = torch.cat([zeros, counts[2:]] if rank == 0 else [counts[:2], zeros])
            return mine + other

        monkeypatch.setattr(style, "all_reduce_sum", summed)
        found = stream.before([{keys.IMAGE: p} for p in pictures[2 * rank : 2 * rank + 2]])
        expected = torch.cat([zeros[:1], counts[:3]])[2 * rank : 2 * rank + 2]
        assert torch.equal(found, expected) and torch.equal(stream.last, counts[3])
