#!/usr/bin/env bash
# transformers 5.22.1: Mask2Former's panoptic post-processing gives two cars the same number.
#
# post_process_panoptic_segmentation(..., label_ids_to_fuse={road}) numbers segments 1, 2, ..., and gives
# a further piece of a fused class the number of its first piece. The counter then goes back to that
# number, so the next object gets a number that is already used: the queries road, car, road, car become the segments
# 1, 2, 1, 2. Both cars are one segment of the map. Without the second road between them they are 2 and 3.
#
# Output (torch 2.15.0): numbers of road, car, road, car: [1, 2, 1, 2]; of road, road, car, car:
# [1, 1, 2, 3]
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" transformers==5.22.1 torch==2.15.0 torchvision==0.29.2 numpy pillow
"$folder/env/bin/python" -W ignore - 2>/dev/null <<'E2'
from types import SimpleNamespace

import torch
from transformers import Mask2FormerImageProcessor

ROAD, CAR = 0, 1
columns = [(0, 10), (10, 20), (20, 26), (26, 32)]


def numbers(classes):
    masks = torch.full((1, 4, 32, 32), -9.0)
    logits = torch.full((1, 4, 3), -9.0)
    for query, (name, (start, end)) in enumerate(zip(classes, columns)):
        masks[0, query, :, start:end] = 9.0
        logits[0, query, name] = 9.0
    outputs = SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    result = Mask2FormerImageProcessor().post_process_panoptic_segmentation(
        outputs, label_ids_to_fuse={ROAD}, target_sizes=[(32, 32)]
    )[0]
    return [int(result["segmentation"][0, start + 2]) for start, _ in columns]


found = numbers([ROAD, CAR, ROAD, CAR]), numbers([ROAD, ROAD, CAR, CAR])
print(f"numbers of road, car, road, car: {found[0]}; of road, road, car, car: {found[1]}")
raise SystemExit(found != ([1, 2, 1, 2], [1, 1, 2, 3]))
E2
