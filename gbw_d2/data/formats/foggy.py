"""Foggy Cityscapes: ``leftImg8bit_foggy`` beside Cityscapes' ``gtFine``, whose labels it shares."""

from __future__ import annotations

from gbw_d2.data.formats.cityscapes import ImageFiles

# Attenuation per metre, part of the file names: visibility of 600, 300 and 150 m. Published tables
# use 0.02.
BETAS = ("0.005", "0.01", "0.02")


def foggy_images(beta: str) -> ImageFiles:
    """Returns the location of the images of one fog density.

    Args:
        beta: one of :data:`BETAS`.
    """
    return ImageFiles(
        folder="leftImg8bit_foggy",
        suffix=f"_leftImg8bit_foggy_beta_{beta}.png",
        hint=(
            "Expected Foggy Cityscapes' leftImg8bit_foggy beside Cityscapes' gtFine; "
            "datasets/README.md shows where the files go (DETECTRON2_DATASETS moves the root), and "
            "`python datasets/prepare_foggy_cityscapes.py --check` checks them."
        ),
    )
