"""No part waits for the device: fake CUDA tensors have no values that the host could read."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gbw_d2.ops.masks import mix
from gbw_d2.uda.parts.class_mix import class_scores, drawn_classes, mix_mask
from gbw_d2.uda.parts.class_thresholds import ClassThresholds
from gbw_d2.uda.parts.ema import update
from gbw_d2.uda.parts.feature_distance import feature_distance, thing_cells
from gbw_d2.uda.parts.label_confidence import label_weights
from gbw_d2.uda.parts.pseudo_labels import (
    class_balanced_pseudo_labels,
    class_balanced_thresholds,
    confidence_weights,
    pseudo_labels,
    rows_outside_margins,
)
from gbw_d2.uda.parts.strong_augmentation import StrongAugmentation

RNGS = [np.random.default_rng(i) for i in range(2)]


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_nothing_looks_at_values() -> None:
    augmentation = StrongAugmentation()
    host = class_scores(RNGS, 19), augmentation.draw(RNGS)
    outside = rows_outside_margins([torch.linspace(0, 1, 32)] * 2, 32, 0.1, 0.1)
    with FakeTensorMode() as mode:
        scores, parameters = (mode.from_tensor(t).to("cuda", non_blocking=True) for t in host)
        images = torch.rand(2, 3, 32, 64, device="cuda")
        labels = torch.randint(0, 19, (2, 32, 64), device="cuda")
        with pytest.raises(DataDependentOutputException):
            bool(labels.any())

        mask = mix_mask(labels, drawn_classes(labels, scores))
        results = [
            mix(mask, labels, labels),
            augmentation.apply(mix(mask, images, images), parameters),
        ]

        mine, confidence = pseudo_labels(torch.rand(2, 19, 32, 64, device="cuda").half())
        kept = mode.from_tensor(outside).to("cuda", non_blocking=True)
        results += [mine, confidence_weights(confidence, 0.9, False, kept)]
        results.append(confidence_weights(confidence, 0.9, True, kept))
        thresholds = ClassThresholds("adaptive", 19, 0.9, 0.9).to("cuda")
        results.append(label_weights(mine, confidence, thresholds, "segment", kept))
        probs = torch.rand(2, 19, 32, 64, device="cuda")
        results.append(class_balanced_pseudo_labels(probs, class_balanced_thresholds(probs, 0.3)))

        features = torch.rand(2, 8, 4, 8, device="cuda", requires_grad=True)
        cells = thing_cells(labels, (4, 8), [11, 12], 19)
        results += [cells, feature_distance(features, torch.rand_like(features), cells)]

        teacher, student = (nn.BatchNorm2d(3, device="cuda") for _ in range(2))
        update(teacher, student, 0.5, buffers=True)
        assert all(result.device.type == "cuda" for result in results)
