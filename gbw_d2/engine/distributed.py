"""Starting several processes, and making their gradients one."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.process
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessExitedException

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.commands import INTERRUPTED, USER_ERROR, finish
from gbw_d2.errors import UserError

from detectron2 import engine
from detectron2.engine import launch
from detectron2.utils import comm

__all__ = ["average_gradients", "broadcast_parameters", "default_argument_parser", "run"]

# Gradients are sent in buckets of about this many bytes.
_BUCKET_BYTES = 25 * 2**20
# Given to other processes after Ctrl-C.
_SECONDS_TO_END = 10


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns Detectron2's parser with ``--check``."""
    parser = engine.default_argument_parser(epilog)
    parser.add_argument("--check", action="store_true", help="check all that a run needs, and stop")
    return parser


def run(main: Callable[[Any], Any], args: Any) -> Any:
    """Runs ``main(args)`` in this process, in torchrun's processes, or in one per GPU.

    Args:
        main: what each process runs.
        args: of Detectron2's argument parser (``num_gpus``, ``num_machines``, ...).

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    if "LOCAL_RANK" in os.environ:
        _join_torchrun()
        try:
            result = main(args)
            # Whoever leaves first would tear down connections that the others still read from.
            dist.barrier()
            return result
        finally:
            dist.destroy_process_group()
    if args.num_gpus * args.num_machines > 1 and torch.cuda.device_count() < args.num_gpus:
        raise UserError(
            f"--num-gpus {args.num_gpus}, but {torch.cuda.device_count()} are visible; several "
            "processes on the CPU are started by `torchrun --nproc-per-node 2 train_net.py ...`"
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

    A parameter without a gradient on some process counts as zero there, so that all processes
    send the same buckets.
    """
    if comm.get_world_size() == 1:
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.grad.numel() * parameter.grad.element_size()
        if size >= _BUCKET_BYTES:
            _average(bucket)
            bucket, size = [], 0
    if bucket:
        _average(bucket)


def _average(tensors: list[torch.Tensor]) -> None:
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= comm.get_world_size()
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])
