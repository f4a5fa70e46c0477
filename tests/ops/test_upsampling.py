"""Interpolation in blocks against ``F.interpolate`` and its gradient by autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gbw_d2.ops.upsampling import BilinearMap, interpolation_blocks

CPU = torch.device("cpu")


def test_the_middle_between_two_positions_is_their_mean() -> None:
    (block,) = interpolation_blocks(2, 4, 4, torch.float64, CPU)
    # Output i stands at i / 2 - 1/4 of the input: -1/4 (held at 0), 1/4, 3/4, 5/4 (held at 1).
    assert block.matrix.tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]


@pytest.mark.parametrize("elements", [1, 300, 10**6])
@pytest.mark.parametrize("out_size", [(20, 28), (13, 300), (5, 7), (2, 3), (1, 1), (17, 4)])
def test_blocks_are_interpolate_and_its_transpose(out_size: tuple[int, int], elements: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(maps, size=out_size, mode="bilinear", align_corners=False)
    slope = torch.randn_like(expected)
    expected.backward(slope)

    bilinear = BilinearMap((5, 7), out_size, 3, elements, torch.float64, CPU)
    source = maps.detach()[0].transpose(0, 1).contiguous()
    total = torch.zeros_like(source)
    parts = []
    for rows in bilinear:
        parts.append(bilinear.block(source[rows.source], rows))
        given = slope[0, :, rows.out].transpose(0, 1).contiguous()
        bilinear.add_transposed(given, rows, total[rows.source])
    if elements == 1:
        assert len(parts) == out_size[0]
    torch.testing.assert_close(torch.cat(parts).transpose(0, 1), expected.detach()[0])
    torch.testing.assert_close(total.transpose(0, 1), maps.grad[0])
