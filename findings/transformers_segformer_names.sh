#!/usr/bin/env bash
# transformers 5.22.1: a file that a Segformer has written cannot be loaded into the same Segformer
# by the usual two lines of PyTorch.
#
# save_pretrained writes the names of 4.x (segformer.encoder.block.0.0.attention.self.query.weight); in
# memory the names are others (segformer.stages.0.blocks.0.attention.q_proj.weight). from_pretrained converts them.
# load_state_dict(load_file(...), strict=False) finds 8 of 124 tensors, all of them in the head, without a
# warning: the encoder keeps its random weights.
#
# Output (torch 2.15.0): names in memory that are in the file: 8 of 124, of the encoder: 0
#
# Exit code 1: this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv --quiet "$folder/env"
uv pip install --quiet --python "$folder/env" transformers==5.22.1 torch==2.15.0 numpy
FOLDER=$folder "$folder/env/bin/python" -W ignore - 2>/dev/null <<'E'
import os

from safetensors.torch import load_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

config = SegformerConfig(depths=[1] * 4, hidden_sizes=[16, 32, 40, 64])
model = SegformerForSemanticSegmentation(config)
model.save_pretrained(os.environ["FOLDER"])
file = load_file(os.path.join(os.environ["FOLDER"], "model.safetensors"))
memory = set(model.state_dict())
both = memory & set(file)
encoder = [name for name in both if not name.startswith("decode_head")]
print(f"names in memory that are in the file: {len(both)} of {len(memory)},", end=" ")
print(f"of the encoder: {len(encoder)}")
missing = model.load_state_dict(file, strict=False).missing_keys
assert len(missing) == len(memory) - len(both)
raise SystemExit((len(both), len(memory), len(encoder)) != (8, 124, 0))
E
