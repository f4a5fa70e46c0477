"""A trained network from a config and a checkpoint, without any dataset."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.engine.build import build_model
from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.engine.class_transfer import checkpoint_space
from gbw_d2.engine.setup import resolve

from detectron2.config import CfgNode


def resolve_for(cfg: CfgNode, device: str, weights: str | None = None) -> None:
    """Checks a config whose network will run on ``device``, in place, and freezes it.

    Args:
        cfg: of :func:`gbw_d2.config.load_config`; also the config.yaml of a run elsewhere.
        device: ``"auto"`` (cuda where there is one), ``"cpu"``, ``"cuda:1"`` and so on.
        weights: a checkpoint or the OUTPUT_DIR of a run, whose classes are taken; no data set is
            looked at then. None where the config's data sets will be used.

    Raises:
        UserError: the config does not fit, or the device cannot be used.
    """
    cfg.MODEL.DEVICE = device
    if weights is None:
        resolve(cfg)
    else:
        resolve(cfg, checkpoint_space(weights), data=())
    cfg.freeze()


def load_network(cfg: CfgNode, weights: str, which: str = "student") -> nn.Module:
    """Builds the network of a config and loads its weights, for inference.

    Args:
        cfg: a resolved config; MODEL.WEIGHTS is not looked at.
        weights: a checkpoint, or the OUTPUT_DIR of a run for its last one.
        which: ``"student"``, or ``"teacher"`` where the checkpoint has one beside it.

    Raises:
        CheckpointError: there is none, or it is of another network.
    """
    model = build_model(cfg)
    folder = weights if Path(weights).is_dir() else ""
    beside = {} if which == "student" else {which: model.frozen_copy()}
    checkpointer = Checkpointer(model, folder, save_to_disk=False, **beside)
    if folder and not checkpointer.has_checkpoint():
        raise CheckpointError(
            f"folder '{weights}' names no last checkpoint; give the OUTPUT_DIR of a run or a file"
        )
    if not weights:
        raise CheckpointError("no weights: give the file of a trained network, or its OUTPUT_DIR")
    checkpointer.strict, checkpointer.trust = True, cfg.MODEL.TRUST_WEIGHTS
    checkpointer.load(checkpointer.get_checkpoint_file() if folder else weights)
    return beside.get(which, model).eval()


class ExportedNetwork(nn.Module):
    """A network as one function of tensors: images in, a tuple of its export outputs out.

    Args:
        model: one with the methods of :class:`gbw_d2.modeling.protocol.SegmentationModel`; it is
            put into evaluation mode.

    Attributes:
        output_names: of what it returns, in that order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()
        with torch.no_grad():
            # Only running it tells which outputs a network has.
            example = torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device)
            self.output_names = list(model.export_outputs(example))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (N, 3, H, W) float32, 0..255, to (N, C, H, W) of each output."""
        outputs = self.model.export_outputs(images)
        return tuple(outputs[name] for name in self.output_names)
