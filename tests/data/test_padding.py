"""The share of padding in training crops, by hand."""

from __future__ import annotations

import pytest

from gbw_d2 import keys
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.padding import padding_share, warn_of_padding


@pytest.mark.parametrize(
    ("settings", "sizes", "share"),
    [
        ({"crop_size": None}, [(10, 10)], 0.0),
        ({"crop_size": (10, 20)}, [(10, 20), (300, 200)], 0.0),
        # 5 x 20 of 10 x 20 pixels, and 10 x 5: padded by a half and by three quarters.
        ({"crop_size": (10, 20)}, [(5, 30), (40, 5), (5, 30)], (0.5 + 0.75 + 0.5) / 3),
        ({"crop_size": (10, 20), "scale_range": (0.5, 1.5)}, [(5, 20)], 0.5),
        ({"crop_size": (10, 20), "scale_range": (2.0, 2.0)}, [(5, 10)], 0.0),
        ({"crop_size": (10, 20), "resize": (10, 10)}, [(500, 500)], 0.5),
        ({"crop_size": (10, 20), "short_sides": (4, 6)}, [(50, 100)], 0.75),
    ],
)
def test_share(settings: dict, sizes: list[tuple[int, int]], share: float) -> None:
    assert padding_share(AugmentationSettings(**settings), sizes) == pytest.approx(share)


def test_a_warning_above_one_half(caplog: pytest.LogCaptureFixture) -> None:
    records = [{keys.HEIGHT: rows, keys.WIDTH: 200} for rows in (99, 150, 151)]
    for crop in ((151, 399), (512, 1024)):
        warn_of_padding(AugmentationSettings(crop_size=crop), records, "DATASETS.TRAIN")
    first, second = caplog.messages
    assert "56%" in first
    assert "95% of the crops of DATASETS.TRAIN is padding" in second
    assert "(512, 1024) (rows, columns) and an image of median size has 150 x 200" in second
    caplog.clear()
    warn_of_padding(AugmentationSettings(crop_size=(151, 201)), records, "DATASETS.TRAIN")
    assert not caplog.messages
