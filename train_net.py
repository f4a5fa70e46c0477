#!/usr/bin/env python3
"""Trains a segmentation network on a labelled source and an unlabelled target, and evaluates it.

    python train_net.py --config-file configs/toy/panoptic_gbw.yaml
    python train_net.py --config-file configs/toy/panoptic_gbw.yaml --eval-only --resume
    python train_net.py --config-file configs/toy/panoptic_gbw.yaml --with uda/advent weighting/none
    python train_net.py --config-file configs/synthia_panoptic_gbw.yaml --num-gpus 8
    python train_net.py --config-file configs/toy/panoptic_gbw.yaml --check
    python train_net.py --config-file configs/toy/panoptic_gbw.yaml --num-processes 1

Without a GPU several processes share each batch, as many as there are cores to use and as divide
it; ``--num-processes N`` says how many, and torchrun may start them too.

A config consists of one base file on each of six axes; each ``axis/name`` after ``--with`` replaces
that of its axis, and ``--with`` alone lists all names. Any config keys may follow as ``KEY VALUE``.
Results are written to OUTPUT_DIR. ``--check`` reads the config, the weights, a batch and a label of
each test set, as training would, and then stops.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)
from gbw_d2 import start_up  # noqa: F401  # isort: skip  (before all packages)

from gbw_d2.catalog.preflight import check_data, check_keys
from gbw_d2.commands import finish
from gbw_d2.composition import asks_for_listing, listing, parse
from gbw_d2.engine.launcher import Place, run_in_processes
from gbw_d2.engine.process_count import count_processes, with_loading

AGAIN = (
    "the same command with --resume continues from the last checkpoint, or from the beginning if "
    "there is none yet"
)


def main(args: Namespace) -> dict[str, float]:
    """Runs one job in one process and returns its metrics."""
    from gbw_d2.engine.setup import setup
    from gbw_d2.engine.train import check, evaluate_only, train

    cfg = setup(args)
    job = evaluate_only if args.eval_only else check if args.check else train
    return job(cfg, args.resume)


def work(arguments: Sequence[str], place: Place | None = None) -> None:
    """Does what a command line asks for, in this process, on GPUs, or as one of a group."""
    from gbw_d2.engine.distributed import default_argument_parser, run

    run(main, parse(default_argument_parser(__doc__).parse_args, arguments), place)


def start() -> int | None:
    """Looks for keys and data that are not there, then starts one process or several."""
    arguments = sys.argv[1:]
    if asks_for_listing(arguments):
        print(listing())
        return None
    # Before the imports of the engine: they take ten seconds, this takes one.
    check_keys(arguments)
    check_data(arguments)
    number = count_processes(arguments)
    if number > 1:
        return run_in_processes(partial(work, with_loading(arguments, number)), number, AGAIN)
    work(arguments)
    return None


if __name__ == "__main__":
    sys.exit(finish(start, AGAIN))
