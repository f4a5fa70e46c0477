"""Both decoders of Mask2Former as one module, and their construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gbw_d2.errors import UserError
from gbw_d2.modeling.mask2former.decoder import (
    DecoderSettings,
    MaskedAttentionDecoder,
    QueryPredictions,
)
from gbw_d2.modeling.mask2former.pixel_decoder import PixelDecoder, PixelDecoderSettings
from gbw_d2.modeling.protocol import Features


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
        return self.decoder(*self.pixel_decoder([features[name] for name in self.in_features]))


def build_mask_head(settings: Any, shape: Mapping[str, Any], num_classes: int) -> MaskHead:
    """Builds the decoders of ``MODEL.MASK2FORMER``.

    Args:
        settings: the config node.
        shape: shapes of the encoder's maps by name.
        num_classes: K.

    Raises:
        UserError: fewer than two maps are named, or the encoder lacks one of them.
    """
    names = settings.IN_FEATURES
    missing = [name for name in names if name not in shape]
    if missing or len(names) < 2:
        raise UserError(
            f"MODEL.MASK2FORMER.IN_FEATURES is {list(names)}; expected two or more maps of the "
            f"encoder, which gives {', '.join(shape)}"
        )
    channels = settings.HIDDEN_DIM
    pixel_decoder = PixelDecoder(
        [shape[name].channels for name in names],
        PixelDecoderSettings(
            channels,
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
            channels,
            settings.DECODER_LAYERS,
            settings.NUM_HEADS,
            settings.DECODER_FEEDFORWARD,
            settings.DROPOUT,
        ),
    )
    return MaskHead(names, pixel_decoder, decoder)
