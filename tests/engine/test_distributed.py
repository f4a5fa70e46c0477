"""Bucketed averaging of gradients over two processes, and how a process reports a user's error."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from gbw_d2.engine import distributed
from gbw_d2.errors import UserError


def test_user_errors_of_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    def main(args: Namespace) -> None:
        raise UserError("no such thing")

    with pytest.raises(SystemExit) as stop:
        distributed._report_user_errors(main, Namespace())
    assert stop.value.code == 2 and capsys.readouterr().err == "error: no such thing\n"


def test_more_gpus_than_there_are() -> None:
    if torch.cuda.device_count() >= 64:
        pytest.skip("this machine has them")
    args = Namespace(num_gpus=64, num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(UserError, match=r"--num-gpus 64, but .*torchrun"):
        distributed.run(lambda _: None, args)


def _average(rank: int, file: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    distributed._BUCKET_BYTES = 64
    parameters = [nn.Parameter(torch.zeros(n)) for n in (3, 40, 5)]
    parameters.append(nn.Parameter(torch.zeros(2), requires_grad=False))
    for index, parameter in enumerate(parameters[:3]):
        # The second process has no gradient for the last one.
        if not (rank == 1 and index == 2):
            parameter.grad = torch.full_like(parameter, float(10 * index + rank + 1))
    distributed.average_gradients(parameters)
    torch.save([p.grad for p in parameters], os.path.join(folder, f"{rank}.pt"))
    # Whoever leaves first would tear the other's connection down in the middle of its last call.
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_average_gradients(tmp_path: Path) -> None:
    mp.spawn(_average, (str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        grads = torch.load(tmp_path / f"{rank}.pt")
        assert [g.unique().item() for g in grads[:3]] == [1.5, 11.5, 10.5] and grads[3] is None
