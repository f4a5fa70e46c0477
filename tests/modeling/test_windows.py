"""Windows: where they lie, cut out and pasted back, by hand and by brute force."""

from __future__ import annotations

import pytest
import torch

from gbw_d2.keyed_random import keyed_rng
from gbw_d2.modeling.windows import Place, cut_out, drawn_places, pasted, sliding_places


def test_drawn_places_are_all_that_fit_and_each_as_often() -> None:
    # Of 32 rows in windows of 16 by steps of 8: 0, 8, 16. The last one counts too, unlike in the
    # paper's code, which leaves the last step out.
    draws = [keyed_rng(0, i) for i in range(1500)]
    places = drawn_places(draws, (32, 64), (16, 64), 8)
    assert {p.top for p in places} == {0, 8, 16} and {p.left for p in places} == {0}
    counts = [sum(p.top == top for p in places) for top in (0, 8, 16)]
    # Three standard deviations of 1500 draws: 55.
    assert all(abs(count - 500) < 55 for count in counts)


def test_a_place_is_its_own_generators_affair() -> None:
    def draw(*numbers: int) -> list[Place]:
        return drawn_places([keyed_rng(3, n) for n in numbers], (256, 256), (64, 64), 8)

    whole = draw(0, 1, 2, 3)
    assert whole == draw(0, 1) + draw(2, 3) and len(set(whole)) > 1


@pytest.mark.parametrize(
    ("size", "window", "multiple", "rows", "columns"),
    [
        # The paper's: 1024 by 512 in steps of 256 are nine; a test image takes 21.
        ((1024, 1024), (512, 512), 8, [0, 256, 512], [0, 256, 512]),
        ((1024, 2048), (512, 512), 8, [0, 256, 512], [*range(0, 1537, 256)]),
        # The last one ends where the image does.
        ((40, 48), (16, 32), 8, [0, 8, 16, 24], [0, 16]),
        ((16, 24), (16, 24), 8, [0], [0]),
        # Half of 24 is no multiple of 8.
        ((64, 8), (24, 8), 8, [0, 8, 16, 24, 32, 40], [0]),
        ((32, 16), (16, 16), 16, [0, 16], [0]),
    ],
)
def test_sliding_places(
    size: tuple[int, int],
    window: tuple[int, int],
    multiple: int,
    rows: list[int],
    columns: list[int],
) -> None:
    assert sliding_places(size, window, multiple) == [Place(r, c) for r in rows for c in columns]


@pytest.mark.parametrize("size", [(40, 48), (72, 24), (24, 104)])
def test_pasted_windows_against_brute_force(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    window, stride = (16, 24), 4
    places = sliding_places(size, window, 8)
    cells = (window[0] // stride, window[1] // stride)
    maps = [torch.randn(2, 3, *cells, dtype=torch.float64, generator=generator) for _ in places]
    found, covered = pasted(
        maps, [[place] * 2 for place in places], stride, (size[0] // stride, size[1] // stride)
    )
    assert covered.all() and covered.shape == (2, 1, *found.shape[2:])
    for y in range(found.shape[2]):
        for x in range(found.shape[3]):
            values = [
                m[:, :, y - p.top // stride, x - p.left // stride]
                for m, p in zip(maps, places, strict=True)
                if 0 <= y - p.top // stride < cells[0] and 0 <= x - p.left // stride < cells[1]
            ]
            torch.testing.assert_close(found[:, :, y, x], torch.stack(values).mean(0))


def test_what_is_cut_out_is_pasted_back() -> None:
    images = torch.arange(2 * 3 * 32 * 48, dtype=torch.float64).view(2, 3, 32, 48)
    places = [Place(8, 16), Place(16, 0)]
    windows = cut_out(images, places, (16, 24))
    assert torch.equal(windows[0], images[0, :, 8:24, 16:40])
    assert torch.equal(windows[1], images[1, :, 16:32, :24])
    back, covered = pasted([windows], [places], 1, (32, 48))
    assert torch.equal(back, torch.where(covered, images, 0.0))
    assert covered.sum((1, 2, 3)).tolist() == [16 * 24] * 2
    assert torch.equal(cut_out(covered.squeeze(1), places, (16, 24)), torch.ones(2, 16, 24).bool())
