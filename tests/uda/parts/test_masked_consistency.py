"""Masked consistency: which blocks are hidden, and what is left of the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gbw_d2.keyed_random import keyed_rng
from gbw_d2.uda.parts.masked_consistency import MaskedConsistency


def test_by_hand() -> None:
    masked = MaskedConsistency(block=2, ratio=0.7)
    seen = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    images = torch.arange(1.0, 49.0).view(1, 3, 4, 4)
    hidden = masked.apply(images, seen)
    expected = [[1, 2, 0, 0], [5, 6, 0, 0], [0, 0, 11, 12], [0, 0, 15, 16]]
    assert hidden[0, 0].tolist() == expected
    # All channels alike: what is left is what was there.
    assert torch.equal(hidden != 0, (hidden[:, :1] != 0).expand(-1, 3, -1, -1))
    assert torch.equal(hidden[hidden != 0], images[hidden != 0])


def test_a_block_is_seen_where_its_draw_is_above_the_ratio() -> None:
    masked = MaskedConsistency(block=16, ratio=0.7)
    seen = masked.draw([keyed_rng(3, "masked blocks", 5)], (64, 128))
    uniform = keyed_rng(3, "masked blocks", 5).random((4, 8), dtype=np.float32)
    assert seen.shape == (1, 1, 4, 8) and seen.dtype == torch.float32
    assert torch.equal(seen[0, 0] == 1, torch.from_numpy(uniform > 0.7))
    assert set(seen.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
def test_the_share_that_is_hidden(ratio: float) -> None:
    masked = MaskedConsistency(block=1, ratio=ratio)
    seen = masked.draw([keyed_rng(0, "m", i) for i in range(4)], (50, 50))
    # 10 000 draws: four standard deviations are 0.02.
    assert 1 - seen.mean().item() == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize(
    ("size", "block", "cells"),
    [((1024, 1024), 64, (16, 16)), ((512, 512), 32, (16, 16)), ((100, 171), 64, (2, 3))],
)
def test_blocks_fill_pictures_of_any_size(
    size: tuple[int, int], block: int, cells: tuple[int, int]
) -> None:
    masked = MaskedConsistency(block=block)
    seen = masked.draw([keyed_rng(0, "m", 0)], size)
    assert seen.shape[2:] == cells
    hidden = masked.apply(torch.ones(1, 3, *size), seen)
    assert hidden.mean().item() == pytest.approx(seen.mean().item(), abs=0.02)
    # A picture smaller than half a block is one block.
    assert MaskedConsistency(block=64).draw([keyed_rng(0, "m", 0)], (16, 31)).shape[2:] == (1, 1)


def test_a_mask_does_not_depend_on_its_batch() -> None:
    masked = MaskedConsistency(block=8)
    both = masked.draw([keyed_rng(0, "m", i) for i in range(2)], (64, 64))
    assert torch.equal(masked.draw([keyed_rng(0, "m", 1)], (64, 64)), both[1:])
    assert not torch.equal(both[0], both[1])


def test_half_precision_stays_what_it_is() -> None:
    images = torch.ones(1, 3, 8, 8, dtype=torch.bfloat16)
    assert MaskedConsistency.apply(images, torch.ones(1, 1, 2, 2)).dtype == torch.bfloat16
