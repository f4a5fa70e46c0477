"""Thing cells against a pooled one-hot map; the distance's value and gradient."""

import pytest
import torch
from torch.nn import functional

from gbw_d2.uda.parts import feature_distance as module
from gbw_d2.uda.parts.feature_distance import feature_distance, thing_cells


def test_cells_by_hand() -> None:
    # One cell a quadrant of 2x2 pixels; things are 1 and 2.
    labels = torch.tensor([[[1, 1, 1, 1], [1, 255, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]]])
    assert thing_cells(labels, (2, 2), [1, 2], 3).int().tolist() == [[[1, 0], [0, 1]]]
    assert thing_cells(labels, (2, 2), [2], 3).int().tolist() == [[[0, 0], [0, 1]]]
    assert not thing_cells(labels, (2, 2), [1], 3, min_share=0.76).any()
    # At a share of 1/2 the tie goes to the lower class, as argmax does.
    assert thing_cells(labels, (2, 2), [1], 3, min_share=0.5).int().tolist() == [[[1, 1], [0, 0]]]
    assert not thing_cells(torch.full((1, 4, 4), 255), (2, 2), [0, 1, 2], 3).any()


def pooled_cells(labels: torch.Tensor, cell: int, things: list[int], classes: int) -> torch.Tensor:
    """Finds the cells as DAFormer words it: average pooling of the one-hot map."""
    ids = torch.where(labels == 255, classes, labels)
    shares = functional.avg_pool2d(
        functional.one_hot(ids, classes + 1).permute(0, 3, 1, 2).float(), cell
    )
    share, winner = shares.max(1)
    return (share >= 0.75) & sum((winner == c for c in things), torch.zeros_like(winner)).bool()


def test_cells_agree_with_pooling() -> None:
    torch.manual_seed(0)
    blocks = torch.randint(0, 5, (3, 6, 8))
    blocks[blocks == 4] = 255
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    noise = torch.rand(labels.shape) < torch.rand(3, 1, 1) * 0.5
    labels = torch.where(noise, torch.randint(0, 4, labels.shape), labels)
    expected = pooled_cells(labels, 8, [1, 3], 4)
    assert 0 < expected.sum() < expected.numel() / 2
    found = thing_cells(labels, (6, 8), [1, 3], 4)
    assert torch.equal(found, expected)
    assert torch.equal(thing_cells(labels[1:2], (6, 8), [1, 3], 4), found[1:2])


def test_sizes_need_not_divide() -> None:
    # Five rows on two cells: rows 0-2 and 3-4. Three columns on four cells: cell 1 or so is empty.
    labels = torch.zeros(1, 5, 3, dtype=torch.int64)
    labels[:, :3] = 1
    assert thing_cells(labels, (2, 1), [1], 2).int().tolist() == [[[1], [0]]]
    fine = thing_cells(labels, (2, 4), [1], 2)
    assert fine.shape == (1, 2, 4)
    assert fine.int().tolist() == [[[1, 1, 1, 0], [0, 0, 0, 0]]]
    # The cell without a pixel belongs to no class, the first one included.
    assert thing_cells(labels, (2, 4), [0, 1], 2).int().tolist() == [[[1, 1, 1, 0]] * 2]


def test_distance_by_hand() -> None:
    student = torch.zeros(1, 2, 1, 3, requires_grad=True)
    reference = torch.tensor([[[[3.0, 6.0, 9.0]], [[4.0, 8.0, 9.0]]]], requires_grad=True)
    cells = torch.tensor([[[True, True, False]]])
    distance = feature_distance(student, reference, cells)
    assert distance.item() == pytest.approx((5 + 10) / 2)
    distance.backward()
    # Half the unit vector away from the reference, nothing where no cell is chosen.
    expected = torch.tensor([[[[-0.3, -0.3, 0]], [[-0.4, -0.4, 0]]]])
    torch.testing.assert_close(student.grad, expected)
    assert reference.grad is None


def test_gradient_agrees_with_differences() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 2, 2).requires_grad_()
    reference, cells = torch.randn(2, 3, 2, 2), torch.rand(2, 2, 2) > 0.4
    feature_distance(student, reference, cells).backward()
    wide = student.detach().double().requires_grad_()
    norms = (wide - reference).square().sum(1).sqrt()
    norms[cells].mean().backward()
    torch.testing.assert_close(student.grad.double(), wide.grad)


def test_no_cell_gives_zero_with_zero_gradient() -> None:
    student = torch.randn(2, 3, 2, 2).requires_grad_()
    nothing = torch.zeros(2, 2, 2, dtype=torch.bool)
    distance = feature_distance(student, torch.randn(2, 3, 2, 2), nothing)
    assert distance.item() == 0
    distance.backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_equal_features_have_a_finite_gradient() -> None:
    reference = torch.randn(1, 3, 2, 2)
    student = reference.clone().requires_grad_()
    distance = feature_distance(student, reference, torch.ones(1, 2, 2, dtype=torch.bool))
    assert distance.item() == 0
    distance.backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_mean_over_processes_is_that_of_one(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    torch.manual_seed(0)
    student, reference = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    cells = (torch.arange(8).view(2, 2, 2) * 3 % 8 < count).roll(1, 0)
    assert cells.sum() == count
    whole = feature_distance(student, reference, cells)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(module, "all_reduce_sum", lambda values: torch.tensor(float(count)))
    parts = [
        feature_distance(student[i : i + 1], reference[i : i + 1], cells[i : i + 1])
        for i in range(2)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_shapes_are_checked() -> None:
    features = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="expected equal features"):
        feature_distance(features, features, torch.zeros(1, 2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected equal features"):
        feature_distance(features, torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
