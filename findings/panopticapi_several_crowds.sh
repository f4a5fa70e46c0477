#!/usr/bin/env bash
# panopticapi (panopticapi-lite 0.2.0): of several crowd segments of a class, only the last one counts.
#
# A prediction inside a crowd region of its own class should not be a false positive. If an image has
# two crowd segments of a class, for example a group on the left and one on the right, this holds only for
# the one that `segments_info` lists last: the same maps have another PQ when the list is reversed.
# COCO has one crowd per class and image; files made by tools or by hand may have more.
#
# Output (numpy 2.4.6): false positives of a prediction in the first of two crowds: listed first 1,
# listed last 0
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
echo 'numpy>=2' > "$folder/override.txt"  # panopticapi-lite caps it in its metadata only
uv pip install --quiet --python "$folder/env" --override "$folder/override.txt" \
  panopticapi-lite==0.2.0 numpy==2.4.6 pillow==12.3.0
FOLDER=$folder "$folder/env/bin/python" -W ignore - <<'E2' | tail -n 1
import os

import numpy as np
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

folder = os.environ["FOLDER"]
truth = np.repeat([[1, 1, 1, 1, 2, 2, 2, 2]], 4, axis=0)
guess = np.zeros_like(truth)
guess[1:3, 1:3] = 5
for name, ids in (("truth", truth), ("guess", guess)):
    os.makedirs(f"{folder}/{name}")
    Image.fromarray(id2rgb(ids)).save(f"{folder}/{name}/a.png")


def false_positives(order):
    entry = {"image_id": 0, "file_name": "a.png"}
    crowds = [{"id": i, "category_id": 1, "iscrowd": 1} for i in order]
    predicted = [{"id": 5, "category_id": 1}]
    pair = (entry | {"segments_info": crowds}, entry | {"segments_info": predicted})
    categories = {1: {"id": 1, "isthing": 1}}
    counted = pq_compute_single_core(0, [pair], f"{folder}/truth", f"{folder}/guess", categories)
    return counted.pq_per_cat[1].fp


found = false_positives([1, 2]), false_positives([2, 1])
print(f"false positives of a prediction in the first of two crowds: listed first {found[0]},", end=" ")
print(f"listed last {found[1]}")
raise SystemExit(found != (1, 0))
E2
