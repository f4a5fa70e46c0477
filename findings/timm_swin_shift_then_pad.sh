#!/usr/bin/env bash
# timm 1.0.31: in a Swin, on a map that is not a whole number of windows, the last rows see the first ones.
#
# The official code pads a map to whole windows and then shifts it. timm shifts first and then pads, but masks
# the attention as if it had padded first. The rows that the shift moves to the end therefore share
# a window with the last rows. Here an image of 104 x 104 (26 patches per side, windows of 7) changes
# only in its first four rows of pixels. Two blocks should carry the change to the first ten rows of
# patches, but the last two rows change too. If a map is padded before the block's attention, this does not happen. For sides of
# whole windows (multiples of 224 for all stages) there is no difference. It matters for dense prediction:
# 1024 x 2048 is not such a size, and weights of Mask2Former's Swin then give other maps than in Mask2Former's own
# code. Swin V2 has the same order (timm issue 2438, open), and so has swinv2_cr.
#
# Output (torch 2.15.0): rows that change: timm 0 to 9 and 24 to 25, padded first 0 to 9
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" timm==1.0.31 torch==2.15.0 numpy
"$folder/env/bin/python" -W ignore - <<'E'
import timm
import torch
import torch.nn.functional as F

torch.manual_seed(0)
model = timm.create_model("swin_tiny_patch4_window7_224", img_size=104).double().eval()
images = torch.randn(1, 3, 104, 104, dtype=torch.float64)
other = images.clone()
other[:, :, :4] += 1


def changed_rows():
    with torch.no_grad():
        first, second = (
            model.forward_intermediates(each, indices=[0], intermediates_only=True)[0]
            for each in (images, other)
        )
    rows = (first != second).amax((0, 1, 3)).nonzero().flatten().tolist()
    starts = [row for row in rows if row - 1 not in rows]
    ends = [row for row in rows if row + 1 not in rows]
    return " and ".join(f"{a} to {b}" for a, b in zip(starts, ends))


def pad_first(block):
    attention = block._attn
    rows, columns = block.window_size

    def padded(x):
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        return attention(x)[:, :height, :width]

    block._attn = padded


timms = changed_rows()
for block in model.layers[0].blocks:
    pad_first(block)
padded = changed_rows()
print(f"rows that change: timm {timms}, padded first {padded}")
raise SystemExit((timms, padded) != ("0 to 9 and 24 to 25", "0 to 9"))
E
