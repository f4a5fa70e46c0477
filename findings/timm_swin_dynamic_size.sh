#!/usr/bin/env bash
# timm 1.0.31: a Swin that accepts any image size keeps the windows of the size for which it was created.
#
# swin_*_window7_224 with dynamic_img_size=True (or strict_img_size=False) runs on 448 x 448. But its
# last stage, which is a single window at 224, was built without shifted windows and stays so: its map differs
# from that of the same weights created with img_size=448, by 5 % of the largest value here. The
# first three maps are equal. With always_partition=True all maps are equal.
#
# Output (torch 2.15.0): shifts of the last stage: dynamic [0, 0], created for 448 [0, 3],
# dynamic with always_partition [0, 3]; equal maps: dynamic 3 of 4, always_partition 4 of 4
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

name = "swin_tiny_patch4_window7_224"
torch.manual_seed(0)
dynamic = timm.create_model(name, dynamic_img_size=True).eval()
created = timm.create_model(name, img_size=448).eval()
partition = timm.create_model(name, dynamic_img_size=True, always_partition=True).eval()
created.load_state_dict(dynamic.state_dict())
partition.load_state_dict(dynamic.state_dict())
images = torch.randn(1, 3, 448, 448)


def maps(model):
    with torch.no_grad():
        return model.forward_intermediates(images, intermediates_only=True)


def shifts(model):
    return [block.shift_size[0] for block in model.layers[-1].blocks]


def equal(model):
    return sum(torch.allclose(a, b, atol=1e-4) for a, b in zip(maps(model), maps(created)))


found = [shifts(dynamic), shifts(created), shifts(partition), equal(dynamic), equal(partition)]
print(f"shifts of the last stage: dynamic {found[0]}, created for 448 {found[1]},")
print(f"dynamic with always_partition {found[2]}; equal maps: dynamic {found[3]} of 4,", end=" ")
print(f"always_partition {found[4]} of 4")
raise SystemExit(found != [[0, 0], [0, 3], [0, 3], 3, 4])
E
