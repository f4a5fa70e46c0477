#!/usr/bin/env bash
# opencv-python-headless 4.14.0.94: imwrite saves a map of int32 or float32 ids with 8 bits, cut off at 255.
#
# One would expect an error, or 16 bits if the ids fit into them, which PNG supports. Cityscapes' instance ids 26001
# and 26002 both become 255, so that all cars are one instance; imwrite returns True. For int32 OpenCV 4.14 warns on
# stderr, for float32 it does not.
#
# Output (numpy 2.4.6): 26001, 26002, 7 come back as int32 uint8 [255, 255, 7], float32 uint8 [255, 255, 7],
# uint16 uint16 [26001, 26002, 7]
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" opencv-python-headless==4.14.0.94 numpy==2.4.6
FOLDER=$folder "$folder/env/bin/python" - 2>/dev/null <<'E2'
import os

import cv2
import numpy as np

path = os.path.join(os.environ["FOLDER"], "ids.png")
found = []
for kind in (np.int32, np.float32, np.uint16):
    assert cv2.imwrite(path, np.array([[26001, 26002, 7]], kind))
    back = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    found.append(f"{np.dtype(kind)} {back.dtype} {back[0].tolist()}")
print("26001, 26002, 7 come back as", ", ".join(found))
cut = "uint8 [255, 255, 7]"
raise SystemExit(found != [f"int32 {cut}", f"float32 {cut}", "uint16 uint16 [26001, 26002, 7]"])
E2
