from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
for name in ("detectron2", "fvcore", "iopath", "cvxopt", "cv2", "panopticapi"):
    sys.modules[name] = None
import torch
from gbw_d2.losses import (
    GBWCrossEntropyLoss, center_loss, entropy_loss, max_squares_loss, offset_loss
)
from gbw_d2.weighting import SCHEMES, build_scheme
from gbw_d2.losses import ClassWeightedCrossEntropy
logits = torch.randn(1, 3, 4, 4, requires_grad=True)
labels = torch.randint(0, 3, (1, 4, 4))
classifier = (torch.randn(1, 5, 2, 2), torch.randn(1, 3, 2, 2))
loss = GBWCrossEntropyLoss(3)(logits, labels) + entropy_loss(logits) + max_squares_loss(logits, 0.2)
for name in SCHEMES:
    given = {"class_weights": [1, 2, 3]} if name == "fixed" else {}
    scheme = build_scheme(name, 3, given, class_counts=[1, 2, 3])
    loss = loss + ClassWeightedCrossEntropy(scheme)(logits, labels, None, classifier)
loss = loss + center_loss(logits[:, :1], torch.ones(1, 4, 4), torch.ones(1, 4, 4))
loss = loss + offset_loss(logits[:, :2], torch.ones(1, 2, 4, 4), torch.ones(1, 4, 4))
loss.backward()
assert torch.isfinite(logits.grad).all()
print("done")
"""


def test_weighting_and_losses_need_torch_only():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"
