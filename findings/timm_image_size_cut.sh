#!/usr/bin/env bash
# timm 1.0.31: a plain transformer created for a size that its patches do not divide ignores the rest.
#
# vit_tiny_patch16_224 with img_size=230 has a grid of 14 x 14 patches and accepts images of 230 x 230. The last six
# rows and columns have no effect on the output, and there is no warning. One would expect an error, as
# for an image of another size than img_size. A dense prediction then has no information about this margin
# (18 rows of 1080 with patches of 14 and img_size that high lose two). dynamic_img_pad=True pads instead.
#
# Output (torch 2.15.0): grid (14, 14); outputs with another margin are equal: True, padded: False
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy
"$folder/env/bin/python" -W ignore - <<'E2'
import timm
import torch

images = torch.randn(1, 3, 230, 230, generator=torch.Generator().manual_seed(0))
other = images.clone()
other[:, :, 224:], other[:, :, :, 224:] = 9.0, -9.0


def equal(**arguments):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **arguments).eval()
    # A fresh head is zero.
    torch.nn.init.normal_(model.head.weight)
    with torch.no_grad():
        return model.patch_embed.grid_size, torch.equal(model(images), model(other))


(grid, cut), (_, padded) = equal(img_size=230), equal(dynamic_img_size=True, dynamic_img_pad=True)
print(f"grid {grid}; outputs with another margin are equal: {cut}, padded: {padded}")
raise SystemExit((grid, cut, padded) != ((14, 14), True, False))
E2
