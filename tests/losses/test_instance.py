from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gbw_d2.losses import center_loss, offset_loss


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    center, heat = torch.randn(2, 1, 5, 6, generator=generator), torch.rand(2, 5, 6)
    offset = torch.randn(2, 2, 5, 6, generator=generator)
    goal = torch.randn(2, 2, 5, 6, generator=generator)
    weights = (torch.rand(2, 5, 6, generator=generator) > 0.4).float()
    return center, heat, offset, goal, weights


def test_by_hand():
    # Errors 1 and 3 at weights 1 and 0: 1. With a third pixel of error 2: (1 + 4) / 2.
    prediction = torch.tensor([1.0, 3.0, 2.0]).view(1, 1, 1, 3)
    target = torch.zeros(1, 1, 3)
    assert center_loss(prediction, target, torch.tensor([[[1.0, 0.0, 0.0]]])) == 1
    assert center_loss(prediction, target, torch.tensor([[[1.0, 0.0, 1.0]]])) == 2.5
    # Offset error |1| + |-2| at one pixel of weight 1.
    offset = torch.tensor([[1.0, 9.0], [-2.0, 9.0]]).view(1, 2, 1, 2)
    assert offset_loss(offset, torch.zeros(1, 2, 1, 2), torch.tensor([[[1.0, 0.0]]])) == 3


@pytest.mark.slow
def test_against_detectron2():
    from gbw_d2 import compat  # noqa: F401

    from detectron2.projects.panoptic_deeplab.panoptic_seg import (  # isort: skip
        PanopticDeepLabInsEmbedHead as Head,
    )

    center, heat, offset, goal, weights = make_batch()
    head = SimpleNamespace(
        common_stride=1,
        center_loss=nn.MSELoss(reduction="none"),
        center_loss_weight=1.0,
        offset_loss=nn.L1Loss(reduction="none"),
        offset_loss_weight=1.0,
    )
    wide = weights[:, None]
    theirs = Head.center_losses(head, center, heat[:, None], wide)["loss_center"]
    torch.testing.assert_close(center_loss(center, heat, weights), theirs)
    theirs = Head.offset_losses(head, offset, goal, wide)["loss_offset"]
    torch.testing.assert_close(offset_loss(offset, goal, weights), theirs)


def test_no_weight_gives_zero_with_zero_gradient():
    center, heat, offset, goal, weights = make_batch()
    center.requires_grad_()
    offset.requires_grad_()
    none = torch.zeros_like(weights)
    loss = center_loss(center, heat, none) + offset_loss(offset, goal, none)
    loss.backward()
    assert loss == 0
    assert not center.grad.any()
    assert not offset.grad.any()


def test_small_weights_are_still_a_mean():
    center, heat, _, _, weights = make_batch()
    torch.testing.assert_close(
        center_loss(center, heat, weights * 1e-3), center_loss(center, heat, weights)
    )


def test_pixel_weights_are_not_in_the_divisor():
    center, heat, offset, goal, weights = make_batch()
    half = torch.full_like(weights, 0.5)
    torch.testing.assert_close(
        center_loss(center, heat, weights, half), center_loss(center, heat, weights) / 2
    )
    torch.testing.assert_close(
        offset_loss(offset, goal, weights, half), offset_loss(offset, goal, weights) / 2
    )


def test_a_step_never_asks_the_device_for_a_value():
    center, heat, offset, goal, weights = (tensor.to("meta") for tensor in make_batch())
    loss = center_loss(center, heat, weights) + offset_loss(offset, goal, weights, weights)
    assert loss.shape == ()


def test_shapes_are_checked():
    center, heat, offset, goal, weights = make_batch()
    with pytest.raises(ValueError, match="weights has shape"):
        center_loss(center, heat, weights[:, None])
    with pytest.raises(ValueError, match="target has shape"):
        offset_loss(offset, goal[:, :1], weights)
    with pytest.raises(ValueError, match="prediction has shape"):
        center_loss(offset, heat, weights)
