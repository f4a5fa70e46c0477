#!/usr/bin/env bash
# timm 1.0.31: features_only leaves out a plain transformer's final norm.
#
# create_model("vit_...", features_only=True) replaces the norm after the last block by an identity. Its last
# map therefore differs from forward_features with the same weights, and has another scale; the
# norm's weights in a file are not used. Heads and distances that were made for normalised features get others.
# forward_intermediates(norm=True) includes the norm.
#
# Output (torch 2.15.0): last map equals forward_features: False, the last block without norm: True
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

torch.manual_seed(0)
whole = timm.create_model("vit_tiny_patch16_224").eval()
maps = timm.create_model("vit_tiny_patch16_224", features_only=True).eval()
maps.model.load_state_dict(whole.state_dict(), strict=False)
images = torch.randn(1, 3, 224, 224)
with torch.no_grad():
    last = maps(images)[-1]
    normed = whole.forward_features(images)[:, 1:].transpose(1, 2).reshape(last.shape)
    plain = whole.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)[0]
found = torch.allclose(last, normed, atol=1e-3), torch.allclose(last, plain, atol=1e-5)
print(f"last map equals forward_features: {found[0]}, the last block without norm: {found[1]}")
raise SystemExit(found != (False, True))
E2
