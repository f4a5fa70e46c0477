"""A training step of each strategy, compared with the sum of its parts.

The parts are those that the method needs in any implementation: forward and backward passes with
their losses, a teacher's forward pass, and the optimisers' steps. A whole step adds the engine,
augmentation, mixing, pseudo-labels and the teacher's update.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gbw_d2.keys import TERM_SOURCE

ROOT = Path(__file__).resolve().parents[2]

Candidate = Callable[[], None]
Batch = list[dict[str, Any]]


class _Parts:
    """The passes that strategies are made of, on one network and one pair of batches."""

    def __init__(self, cfg: Any, source: Batch, target: Batch) -> None:
        from gbw_d2.engine.build import build_model

        torch.manual_seed(0)
        self.model = build_model(cfg).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.teacher = self.model.frozen_copy()
        self.source, self.target = source, target

    def supervised(self) -> None:
        torch.stack(list(self.model(self.source).values())).sum().backward()

    def logits(self, model: Any) -> Tensor:
        images = model.images(self.target)
        features, size = model.features(images), tuple(images.shape[-2:])
        return model.outputs(features, size, instances=False).semantic.dense()

    def teach(self) -> Tensor:
        with torch.no_grad():
            return self.logits(self.teacher)

    def unlabelled(self, loss: Callable[[Tensor], Tensor]) -> None:
        loss(self.logits(self.model)).backward()

    def mixed(self) -> None:
        images, targets = self.model.images(self.target), self.model.targets(self.source)
        features, size = self.model.features(images), tuple(images.shape[-2:])
        outputs = self.model.outputs(features, size, instances=False)
        losses = self.model.losses(outputs, targets, None, TERM_SOURCE)
        torch.stack(list(losses.values())).sum().backward()


def _bare(name: str, cfg: Any, source: Batch, target: Batch) -> Candidate:
    from gbw_d2.losses import adversarial_cross_entropy, entropy_loss, max_squares_loss
    from gbw_d2.uda.parts.discriminator import Discriminator

    parts = _Parts(cfg, source, target)
    classes = parts.model.label_space.num_classes
    judge = Discriminator(classes, cfg.UDA.ADVERSARIAL.CHANNELS).to(parts.model.device)
    judging = torch.optim.Adam(judge.parameters(), lr=1e-4)

    def self_training() -> None:
        parts.teach()
        parts.mixed()

    def adversarial() -> None:
        maps = parts.logits(parts.model).softmax(1)
        judge.requires_grad_(False)
        adversarial_cross_entropy(judge(maps), 0).backward()
        judge.requires_grad_(True)
        for domain in (0, 1):
            adversarial_cross_entropy(judge(maps.detach()), domain).backward()
        judging.step()
        judging.zero_grad(set_to_none=True)

    more: dict[str, Callable[[], None]] = {
        "source_only": lambda: None,
        "min_entropy": lambda: parts.unlabelled(entropy_loss),
        "max_squares": lambda: parts.unlabelled(max_squares_loss),
        "adversarial": adversarial,
        "self_training": self_training,
    }

    def step() -> None:
        parts.supervised()
        more[name]()
        parts.optimizer.step()
        # At the same point as in the whole step, so that their peaks of memory can be compared.
        parts.optimizer.zero_grad(set_to_none=True)

    return step


def _whole(cfg: Any, source: Batch, target: Batch) -> Candidate:
    from benchmarks.recipe import TrainingStep

    from gbw_d2.engine.build import build_training_losses

    return TrainingStep(
        cfg,
        build_training_losses(cfg),
        source,
        target,
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4),
    )


NAMES = ("source_only", "self_training", "max_squares", "min_entropy", "adversarial")


def strategy_candidates(
    name: str, device: torch.device, make_batch: Callable[[int, int, int], Batch]
) -> dict[str, Candidate]:
    """Makes the parts of a strategy's step, which are first, and the step of the engine.

    Args:
        name: of the strategy, one of ``NAMES``.
        device: where it runs.
        make_batch: (images, rows, columns) -> labelled samples.
    """
    from gbw_d2.config import load_config
    from gbw_d2.engine.setup import resolve

    # Without a warm-up, because the target's part of the step is measured.
    overrides = ["MODEL.DEVICE", str(device), "UDA.NAME", name, "UDA.WARM_UP", "0.0"]
    cfg = load_config(str(ROOT / "configs/toy/panoptic_source_only.yaml"), overrides)
    resolve(cfg)
    source = [{**sample, "draw": i} for i, sample in enumerate(make_batch(2, 128, 256))]
    target = []
    for number, sample in enumerate(source):
        rows = sample["image"].shape[1]
        places = (torch.arange(rows) + 0.5) / rows
        target.append({"image": sample["image"], "draw": number, "image_rows": places})
    parts = _bare(name, cfg, source, target)
    return {"bare parts": parts, "training step": _whole(cfg, source, target)}
