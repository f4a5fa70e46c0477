"""How fuzz tests run: the same examples each time, or many more with GBW_FUZZ_EXAMPLES=2000."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = os.environ.get("GBW_FUZZ_EXAMPLES")
settings.register_profile(
    "gbw_d2",
    max_examples=int(EXAMPLES or 40),
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("gbw_d2")
