"""The transformer decoder: queries that attend within their own masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbw_d2.modeling.mask2former.positions import sine_positions


@dataclass(frozen=True)
class DecoderSettings:
    """Sizes of the transformer decoder.

    Args:
        queries: number of queries, the maximum number of segments of an image.
        channels: channels of queries, levels and mask features.
        layers: number of layers.
        heads: number of attention heads.
        feedforward: channels inside the feed-forward parts.
        dropout: dropout probability, 0..1.
    """

    queries: int = 100
    channels: int = 256
    layers: int = 9
    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.0


@dataclass(frozen=True)
class QueryPredictions:
    """The queries' predictions before the first and after each of the L - 1 layers, in this order.

    Attributes:
        embeddings: (L, N, Q, C), the input of the classifier.
        classes: (L, N, Q, K + 1) logits, "no object" last.
        masks: L tensors (N, Q, h, w) of logits, at the mask features' resolution.
    """

    embeddings: Tensor
    classes: Tensor
    masks: tuple[Tensor, ...]

    def last(self) -> list[tuple[Tensor, Tensor]]:
        """Returns class logits (Q, K + 1) and mask logits (Q, h, w) of each image."""
        return list(zip(self.classes[-1], self.masks[-1], strict=True))


class Attention(nn.Module):
    """Attention with several heads, whose inputs may differ for keys and values.

    Args:
        channels: channels of all inputs and of the output.
        heads: number of heads, among which channels are divided.
        dropout: dropout probability of the attention weights, 0..1.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.output = (
            nn.Linear(channels, channels) for _ in range(4)
        )
        for linear in (self.query, self.key, self.value, self.output):
            # The authors' code initialises the first three as one matrix with three times the rows.
            nn.init.xavier_uniform_(linear.weight, 1.0 if linear is self.output else 0.5**0.5)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        """Computes the attention.

        Args:
            query: (N, Q, C).
            key: (N, T, C).
            value: (N, T, C).
            allowed: (N, Q, T) bool, None for everywhere.
        """
        parts = (
            linear(each).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, each in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = None if allowed is None else allowed.unsqueeze(1)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(*parts, attn_mask=mask, dropout_p=dropout)
        return self.output(attended.transpose(1, 2).flatten(2))


class _DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, a feed-forward part, in this order (3.2.1)."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        channels, dropout = settings.channels, settings.dropout
        self.cross = Attention(channels, settings.heads, dropout)
        self.cross_norm = nn.LayerNorm(channels)
        self.among = Attention(channels, settings.heads, dropout)
        self.among_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, settings.feedforward)
        self.contract = nn.Linear(settings.feedforward, channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, queries: Tensor, codes: Tensor, keys: Tensor, values: Tensor, allowed: Tensor
    ) -> Tensor:
        found = self.cross(queries + codes, keys, values, allowed)
        queries = self.cross_norm(queries + self.dropout(found))
        asking = queries + codes
        found = self.among(asking, asking, queries, None)
        queries = self.among_norm(queries + self.dropout(found))
        inside = self.dropout(F.relu(self.expand(queries)))
        return self.feedforward_norm(queries + self.dropout(self.contract(inside)))


class MaskedAttentionDecoder(nn.Module):
    """The transformer decoder of Mask2Former (section 3.2; mask2former_transformer_decoder.py).

    Args:
        num_classes: K.
        levels: feature maps that the layers attend to in turn, the coarsest first.
        settings: sizes.
    """

    def __init__(self, num_classes: int, levels: int, settings: DecoderSettings) -> None:
        super().__init__()
        channels = settings.channels
        self.query_content = nn.Embedding(settings.queries, channels)
        self.query_codes = nn.Embedding(settings.queries, channels)
        self.level_codes = nn.Embedding(levels, channels)
        self.layers = nn.ModuleList(_DecoderLayer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes + 1)
        self.mask_embedder = nn.Sequential(
            *(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()),
            nn.Linear(channels, channels),
        )

    def forward(self, mask_features: Tensor, levels: Sequence[Tensor]) -> QueryPredictions:
        """Decodes.

        Args:
            mask_features: (N, C, h, w).
            levels: (N, C, h_i, w_i), the coarsest first.
        """
        values, keys = [], []
        for level, code in zip(levels, self.level_codes.weight, strict=True):
            channels, height, width = level.shape[1:]
            place = sine_positions(height, width, channels, level.device).flatten(1).t()
            values.append(level.flatten(2).transpose(1, 2) + code)
            keys.append(values[-1] + place)
        queries = self.query_content.weight.expand(len(mask_features), -1, -1)
        codes = self.query_codes.weight
        embeddings = [self.norm(queries)]
        masks = [self._masks(embeddings[0], mask_features)]
        for number, layer in enumerate(self.layers):
            place = number % len(levels)
            allowed = _inside(masks[-1], (levels[place].shape[-2], levels[place].shape[-1]))
            queries = layer(queries, codes, keys[place], values[place], allowed)
            embeddings.append(self.norm(queries))
            masks.append(self._masks(embeddings[-1], mask_features))
        stacked = torch.stack(embeddings)
        return QueryPredictions(stacked, self.classifier(stacked), tuple(masks))

    def _masks(self, embeddings: Tensor, mask_features: Tensor) -> Tensor:
        return torch.einsum("nqc,nchw->nqhw", self.mask_embedder(embeddings), mask_features)


@torch.no_grad()
def _inside(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns (N, Q, T) bool, where a query may attend: in its mask, or everywhere if it is empty.

    The reference resizes logits and compares their sigmoid with 0.5 (equation 3 of the paper). In
    float32 the sigmoid of -5e-8 is 0.5, so comparing logits with 0 would not be the same.
    """
    resized = F.interpolate(masks.detach(), size=size, mode="bilinear", align_corners=False)
    inside = resized.flatten(2).sigmoid() >= 0.5
    return inside | ~inside.any(dim=2, keepdim=True)
