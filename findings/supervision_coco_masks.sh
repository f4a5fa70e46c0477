#!/usr/bin/env bash
# supervision 0.31.2: in its COCO files an occluded object becomes a crowd, and a thin one vanishes.
#
# DetectionDataset.as_coco writes a mask of several pieces as a run-length code with iscrowd 1, whatever it is: a
# car behind a pole is then left out of training, and not counted in evaluation. A pole of one pixel in width
# gets an empty polygon, which pycocotools cannot draw. A box of 130 pixels becomes one of 108, because
# polygons go through the centres of its outer pixels. Make label maps from the masks themselves.
#
# Output (pycocotools 2.0.11, numpy 2.4.6): car behind a pole: iscrowd 1; pole of 45 pixels: [];
# person of 130 pixels: iscrowd 0, 108 pixels
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" supervision==0.31.2 pycocotools==2.0.11 numpy==2.4.6 opencv-python-headless==4.14.0.94
FOLDER=$folder "$folder/env/bin/python" -W ignore - 2>/dev/null <<'E2'
import contextlib
import io
import json
import os

import cv2
import numpy as np
import supervision as sv
from pycocotools.coco import COCO

folder = os.environ["FOLDER"]
image = f"{folder}/a.png"
cv2.imwrite(image, np.zeros((60, 80, 3), np.uint8))
masks = np.zeros((3, 60, 80), bool)
masks[0, 20:40, 5:75], masks[0, 20:40, 30:34] = True, False  # a car, and the pole before it
masks[1, 5:50, 32] = True
masks[2, 45:58, 10:20] = True
found = sv.Detections(
    xyxy=sv.mask_to_xyxy(masks).astype(float), mask=masks, class_id=np.array([0, 1, 2])
)
data = sv.DetectionDataset(["car", "pole", "person"], [image], {image: found})
data.as_coco(annotations_path=f"{folder}/a.json")
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(f"{folder}/a.json")
car, pole, person = json.load(open(f"{folder}/a.json"))["annotations"]
pixels = int(coco.annToMask(person).sum())
print(f"car behind a pole: iscrowd {car['iscrowd']}; pole of {int(masks[1].sum())} pixels:", end=" ")
print(f"{pole['segmentation']}; person of {int(masks[2].sum())} pixels:", end=" ")
print(f"iscrowd {person['iscrowd']}, {pixels} pixels")
raise SystemExit((car["iscrowd"], pole["segmentation"], person["iscrowd"], pixels) != (1, [], 0, 108))
E2
