"""Problems that a device can only flag are reported by its process, one step later on a GPU.

The CPU looks at once; here it is made to behave as a GPU does, with two processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn

from gbw_d2.engine.finite import FiniteCheck
from gbw_d2.engine.trainer import Trainer
from gbw_d2.losses import ClassWeightedCrossEntropy, WeightedLosses
from gbw_d2.uda.strategy import Strategy
from gbw_d2.weighting import build_scheme, pixels


class OnePixelNet(nn.Module):
    """A classifier of pixels; batches hold labels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 3, 4, 4))


class LabelsOnly(Strategy):
    """The loss of given labels, by the network's logits."""

    losses: WeightedLosses

    def training_losses(self, source: Any, target: Any, iteration: int) -> Any:
        assert isinstance(self.model, nn.Module)
        loss = self.losses["semantic"](self.model.logits, source[0]["labels"])
        yield {"loss_semantic": loss}


def steps(labels: list[torch.Tensor]) -> int:
    """Trains on these labels, one step each; returns the steps that were done."""
    model = OnePixelNet()
    losses = WeightedLosses(
        {"semantic": ClassWeightedCrossEntropy(build_scheme("gbw_norm", 3), head="semantic")}
    )
    strategy = LabelsOnly(model, None)
    strategy.losses = losses
    batches = iter(
        [([{"labels": each, "file_name": f"{i}.png"}], None) for i, each in enumerate(labels)]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, strategy, batches, optimizer, 1, 0, flags=losses.flags)
    trainer.train(0, len(labels))
    return trainer.iter


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    pixels.HOST_DEVICES = ()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    good, bad = torch.zeros(1, 4, 4, dtype=torch.long), torch.full((1, 4, 4), 7)
    try:
        steps([good, bad if rank == 1 else good, good])
    except ValueError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    # The first process may wait for the other in vain: it is ended with it.


@pytest.mark.slow
def test_a_bad_label_of_the_second_process_is_told(tmp_path: Path) -> None:
    context = mp.spawn(_process, (str(tmp_path),), nprocs=2, join=False)
    context.processes[1].join(120)
    told = (tmp_path / "1.txt").read_text()
    assert told.startswith("iteration 1: head 'semantic' had labels that are neither a class")
    assert "1.png" in told and "\n" not in told
    context.processes[0].terminate()
    context.processes[0].join(30)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("invalid_labels", "labels that are neither a class nor the ignore value"),
        ("nonfinite", "NaN or inf"),
        ("source_missing", "before any loss of the source"),
    ],
)
def test_each_flag_says_what_it_means(flag: str, told: str) -> None:
    check = FiniteCheck()
    values = {"loss": torch.zeros(())}
    check.add(3, values, ["a.png"], {("roof", flag): torch.tensor(False)})
    with pytest.raises(ValueError, match=rf"iteration 4: head 'roof' had .*{told}.*b\.png"):
        check.add(4, values, ["b.png"], {("roof", flag): torch.tensor(True)})


def test_the_cpu_tells_at_once() -> None:
    with pytest.raises(ValueError, match=r"iteration 0, 0\.png: labels hold 7; expected class ids"):
        steps([torch.full((1, 4, 4), 7)])


def test_a_step_on_good_labels_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "HOST_DEVICES", ())
    assert steps([torch.zeros(1, 4, 4, dtype=torch.long)] * 2) == 2
