"""Losses of Panoptic-DeepLab's instance heads: the centre heat map and the offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gbw_d2.keys import TERM_SOURCE
from gbw_d2.losses.weighted_loss import WeightedLoss
from gbw_d2.weighting.distributed import all_reduce_sum, world_size
from gbw_d2.weighting.log import WeightLog
from gbw_d2.weighting.pixels import per_pixel, prepare_labels
from gbw_d2.weighting.scheme import WeightingScheme
from gbw_d2.weighting.statistics import element_statistics


def center_loss(
    prediction: Tensor, target: Tensor, weights: Tensor, pixel_weights: Tensor | None = None
) -> Tensor:
    """Computes the centre heat map's mean squared error (Cheng et al. 2020), as Detectron2 does.

    sum of weights (prediction - target)^2 / sum of weights; 0 where that sum is 0. In several
    processes the divisor is the mean over processes of the sum, so that the mean of the processes'
    losses equals the loss of one process with all the images; every process must make the call.

    Args:
        prediction: (N, 1, H, W), at label resolution.
        target: (N, H, W) heat map, 0..1.
        weights: (N, H, W) >= 0, 1 where the loss applies and 0 elsewhere.
        pixel_weights: (N, H, W) >= 0 factor that is not part of the divisor, as in the
            cross-entropy; None for 1.

    Returns:
        A tensor without axes.

    Raises:
        ValueError: shapes that do not match.
    """
    _check_center(prediction, target, {"weights": weights, "pixel_weights": pixel_weights})
    return _weighted_mean(_center_error(prediction, target), weights, pixel_weights)


def offset_loss(
    prediction: Tensor, target: Tensor, weights: Tensor, pixel_weights: Tensor | None = None
) -> Tensor:
    """Computes the mean absolute error of the offsets (Cheng et al. 2020), as Detectron2 does.

    sum of weights (|error in y| + |error in x|) / sum of weights, each pixel's weight counted once;
    0 where that sum is 0. Several processes as in ``center_loss``.

    Args:
        prediction: (N, 2, H, W) offsets (dy, dx) in pixels, at label resolution.
        target: (N, 2, H, W) likewise.
        weights: (N, H, W) >= 0, 1 on thing pixels and 0 elsewhere.
        pixel_weights: (N, H, W) >= 0 factor that is not part of the divisor; None for 1.

    Returns:
        A tensor without axes.

    Raises:
        ValueError: shapes that do not match.
    """
    _check_offset(prediction, target, {"weights": weights, "pixel_weights": pixel_weights})
    return _weighted_mean(_offset_error(prediction, target), weights, pixel_weights)


class ClassWeightedInstanceLoss(WeightedLoss):
    """A loss per pixel, weighted by the class of the pixel's thing (docs/equations.md 7).

    sum_i v_i q_i w_{c(i)} l_i / sum_i v_i: Detectron2's loss times the class weight, which is 1 at
    pixels outside things. The weights come from a scheme for the things alone and sum to their
    number; g_c is the norm of the gradient of sum over class c of v_i l_i / (n_c + 1), n_c = sum of
    v_i, with respect to the prediction at label resolution. Subclasses define l_i.

    In several processes an adaptive scheme sums its statistics over all of them, so every process
    must make the same calls.

    Arguments are those of :class:`gbw_d2.losses.WeightedLoss`; ``class_ids`` are the things, and
    schemes that need a classifier or a focal factor are not defined.
    """

    _thing_of: Tensor

    def __init__(
        self,
        scheme: WeightingScheme,
        class_ids: Sequence[int] | None = None,
        num_classes: int | None = None,
        head: str = "loss",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(scheme, class_ids, num_classes, head, ignore_index)
        # Maps a class id to its index in class_ids; anything that is no thing maps to
        # len(class_ids).
        places = torch.full((self.num_classes + 1,), len(self.class_ids))
        places[list(self.class_ids)] = torch.arange(len(self.class_ids))
        self.register_buffer("_thing_of", places, persistent=False)

    def _check(self, prediction: Tensor, target: Tensor, maps: Mapping[str, Tensor | None]) -> None:
        raise NotImplementedError

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns l_i, (N, H, W)."""
        raise NotImplementedError

    def _squared_slope(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns |dl_i / dprediction|^2, (N, H, W)."""
        raise NotImplementedError

    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        weights: Tensor,
        instance_class: Tensor,
        pixel_weights: Tensor | None = None,
        term: str = TERM_SOURCE,
        log: WeightLog | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            prediction: (N, 1 or 2, H, W), at label resolution.
            target: as in ``center_loss`` or ``offset_loss``.
            weights: (N, H, W) v_i >= 0, 1 where the loss applies and 0 elsewhere.
            instance_class: (N, H, W) integer class id of the pixel's thing, ``ignore_index``
                elsewhere; a stuff class counts as ``ignore_index``.
            pixel_weights: (N, H, W) q_i >= 0 that are not part of the divisor; None for 1. With
                the setting ``pixel_weights_in_gradient`` they multiply v_i in g_c and n_c.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the weights, counts and measure of this call.

        Returns:
            A tensor without axes.

        Raises:
            ValueError: shapes that do not match; on the CPU also an instance class that is neither
                a class nor the ignore value, and NaN or inf.
        """
        maps = {"weights": weights, "pixel_weights": pixel_weights}
        self._check(prediction, target, {**maps, "instance_class": instance_class})
        ids, invalid = prepare_labels(instance_class, self.num_classes, self.ignore_index)
        things = self._thing_of[ids]
        error = self._error(prediction, target)
        scaled = weights if pixel_weights is None else weights * pixel_weights
        scheme = self.scheme
        statistics = element_statistics(
            error.detach() * scaled,
            self._squared_slope(prediction.detach(), target),
            things,
            invalid,
            scheme.num_classes,
            scaled if scheme.settings.pixel_weights_in_gradient else weights,
            norms=scheme.needs_norms and scheme.measures(term),
        )
        class_weights = self.class_weights(statistics, term, log)
        factor = per_pixel(class_weights, things, outside=1.0)
        return _weighted_mean(
            error, weights, factor if pixel_weights is None else factor * pixel_weights
        )


class ClassWeightedCenterLoss(ClassWeightedInstanceLoss):
    """``center_loss`` with class weights: l_i = e^2 and dl_i/de = 2 e."""

    def _check(self, prediction: Tensor, target: Tensor, maps: Mapping[str, Tensor | None]) -> None:
        _check_center(prediction, target, maps)

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        return _center_error(prediction, target)

    def _squared_slope(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 4 * _center_error(prediction, target)


class ClassWeightedOffsetLoss(ClassWeightedInstanceLoss):
    """``offset_loss`` with class weights: l_i = |e_y| + |e_x|, each slope +-1, 0 where e is 0.

    So g_c = sqrt(2 n_c) / (n_c + 1) wherever no error is 0: it depends on the size of a class and
    not on how well its offsets are predicted. With ``SharedWeights`` this head uses another head's
    weights instead.
    """

    def _check(self, prediction: Tensor, target: Tensor, maps: Mapping[str, Tensor | None]) -> None:
        _check_offset(prediction, target, maps)

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        return _offset_error(prediction, target)

    def _squared_slope(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction != target).sum(1)


def _center_error(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.squeeze(1) - target).square()


def _offset_error(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().sum(1)


def _weighted_mean(error: Tensor, weights: Tensor, pixel_weights: Tensor | None) -> Tensor:
    factor = weights if pixel_weights is None else weights * pixel_weights
    divisor = all_reduce_sum(weights.detach().sum(dtype=torch.float32)) / world_size()
    # `where` instead of `if`, which would wait for the device.
    return (error * factor).sum() / torch.where(divisor > 0, divisor, torch.ones_like(divisor))


def _check_center(prediction: Tensor, target: Tensor, maps: Mapping[str, Tensor | None]) -> None:
    _check(prediction, target.unsqueeze(1), 1, maps)


def _check_offset(prediction: Tensor, target: Tensor, maps: Mapping[str, Tensor | None]) -> None:
    _check(prediction, target, 2, maps)


def _check(
    prediction: Tensor, target: Tensor, channels: int, maps: Mapping[str, Tensor | None]
) -> None:
    images, _, height, width = prediction.shape
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "prediction": (prediction, (images, channels, height, width)),
        "target": (target, (images, channels, height, width)),
        **{name: (tensor, (images, height, width)) for name, tensor in maps.items()},
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
