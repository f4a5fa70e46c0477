"""Bucketed averaging of gradients over two processes, and how a process reports a user's error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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
    with pytest.raises(UserError, match=r"--num-gpus 64, but .*--num-processes"):
        distributed.run(lambda _: None, args)


def _average(rank: int, file: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    distributed._BUCKET_BYTES = 64
    parameters = [nn.Parameter(torch.zeros(n)) for n in (3, 40, 5)]
    parameters.append(nn.Parameter(torch.zeros(2), requires_grad=False))
    # No process has a gradient for this one.
    parameters.append(nn.Parameter(torch.ones(2)))
    for index, parameter in enumerate(parameters[:3]):
        # The second process has no gradient for the third one.
        if not (rank == 1 and index == 2):
            parameter.grad = torch.full_like(parameter, float(10 * index + rank + 1))
    distributed.average_gradients(parameters)
    torch.optim.SGD(parameters, lr=1.0, weight_decay=0.1).step()
    assert parameters[4].tolist() == [1, 1]
    torch.save([p.grad for p in parameters], os.path.join(folder, f"{rank}.pt"))
    # Whoever leaves first would tear the other's connection down in the middle of its last call.
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_average_gradients(tmp_path: Path) -> None:
    mp.spawn(_average, (str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        grads = torch.load(tmp_path / f"{rank}.pt")
        assert [g.unique().item() for g in grads[:3]] == [1.5, 11.5, 10.5]
        assert grads[3] is None and grads[4] is None


# Detectron2's launch asks for GPUs; this one starts its processes in the same way, on the CPU.
PROGRAM = """
import sys, time
from argparse import Namespace
from pathlib import Path
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from gbw_d2.commands import finish
from gbw_d2.engine import distributed

folder = Path(sys.argv[1])

def train(args):
    for step in range(10**6):
        dist.all_reduce(torch.ones(1))
        (folder / str(dist.get_rank())).touch()
        time.sleep(0.01)

def worker(rank, main, args):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    main(*args)

def launch(main, num_gpus, num_machines, machine_rank, dist_url, args):
    mp.start_processes(worker, (main, args), nprocs=2, daemon=False)

if __name__ == "__main__":
    distributed.launch, torch.cuda.device_count = launch, lambda: 2
    args = Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    sys.exit(finish(lambda: distributed.run(train, args), "go on"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_with_several_processes(tmp_path: Path, to_group: bool) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    end = time.monotonic() + 120
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.endswith("stopped; go on\n") and "Traceback" not in shown
