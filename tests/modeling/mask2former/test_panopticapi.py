"""PQ of the maps of queries is panopticapi's: ids, tables and areas are as that code wants them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from gbw_d2.evaluation import PanopticQuality
from gbw_d2.modeling.mask2former.resampling import Frame
from gbw_d2.modeling.mask2former.segments import SegmentSettings, panoptic_result

CLASSES, THINGS = 4, (2, 3)
CATEGORIES = [{"id": c, "name": str(c), "isthing": int(c in THINGS)} for c in range(CLASSES)]
FRAME = Frame((10, 16), (10, 16), (10, 16), (40, 64))


def found(generator: torch.Generator, noise: float) -> tuple[Any, list[dict[str, Any]]]:
    """A map of twelve queries whose masks are blocks; some are confident of no class."""
    classes = 6 * torch.randn(12, CLASSES + 1, generator=torch.Generator().manual_seed(3))
    blocks = torch.randn(12, 5, 8, generator=torch.Generator().manual_seed(4))
    masks = 8 * blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    masks = masks + noise * torch.randn(masks.shape, generator=generator)
    classes = classes + noise * torch.randn(classes.shape, generator=generator)
    settings = SegmentSettings(class_threshold=0.5, overlap=0.3)
    return panoptic_result(classes, masks, FRAME, THINGS, settings)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_pq_is_panopticapis(noise: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    quality, pairs = PanopticQuality(CATEGORIES), []
    for image in range(3):
        maps = {}
        for side, strength in (("gt", 1.0), ("pred", noise + 1.0 if noise else 1.0)):
            seeded = torch.Generator().manual_seed(image) if side == "gt" else generator
            if not noise:
                seeded = torch.Generator().manual_seed(image)
            segments, table = found(seeded, strength)
            assert (
                len(table) > 2
                and sorted(s["id"] for s in table)
                == segments.unique()[segments.unique() > 0].tolist()
            )
            rows = [{**s, "iscrowd": 0} for s in table]
            maps[side] = segments.numpy().astype("int64"), rows
            (tmp_path / side).mkdir(exist_ok=True)
            Image.fromarray(id2rgb(maps[side][0].copy())).save(tmp_path / side / f"{image}.png")
        quality.update(*maps["pred"], *maps["gt"])
        pairs.append(
            tuple(
                {
                    "image_id": image,
                    "file_name": f"{image}.png",
                    "segments_info": copy.deepcopy(maps[side][1]),
                }
                for side in ("gt", "pred")
            )
        )
    folders = str(tmp_path / "gt"), str(tmp_path / "pred")
    statistics = pq_compute_single_core(0, pairs, *folders, {c["id"]: c for c in CATEGORIES})
    theirs, _ = statistics.pq_average({c["id"]: c for c in CATEGORIES}, None)
    ours = quality.compute()
    assert ours["PQ"] == pytest.approx(100 * theirs["pq"], abs=1e-9)
    assert (ours["PQ"] == 100) == (noise == 0) and ours["PQ"] > 0
