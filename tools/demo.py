#!/usr/bin/env python3
"""Predicts images, folders of images and videos with a trained network, without labels.

    uv run tools/demo.py --config-file configs/toy/panoptic_gbw.yaml \\
        --weights output/toy/panoptic_gbw --input "photos/*.jpg" --output predictions
    uv run tools/demo.py ... --input drive.mp4 --window 512 1024 --flip --scales 0.75 1 1.25

Writes overlays/ and semantic/ (class ids). Panoptic networks also write panoptic/ and panoptic.json
(COCO panoptic format), semantic ones semantic.json. Config keys come last: --opts KEY VALUE ...
Exit code 0: all inputs were read. 1: some inputs, which are listed, could not be read. 2: error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

import numpy as np
from tqdm import tqdm

from gbw_d2.commands import finish
from gbw_d2.composition import parse
from gbw_d2.errors import UserError
from gbw_d2.inference.inputs import InputError, Source, Video, find_sources, read_photo
from gbw_d2.inference.results import ResultWriter
from gbw_d2.label_spaces import LabelSpace

# Length of the longer side, pixels, up to which an image may be too small for an encoder.
_SMALL = 64

Predictor = Callable[[np.ndarray], dict[str, Any]]


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--config-file", required=True, help="config of the network, such as a run's config.yaml")
    add("--weights", required=True, help="checkpoint file, or the OUTPUT_DIR of a run")
    add("--input", required=True, nargs="+", help="images, videos, folders, patterns in quotes")
    add("--weights-of", choices=("student", "teacher"), default="student", help="which network")
    add("--output", required=True, type=Path, help="folder of the results")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    add("--window", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="sliding window, pixels")
    add("--overlap", type=float, default=1 / 3, help="least overlap of windows, 0..1")
    add("--flip", action="store_true", help="average with the mirrored image")
    add("--scales", type=float, nargs="+", default=[1.0], help="average over these sizes")
    add("--opacity", type=float, default=0.6, help="opacity of the colours over the image, 0..1")
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys, last",
    )
    return made


def build_predictor(args: argparse.Namespace) -> tuple[Predictor, LabelSpace]:
    """Returns a function from an RGB image to its result, and the network's label space."""
    # These imports take ten seconds, for which --help and a wrong path should not wait.
    from gbw_d2.config import load_config
    from gbw_d2.inference.network import load_network, resolve_for
    from gbw_d2.inference.predict import Views, network_size, predict
    from gbw_d2.label_spaces import LABEL_SPACES

    window = tuple(args.window) if args.window else None
    views = Views(tuple(args.scales), args.flip, window, args.overlap)
    cfg = load_config(args.config_file, args.opts)
    resolve_for(cfg, args.device, args.weights)
    model = load_network(cfg, args.weights, args.weights_of)

    def run(image: np.ndarray) -> dict[str, Any]:
        shown = image if cfg.INPUT.FORMAT == "RGB" else image[..., ::-1]
        size = network_size(image.shape[:2], tuple(cfg.INPUT.TEST_SIZE))
        return predict(model, shown, size, views)

    return run, LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)


def show_photo(source: Source, run: Predictor, writer: ResultWriter) -> None:
    """Predicts an image and writes the result."""
    image = read_photo(source.path)
    try:
        result = run(image)
    except ValueError as error:
        # Norms refuse a map of one cell, to which an encoder reduces an image of few pixels.
        if max(image.shape[:2]) > _SMALL:
            raise
        raise InputError(
            f"'{source.path}' has {image.shape[0]}x{image.shape[1]} pixels (rows x columns), too "
            f"few for this network ({error})"
        ) from error
    overlay = writer.add(source.name, image, result, {"file_name": str(source.path)})
    writer.write_overlay(source.name, overlay)


def show_video(source: Source, run: Predictor, writer: ResultWriter) -> None:
    """Predicts each frame of a video; the overlays become a video again."""
    video = Video(source.path)
    with writer.overlay_video(source.name, video.fps) as overlays:
        frames = tqdm(video, source.path.name, video.announced or None, unit="frame", leave=False)
        for number, image in enumerate(frames, start=1):
            origin = {"file_name": str(source.path), "frame": number}
            overlays.add(writer.add(f"{source.name}/{number:06d}", image, run(image), origin))
    video.check_complete()


def show(sources: Sequence[Source], run: Predictor, writer: ResultWriter) -> list[str]:
    """Predicts all inputs; returns one message for each that could not be read."""
    problems = []
    try:
        for source in tqdm(sources, "demo", unit="file"):
            try:
                (show_video if source.is_video else show_photo)(source, run, writer)
            except InputError as error:
                problems.append(str(error))
                tqdm.write(f"skipped: {error}", file=sys.stderr)
    finally:
        # Also after Ctrl-C, so that the JSON files describe the results on disk.
        for path in writer.write_json():
            print(path)
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and runs."""
    given = sys.argv[1:] if arguments is None else arguments
    return finish(
        lambda: demo(parse(parser().parse_args, given)),
        "the same command starts again; results so far are written",
    )


def demo(args: argparse.Namespace) -> int:
    """Predicts all inputs; returns 1 if some could not be read."""
    sources, problems = find_sources(args.input, args.output)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not sources:
        raise UserError("nothing to show: no input is an image or a video; check --input")
    run, label_space = build_predictor(args)
    problems += show(sources, run, ResultWriter(args.output, label_space, args.opacity))
    if problems:
        print(f"{len(problems)} input(s) could not be read:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
