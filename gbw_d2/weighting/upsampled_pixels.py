"""A pass over upsampled logits in blocks, which never stores the map at the labels' size."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from gbw_d2.ops.upsampling import BilinearMap, Block
from gbw_d2.weighting.pixels import (
    PixelSoftmax,
    check_pixel_weights,
    chunk_elements,
    compute_dtype,
    label_index,
    split_softmax,
)


@dataclass(frozen=True)
class UpsampledBlock:
    """Some rows of one image at the labels' size.

    Attributes:
        image: number of the image.
        rows: the rows, and those of the low-resolution logits that they are interpolated from.
        index: (rows, 1, W) from ``label_index``.
        exponentials: (rows, K, W) exp(z - top) with 0 at the label.
        softmax: the softmax's other parts, each of shape (rows, 1, W).
    """

    image: int
    rows: Block
    index: Tensor
    exponentials: Tensor
    softmax: PixelSoftmax

    def of(self, pixels: Tensor) -> Tensor:
        """Returns these rows (rows, W) of per-pixel values (N, H, W)."""
        return pixels[self.image, self.rows.out]


def check_upsampled(logits: Tensor, labels: Tensor, pixel_weights: Tensor | None = None) -> None:
    """Checks low-resolution logits (N, K, h, w) and labels (N, H, W) of any other size.

    Raises:
        ValueError: a wrong number of axes, different numbers of images, no pixels, labels that are
            not integers, or pixel weights of another shape than the labels.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and dtype {logits.dtype}; "
            "expected floating point (N, K, h, w)"
        )
    if labels.ndim != 3 or labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; logits of shape {tuple(logits.shape)} "
            f"need labels of shape ({logits.shape[0]}, H, W)"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}; expected integer class ids")
    if labels.numel() == 0 or logits.numel() == 0:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} or labels of shape {tuple(labels.shape)} "
            "hold no pixel"
        )
    check_pixel_weights(pixel_weights, labels)


def kernels_for(logits: Tensor) -> ModuleType | None:
    """Returns the Triton kernels where they can run, on an NVIDIA GPU, else None.

    Blocks and kernels compute the same values; only time and memory differ.
    """
    if logits.device.type != "cuda" or not _can_compile(logits.device):
        return None
    # Triton is slow to import and useless on the CPU.
    from gbw_d2.ops import upsampled_kernels

    return upsampled_kernels


@lru_cache
def _can_compile(device: torch.device) -> bool:
    """Whether Triton is installed, supports the GPU (Volta or later), and finds a C compiler."""
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    return (
        importlib.util.find_spec("triton") is not None
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (7, 0)
        and any(shutil.which(compiler) for compiler in compilers if compiler)
    )


def bilinear_map(logits: Tensor, targets: Tensor) -> BilinearMap:
    """Returns the map from logits (N, K, h, w) to the size of targets (N, H, W)."""
    return BilinearMap(
        (logits.shape[2], logits.shape[3]),
        (targets.shape[1], targets.shape[2]),
        logits.shape[1],
        chunk_elements(logits),
        compute_dtype(logits),
        logits.device,
    )


def upsampled_blocks(
    bilinear: BilinearMap, logits: Tensor, targets: Tensor, shift: Tensor | None
) -> Iterator[UpsampledBlock]:
    """Yields the softmax of bilinearly upsampled logits in blocks, each in newly allocated tensors.

    Args:
        bilinear: from ``bilinear_map``.
        logits: (N, K, h, w), any floating dtype and memory format.
        targets: (N, H, W) int64 from ``prepare_labels``.
        shift: (K,) to add to the logits, or None for 0.
    """
    classes = logits.shape[1]
    for image in range(logits.shape[0]):
        for rows in bilinear:
            source = logits[image, :, rows.source].transpose(0, 1).to(compute_dtype(logits))
            if shift is not None:
                # The interpolation weights sum to 1, so this shifts the upsampled logits.
                source = source + shift.to(source).view(-1, 1)
            index = label_index(targets[image, rows.out], classes)
            upsampled = bilinear.block(source.contiguous(), rows)
            yield UpsampledBlock(image, rows, index, *split_softmax(upsampled, index))
