"""Checkpoints of tensors and plain Python, never half-written, that must fit the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError

from detectron2.checkpoint import DetectionCheckpointer


class CheckpointError(UserError):
    """A checkpoint is missing or does not fit the network."""


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with atomic writing and errors instead of warnings.

    Args (besides Detectron2's):
        strict: True where the file must hold the whole network (resuming, evaluation); False
            where it may hold a part of it (ImageNet weights).
    """

    strict = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``name``.pth under a temporary name, renames it, then tags it as the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data |= {key: thing.state_dict() for key, thing in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        temporary = path.with_suffix(".pth.tmp")
        try:
            torch.save(data, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self.tag_last_checkpoint(path.name)
        self.logger.info("Saved checkpoint %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the newest checkpoint in ``last_checkpoint``, atomically."""
        path = Path(self.save_dir) / "last_checkpoint"
        temporary = path.with_name("last_checkpoint.tmp")
        temporary.write_text(last_filename_basename)
        os.replace(temporary, path)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint.

        Raises:
            CheckpointError: no such file, a tensor of another shape, or (strict) a missing one.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise CheckpointError(
                f"weights '{path}' do not exist; set MODEL.WEIGHTS to a file, or to '' for none"
            )
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:
            raise CheckpointError(
                f"weights '{path}' could not be fetched ({error}); download them by other means "
                "and set MODEL.WEIGHTS to the file, or to '' to train from scratch"
            ) from error

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes:
            lines = [
                f"  {key}: file {tuple(found)}, network {tuple(expected)}"
                for key, found, expected in incompatible.incorrect_shapes
            ]
            raise CheckpointError(
                "the checkpoint is of another network (DATASETS.LABEL_SPACE or MODEL.* differ):\n"
                + "\n".join(lines)
            )
        if self.strict and incompatible.missing_keys:
            raise CheckpointError(
                "the checkpoint lacks "
                f"{len(incompatible.missing_keys)} tensors of this network, the first of them "
                f"{incompatible.missing_keys[0]}; is it of another architecture?"
            )
        return incompatible
