#!/usr/bin/env python3
"""Exports a trained network to torch.export (.pt2) or ONNX and compares it with the original.

    uv run tools/export.py --config-file configs/toy/panoptic_gbw.yaml \\
        --weights output/toy/panoptic_gbw --output network.pt2
    uv run --group export tools/export.py ... --output network.onnx --size 512 1024 --dynamic

The input is images (N, 3, H, W), float32, 0..255, with channels in the order of INPUT.FORMAT; the
normalisation is part of the file. All networks have the output semantic_logits at H x W.
Panoptic-DeepLab also has center and offset at H x W, and mask classifiers have query_logits and
mask_logits. Networks with RoI heads have no further output, because the number of boxes that they
keep depends on the image. The merging into a panoptic map is not exported; it is in
gbw_d2/modeling/postprocessing.py and gbw_d2/modeling/mask2former/segments.py. The file contains, as
JSON, what its users need: `label_space` (the classes), `input_format` (RGB or BGR) and the
thresholds of the merging, `panoptic_settings` or `segment_settings`: in the metadata of an ONNX
file, with `.json` after the name among the extra files of a .pt2 file. The file is only kept if its
outputs equal the network's. Exit code 1: they differ. 2: error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from gbw_d2 import passive_waiting  # noqa: F401  # isort: skip  (before torch)

from gbw_d2.commands import finish
from gbw_d2.composition import parse
from gbw_d2.errors import UserError
from gbw_d2.files.atomic import replacing

Runner = Callable[[Any], Sequence[Any]]  # images -> outputs, in the network's order


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--config-file", required=True, help="config of the network, such as a run's config.yaml")
    add("--weights", required=True, help="checkpoint file, or the OUTPUT_DIR of a run")
    add("--weights-of", choices=("student", "teacher"), default="student", help="which network")
    add("--output", required=True, type=Path, help="NAME.pt2 or NAME.onnx")
    size = "of the images, pixels; default: INPUT.TEST_SIZE, else INPUT.CROP_SIZE"
    add("--size", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help=size)
    add("--dynamic", action="store_true", help="number and size of the images stay variable")
    add("--tolerance", type=float, default=1e-3, help="largest allowed difference / largest output")
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys, last",
    )
    return made


def need_packages(packages: Sequence[str]) -> None:
    """Raises :class:`UserError` if one of the packages is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}; run `uv run --group export tools/export.py ...`, or "
            f"`pip install {' '.join(missing)}`. A .pt2 file needs nothing more"
        )


# Attributes of networks: dataclasses with the thresholds of the merging, which is not exported.
MERGING = ("panoptic_settings", "segment_settings")


def metadata(model: Any, input_format: str) -> dict[str, str]:
    """Returns what the users of a file need beside its outputs: name -> JSON in ASCII."""
    found = {"label_space": model.label_space.as_dict(), "input_format": input_format}
    found |= {name: asdict(getattr(model, name)) for name in MERGING if hasattr(model, name)}
    return {name: json.dumps(entry) for name, entry in found.items()}


def export_pt2(
    network: Any, example: Any, shapes: Any, about: Mapping[str, str], path: Path
) -> Runner:
    """Writes a .pt2 file and returns a function that runs it."""
    import torch

    program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    # Written at once, because torch's own writer reports a full disk as a RuntimeError.
    content = BytesIO()
    files = {f"{name}.json": entry for name, entry in about.items()}
    torch.export.save(program, content, extra_files=files)
    path.write_bytes(content.getbuffer())
    return torch.export.load(path).module()


def export_onnx(
    network: Any, example: Any, shapes: Any, about: Mapping[str, str], path: Path
) -> Runner:
    """Writes an .onnx file and returns a function that runs it in ONNX Runtime on the CPU."""
    import onnx
    import onnxruntime
    import torch

    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=["images"],
        output_names=network.output_names,
        dynamo=True,
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(about))
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(images: Any) -> list[Any]:
        return [torch.from_numpy(a) for a in session.run(None, {"images": images.numpy()})]

    return run


# Suffix -> packages that it needs besides torch, and the function that writes it.
FORMATS: dict[str, tuple[Sequence[str], Callable[..., Runner]]] = {
    ".pt2": ((), export_pt2),
    ".onnx": (("onnx", "onnxscript", "onnxruntime"), export_onnx),
}


