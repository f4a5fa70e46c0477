"""Tables of scores: their shape, rare classes, what is undefined."""

from __future__ import annotations

import pytest
from scores import METRICS, PER_CLASS

from gbw_d2.evaluation import format_table, merge_per_class


def test_table():
    lines = format_table(METRICS, PER_CLASS, title="toy_val").splitlines()
    assert lines[0] == "toy_val"
    assert lines[1].split() == ["protocol", "PQ", "mIoU", "mIoU_classes"]
    assert lines[2].split() == ["16", "40.00", "51.17", "2"]
    assert lines[3].split() == ["16_void", "-", "-", "-"]
    assert lines[5].split() == ["class", "(16)", "share", "IoU", "PQ", "TP"]
    assert lines[6].split() == ["road", "40.00", "90.00", "80.00", "3"]
    assert lines[7].split() == ["rider", "*", "0.20", "12.35", "-", "0"]
    assert lines[8].startswith("* below 1 %")
    assert len({len(line) for line in lines[1:4]}) == 1
    assert "class (16_void)" in format_table(METRICS, PER_CLASS, "16_void")
    with pytest.raises(ValueError, match=r"'19' .*16, 16_void"):
        format_table(METRICS, PER_CLASS, "19")
    assert format_table({}, {}) == "protocol"


def test_merge_joins_rows_and_leaves_its_arguments_alone():
    panoptic = {"16": {"road": {"PQ": 1.0}}}
    merged = merge_per_class({"16": {"road": {"IoU": 2.0}}, "13": {}}, panoptic)
    assert merged["16"]["road"] == {"IoU": 2.0, "PQ": 1.0}
    assert panoptic == {"16": {"road": {"PQ": 1.0}}}
