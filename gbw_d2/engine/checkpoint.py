"""Checkpoints of tensors and plain Python data, written atomically and checked when loaded."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.composition import ConfigError
from gbw_d2.data.formats.files import few
from gbw_d2.engine.class_transfer import LABEL_SPACE, difference, last_checkpoint, with_shared_rows
from gbw_d2.engine.initial_weights import InitialWeightsError, fit_names
from gbw_d2.engine.zoo_pickle import read_zoo_pickle
from gbw_d2.errors import UserError
from gbw_d2.files.archives import check_archive
from gbw_d2.files.atomic import replacing, write_atomically
from gbw_d2.label_spaces import space_from_dict
from gbw_d2.modeling.backbones.pretrained import envelope, first_line, unusable

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

# The errors of pickle and PyTorch for files that are damaged or of another kind.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


class CheckpointError(UserError):
    """A checkpoint is missing, cannot be read or written, or does not fit the network."""


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with atomic writing and errors instead of warnings.

    Attributes:
        strict: whether the file must hold the whole network and everything else that is
            checkpointed (resuming, evaluation), or may hold a part of it (ImageNet weights).
        trust: whether a file may execute code that it contains.
        entries: further entries of every checkpoint; on resuming they are passed to
            ``check_entries``.
        reinitialise: whether layers of another shape are initialised anew, and a classifier of
            other classes keeps the rows of the classes in common (MODEL.REINITIALISE_MISMATCHED).
        why_whole: why initial weights must hold all parameters of the network, and what to do, or
            "" if a part of them, such as an encoder's, is enough.
    """

    strict = False
    trust = False
    reinitialise = False
    why_whole = ""
    entries: Mapping[str, Any] = MappingProxyType({})
    check_entries: Callable[[Mapping[str, Any]], None] | None = None

    def save(self, name: str, last: bool = True, **kwargs: Any) -> None:
        """Writes ``name``.pth under a temporary name, renames it, then tags it as the last one.

        Args:
            name: file name without suffix.
            last: whether ``--resume`` continues from it.
            kwargs: further entries.

        Raises:
            CheckpointError: it cannot be written; existing files are unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **self.entries, **kwargs}
        space = getattr(self.model, "label_space", None)
        if space is not None:
            data[LABEL_SPACE] = space.as_dict()
        data |= {key: thing.state_dict() for key, thing in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            with replacing(path, alone=True) as temporary:
                torch.save(data, temporary)
            if last:
                self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:
            # A full disk appears as a RuntimeError of PyTorch's archive writer.
            raise CheckpointError(
                f"checkpoint '{path}' could not be written ({error}); make room on the disk and "
                "go on from the one before with --resume"
            ) from error
        self.logger.info("Saved checkpoint %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name of the newest checkpoint into ``last_checkpoint``, atomically."""
        write_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def leave_out_damaged(self) -> None:
        """Tags the newest complete checkpoint as the last one if the tagged one is truncated.

        An interrupted copy, or a disk that lost its last writes, leaves a truncated file. If no
        older checkpoint is complete, the tag is kept, and loading reports the error in the file.
        """
        if comm.is_main_process() and self.has_checkpoint():
            last = Path(self.get_checkpoint_file())
            older = sorted(last.parent.glob("model_[0-9]*.pth"), reverse=True)
            whole = next((path for path in older if path != last and _is_whole(path)), None)
            if last.is_file() and not _is_whole(last) and whole is not None:
                self.logger.warning(
                    "Checkpoint '%s' is truncated; resuming from the one before it, %s",
                    last,
                    whole.name,
                )
                self.tag_last_checkpoint(whole.name)
        comm.synchronize()

    def get_checkpoint_file(self) -> str:
        """Returns the file that ``last_checkpoint`` names, or "" if there is none."""
        last = last_checkpoint(Path(self.save_dir))
        return "" if last is None else str(last)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint.

        Raises:
            CheckpointError: the file does not exist, cannot be read, or would execute code; it has
                a tensor of another shape or no tensor of this network; or (strict) a tensor is
                missing.
        """
        if not path:
            return super().load(path, *args, **kwargs)
        try:
            local = self.path_manager.get_local_path(path)
        except OSError as error:
            raise CheckpointError(
                f"weights '{path}' could not be fetched ({error}); download them by other means "
                "and set MODEL.WEIGHTS to the file, or to '' to train from scratch"
            ) from error
        if not os.path.isfile(local):
            raise _absent(path)
        try:
            return super().load(local, *args, **kwargs)
        except (CheckpointError, InitialWeightsError) as error:
            raise CheckpointError(f"weights '{path}': {error}") from error
        except ConfigError:
            # The error of comparing the configs, which is already complete.
            raise
        except _UNREADABLE as error:
            # Optimiser and weighting schemes check the state that they restore.
            raise CheckpointError(
                f"weights '{path}' are damaged or were written by a run with other settings, so "
                f"--resume cannot go on from them: {first_line(error)}"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            if filename.endswith(".pkl") and not self.trust:
                loaded = read_zoo_pickle(filename)
            elif filename.endswith((".pkl", ".pyth")):
                loaded = super()._load_file(filename)
            else:
                check_archive(filename)
                loaded = torch.load(filename, map_location="cpu", weights_only=not self.trust)
        except (*_UNREADABLE, AssertionError, OSError) as error:
            raise CheckpointError(_why_unreadable(error)) from error
        if isinstance(loaded, Mapping):
            inside = envelope(loaded)
            if inside is not loaded:
                loaded = {**loaded, "model": inside}
            elif "model" not in loaded:
                loaded = {"model": loaded}
        _check_content(loaded)
        return dict(loaded)

    def _load_model(self, checkpoint: Any) -> Any:
        done = checkpoint.get("iteration", -1)
        if self.strict and (type(done) is not int or not -1 <= done < 1 << 53):
            raise CheckpointError(f"its entry 'iteration' is {done!r}, expected a whole number")
        if self.strict and self.check_entries is not None:
            self.check_entries(checkpoint)
        absent = [key for key in self.checkpointables if key not in checkpoint]
        if self.strict and absent:
            raise CheckpointError(
                f"the checkpoint lacks {', '.join(absent)}, so it was written by a run with "
                "another strategy or weighting (UDA.NAME, WEIGHTING.*)"
            )
        if not self.strict:
            fit_names(self.model, checkpoint)
        self._meet_classes(checkpoint)
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes and self.reinitialise and not self.strict:
            names = ", ".join(key for key, _, _ in incompatible.incorrect_shapes)
            self.logger.warning("Started anew, since their shapes differ: %s", names)
        elif incompatible.incorrect_shapes:
            shapes = [
                f"{key}: file {tuple(found)}, network {tuple(expected)}"
                for key, found, expected in incompatible.incorrect_shapes
            ]
            raise CheckpointError(
                "the checkpoint is of another network (DATASETS.LABEL_SPACE or MODEL.* differ); "
                "MODEL.REINITIALISE_MISMATCHED True starts these layers anew: " + few(shapes, 10)
            )
        missing, all_keys = incompatible.missing_keys, self.model.state_dict()
        parameters = [name for name, _ in self.model.named_parameters()]
        random = [name for name in parameters if name in set(missing)]
        if random and self.why_whole:
            raise CheckpointError(
                f"{len(random)} of the {len(parameters)} parameters of this network are not taken "
                f"from it, the first of them {random[0]}; {self.why_whole}"
            )
        if missing and (self.strict or len(missing) == len(all_keys)):
            raise CheckpointError(
                f"the checkpoint lacks {len(missing)} of the {len(all_keys)} tensors of this "
                f"network, the first of them {missing[0]}; is it of another architecture?"
            )
        return incompatible

    def _meet_classes(self, checkpoint: dict[str, Any]) -> None:
        """Compares the classes of a checkpoint, if it names any, with those of the network."""
        ours = getattr(self.model, "label_space", None)
        if LABEL_SPACE not in checkpoint or ours is None:
            return
        theirs = space_from_dict(checkpoint[LABEL_SPACE])
        differ = difference(theirs, ours)
        if not differ:
            return
        if self.strict or not self.reinitialise:
            remedy = (
                "use its own classes (DATASETS.LABEL_SPACE)"
                if self.strict
                else "MODEL.REINITIALISE_MISMATCHED True keeps what both share and starts the rest "
                "anew"
            )
            raise CheckpointError(f"the checkpoint is of other classes: {differ}; {remedy}")
        self.logger.warning("The checkpoint is of other classes: %s", differ)
        class_rows = getattr(self.model, "class_rows", {})
        checkpoint["model"] = with_shared_rows(
            checkpoint["model"], self.model.state_dict(), theirs, ours, class_rows
        )


def _is_whole(path: Path) -> bool:
    """Returns whether a checkpoint has its archive directory, which is written last."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (OSError, zipfile.BadZipFile):
        return False