def differences(network: Any, run: Runner, inputs: Sequence[Any]) -> dict[str, tuple[float, float]]:
    """Compares two networks on images.

    Returns:
        Output name -> largest absolute difference, and largest absolute value, over all inputs.
    """
    import torch

    found = dict.fromkeys(network.output_names, (0.0, 0.0))
    for images in inputs:
        for name, ours, theirs in zip(found, network(images), run(images), strict=True):
            if ours.shape != theirs.shape:
                raise UserError(
                    f"output {name} has shape {tuple(theirs.shape)}; expected {tuple(ours.shape)}"
                )
            apart, most = found[name]
            # torch.maximum keeps NaN, Python's max() may lose it.
            found[name] = (
                torch.maximum((ours - theirs).abs().max(), torch.tensor(apart)).item(),
                torch.maximum(ours.abs().max(), torch.tensor(most)).item(),
            )
    return found


def first_cause(error: BaseException) -> str:
    """Returns type and first line of the error that led to all the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])


class DifferentOutputsError(Exception):
    """The exported file computes other outputs than the network."""


def export(args: argparse.Namespace) -> None:
    """Exports and compares.

    Raises:
        UserError: the file's suffix, the config, the weights or the size cannot be used.
        DifferentOutputsError: the outputs differ by more than the tolerance; no file is written.
    """
    if args.output.suffix not in FORMATS:
        raise UserError(f"--output is '{args.output}'; expected NAME{' or NAME'.join(FORMATS)}")
    packages, write = FORMATS[args.output.suffix]
    need_packages(packages)
    import torch

    from gbw_d2.config import load_config
    from gbw_d2.inference.network import ExportedNetwork, load_network, resolve_for

    cfg = load_config(args.config_file, args.opts)
    resolve_for(cfg, "cpu", args.weights)
    network = ExportedNetwork(load_network(cfg, args.weights, args.weights_of))
    left_out = getattr(network.model, "not_exported", "")
    if left_out:
        print(f"note: {left_out}", file=sys.stderr)
    size = args.size or tuple(cfg.INPUT.TEST_SIZE) or tuple(cfg.INPUT.CROP_SIZE)
    if not size or min(size) < 1:
        raise UserError(
            f"the size of the exported images is {tuple(size)}; give --size ROWS COLUMNS, each at "
            "least 1"
        )
    rows, columns = size
    draw = torch.Generator().manual_seed(0)
    # An example of one image would fix the number of images at one.
    sizes = [(2 if args.dynamic else 1, 3, rows, columns)] * 2
    sizes += [(1, 3, rows // 2 + 16, columns + 16)] if args.dynamic else []
    inputs = [torch.rand(*size, generator=draw) * 255 for size in sizes]
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free},) if args.dynamic else None
    with replacing(args.output, f".part{args.output.suffix}") as temporary, torch.no_grad():
        about = metadata(network.model, cfg.INPUT.FORMAT)
        try:
            run = write(network, inputs[0], shapes, about, temporary)
        except (UserError, OSError):
            raise
        except Exception as error:  # exporters raise many types of their own
            raise UserError(
                f"'{args.output}' is not written: PyTorch cannot export this "
                f"{cfg.MODEL.META_ARCHITECTURE}{' with --dynamic' * args.dynamic}: "
                f"{first_cause(error)}"
            ) from error
        found = differences(network, run, inputs)
        for name, (apart, most) in found.items():
            print(f"{name}: largest difference {apart:.3g}, largest value {most:.3g}")
        if not all(apart <= args.tolerance * max(most, 1e-6) for apart, most in found.values()):
            raise DifferentOutputsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and exports."""
    given = sys.argv[1:] if arguments is None else arguments
    return finish(lambda: export_or_say_why_not(parse(parser().parse_args, given)))


def export_or_say_why_not(args: argparse.Namespace) -> int:
    """Exports; returns 1 if the outputs differ."""
    try:
        export(args)
    except DifferentOutputsError:
        print(
            f"error: '{args.output}' is not written: its outputs differ from the network's by more "
            f"than {args.tolerance:g} of the largest value (--tolerance)",
            file=sys.stderr,
        )
        return 1
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
