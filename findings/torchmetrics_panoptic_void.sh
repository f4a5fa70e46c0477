#!/usr/bin/env bash
# torchmetrics 1.9.0: PanopticQuality does not count an object that the prediction leaves void.
#
# One would expect a missed object: panopticapi counts a false negative. With
# allow_unknown_preds_category=True, which is the way to pass void, an object whose pixels are predicted only as
# an unknown category is left out of both sums, like void ground truth. If you compare
# networks that can abstain, or thresholds that leave more of a map void, the PQ rises as less is predicted.
#
# Output (torch 2.15.0, panopticapi-lite 0.2.0): car left void: torchmetrics PQ 100.0, panopticapi 50.0
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
echo 'numpy>=2' > "$folder/override.txt"  # panopticapi-lite caps it in its metadata only
uv pip install --quiet --python "$folder/env" --override "$folder/override.txt" \
  torchmetrics==1.9.0 torch==2.15.0 panopticapi-lite==0.2.0 numpy==2.4.6 pillow==12.3.0 scipy torchvision
FOLDER=$folder "$folder/env/bin/python" -W ignore - <<'E2' | tail -n 1
import os

import numpy as np
import torch
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image
from torchmetrics.detection import PanopticQuality

CAR, ROAD, VOID = 0, 6, 99
truth = torch.full((1, 4, 4, 2), 0)
truth[..., 0] = ROAD
truth[0, :2, :2] = torch.tensor([CAR, 1])
guess = truth.clone()
guess[0, :2, :2] = torch.tensor([VOID, 0])
metric = PanopticQuality(things={CAR}, stuffs={ROAD}, allow_unknown_preds_category=True)
theirs = 100 * metric(guess, truth).item()

folder = os.environ["FOLDER"]
maps = {"truth": np.full((4, 4), 1), "guess": np.full((4, 4), 1)}
maps["truth"][:2, :2], maps["guess"][:2, :2] = 2, 0
segments = [{"id": 1, "category_id": ROAD, "iscrowd": 0}, {"id": 2, "category_id": CAR, "iscrowd": 0}]
for name, ids in maps.items():
    os.makedirs(f"{folder}/{name}")
    Image.fromarray(id2rgb(ids)).save(f"{folder}/{name}/a.png")
entry = {"image_id": 0, "file_name": "a.png"}
pair = (entry | {"segments_info": segments}, entry | {"segments_info": segments[:1]})
categories = {CAR: {"id": CAR, "isthing": 1}, ROAD: {"id": ROAD, "isthing": 0}}
counted = pq_compute_single_core(0, [pair], f"{folder}/truth", f"{folder}/guess", categories)
official = 100 * counted.pq_average(categories, None)[0]["pq"]
print(f"car left void: torchmetrics PQ {theirs:.1f}, panopticapi {official:.1f}")
raise SystemExit((round(theirs, 1), round(official, 1)) != (100.0, 50.0))
E2
