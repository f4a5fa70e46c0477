"""ClassMix: which classes are drawn, and that images do not touch each other."""

import numpy as np
import pytest
import torch

from gbw_d2.data.sampling import keyed_rng
from gbw_d2.ops.masks import mix
from gbw_d2.uda.parts.class_mix import (
    class_scores,
    drawn_classes,
    mix_mask,
    present_classes,
)

LABELS = torch.tensor([[[0, 0, 2], [3, 255, 2]], [[1, 1, 1], [255, 255, 255]]])
SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.4], [0.9, 0.1, 0.8, 0.7]])


def test_by_hand() -> None:
    # Image 0 has classes 0, 2, 3: the two best of them are 2 and 3. Image 1 has class 1 only.
    drawn = drawn_classes(LABELS, SCORES)
    assert drawn.tolist() == [
        [False, False, True, True, False],
        [False, True, False, False, False],
    ]
    mask = mix_mask(LABELS, drawn)
    assert mask.int().tolist() == [[[0, 0, 1], [1, 0, 1]], [[1, 1, 1], [0, 0, 0]]]
    target = torch.full_like(LABELS, 7)
    assert mix(mask, LABELS, target).tolist() == [
        [[7, 7, 2], [3, 7, 2]],
        [[1, 1, 1], [7, 7, 7]],
    ]
    images = torch.arange(36.0).view(2, 3, 2, 3)
    mixed = mix(mask, images, -images)
    assert torch.equal(mixed, torch.where(mask[:, None].expand_as(images), images, -images))
    assert mixed[0, 1, 0].tolist() == [-6, -7, 8]


def test_classes_of_the_whole_batch() -> None:
    present = present_classes(LABELS, 4)
    assert present.int().tolist() == [[1, 0, 1, 1], [0, 1, 0, 0]]
    everywhere = present.any(0, keepdim=True).expand(2, -1)
    drawn = drawn_classes(LABELS, SCORES, present=everywhere)
    assert drawn.int().tolist() == [[0, 1, 1, 0, 0], [1, 0, 1, 0, 0]]
    # Image 1 has none of its drawn classes: nothing is pasted.
    assert not mix_mask(LABELS, drawn)[1].any()


@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_half_of_the_present_classes_rounded_up(ignore_index: int) -> None:
    rng = np.random.default_rng(3)
    for case in range(60):
        size = int(rng.integers(1, 9))
        labels = torch.from_numpy(rng.integers(0, 19, (3, size, size)))
        labels[torch.from_numpy(rng.random((3, size, size)) < 0.3)] = ignore_index
        scores = class_scores([keyed_rng(case, "mix", i) for i in range(3)], 19)
        drawn = drawn_classes(labels, scores, ignore_index)
        for image in range(3):
            found = set(labels[image].unique().tolist()) - {ignore_index}
            chosen = set(drawn[image].nonzero().flatten().tolist())
            assert chosen <= found
            assert len(chosen) == -(-len(found) // 2)
            rejected = found - chosen
            if rejected:
                row = scores[image]
                assert min(row[c] for c in chosen) >= max(row[c] for c in rejected)


def test_an_image_does_not_depend_on_its_batch() -> None:
    rngs = [keyed_rng(0, "mix", i) for i in range(2)]
    scores = class_scores(rngs, 4)
    assert torch.equal(class_scores([keyed_rng(0, "mix", 1)], 4), scores[1:])
    assert not torch.equal(scores[0], scores[1])
    drawn = drawn_classes(LABELS, scores)
    assert torch.equal(drawn_classes(LABELS[1:], scores[1:]), drawn[1:])


def test_equal_scores_and_an_image_without_labels() -> None:
    labels = torch.stack([10 + torch.arange(16).view(4, 4) % 5, torch.full((4, 4), 255)])
    drawn = drawn_classes(labels, torch.zeros(2, 19))
    assert drawn.nonzero().tolist() == [[0, 10], [0, 11], [0, 12]]
    assert not mix_mask(labels, drawn)[1].any()


def test_sizes_must_fit() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="crops must have"):
        mix(mask, torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="crops must have"):
        mix(mask, torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 5, 4))
    with pytest.raises(ValueError, match="convert"):
        mix(mask, torch.zeros(2, 4, 4), torch.zeros(2, 4, 4).long())
    with pytest.raises(ValueError, match="present"):
        drawn_classes(LABELS, SCORES, present=torch.ones(1, 4, dtype=torch.bool))
