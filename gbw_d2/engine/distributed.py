"""Several processes as one group, and their gradients as one."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.process
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessExitedException

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.commands import INTERRUPTED, USER_ERROR, finish
from gbw_d2.engine.launcher import Place
from gbw_d2.errors import UserError

from detectron2 import engine
from detectron2.engine import launch
from detectron2.utils import comm

__all__ = [
    "average_gradients",
    "broadcast_parameters",
    "default_argument_parser",
    "lost_contact",
    "run",
]

# Gradients are sent in buckets of about this many bytes.
_BUCKET_BYTES = 25 * 2**20
# Detectron2's own affair, whenever processes talk to each other.
warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
# Given to other processes after Ctrl-C.
_SECONDS_TO_END = 10
# One process makes data or counts classes while the others wait; whoever is killed is seen anyway.
_PATIENCE = timedelta(days=7)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns Detectron2's parser with ``--check`` and ``--num-processes``."""
    parser = engine.default_argument_parser(epilog)
    parser.add_argument("--check", action="store_true", help="check all that a run needs, and stop")
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="processes on the CPU that share each batch, 1 = one; default: without a GPU, as many "
        "as there are cores to use and as divide SOLVER.IMS_PER_BATCH",
    )
    return parser


def run(main: Callable[[Any], Any], args: Any, place: Place | None = None) -> Any:
    """Runs ``main(args)`` in this process, in torchrun's processes, or in one per GPU.

    Args:
        main: what each process runs.
        args: of Detectron2's argument parser (``num_gpus``, ``num_machines``, ...).
        place: of this process where ``run_in_processes`` started it.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    if place is not None:
        _join_on_cpu(place)
        # After an error it stays in the group until it has reported (gbw_d2/engine/launcher.py).
        result = main(args)
        _leave()
        return result
    if "LOCAL_RANK" in os.environ:
        _join_torchrun()
        try:
            result = main(args)
        except BaseException:
            dist.destroy_process_group()
            raise
        _leave()
        return result
    if args.num_gpus * args.num_machines > 1 and torch.cuda.device_count() < args.num_gpus:
        raise UserError(
            f"--num-gpus {args.num_gpus}, but {torch.cuda.device_count()} are visible; several "
            "processes on the CPU are started by --num-processes"
        )
    # One process runs here and raises as it is; several report to this one.
    several = args.num_gpus * args.num_machines > 1
    try:
        return launch(
            partial(_report_user_errors, main) if several else main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:
        if error.exit_code == INTERRUPTED:
            raise KeyboardInterrupt from error
        if error.exit_code != USER_ERROR:
            raise
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        _end(multiprocessing.active_children())
        raise


def _end(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Ends processes that Ctrl-C may not have reached; Python would wait for them for ever."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_SECONDS_TO_END)
        process.kill()


def _report_user_errors(main: Callable[[Any], Any], args: Any) -> None:
    """Ends a spawned process with 2 on a user's error; torch would show its traceback."""

    def work() -> None:
        try:
            main(args)
        except KeyboardInterrupt:
            # The process that started this one says so.
            sys.exit(INTERRUPTED)

    code = finish(work)
    if code:
        sys.exit(code)


def _join_on_cpu(place: Place) -> None:
    # Gloo takes the interface of the host's name, which others can reach and which may go down.
    names = [name for _, name in socket.if_nameindex()]
    loopback = [name for name in ("lo", "lo0") if name in names]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    dist.init_process_group(
        "gloo",
        timeout=_PATIENCE,
        init_method=f"file://{place.store}",
        rank=place.rank,
        world_size=place.number,
    )
    comm._LOCAL_PROCESS_GROUP = dist.group.WORLD


def _leave() -> None:
    # Whoever leaves first would tear down connections that the others still read from.
    dist.barrier()
    dist.destroy_process_group()


def lost_contact(error: BaseException | None) -> bool:
    """Whether an error says no more than that another process has gone."""
    return isinstance(error, RuntimeError) and "gloo/transport" in str(error)


def _join_torchrun() -> None:
    use_cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if use_cuda else "gloo")
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if use_cuda:
        torch.cuda.set_device(local_rank)
    # Detectron2's comm knows the local rank only through this group, which its own launcher makes.
    for machine in range(dist.get_world_size() // local_size):
        ranks = list(range(machine * local_size, (machine + 1) * local_size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def broadcast_parameters(module: nn.Module) -> None:
    """Gives every process the parameters and buffers of the first one."""
    if comm.get_world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over the processes, in buckets, after the last backward of a step.

    A parameter without a gradient counts as zero where another process has one, so that all
    processes send the same buckets. One that has none in any process keeps none, as in a single
    process, and optimisers leave it unchanged.
    """
    if comm.get_world_size() == 1:
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in _with_gradient_anywhere([p for p in parameters if p.requires_grad]):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
        if size >= _BUCKET_BYTES:
            _average(bucket)
            bucket, size = [], 0
    if bucket:
        _average(bucket)


def _with_gradient_anywhere(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    # On the CPU also where the gradients are not, so that no process waits for its GPU.
    dist.all_reduce(has_gradient, dist.ReduceOp.MAX, comm._get_global_gloo_group())
    return [p for p, wanted in zip(parameters, has_gradient.tolist(), strict=True) if wanted]


def _average(tensors: list[torch.Tensor]) -> None:
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= comm.get_world_size()
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])
