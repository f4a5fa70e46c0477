#!/usr/bin/env bash
# Pillow 12.3.0: a PNG file of 16 bits and three channels is read with 8 bits, without a warning.
#
# SYNTHIA's labels are such files: red is the class, green the instance. Pillow opens them in mode RGB
# and keeps only the upper byte of each number, so every class becomes 0 (void) and instance 300 becomes 1. One would
# expect the numbers themselves, as for grey files of 16 bits, or an error. OpenCV reads the numbers.
#
# Output (opencv-python-headless 4.14.0.94, numpy 2.4.6): class 8, instance 300: Pillow RGB [0, 1, 0],
# OpenCV [8, 300, 0]
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" pillow==12.3.0 opencv-python-headless==4.14.0.94 numpy==2.4.6
FOLDER=$folder "$folder/env/bin/python" -W error - <<'E2'
import os

import cv2
import numpy as np
from PIL import Image

path = os.path.join(os.environ["FOLDER"], "label.png")
label = np.zeros((2, 2, 3), np.uint16)
label[..., 2], label[..., 1] = 8, 300  # OpenCV's order: blue, green, red
cv2.imwrite(path, label)
image = Image.open(path)
pillow = np.array(image)[0, 0].tolist()
opencv = cv2.imread(path, cv2.IMREAD_UNCHANGED)[0, 0, ::-1].tolist()
print(f"class 8, instance 300: Pillow {image.mode} {pillow}, OpenCV {opencv}")
raise SystemExit((image.mode, pillow, opencv) != ("RGB", [0, 1, 0], [8, 300, 0]))
E2
