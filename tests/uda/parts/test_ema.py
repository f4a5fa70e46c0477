"""The teacher's update by hand, buffers included."""

import copy

import pytest
import torch
from torch import nn

from gbw_d2.uda.parts.ema import ema_decay, update


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model(torch.rand(2, 3, 5, 5) * (seed + 1))
    return model


def test_decay() -> None:
    assert ema_decay(0, 0.999) == 0
    assert ema_decay(1, 0.999) == 0.5
    assert ema_decay(3, 0.999) == 0.75
    assert ema_decay(998, 0.999) < 0.999
    assert ema_decay(999, 0.999) == pytest.approx(0.999, abs=1e-15)
    assert ema_decay(10**6, 0.999) == 0.999
    assert ema_decay(10**6, 0.99) == 0.99


@pytest.mark.parametrize("buffers", [False, True])
def test_update(buffers: bool) -> None:
    teacher, student = network(1), network(2)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    student[1].num_batches_tracked += 5
    before, trained = copy.deepcopy(teacher), copy.deepcopy(student)
    update(teacher, student, 0.75, buffers)
    for name, value in student.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])
    for name, mine in teacher.named_parameters():
        mean = 0.75 * before.state_dict()[name] + 0.25 * trained.state_dict()[name]
        torch.testing.assert_close(mine, mean)
    running = teacher[1].running_var
    mean = 0.75 * before[1].running_var + 0.25 * trained[1].running_var
    torch.testing.assert_close(running, mean if buffers else trained[1].running_var)
    assert not torch.allclose(running, trained[1].running_var if buffers else mean)
    assert teacher[1].num_batches_tracked == trained[1].num_batches_tracked == 6


@pytest.mark.parametrize("buffers", [False, True])
def test_the_first_update_copies_the_student_exactly(buffers: bool) -> None:
    teacher, student = network(1), network(2)
    update(teacher, student, ema_decay(0, 0.999), buffers)
    for name, value in student.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], value)


def test_the_ramp_is_the_mean_of_all_students() -> None:
    teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for step, value in enumerate([3.0, 5.0, 10.0, 6.0]):
        nn.init.constant_(student.weight, value)
        update(teacher, student, ema_decay(step, 0.999))
    assert teacher.weight.item() == pytest.approx(6.0)


def test_parameters_meet_by_name() -> None:
    class Pair(nn.Module):
        def __init__(self, first: str, second: str) -> None:
            super().__init__()
            for name in (first, second):
                self.register_parameter(name, nn.Parameter(torch.zeros(1)))

    teacher, student = Pair("a", "b"), Pair("b", "a")
    nn.init.constant_(student.a, 1)
    update(teacher, student, 0.5)
    assert (teacher.a.item(), teacher.b.item()) == (0.5, 0)
    with pytest.raises(AssertionError, match="'c'"):
        update(Pair("a", "c"), student, 0.5)
    with pytest.raises(AssertionError, match="shape"):
        update(nn.Linear(2, 1), nn.Linear(3, 1), 0.5)
