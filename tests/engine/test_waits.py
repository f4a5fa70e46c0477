"""A training step waits for the device as often as its architecture declares; ours never do.

Fake CUDA tensors have shapes but no values; reading a value would be such a wait.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from strategies import FOR_ALL
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.uda import STRATEGIES, Context, build_strategy
from gbw_d2.uda.stages import PSEUDO_LABELS
from gbw_d2.uda.strategy import module_of

RECIPES = {
    "panoptic": "toy/panoptic_gbw",
    "semantic": "toy/semantic_gbw",
    "hrda": "toy/semantic_gbw models/semantic_hrda_tiny",
}
PAIRS = [(name, recipe) for recipe in ("panoptic", "semantic") for name in FOR_ALL]


def move_to_fake_device(module: nn.Module, mode: FakeTensorMode) -> None:
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                fake = mode.from_tensor(value.detach())
                with mode:
                    fake = fake.to("cuda").requires_grad_(value.requires_grad)
                    part._parameters[name] = nn.Parameter(fake, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                fake = mode.from_tensor(value.detach())
                with mode:
                    part._buffers[name] = fake.to("cuda")


@pytest.mark.parametrize(("name", "recipe"), [*PAIRS, ("self_training", "hrda")])
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_no_step_waits(
    tiny_config: Any, samples: Any, monkeypatch: pytest.MonkeyPatch, name: str, recipe: str
) -> None:
    # Detectron2's looks at shapes that it keeps in tensors on the host, which here are fake too.
    monkeypatch.setattr(
        "gbw_d2.modeling.segmentor.ImageList.from_tensors",
        lambda tensors, *_: SimpleNamespace(tensor=torch.stack(tensors)),
    )
    # The kernels' choice asks a real device what it is; the blocks look at no value either.
    monkeypatch.setattr("gbw_d2.weighting.upsampled_pixels._can_compile", lambda _: False)
    teaching = ("UDA.SELF_TRAINING.INSTANCE_PSEUDO_LABELS", recipe == "panoptic")
    masked = STRATEGIES.get(name).has_pseudo_labels
    masking = ("UDA.MASKED_CONSISTENCY.LOSS_WEIGHT", float(masked))
    cfg = tiny_config("UDA.NAME", name, *teaching, *masking, name=RECIPES[recipe])
    losses = build_training_losses(cfg)
    model = build_model(cfg, losses).train()
    assert model.waits_per_step == 0
    strategy = build_strategy(name, model, cfg.UDA, seed=0, max_iter=10)
    if name != "cbst":
        # Its rounds begin with files of pseudo-labels; a step needs none of them.
        strategy.prepare(strategy.stages()[0], Context(True, Path()))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # Modules that have no state worth keeping, too.
    held = {id(m): m for m in vars(strategy).values() if isinstance(m, nn.Module)}
    held |= {id(m): m for m in map(module_of, strategy.modules().values())}
    held.pop(id(model))
    for module in (model, losses, *held.values()):
        move_to_fake_device(module, mode)
    source = samples()
    target = [{k: s[k] for k in ("draw", "image", "image_rows")} for s in samples(seed=1)]
    if name == "cbst":
        target = [{**s, PSEUDO_LABELS: label} for s, label in zip(target, source, strict=True)]
    with mode:
        with pytest.raises(DataDependentOutputException):
            bool(next(model.parameters()).sum())
        seen = 0
        pair = (source, target if strategy.needs_target else None)
        for part in strategy.training_losses(*pair, 5):
            # Not backward, for which autograd asks a real device (tests/engine/test_on_gpu.py).
            assert torch.stack(list(part.values())).sum().device.type == "cuda"
            seen += 1
        strategy.after_step(5)
        assert all(flag.device.type == "cuda" for flag in losses.flags().values())
    assert seen == {"source_only": 1, "adversarial": 3}.get(name, 2 + masked)
