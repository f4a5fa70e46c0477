#!/usr/bin/env bash
# pycocotools 2.0.11: an object whose annotation has id 0 can never be found.
#
# For each detection COCOeval stores the id of the annotation that it matches, and 0 means no match.
# If a converter numbers annotations from 0, one object of the dataset can therefore never be found, and a detection
# of it is a false positive. A single object, found to the pixel, has AP 0.0 with id 0 and 1.0 with id 1.
#
# Output (numpy 2.4.6): AP of a perfect detection: annotation id 0 gives 0.0, id 1 gives 1.0
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" pycocotools==2.0.11 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'E2'
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

box = [5, 5, 20, 20]


def average_precision(number):
    data = COCO()
    data.dataset = {
        "images": [{"id": 1, "height": 50, "width": 50}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
        found = data.loadRes([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}])
        scores = COCOeval(data, found, "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return round(float(scores.stats[0]), 3)


found = average_precision(0), average_precision(1)
print(f"AP of a perfect detection: annotation id 0 gives {found[0]}, id 1 gives {found[1]}")
raise SystemExit(found != (0.0, 1.0))
E2
