#!/usr/bin/env python3
"""Checks whether this machine can run gbw_d2, and says what to do if it cannot.

    uv run tools/check_env.py

Exit code 0: everything works. 2: something is missing; the lines marked MISSING say what.
"""

from __future__ import annotations

import importlib
import platform
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version


class Finding(Exception):
    """A check failed; its text says what to do."""


def python_version() -> str:
    """Checks Python's version."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        found = platform.python_version()
        raise Finding(f"{found}: 3.10 to 3.12 is needed; try `uv python pin 3.11`")
    return platform.python_version()


def package(module: str, distribution: str) -> Callable[[], str]:
    """Returns a check that a module can be imported, which returns the package's version."""

    def check() -> str:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Finding(f"not importable ({error}); run `uv sync`, or see INSTALL.md") from error
        try:
            return version(distribution)
        except PackageNotFoundError:
            return "present"

    return check


def detectron2_works() -> str:
    """Builds and runs layers of Detectron2 that this project uses."""
    import torch

    from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)

    import detectron2
    from detectron2.layers import ASPP, ROIAlign

    aspp = ASPP(8, 8, [1, 2, 3], norm="", activation=torch.relu)
    shape = aspp(torch.zeros(1, 8, 16, 16)).shape
    ROIAlign((2, 2), 1.0, 0)(torch.zeros(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]))
    from detectron2 import _C

    compiled = not type(_C).__name__.startswith("_Missing")
    extension = "with" if compiled else "without (not needed here)"
    assert tuple(shape) == (1, 8, 16, 16)
    return f"{detectron2.__version__}, {extension} its compiled extension"


def device() -> str:
    """Returns the name of the device that MODEL.DEVICE auto selects."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads (no CUDA device: the toy recipes run)"
    properties = torch.cuda.get_device_properties(0)
    total = properties.total_memory / 2**30
    return f"{torch.cuda.device_count()} x {properties.name}, {total:.0f} GiB"


def datasets() -> str:
    """Returns the datasets' root and the datasets in it."""
    from gbw_d2.data.spec import datasets_root

    root = datasets_root()
    found = [n for n in ("synthia", "cityscapes", "toy") if (root / n).is_dir()]
    return f"{root}: {', '.join(found) or 'empty (the toy world is made on first use)'}"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("python", python_version),
    ("torch", package("torch", "torch")),
    ("torchvision", package("torchvision", "torchvision")),
    ("numpy", package("numpy", "numpy")),
    ("opencv", package("cv2", "opencv-python-headless")),
    ("panopticapi", package("panopticapi.utils", "panopticapi-lite")),
    ("cityscapesscripts", package("cityscapesscripts.helpers.labels", "cityscapesscripts")),
    ("cvxopt (reference solver)", package("cvxopt", "cvxopt")),
    ("detectron2", detectron2_works),
    ("device", device),
    ("datasets", datasets),
)


def main() -> int:
    """Runs all checks and prints a verdict."""
    warnings.simplefilter("ignore")
    failed = 0
    for name, check in CHECKS:
        try:
            print(f"  ok       {name}: {check()}", flush=True)
        except (Finding, ImportError, RuntimeError, OSError) as error:
            failed += 1
            print(f"  MISSING  {name}: {error}", flush=True)
    print("verdict: ready" if not failed else f"verdict: {failed} of {len(CHECKS)} checks failed")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
