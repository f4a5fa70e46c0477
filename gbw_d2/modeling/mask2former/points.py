"""Values of maps and segments at points between pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Returns (R, C, P): maps (R, C, h, w) at points (R, P, 2), (x, y) in 0..1, bilinearly."""
    grid = (2 * points - 1).unsqueeze(2)
    return F.grid_sample(maps, grid.to(maps.dtype), align_corners=False).squeeze(3)


def corners(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Finds the four pixels around each point, and their shares in a bilinear value.

    Args:
        points: (..., 2), (x, y) in 0..1 over the whole map.
        height: rows.
        width: columns.

    Returns:
        flat indices (..., 4) int64, and shares (..., 4) float32, 0 outside the map.
    """
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    columns = torch.stack([left, left + 1], dim=-1)
    rows = torch.stack([top, top + 1], dim=-1)
    across = torch.stack([left + 1 - x, x - left], dim=-1)
    down = torch.stack([top + 1 - y, y - top], dim=-1)
    across = across * ((columns >= 0) & (columns < width))
    down = down * ((rows >= 0) & (rows < height))
    columns, rows = columns.clamp(0, width - 1).long(), rows.clamp(0, height - 1).long()
    index = (rows.unsqueeze(-1) * width + columns.unsqueeze(-2)).flatten(-2)
    return index, (down.unsqueeze(-1) * across.unsqueeze(-2)).flatten(-2)


def segment_shares(numbers: Tensor, points: Tensor, count: int) -> Tensor:
    """Returns the mask of each segment, sampled bilinearly at each point.

    No masks are made: each pixel around a point adds its share to its own segment.

    Args:
        numbers: (N, H, W) int64, number of each pixel's segment, 0..count - 1.
        points: (N, P, 2), (x, y) in 0..1.
        count: of numbers.

    Returns:
        (N, P, count) float32, 0..1.
    """
    index, shares = corners(points, *numbers.shape[1:])
    owners = numbers.flatten(1).gather(1, index.flatten(1)).view_as(index)
    return shares.new_zeros(*points.shape[:2], count).scatter_add_(2, owners, shares)


def own_shares(numbers: Tensor, images: Tensor, owners: Tensor, points: Tensor) -> Tensor:
    """Returns (R, P) float32 in 0..1, the masks of R segments at points of their own.

    Args:
        numbers: (N, H, W) int64, as in :func:`segment_shares`.
        images: (R,) int64, image of each segment.
        owners: (R,) int64, its number.
        points: (R, P, 2), (x, y) in 0..1.
    """
    height, width = numbers.shape[1:]
    index, shares = corners(points, height, width)
    flat = index + (images * (height * width)).view(-1, 1, 1)
    inside = numbers.flatten()[flat] == owners.view(-1, 1, 1)
    return (shares * inside).sum(-1)


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    count: int,
    oversampling: float = 3.0,
    importance: float = 0.75,
    usable: Tensor | None = None,
    images: Tensor | None = None,
) -> Tensor:
    """Draws points where masks are uncertain, and some uniform points (PointRend, section 3.1).

    Of ``oversampling`` x count uniform points those with the smallest absolute logit are kept, and
    the rest is uniform: 12544 x 3 and three quarters in Mask2Former, section 3.3. With ``usable``
    unusable points come last among the kept ones, never among the uniform ones (MC-PanDA, equation
    7; where fewer are usable than are kept, unusable ones fill up, as in its code).

    Args:
        logits: (R, h, w), one mask each.
        count: P, points per mask.
        oversampling: >= 1.
        importance: share of the points that is chosen so, 0..1.
        usable: (N, H, W) bool, None for everywhere; a point is as usable as its pixel.
        images: (R,) int64, image of each mask; needed with ``usable`` alone.

    Returns:
        (R, P, 2), (x, y) in 0..1.
    """
    masks, chosen = len(logits), int(importance * count)
    device = logits.device
    drawn = torch.rand(masks, int(oversampling * count), 2, device=device)
    order = sample_maps(logits.float().unsqueeze(1), drawn).squeeze(1).abs_().neg_()
    if usable is not None:
        assert images is not None, "usable pixels are those of images"
        order = order.masked_fill(~_holding_pixels(usable, images, drawn), -torch.inf)
    best = order.topk(chosen, dim=1, sorted=False).indices.unsqueeze(2).expand(-1, -1, 2)
    anywhere = torch.rand(masks, count - chosen, 2, device=device)
    return torch.cat([drawn.gather(1, best), anywhere], dim=1)


def _holding_pixels(maps: Tensor, images: Tensor, points: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    columns = (points[..., 0] * width).long().clamp(max=width - 1)
    rows = (points[..., 1] * height).long().clamp(max=height - 1)
    return maps.flatten()[(images.view(-1, 1) * height + rows) * width + columns]
