"""Fixtures of the parts of Mask2Former."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every draw of points that has the same number of them the same, row by row."""

    def rand(*shape: int, device: Any = None) -> Tensor:
        generator = torch.Generator().manual_seed(shape[-2])
        drawn = torch.empty(shape[1:]).uniform_(generator=generator)
        return drawn.expand(shape).clone()

    monkeypatch.setattr(torch, "rand", rand)
