"""Repairs that Detectron2 0.6 needs with current NumPy, Pillow, PyTorch and torchvision.

Import this module before Detectron2. Each repair is made only if it is needed, so that Detectron2's
main branch, which needs none, is unchanged.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

# Detectron2 0.6 calls torch.jit.script when it is imported, about which users can do nothing.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)


class _MissingExtension(ModuleType):
    """Replaces ``detectron2._C``; access to an operator raises an explanatory error."""

    # detectron2.utils.collect_env calls these three functions if the module exists.
    @staticmethod
    def get_compiler_version() -> str:
        return "not compiled"

    @staticmethod
    def get_cuda_version() -> str:
        return "not compiled"

    @staticmethod
    def has_cuda() -> bool:
        return False

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            # Python's import system probes special names and expects this error.
            raise AttributeError(name)
        raise ImportError(
            f"Detectron2's compiled operator '{name}' is not in this installation, which has its "
            "Python files only. Rotated boxes and Detectron2's own deformable convolution need it; "
            "see INSTALL.md, 'With upstream Detectron2'."
        )


class _LoadedWhenCalled(ModuleType):
    """Replaces a module whose functions others import by name; a call imports the module."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        module = self.__name__

        def function(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*args, **kwargs)

        return function


def _import_torchvision() -> None:
    """Imports torchvision without PyTorch's compiler.

    Detectron2 imports torchvision, whose roi_align.py imports the compiler for a single function
    that is only called on a GPU. That takes half of this project's import time, after PyTorch's
    own.
    """
    compiler = "torch._dynamo.utils"
    if compiler in sys.modules:
        return
    sys.modules[compiler] = _LoadedWhenCalled(compiler)
    try:
        importlib.import_module("torchvision.ops")
    finally:
        del sys.modules[compiler]


def _detectron2_has_extension() -> bool:
    # find_spec("detectron2._C") would import detectron2, so the folder is searched instead.
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(
            "Detectron2 is not installed. `uv sync` installs it; INSTALL.md gives the other ways."
        )
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return any(
        path.name.endswith(suffixes)
        for folder in spec.submodule_search_locations
        for path in Path(folder).glob("_C.*")
    )


def _repair() -> None:
    if "detectron2._C" not in sys.modules and not _detectron2_has_extension():
        sys.modules["detectron2._C"] = _MissingExtension("detectron2._C")
    # NumPy 1.24 removed these aliases of Python's types.
    for name, python_type in (("int", int), ("float", float), ("object", object), ("bool", bool)):
        if name not in np.__dict__:
            setattr(np, name, python_type)
    # Pillow 10 removed LINEAR, an alias of BILINEAR.
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR
    _import_torchvision()


_repair()
