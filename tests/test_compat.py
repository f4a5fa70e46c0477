"""The repairs of Detectron2 0.6 do what they say and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gbw_d2 import compat

from detectron2 import _C


def test_missing_operator_is_named() -> None:
    if not type(_C).__name__.startswith("_Missing"):
        pytest.skip("this Detectron2 has its compiled extension")
    with pytest.raises(ImportError, match=r"nms_rotated.*INSTALL\.md"):
        _ = _C.nms_rotated
    with pytest.raises(AttributeError):
        _ = _C.__no_such_dunder__
    assert _C.has_cuda() is False


def test_aliases() -> None:
    assert np.array([1.5]).astype(np.int).tolist() == [1]
    assert np.dtype(np.bool) == np.dtype(bool)
    assert Image.LINEAR == Image.BILINEAR


def test_environment_report_runs() -> None:
    from detectron2.utils.collect_env import collect_env_info

    assert "detectron2" in collect_env_info()


def test_a_stand_in_calls_the_module_itself() -> None:
    module = compat._LoadedWhenCalled("math")
    assert module.isqrt(17) == 4
    assert not hasattr(module, "__path__")
    # torchvision's own function is the real one by the time that it is asked.
    from torchvision.ops import roi_align

    assert sys.modules[roi_align.__module__].is_compile_supported("cpu") in (True, False)


@pytest.mark.slow
def test_imports_leave_the_compiler_out(repository: Path) -> None:
    code = (
        "import sys\nimport gbw_d2.engine.setup, gbw_d2.engine.train\n"
        "print(sorted(m for m in sys.modules if m.startswith('torch._dynamo')))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
