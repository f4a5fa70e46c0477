"""Any encoder of timm as a Detectron2 backbone; timm is imported when one is built."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.errors import UserError
from gbw_d2.modeling.backbones.batch_norm import batch_norms, batch_to_group_norm, groups_for
from gbw_d2.modeling.backbones.pretrained import hub_weights, load_encoder, read_weights
from gbw_d2.modeling.backbones.timm_encoder import EncoderMap, TimmEncoder, create_encoder
from gbw_d2.modeling.backbones.vit_pyramid import VitPyramid

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

logger = logging.getLogger(__name__)

# The names of Detectron2's ResNet outputs, so that every head's IN_FEATURES fit.
NAME_OF_STRIDE = {2: "stem", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}
NORMS = ("auto", "FrozenBN", "GN")
OUTPUT_NORMS = ("", "final", "LN")
_DETAIL_CHANNELS = 32


class _ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DetailStem(nn.Sequential):
    """A convolution of stride 2 on the images, for heads that need a finer map than the encoder
    has.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(groups_for(channels), channels),
            nn.ReLU(),
        )


class TimmBackbone(Backbone):
    """An encoder of timm with maps by name, of ceil(rows / stride) x ceil(columns / stride).

    Images of sizes that the encoder does not accept are padded with 0, the mean colour, at the
    bottom and right, and the maps are cropped accordingly. Batch norms are frozen: their statistics
    never change in any mode.

    Args:
        encoder: the result of ``create_encoder``.
        indices: indices of the encoder's maps to use.
        keys: the config's ``MODEL.TIMM`` node.
        trust_weights: whether PRETRAINED may be a pickle that executes code.
        other_weights: whether MODEL.WEIGHTS names a file, which may also hold the encoder.
        with_detail: whether to add a map of stride 2, computed from the images.

    Attributes:
        steps_from_output: number of layers between each of the encoder's parameters, by name, and
            the output, for layer-wise learning rates.
        adapters: names of parts outside the encoder, which always start from random weights.
        undecayed: names of position tables, class tokens and layer scales.
    """

    def __init__(
        self,
        encoder: TimmEncoder,
        indices: Sequence[int],
        keys: Any,
        trust_weights: bool = False,
        other_weights: bool = False,
        with_detail: bool = False,
    ) -> None:
        super().__init__()
        self.timm_name, self.timm_arguments = keys.NAME, encoder.arguments
        self.pretrained, self.trust_weights = keys.PRETRAINED or False, trust_weights
        self.other_weights = other_weights
        self.size_multiple = encoder.size_multiple
        self.final_norm = keys.OUTPUT_NORM == "final"
        self.encoder = encoder.module
        self.indices = list(
            self.encoder.prune_intermediate_layers(
                list(indices), prune_norm=not self.final_norm, prune_head=True
            )
        )
        frozen = _frozen_names(self.encoder, keys.FREEZE_STAGES)
        layers = _groups(self.encoder, coarse=False)
        _settle_batch_norm(self.encoder, keys)
        maps = [encoder.maps[index] for index in indices]
        self.pyramid: VitPyramid | None = None
        if encoder.is_plain:
            strides = _pyramid_strides(patch := maps[0].stride)
            steps_up = [patch.bit_length() - stride.bit_length() for stride in strides]
            self.pyramid = VitPyramid(maps[0].channels, keys.PYRAMID_CHANNELS, steps_up)
            maps = [
                EncoderMap(level, keys.PYRAMID_CHANNELS, stride)
                for level, stride in enumerate(strides)
            ]
        self.shapes = {
            _map_name(keys.NAME, m): ShapeSpec(channels=m.channels, stride=m.stride) for m in maps
        }
        self.detail = DetailStem(_DETAIL_CHANNELS) if with_detail else None
        self.output_norms = nn.ModuleDict(
            {name: _ChannelNorm(shape.channels) for name, shape in self.shapes.items()}
            if keys.OUTPUT_NORM == "LN"
            else {}
        )
        for name, parameter in self.encoder.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        last = max(layers.values())
        self.steps_from_output = {f"encoder.{n}": last - layer for n, layer in layers.items()}
        self.undecayed = frozenset(f"encoder.{n}" for n in _undecayed_names(self.encoder))
        self.adapters = frozenset(
            name for name, _ in self.named_parameters() if not name.startswith("encoder.")
        )
        # Frozen from the start, even if no mode is set before the first image.
        self.train(self.training)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns channels and stride of each map by name."""
        if self.detail is None:
            return dict(self.shapes)
        return {"stem": ShapeSpec(channels=_DETAIL_CHANNELS, stride=2), **self.shapes}

    def train(self, mode: bool = True) -> TimmBackbone:
        """Sets the mode of all modules except batch norms, which stay in evaluation mode."""
        super().train(mode)
        for norm in batch_norms(self.encoder):
            norm.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W) to maps (N, C, ceil(H / stride), ceil(W / stride))."""
        rows, columns = images.shape[-2:]
        multiple = self.size_multiple
        padded = F.pad(images, (0, -columns % multiple, 0, -rows % multiple))
        # timm removes prefix tokens and converts NHWC.
        maps = self.encoder.forward_intermediates(
            padded,
            indices=self.indices,
            norm=self.final_norm,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        features = {} if self.detail is None else {"stem": self.detail(images)}
        for (name, shape), found in zip(self.shapes.items(), maps, strict=True):
            cut = found[..., : -(-rows // shape.stride), : -(-columns // shape.stride)]
            features[name] = self.output_norms[name](cut) if self.output_norms else cut
        return features

    def load_pretrained(self) -> None:
        """Loads the weights of MODEL.TIMM.PRETRAINED: none, timm's own weights, or a file.

        Raises:
            UserError: the weights are not available, belong to another encoder, or batch norms are
                frozen without any weights.
        """
        if self.pretrained is False:
            if batch_norms(self.encoder) and not self.other_weights:
                raise UserError(
                    f"MODEL.TIMM.NORM FrozenBN with random weights: '{self.timm_name}' would "
                    "normalise by statistics of nothing; set MODEL.TIMM.PRETRAINED, or NORM to GN"
                )
            return
        if self.pretrained is True:
            state, source = hub_weights(self.timm_name, self.timm_arguments), self.timm_name
        else:
            state, source = read_weights(self.pretrained, self.trust_weights), self.pretrained
        logger.info(load_encoder(self.encoder, state, source))


def _settle_batch_norm(encoder: nn.Module, keys: Any) -> None:
    norm = keys.NORM
    if norm == "auto":
        # Statistics belong to the weights of the same file; random weights have none.
        norm = "FrozenBN" if keys.PRETRAINED else "GN"
    if norm == "GN":
        batch_to_group_norm(encoder)
    for module in batch_norms(encoder):
        module.requires_grad_(keys.TRAIN_AFFINE)


def _groups(encoder: nn.Module, coarse: bool) -> dict[str, int]:
    from timm.models import group_parameters

    return group_parameters(encoder, encoder.group_matcher(coarse=coarse), reverse=True)


def _frozen_names(encoder: nn.Module, stages: int) -> set[str]:
    if not stages:
        return set()
    # 1 = the stem, 2 = with the first stage, as BACKBONE.FREEZE_AT counts.
    return {name for name, stage in _groups(encoder, coarse=True).items() if stage < stages}


def _undecayed_names(encoder: nn.Module) -> set[str]:
    named = set(encoder.no_weight_decay()) if hasattr(encoder, "no_weight_decay") else set()
    # A parameter with one axis that is neither a bias nor in a norm is a layer scale.
    scales = {
        name
        for name, parameter in encoder.named_parameters()
        if parameter.ndim == 1 and name.rpartition(".")[2] not in ("weight", "bias")
    }
    return {name for name, _ in encoder.named_parameters()} & (named | scales)


def _map_name(encoder: str, found: EncoderMap) -> str:
    if found.stride not in NAME_OF_STRIDE:
        raise UserError(
            f"MODEL.TIMM.NAME '{encoder}' gives a map of stride {found.stride}, heads read strides "
            f"{', '.join(map(str, NAME_OF_STRIDE))}; choose others by MODEL.TIMM.OUT_INDICES"
        )
    return NAME_OF_STRIDE[found.stride]


def _pyramid_strides(patch: int) -> list[int]:
    return [stride for stride in NAME_OF_STRIDE if stride >= patch // 4]


def _chosen(encoder: TimmEncoder, keys: Any) -> list[int]:
    """Returns the indices of the maps that MODEL.TIMM.OUT_INDICES names, in order."""
    count, wanted = len(encoder.maps), [int(index) for index in keys.OUT_INDICES]
    if any(not -count <= index < count for index in wanted):
        raise UserError(
            f"MODEL.TIMM.OUT_INDICES is {tuple(wanted)}, but '{keys.NAME}' has {count} maps, 0 to "
            f"{count - 1}"
        )
    indices = sorted({index % count for index in wanted})
    if encoder.is_plain:
        indices = indices or [count - 1]
        if encoder.maps[0].stride not in (8, 16):
            raise UserError(
                f"MODEL.TIMM.NAME '{keys.NAME}' has patches of {encoder.maps[0].stride} pixels, "
                "but its pyramid needs 8 or 16; MODEL.TIMM.ARGS {patch_size: 16} resamples patches "
                "and positions when weights are loaded"
            )
        levels = len(_pyramid_strides(encoder.maps[0].stride))
        if len(indices) not in (1, levels):
            raise UserError(
                f"MODEL.TIMM.OUT_INDICES is {tuple(wanted)}; the pyramid of '{keys.NAME}' takes "
                f"one block for all levels, or {levels}, one for each"
            )
        return indices
    if not indices:
        # The last map of each stride that has a name.
        last = {m.stride: m.index for m in encoder.maps if m.stride in NAME_OF_STRIDE}
        indices = sorted(last.values())
    strides = {encoder.maps[index].stride for index in indices}
    if len(strides) < 3 or len(strides) < len(indices):
        given = ", ".join(str(encoder.maps[index].stride) for index in indices)
        raise UserError(
            f"MODEL.TIMM.NAME '{keys.NAME}' with OUT_INDICES {tuple(wanted)} gives maps of strides "
            f"{given}; heads need each stride once and three at the least (it has "
            f"{', '.join(str(each.stride) for each in encoder.maps)})"
        )
    return indices


def _check_keys(keys: Any) -> None:
    for key, known in (("NORM", NORMS), ("OUTPUT_NORM", OUTPUT_NORMS)):
        if keys[key] not in known:
            near = difflib.get_close_matches(keys[key], known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(
                f"MODEL.TIMM.{key} is '{keys[key]}', expected one of "
                f"{', '.join(repr(name) for name in known)}{hint}"
            )
    if not isinstance(keys.PRETRAINED or False, bool | str):
        raise UserError(
            f"MODEL.TIMM.PRETRAINED is {keys.PRETRAINED!r}; expected False, True for timm's own "
            "weights, or a file"
        )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: Any, input_shape: ShapeSpec) -> TimmBackbone:
    """Builds ``MODEL.TIMM.NAME`` with random weights; ``load_pretrained`` loads others.

    Args:
        cfg: reads ``MODEL.TIMM`` (see config.py) and ``MODEL.TRUST_WEIGHTS``.
        input_shape: channels of the image.

    Raises:
        UserError: an unknown name, an encoder without spatial maps, or keys that do not fit the
            encoder.
    """
    keys = cfg.MODEL.TIMM
    _check_keys(keys)
    arguments = {**keys.ARGS}
    if input_shape.channels != 3:
        arguments["in_chans"] = input_shape.channels
    encoder = create_encoder(keys.NAME, arguments)
    if keys.OUTPUT_NORM == "final" and not encoder.is_plain:
        raise UserError(
            f"MODEL.TIMM.OUTPUT_NORM is 'final', but the maps of '{keys.NAME}' have several widths "
            "and its last norm only one; 'LN' gives each map a norm of its own"
        )
    indices = _chosen(encoder, keys)
    # Heads for small images need stride 2, but transformers begin with stride 4.
    read = {*cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, *cfg.MODEL.INS_EMBED_HEAD.IN_FEATURES}
    has_stem = any(encoder.maps[index].stride == 2 for index in indices) or (
        encoder.is_plain and encoder.maps[0].stride <= 8
    )
    backbone = TimmBackbone(
        encoder,
        indices,
        keys,
        trust_weights=cfg.MODEL.TRUST_WEIGHTS,
        other_weights=bool(cfg.MODEL.WEIGHTS),
        with_detail="stem" in read and not has_stem,
    )
    if keys.CHECKPOINTING:
        try:
            backbone.encoder.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"MODEL.TIMM.CHECKPOINTING is True, but '{keys.NAME}' has no checkpointing; set it "
                "to False"
            ) from error
    return backbone
