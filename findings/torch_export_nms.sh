#!/usr/bin/env bash
# torch 2.15.0, torchvision 0.29.2: an exported NMS does not run on fewer than two boxes.
#
# With a dynamic number of boxes, torch.export treats 0 and 1 as special, and asserts "at least two" in the
# exported program. A detector that was exported so runs on its example, and fails on the first image with one detection
# or none; eager NMS accepts both.
#
# Output: boxes kept of 3, 1, 0: eager 3 1 0, exported 3 RuntimeError RuntimeError
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" torch==2.15.0 torchvision==0.29.2 numpy
"$folder/env/bin/python" -W ignore - 2>/dev/null <<'E2'
import torch
import torchvision

corners = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
boxes, scores = torch.cat([corners, corners + 9], 1), torch.tensor([0.9, 0.8, 0.7])


class Kept(torch.nn.Module):
    def forward(self, boxes, scores):
        return torchvision.ops.nms(boxes, scores, 0.5)


free = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
exported = torch.export.export(Kept(), (boxes, scores), dynamic_shapes=free).module()


def count(run, n):
    try:
        return str(len(run(boxes[:n], scores[:n])))
    except (RuntimeError, AssertionError) as error:
        return type(error).__name__


found = [" ".join(count(run, n) for n in (3, 1, 0)) for run in (Kept(), exported)]
print(f"boxes kept of 3, 1, 0: eager {found[0]}, exported {found[1]}")
raise SystemExit(found != ["3 1 0", "3 RuntimeError RuntimeError"])
E2
