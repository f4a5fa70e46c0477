"""Speed of the loader: source and target batches of a config, without training."""

from __future__ import annotations

import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def loader_speed(config: str, overrides: list[str], iterations: int) -> dict[str, float]:
    """Draws batches and measures their speed, after the workers have started.

    Args:
        config: path below ``configs``.
        overrides: ``KEY VALUE ...``.
        iterations: batches that are timed.

    Returns:
        images per second of source and target together, and ms per iteration.
    """
    from gbw_d2.config import load_config
    from gbw_d2.engine.batches import build_batches
    from gbw_d2.engine.run_data import RunData
    from gbw_d2.engine.setup import resolve

    cfg = load_config(str(ROOT / "configs" / config), overrides)
    resolve(cfg)
    data = RunData(cfg)
    data.prepare(training=True)
    batches = build_batches(data, 0)
    images = sum(len(batch) for batch in next(batches) if batch is not None)
    start = time.perf_counter()
    for _ in range(iterations):
        next(batches)
    seconds = (time.perf_counter() - start) / iterations
    return {"images_per_second": images / seconds, "ms": 1000 * seconds}
