#!/usr/bin/env bash
# cityscapesscripts 2.3.0: its pixel and instance scores fail under numpy 2.4, which its metadata allows.
#
# evalPixelLevelSemanticLabeling and evalInstanceLevelSemanticLabeling call numpy.in1d, which numpy 2.4
# removed; with numpy 2.2.6 both run. pip installs the newest numpy with it, without a warning.
#
# Output: a perfect label: numpy 2.2.6 mIoU 1.0, numpy 2.4.6 AttributeError
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/score.py" <<'E2'
import contextlib
import io
import os

import numpy as np
from PIL import Image

folder = os.environ["FOLDER"]
names = [f"{folder}/a_{kind}.png" for kind in ("gtFine_labelIds", "gtFine_instanceIds", "guess")]
for name, kind in zip(names, (np.uint8, np.int32, np.uint8)):
    Image.fromarray(np.full((8, 8), 7, kind)).save(name)
try:
    with contextlib.redirect_stdout(io.StringIO()):
        import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as pixels

        pixels.args.JSONOutput = False
        scores = pixels.evaluateImgLists([names[2]], [names[0]], pixels.args)
    print("mIoU", round(float(scores["averageScoreClasses"]), 3))
except (AttributeError, ImportError) as error:
    print(type(error).__name__)
E2
said=""
for numpy in 2.2.6 2.4.6; do
  uv venv --quiet "$folder/$numpy"
  # Our own pyproject.toml overrides the version of numpy.
  uv pip install --quiet --no-config --python "$folder/$numpy" \
    cityscapesscripts==2.3.0 "numpy==$numpy" pillow==12.3.0
  score=$(FOLDER=$folder "$folder/$numpy/bin/python" -W ignore "$folder/score.py" 2>/dev/null | tail -n 1)
  said="$said, numpy $numpy $score"
done
echo "a perfect label: ${said#, }"
[ "${said#, }" = "numpy 2.2.6 mIoU 1.0, numpy 2.4.6 AttributeError" ]
