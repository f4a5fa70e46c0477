"""Average precision of instances by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Segments = Sequence[Mapping[str, Any]]
RunLengths = dict[str, Any]


class InstanceAP:
    """Collects masks and computes COCO's average precision (Lin et al., ECCV 2014).

    AP is the mean over IoU 0.50 to 0.95, with at most 100 predictions per image and class. Crowd
    segments are ignored. Void pixels are not, because COCO has none.

    Args:
        category_ids: ids of the thing classes.
    """

    def __init__(self, category_ids: Iterable[int]) -> None:
        self.category_ids = sorted(category_ids)
        self.images: list[dict[str, Any]] = []

    def update(
        self,
        name: str,
        predictions: Sequence[tuple[RunLengths, int, float]],
        gt_map: np.ndarray,
        gt_segments: Segments,
    ) -> None:
        """Adds one image.

        Args:
            name: the image's unique name.
            predictions: (mask, category id, score) of each predicted instance; masks of
                :func:`segment_masks`.
            gt_map: (H, W) integer segment ids, 0 = void.
            gt_segments: COCO ``segments_info``; entries of other classes are left out.
        """
        things = [s for s in gt_segments if s["category_id"] in self.category_ids]
        masks = segment_masks(gt_map, [s["id"] for s in things])
        self.images.append(
            {
                "name": name,
                "size": gt_map.shape,
                "truth": [
                    (mask, int(s["category_id"]), int(s.get("iscrowd", 0)))
                    for mask, s in zip(masks, things, strict=True)
                ],
                "predictions": [p for p in predictions if p[1] in self.category_ids],
            }
        )

    def compute(self) -> dict[int, dict[str, float | None]]:
        """Computes the average precision over all images.

        Returns:
            category id -> ``AP`` and ``AP50``, 0-100, None without ground truth.
        """
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth, found = COCO(), COCO()
        # Ties between equal scores depend on the images' order, which must not depend on processes.
        images = sorted(self.images, key=lambda image: image["name"])
        truth.dataset, found.dataset = (
            self._dataset(images, kind) for kind in ("truth", "predictions")
        )
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            found.createIndex()
            scoring = COCOeval(truth, found, "segm")
            scoring.params.catIds = self.category_ids
            scoring.params.areaRng, scoring.params.areaRngLbl = [[0, 1e10]], ["all"]
            scoring.params.maxDets = [100]
            scoring.evaluate()
            scoring.accumulate()
        # (IoU threshold, recall, class), -1 where there is no ground truth.
        precision = scoring.eval["precision"][:, :, :, 0, 0]
        return {
            category: {"AP": _percent(precision[..., k]), "AP50": _percent(precision[0, :, k])}
            for k, category in enumerate(self.category_ids)
        }

    def _dataset(self, images: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
        from pycocotools import mask as mask_utils

        annotations: list[dict[str, Any]] = []
        for n, image in enumerate(images):
            for mask, category, value in image[kind]:
                row = {
                    "id": len(annotations) + 1,
                    "image_id": n,
                    "category_id": category,
                    "segmentation": mask,
                    "area": int(mask_utils.area(mask)),
                    "iscrowd": value if kind == "truth" else 0,
                }
                annotations.append(row | ({"score": value} if kind == "predictions" else {}))
        return {
            "images": [
                {"id": n, "height": image["size"][0], "width": image["size"][1]}
                for n, image in enumerate(images)
            ],
            "categories": [{"id": i} for i in self.category_ids],
            "annotations": annotations,
        }


def segment_masks(segment_map: np.ndarray, ids: Iterable[int]) -> list[RunLengths]:
    """Encodes segments as COCO run lengths in a single pass over the map.

    Args:
        segment_map: (H, W) integer segment ids.
        ids: ids of the segments to encode; one that is not in the map has an empty mask.

    Returns:
        COCO's compressed run lengths, in the order of ``ids``.
    """
    from pycocotools import mask as mask_utils

    height, width = segment_map.shape
    # COCO counts in column-major order.
    pixels = segment_map.T.ravel()
    begins = np.ones(pixels.size, dtype=bool)
    np.not_equal(pixels[1:], pixels[:-1], out=begins[1:])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], pixels.size)
    owner = pixels[first]
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    masks = []
    for i in ids:
        runs = order[np.searchsorted(owner, i) : np.searchsorted(owner, i, side="right")]
        ends = np.stack([first[runs], last[runs]], axis=1).ravel()
        # Run lengths alternate between outside and inside.
        counts = np.diff(ends, prepend=0, append=pixels.size).tolist()
        counts = counts[:-1] if counts[-1] == 0 else counts
        masks.append(mask_utils.frPyObjects({"counts": counts, "size": [height, width]}, 0, 0))
    return masks


def _percent(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else None
