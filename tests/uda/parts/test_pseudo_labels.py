"""Pseudo-labels and their weights; class-balanced thresholds against a plain sort."""

import math

import pytest
import torch

from gbw_d2.uda.parts.pseudo_labels import (
    class_balanced_pseudo_labels,
    class_balanced_thresholds,
    confidence_weights,
    pseudo_labels,
    rows_outside_margins,
)
from gbw_d2.weighting import pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("chunk", [1, 200, 10**6])
def test_pseudo_labels(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, chunk: int) -> None:
    monkeypatch.setattr(pixels, "CHUNK_ELEMENTS_CPU", chunk)
    torch.manual_seed(0)
    logits = (torch.randn(2, 5, 7, 6) * 4).to(dtype).requires_grad_()
    labels, confidence = pseudo_labels(logits)
    probabilities = logits.detach().double().softmax(1)
    assert torch.equal(labels, probabilities.argmax(1))
    assert confidence.dtype == torch.float32 and not confidence.requires_grad
    torch.testing.assert_close(confidence.double(), probabilities.amax(1))


def test_pseudo_labels_of_large_logits() -> None:
    logits = torch.tensor([500.0, -500.0, 500.0]).view(1, 3, 1, 1)
    labels, confidence = pseudo_labels(logits)
    assert (labels.item(), confidence.item()) == (0, 0.5)
    with pytest.raises(ValueError, match="N, K, H, W"):
        pseudo_labels(torch.zeros(3, 4, 4))


CONFIDENCE = torch.tensor([[[0.97, 0.968], [0.9, 0.5], [0.99, 0.1]], [[0.2, 0.3]] * 3])


def test_weights_by_hand() -> None:
    # 0.968 itself is confident: 3 of 12 pixels, 3 of 6 in image 0.
    torch.testing.assert_close(confidence_weights(CONFIDENCE, 0.968), torch.full((2, 3, 2), 0.25))
    own = confidence_weights(CONFIDENCE, 0.968, per_image=True)
    torch.testing.assert_close(own, torch.tensor([0.5, 0.0]).view(2, 1, 1).expand(2, 3, 2))
    # The margin's pixels still count in the share.
    kept = torch.tensor([[False, True, False], [True, True, False]])
    weights = confidence_weights(CONFIDENCE, 0.968, kept=kept)
    expected = 0.25 * kept.float().unsqueeze(2).expand(2, 3, 2)
    torch.testing.assert_close(weights, expected)


def test_the_share_of_an_image_does_not_depend_on_its_batch() -> None:
    weights = confidence_weights(CONFIDENCE, 0.968, per_image=True)
    for i in range(2):
        alone = confidence_weights(CONFIDENCE[i : i + 1], 0.968, per_image=True)
        assert torch.equal(alone[0], weights[i])


def test_the_share_of_the_batch_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = confidence_weights(CONFIDENCE, 0.968)
    # What two processes with one image each would have summed: (3, 6) and (0, 6).
    others = iter([torch.tensor([0.0, 6.0]), torch.tensor([3.0, 6.0])])
    module = "gbw_d2.uda.parts.pseudo_labels.all_reduce_sum"
    monkeypatch.setattr(module, lambda values: values + next(others))
    for i in range(2):
        assert torch.equal(confidence_weights(CONFIDENCE[i : i + 1], 0.968), whole[i : i + 1])


def test_rows_outside_margins_by_hand() -> None:
    # A whole image of four rows, and the lower half of one of eight, of which two rows are padding.
    places = [torch.tensor([0.125, 0.375, 0.625, 0.875]), torch.tensor([0.5625, 0.6875])]
    found = rows_outside_margins(places, 4, top=0.25, bottom=0.3)
    assert found.tolist() == [[False, True, True, False], [True, True, False, False]]
    # Padding is no part of the image, without margins too.
    assert rows_outside_margins(places, 4, 0.0, 0.0).sum(1).tolist() == [4, 2]


def sorted_thresholds(probs: torch.Tensor, portion: float) -> list[float]:
    """Finds the thresholds with a Python sort."""
    confidences: list[list[float]] = [[] for _ in range(probs.shape[1])]
    for pixel in probs.permute(0, 2, 3, 1).reshape(-1, probs.shape[1]).tolist():
        best = max(pixel)
        confidences[pixel.index(best)].append(best)
    result = []
    for values in confidences:
        rank = math.floor(portion * len(values))
        result.append(sorted(values, reverse=True)[rank - 1] if rank else 1.0)
    return result


@pytest.mark.parametrize("portion", [0.0, 0.01, 0.2, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_agree_with_a_plain_sort(portion: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 6, 10, 9, dtype=dtype) * 2
    logits[:, 4] = -9  # a class that is never predicted
    logits[:, 5] += 3
    probs = logits.softmax(1)
    # Many equal confidences too.
    rounded = (probs * 20).round() / 20
    for values in (probs, rounded):
        thresholds = class_balanced_thresholds(values, portion)
        assert thresholds.dtype == dtype
        assert thresholds.tolist() == sorted_thresholds(values, portion)
        assert thresholds[4] == 1


def test_class_balanced_labels_by_hand() -> None:
    # Pixels in a row; classes 0 and 1. Predicted 0: 0.9, 0.8, 0.6, 0.55; predicted 1: 0.7, 0.6.
    first = torch.tensor([0.9, 0.8, 0.6, 0.55, 0.3, 0.4])
    probs = torch.stack([first, 1 - first]).view(1, 2, 1, 6)
    thresholds = class_balanced_thresholds(probs, 0.5)
    torch.testing.assert_close(thresholds, torch.tensor([0.8, 0.7]))
    # Pixel 1 has ratio 1 exactly and is kept, as is pixel 4; pixel 5 has 0.6/0.7 < 1.
    labels = class_balanced_pseudo_labels(probs, thresholds)
    assert labels.tolist() == [[[0, 0, 255, 255, 1, 255]]]
    assert labels.dtype == torch.int64
    # With a low threshold for class 1 the label differs from the argmax: 0.45/0.3 > 0.55/0.8.
    labels = class_balanced_pseudo_labels(probs, torch.tensor([0.8, 0.3]), ignore_index=-1)
    assert labels.tolist() == [[[0, 0, 1, 1, 1, 1]]]


def test_each_class_keeps_its_portion() -> None:
    torch.manual_seed(2)
    logits = torch.randn(2, 4, 40, 40) * 2 + torch.tensor([2.0, 0, 0, -2]).view(1, 4, 1, 1)
    probs = logits.softmax(1)
    confidence, predicted = probs.max(1)
    thresholds = class_balanced_thresholds(probs, 0.3)
    for c in range(4):
        mine = predicted == c
        assert (confidence[mine] >= thresholds[c]).sum() == math.floor(0.3 * int(mine.sum()))
    nothing = class_balanced_pseudo_labels(probs, class_balanced_thresholds(probs, 0.0))
    assert (nothing == 255).all()


def test_zero_thresholds_give_no_nan() -> None:
    probs = torch.tensor([[0.0, 0.3], [0.4, 0.2]]).view(1, 2, 1, 2)
    labels = class_balanced_pseudo_labels(probs, torch.tensor([0.0, 0.3]))
    assert labels.tolist() == [[[1, 0]]]


def test_arguments_are_checked() -> None:
    probs = torch.full((1, 2, 2, 2), 0.5)
    with pytest.raises(ValueError, match="portion"):
        class_balanced_thresholds(probs, 1.5)
    with pytest.raises(ValueError, match="2 classes"):
        class_balanced_pseudo_labels(probs, torch.ones(3))
