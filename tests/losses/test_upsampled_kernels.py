"""The Triton kernels: equal to the blocks by Triton's interpreter, and they compile for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gbw_d2.weighting.upsampled_pixels import kernels_for

pytest.importorskip("triton")


@pytest.mark.slow
def test_interpreted_kernels_equal_the_blocks() -> None:
    cases = Path(__file__).with_name("interpreted_kernels.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_cpu_has_blocks() -> None:
    assert kernels_for(torch.zeros(1, 2, 3, 3)) is None


POINTERS = {
    "targets": "*i64",
    **dict.fromkeys(("y_lower", "x_lower", "y_first", "y_end", "x_first", "x_end"), "*i32"),
}
INTEGERS = dict.fromkeys(("height", "width", "out_height", "out_width", "longest"), "i32")


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("_pixel_kernel", {"REPEATS": 16, "GAMMA": 2.0, "NORMS": False}),
        ("_pixel_kernel", {"REPEATS": 16, "GAMMA": 0.0, "NORMS": True}),
        ("_gradient_kernel", {}),
    ],
)
def test_compiles_for_a_gpu_that_is_not_here(
    name: str, constants: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from gbw_d2.ops import upsampled_kernels

    kernel = getattr(upsampled_kernels, name)
    constants = {"CLASSES": 19, "PADDED": 32, "PIXELS": 128, **constants}
    types = {"logits": "*fp16", "strides": ("i32",) * 4, **POINTERS, **INTEGERS}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names}
    values = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    compiled = compile(
        ASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32), options={}
    )
    assert "cubin" in compiled.asm