def look_for_weights(path: str) -> None:
    """Checks that a file of weights exists; addresses ("://") are not checked.

    Raises:
        CheckpointError: it does not exist.
    """
    if "://" not in path and not os.path.isfile(path):
        raise _absent(path)


def _absent(path: str) -> CheckpointError:
    return CheckpointError(
        f"weights '{path}' do not exist; set MODEL.WEIGHTS to a file, or to '' for none "
        "(--resume takes the one that OUTPUT_DIR/last_checkpoint names)"
    )


def scored_weights(cfg: Any, resume: bool) -> str:
    """Returns the checkpoint that --eval-only evaluates, or "" if there is none.

    Args:
        cfg: the config.
        resume: whether the last checkpoint of OUTPUT_DIR takes precedence over MODEL.WEIGHTS.
    """
    last = last_checkpoint(Path(cfg.OUTPUT_DIR)) if resume else None
    return str(cfg.MODEL.WEIGHTS if last is None else last)


def _why_unreadable(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return (
            f"it holds more than weights: it asks for {asked[1]}, which may run code. If you trust "
            "its source, MODEL.TRUST_WEIGHTS True loads it anyway"
        )
    reason = first_line(error)
    return (
        f"it is damaged, or no file of weights ({reason}). Copy or download it again; to resume, "
        "write the name of an older checkpoint into OUTPUT_DIR/last_checkpoint"
    )


def _check_content(loaded: Any) -> None:
    weights = loaded.get("model") if isinstance(loaded, Mapping) else loaded
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            f"it holds a {type(weights).__name__} in place of the weights; expected a dictionary "
            "of names and tensors, alone or as its entry 'model'"
        )
    for name, value in weights.items():
        numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        if not isinstance(name, str) or not (numbers or isinstance(value, torch.Tensor)):
            raise CheckpointError(
                f"its entry {name!r} is a {type(value).__name__}, expected a tensor; save the "
                "dictionary of names and tensors, alone or as {'model': ...}"
            )
        if problem := unusable(value):
            raise CheckpointError(f"its entry {name!r} {problem}")
