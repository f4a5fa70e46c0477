from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

# One script for one process and for each of two: images [begin:end] of the same batch.
SCRIPT = """
import sys
import torch
from gbw_d2.losses import (
    ClassWeightedCenterLoss, ClassWeightedCrossEntropy, ClassWeightedOffsetLoss,
    ClassWeightedRoIClassification, ClassWeightedRoIMask, center_loss, offset_loss,
)
from gbw_d2.weighting import WeightLog, build_scheme
rank, world, meeting, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if world > 1:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world
    )
generator = torch.Generator().manual_seed(0)
share = slice(rank * 4 // world, (rank + 1) * 4 // world)
def draw(*shape):
    return torch.randn(4, *shape, generator=generator)[share]
logits, features, low = draw(5, 8, 8), draw(6, 4, 4), 0.1 * draw(5, 4, 4)
labels = torch.arange(256).reshape(4, 8, 8)[share] // 60  # each half lacks classes
heat, goal, weights = draw(8, 8), draw(2, 8, 8), (draw(8, 8) > 0.3).float()
result = {}
def call(criterion, *batch):
    log = WeightLog()
    return criterion(*batch, log=log), log.whole_batch().get("loss", "source")
for name in ("gbw", "gbw_hindrance", "gbw_norm", "gbw_released"):
    leaf = logits.clone().requires_grad_()
    criterion = ClassWeightedCrossEntropy(build_scheme(name, 5))
    loss, last = call(criterion, leaf, labels, None, (features, low))
    loss.backward()
    result[name] = {"loss": loss.detach(), "gradient": leaf.grad, "weights": last.weights}
    result[name]["counts"] = last.counts
# The prior shift of static weights: which classes were seen is asked of all processes.
static = build_scheme(
    "inverse_frequency", 5, {"logit_adjustment": 1.0}, torch.tensor([5.0, 4, 3, 2, 1])
)
criterion = ClassWeightedCrossEntropy(static)
criterion(logits, labels)
shift = static.logit_shift("source")
leaf = logits.clone().requires_grad_()
loss, last = call(criterion, leaf, labels)
loss.backward()
result["adjusted"] = {"loss": loss.detach(), "gradient": leaf.grad, "weights": shift}
result["adjusted"]["counts"] = last.counts
center = center_loss(logits[:, :1], heat, weights)
offset = offset_loss(logits[:, :2], goal, weights)
result["instance"] = {"loss": center + offset}
owner = torch.tensor([1, 3, 255])[torch.arange(256) // 3 % 3].reshape(4, 8, 8)[share]
# All RoIs are the first process's; the other one has none.
rois = slice(0, 4 if rank == 0 else 0)
boxes, inputs = (torch.randn(4, n, generator=generator)[rois] for n in (3, 6))
masks = torch.randn(4, 2, 4, 4, generator=generator)[rois]
classes, truth = torch.tensor([0, 1, 2, 0])[rois], torch.ones(4, 4, 4)[rois]
calls = {
    "center": (ClassWeightedCenterLoss, "gbw_norm", logits[:, :1], heat, weights, owner),
    "offset": (ClassWeightedOffsetLoss, "gbw_norm", logits[:, :2], goal, weights, owner),
    "roi_cls": (ClassWeightedRoIClassification, "gbw_norm", boxes, classes),
    "roi_gbw": (ClassWeightedRoIClassification, "gbw", boxes, classes, inputs.abs()),
    "mask": (ClassWeightedRoIMask, "gbw_norm", masks, classes.clamp(max=1), truth),
    # Plain ones, whose counts are summed for the log alone.
    "plain_center": (ClassWeightedCenterLoss, "none", logits[:, :1], heat, weights, owner),
    "plain_roi_cls": (ClassWeightedRoIClassification, "none", boxes, classes),
}
for name, (kind, scheme, prediction, *rest) in calls.items():
    things = ((1, 3), 5) if name.endswith(("center", "offset")) else ()
    criterion = kind(build_scheme(scheme, 2), *things)
    leaf = prediction.clone().requires_grad_()
    loss, last = call(criterion, leaf, *rest)
    loss.backward()
    result[name] = {"loss": loss.detach(), "gradient": leaf.grad, "weights": last.weights}
    result[name]["counts"] = last.counts
torch.save(result, f"{out}/{rank}_of_{world}.pth")
if world > 1:
    # Whoever leaves first would tear the other's connection down in the middle of its last call.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def run_processes(world, folder):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(world), f"{folder}/meet", str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    assert [process.wait(timeout=180) for process in processes] == [0] * world
    return [torch.load(folder / f"{rank}_of_{world}.pth") for rank in range(world)]


@pytest.mark.slow
def test_two_processes_with_half_the_batch_equal_one(tmp_path):
    (whole,) = run_processes(1, tmp_path)
    halves = run_processes(2, tmp_path)
    for name in set(whole) - {"instance"}:
        for half in halves:
            torch.testing.assert_close(half[name]["weights"], whole[name]["weights"])
            torch.testing.assert_close(half[name]["counts"], whole[name]["counts"])
        gradient = torch.cat([half[name]["gradient"] for half in halves]) / 2
        torch.testing.assert_close(gradient, whole[name]["gradient"])
        assert ((whole[name]["weights"] - 1).abs().max() > 1e-3) != name.startswith("plain")
    for name in whole:
        mean = torch.stack([half[name]["loss"] for half in halves]).mean()
        torch.testing.assert_close(mean, whole[name]["loss"])
