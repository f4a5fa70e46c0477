#!/usr/bin/env bash
# panopticapi (panopticapi-lite 0.2.0): a category whose colour is black gets the id of void.
#
# IdGenerator gives the first segment of a category the category's own colour, read as an id. The colour
# (0, 0, 0), which some label sets have for a class of their own, is the id 0, which means "no segment" in
# every map: the segment cannot be told from pixels without a label. Scored against itself it has an
# infinite IoU. Nothing warns when the id is made. Annotations written in this way need another colour.
#
# Output (numpy 2.4.6): ids of road and tunnel: 8405120 and 0; IoU of the same map twice: road 1.0, tunnel inf
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
from panopticapi.utils import IdGenerator, id2rgb
from PIL import Image

folder = os.environ["FOLDER"]
categories = {
    1: {"id": 1, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    2: {"id": 2, "name": "tunnel", "isthing": 0, "color": [0, 0, 0]},
}
generator = IdGenerator(categories)
ids = [generator.get_id(category) for category in categories]
Image.fromarray(id2rgb(np.repeat(ids, 8).reshape(4, 4))).save(f"{folder}/a.png")
listed = [
    {"id": number, "category_id": category, "iscrowd": 0, "area": 8}
    for number, category in zip(ids, categories, strict=True)
]
entries = [{"image_id": 0, "file_name": "a.png", "segments_info": listed} for _ in range(2)]
counted = pq_compute_single_core(0, [tuple(entries)], folder, folder, categories)
road, tunnel = (float(counted.pq_per_cat[category].iou) for category in categories)
print(f"ids of road and tunnel: {ids[0]} and {ids[1]};", end=" ")
print(f"IoU of the same map twice: road {road}, tunnel {tunnel}")
raise SystemExit((ids[1], road, tunnel) != (0, 1.0, float("inf")))
E2
