"""Half precision on a processor that has none is slower, and the log says so."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gbw_d2.engine import build


@pytest.mark.parametrize(("native", "enabled"), [(False, True), (True, True), (False, False)])
def test_a_line_where_it_is_slow(
    tiny_config: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: bool,
    enabled: bool,
) -> None:
    monkeypatch.setattr(build, "has_native_bfloat16", lambda: native)
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        build.build_precision(tiny_config("SOLVER.AMP.ENABLED", enabled))
    assert ("no native half precision" in caplog.text) == (enabled and not native)


def test_float16_is_slow_on_every_processor(
    tiny_config: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "has_native_bfloat16", lambda: True)
    cfg = tiny_config("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16")
    with caplog.at_level(logging.WARNING, "gbw_d2"):
        build.build_precision(cfg)
    assert "120 times slower" in caplog.text
