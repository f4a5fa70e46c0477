"""Both decoders of Mask2Former as one module, and their construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gbw_d2.errors import UserError
from gbw_d2.modeling.capabilities import ClassRows
from gbw_d2.modeling.mask2former.decoder import (
    DecoderSettings,
    MaskedAttentionDecoder,
    QueryPredictions,
)
from gbw_d2.modeling.mask2former.pixel_decoder import (
    GROUPS,
    PixelDecoder,
    PixelDecoderSettings,
)
from gbw_d2.modeling.protocol import Features

# The queries' classifier, with "no object" last.
QUERY_ROWS = {"decoder.classifier": ClassRows(more=1)}


class MaskHead(nn.Module):
    """Pixel decoder and transformer decoder on the maps of an encoder.

    Args:
        in_features: names of the maps, the finest first.
        pixel_decoder: the pixel decoder.
        decoder: the transformer decoder.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        pixel_decoder: PixelDecoder,
        decoder: MaskedAttentionDecoder,
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder

    def forward(self, features: Features) -> QueryPredictions:
        """Runs both on feature maps by name."""
        maps = [features[name] for name in self.in_features]
        if any(isinstance(side, torch.SymInt) for side in maps[0].shape):
            raise UserError(
                "the places that deformable attention looks at follow from the images' size; "
                "export a mask classifier for one size and number of images, without --dynamic"
            )
        return self.decoder(*self.pixel_decoder(maps))


def build_mask_head(settings: Any, shape: Mapping[str, Any], num_classes: int) -> MaskHead:
    """Builds the decoders of ``MODEL.MASK2FORMER``.

    Args:
        settings: the config node.
        shape: shapes of the encoder's maps by name.
        num_classes: K.

    Raises:
        UserError: fewer than two maps are named, the encoder lacks one, or their order is not from
            fine to coarse; or the width does not divide.
    """
    names = settings.IN_FEATURES
    width, heads = settings.HIDDEN_DIM, settings.NUM_HEADS
    if width % GROUPS or width % heads:
        raise UserError(
            f"MODEL.MASK2FORMER.HIDDEN_DIM is {width}; expected a multiple of {GROUPS}, the groups "
            f"of its norms, and of NUM_HEADS {heads}"
        )
    missing = [name for name in names if name not in shape]
    if missing or len(names) < 2:
        raise UserError(
            f"MODEL.MASK2FORMER.IN_FEATURES is {list(names)}; expected two or more maps of the "
            f"encoder, which gives {', '.join(shape)}"
        )
    strides = [shape[name].stride for name in names]
    # A dilated encoder has two maps of one stride.
    if strides != sorted(strides):
        raise UserError(
            f"MODEL.MASK2FORMER.IN_FEATURES is {list(names)}, of strides {strides}; expected maps "
            "from fine to coarse"
        )
    pixel_decoder = PixelDecoder(
        [shape[name].channels for name in names],
        PixelDecoderSettings(
            width,
            settings.ENCODER_LAYERS,
            settings.NUM_HEADS,
            settings.ENCODER_POINTS,
            settings.ENCODER_FEEDFORWARD,
            settings.DROPOUT,
        ),
    )
    decoder = MaskedAttentionDecoder(
        num_classes,
        len(names) - 1,
        DecoderSettings(
            settings.NUM_QUERIES,
            width,
            settings.DECODER_LAYERS,
            settings.NUM_HEADS,
            settings.DECODER_FEEDFORWARD,
            settings.DROPOUT,
        ),
    )
    return MaskHead(names, pixel_decoder, decoder)
