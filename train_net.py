#!/usr/bin/env python3
"""Trains a segmentation network on a labelled source and an unlabelled target, and scores it.

    python train_net.py --config-file configs/toy/panoptic_gbw.yaml
    python train_net.py --config-file configs/toy/panoptic_gbw.yaml --eval-only --resume
    python train_net.py --config-file configs/synthia_panoptic_gbw.yaml --num-gpus 8
    torchrun --nproc-per-node 2 train_net.py --config-file configs/toy/panoptic_gbw.yaml

Any config key may follow as ``KEY VALUE``. Results are written to OUTPUT_DIR.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.engine.distributed import run
from gbw_d2.engine.setup import setup
from gbw_d2.engine.train import evaluate_only, train
from gbw_d2.errors import UserError

from detectron2.engine import default_argument_parser


def main(args: Namespace) -> dict[str, float]:
    """Runs one job in one process and returns its metrics."""
    cfg = setup(args)
    job = evaluate_only if args.eval_only else train
    return job(cfg, args.resume)


if __name__ == "__main__":
    try:
        run(main, default_argument_parser(__doc__).parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
