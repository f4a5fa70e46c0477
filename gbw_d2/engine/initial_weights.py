"""Maps the tensor names of MODEL.WEIGHTS to those of the network, and checks the coverage.

Tensors under unknown names would not be loaded, and training would silently start from random
weights: other code counts the buffers of frozen batch norms as found weights. So the encoder's
parameters are counted here, and finding fewer than 90 % of them is an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.modeling.backbones.key_maps import KEY_MAPS, KeyMap, State
from gbw_d2.modeling.backbones.pretrained import MIN_COVERAGE, Coverage, choose, coverage, unwrap
from gbw_d2.modeling.backbones.timm_backbone import TimmBackbone

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

logger = logging.getLogger(__name__)

# Prefixes that other projects put before all names of a network.
_AROUND_ALL = ("module.", "_orig_mod.", "model.", "network.")

# Maps names of torchvision's and timm's ResNets to Detectron2's; timm's deep stems (resnet*d) have
# three convolutions, like DeepLab's stem.
_DEEP_STEM = (
    (r"^conv1\.0\.", "stem.conv1."),
    (r"^conv1\.1\.", "stem.conv1.norm."),
    (r"^conv1\.3\.", "stem.conv2."),
    (r"^conv1\.4\.", "stem.conv2.norm."),
    (r"^conv1\.6\.", "stem.conv3."),
    (r"^bn1\.", "stem.conv3.norm."),
)
_PLAIN_STEM = ((r"^conv1\.", "stem.conv1."), (r"^bn1\.", "stem.conv1.norm."))
_BLOCKS = (
    (r"^layer([1-4])\.", lambda found: f"res{int(found[1]) + 1}."),
    (r"\.bn([123])\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def _resnet_of_detectron2(state: State, encoder: nn.Module) -> State:
    stem = _DEEP_STEM if "conv1.0.weight" in state else _PLAIN_STEM
    renamed: State = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in (*stem, *_BLOCKS):
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def _unchanged(state: State, encoder: nn.Module) -> State:
    return state


_DETECTRON2_MAPS = (
    KeyMap("Detectron2's names", _unchanged),
    KeyMap("torchvision's or timm's ResNet", _resnet_of_detectron2),
)


class InitialWeightsError(UserError):
    """MODEL.WEIGHTS holds too few of the encoder's parameters."""


def encoder_of(model: nn.Module) -> tuple[str, nn.Module, tuple[KeyMap, ...]] | None:
    """Finds the encoder of a network: its backbone without pyramids and adapters.

    Returns:
        the prefix of the encoder's names, the encoder, and the known naming schemes of its weights;
        None if the network has no backbone.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return None
    prefix, maps = "backbone.", _DETECTRON2_MAPS
    if isinstance(getattr(backbone, "bottom_up", None), nn.Module):
        prefix, backbone = f"{prefix}bottom_up.", backbone.bottom_up
    if isinstance(backbone, TimmBackbone):
        prefix, backbone, maps = f"{prefix}encoder.", backbone.encoder, KEY_MAPS
    return prefix, backbone, maps


def fit_names(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Renames a checkpoint's weights to a network's names, in place, and checks their coverage.

    Args:
        model: the network; nothing is done for a network without a backbone.
        checkpoint: its entry ``model`` is name -> tensor or array; ``matching_heuristics`` marks
            files of Detectron2's model zoo, whose names Detectron2 matches itself.

    Raises:
        InitialWeightsError: the checkpoint has fewer than 90 % of the encoder's parameters.
    """
    found = encoder_of(model)
    if found is None:
        return
    prefix, encoder, maps = found
    state = _tensors(checkpoint["model"])
    if checkpoint.pop("matching_heuristics", False):
        caffe2 = checkpoint.get("__author__") == "Caffe2"
        state = align_and_update_state_dicts(model.state_dict(), state, c2_conversion=caffe2)
    state = _without_common_prefix(state, model)
    # A network can define the mapping of its authors' names for the whole network.
    state = getattr(model, "renamed_weights", dict)(state)
    covered = coverage(_inside(state, prefix), encoder)
    name = "the network's own names"
    if covered.share < MIN_COVERAGE:
        # Weights outside the encoder that already have the network's names are kept.
        own = model.state_dict().keys()
        beside = {k: v for k, v in state.items() if k in own and not k.startswith(prefix)}
        inside = {k: v for k, v in state.items() if k not in beside}
        name, renamed, other = choose(unwrap(inside), encoder, maps)
        if other.share > covered.share:
            covered = other
            state = {**beside, **{prefix + key: value for key, value in renamed.items()}}
    _check(covered, name)
    checkpoint["model"] = state
    logger.info("Initial weights (%s): %.1f %% of the encoder", name, 100 * covered.share)


def _tensors(state: Mapping[str, Any]) -> State:
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }


def _inside(state: Mapping[str, Tensor], prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _without_common_prefix(state: State, model: nn.Module) -> State:
    own = {name.partition(".")[0] for name in model.state_dict()}
    for prefix in _AROUND_ALL:
        if all(name.startswith(prefix) for name in state) and prefix[:-1] not in own:
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _check(covered: Coverage, name: str) -> None:
    if covered.share < MIN_COVERAGE:
        raise InitialWeightsError(
            f"it holds {covered.share:.0%} of the encoder's parameters, expected "
            f"{MIN_COVERAGE:.0%} or more, so it is of another encoder or naming (nearest: {name}): "
            f"{covered}; set MODEL.WEIGHTS to a file of this encoder, or to '' for none"
        )
