"""Swin's shifted windows on maps of any size, as the official code has them.

Liu et al., ICCV 2021; reference: mask2former/modeling/backbone/swin.py of
facebookresearch/Mask2Former 9b0651c, class SwinTransformerBlock.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from torch import Tensor, nn


class _PadThenShift:
    """Pads a map to whole windows before it is shifted.

    timm shifts first (findings/timm_swin_shift_then_pad.sh). The mask of the attention stands for a
    padded map that was shifted, so there it lets the first rows and columns attend to the last.
    """

    window_size: tuple[int, int]

    def _padded(self, attention: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        rows, columns = x.shape[1:3]
        high, wide = self.window_size
        padded = F.pad(x, (0, 0, 0, -columns % wide, 0, -rows % high))
        return attention(padded)[:, :rows, :columns]


class _Block(_PadThenShift, SwinTransformerBlock):  # type: ignore[misc]
    def _attn(self, x: Tensor) -> Tensor:
        return self._padded(super()._attn, x)


class _BlockV2(_PadThenShift, SwinTransformerV2Block):  # type: ignore[misc]
    def _attn(self, x: Tensor) -> Tensor:
        return self._padded(super()._attn, x)


class _BlockV2Cr(_PadThenShift, SwinTransformerV2CrBlock):  # type: ignore[misc]
    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        return self._padded(super()._shifted_window_attn, x)


_PADDED = {
    SwinTransformerBlock: _Block,
    SwinTransformerV2Block: _BlockV2,
    SwinTransformerV2CrBlock: _BlockV2Cr,
}


def pad_then_shift(encoder: nn.Module) -> nn.Module:
    """Lets all shifted windows of one of timm's encoders pad first, in place; others stay."""
    for module in encoder.modules():
        module.__class__ = _PADDED.get(type(module), type(module))
    return encoder
