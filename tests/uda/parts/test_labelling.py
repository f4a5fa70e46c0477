"""Whole images in chunks of rows give what the formulas give."""

from __future__ import annotations

import pytest
import torch

from gbw_d2.uda.parts.labelling import class_balanced_labels, confidence_and_class, image_score
from gbw_d2.uda.parts.pseudo_labels import class_balanced_pseudo_labels
from gbw_d2.weighting import pixels


@pytest.mark.parametrize("chunk", [1, 200, 10**6])
@pytest.mark.parametrize("with_prior", [False, True])
def test_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, chunk: int, with_prior: bool
) -> None:
    monkeypatch.setattr(pixels, "CHUNK_ELEMENTS_CPU", chunk)
    torch.manual_seed(0)
    logits = torch.randn(5, 9, 8) * 2
    prior = torch.rand(5, 9, 8).half() if with_prior else None
    probs = logits.softmax(0)
    if prior is not None:
        probs = probs * prior
    confidence, classes = confidence_and_class(logits, prior)
    torch.testing.assert_close(confidence, probs.amax(0))
    assert torch.equal(classes, probs.argmax(0))
    limits = torch.tensor([0.3, 0.5, 0.2, 1.0, 0.4])
    labels = class_balanced_labels(logits, limits, prior)
    expected = class_balanced_pseudo_labels(probs[None], limits)[0]
    assert labels.dtype == torch.uint8 and torch.equal(labels.long(), expected)
    assert 0.1 < (labels == 255).float().mean() < 0.9


def test_with_equal_thresholds_cbst_is_st() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 20, 30) * 2
    labels = class_balanced_labels(logits, torch.full((6,), 0.6)).long()
    confidence, classes = confidence_and_class(logits)
    assert torch.equal(labels, classes.masked_fill(confidence < 0.6, 255))


def test_a_prior_moves_labels_to_where_the_class_belongs() -> None:
    # Sky (1) looks as likely as road (0) everywhere; the prior has it at the top.
    logits = torch.zeros(2, 2, 1)
    prior = torch.tensor([[0.1, 1.0], [1.0, 0.1]]).unsqueeze(2)
    assert class_balanced_labels(logits, torch.tensor([0.4, 0.4]), prior).tolist() == [[1], [0]]


def test_the_score_of_an_image_counts_each_class_once() -> None:
    confidence = torch.tensor([[0.9, 0.9, 0.9, 0.5]])
    # Class 0 has mean 0.9, class 2 has 0.5, class 1 is not there.
    score = image_score(confidence, torch.tensor([[0, 0, 0, 2]]), 3)
    assert score.item() == pytest.approx(0.7)
