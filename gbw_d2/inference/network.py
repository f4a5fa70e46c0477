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
    """Checks and freezes a config for inference on ``device``, in place.

    Args:
        cfg: the result of :func:`gbw_d2.config.load_config`, possibly of another machine's
            config.yaml.
        device: ``"auto"`` (cuda if available), ``"cpu"``, ``"cuda:1"`` and so on.
        weights: a checkpoint or a run's OUTPUT_DIR, whose classes are used; then no dataset is
            needed. None if the config's datasets are used.

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
        cfg: a resolved config; MODEL.WEIGHTS is ignored.
        weights: a checkpoint, or a run's OUTPUT_DIR for its last checkpoint.
        which: ``"student"``, or ``"teacher"`` if the checkpoint has one.

    Raises:
        CheckpointError: there is no checkpoint, or it belongs to another network.
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
    """A network as a function of tensors, from images to a tuple of its export outputs.

    Args:
        model: a :class:`gbw_d2.modeling.protocol.SegmentationModel`; it is set to evaluation mode.

    Attributes:
        output_names: names of the outputs, in order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()
        with torch.no_grad():
            # A network's outputs are only known after running it.
            example = torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device)
            self.output_names = list(model.export_outputs(example))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (N, 3, H, W) float32, 0..255, to each of the export outputs."""
        outputs = self.model.export_outputs(images)
        return tuple(outputs[name] for name in self.output_names)
