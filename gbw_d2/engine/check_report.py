"""What ``train_net.py --check`` says about the classes and the images of a run."""

from __future__ import annotations

import logging

from gbw_d2 import compat, keys  # noqa: F401  (compat before Detectron2)
from gbw_d2.data.spec import Record
from gbw_d2.engine.run_data import RunData
from gbw_d2.uda import STRATEGIES

logger = logging.getLogger(__name__)


def log_data(data: RunData) -> None:
    """Logs the classes of the network, and the number and sizes of the images of each set."""
    space, datasets = data.space, data.cfg.DATASETS
    things = [space.class_names[i] for i in space.thing_ids]
    logger.info(
        "The network has %d classes: %s; things: %s",
        space.num_classes,
        ", ".join(space.class_names),
        ", ".join(things) or "none",
    )
    _log_set("DATASETS.TRAIN", datasets.TRAIN[0], data.source.records)
    if STRATEGIES.get(data.cfg.UDA.NAME).needs_target:
        _log_set("DATASETS.TARGET", datasets.TARGET[0], data.target.records)
    for name in datasets.TEST:
        _log_set("DATASETS.TEST", name, data.test_set(name).records)


def _log_set(key: str, name: str, records: list[Record]) -> None:
    sizes = sorted({(r[keys.HEIGHT], r[keys.WIDTH]) for r in records}, key=lambda s: s[0] * s[1])
    least, most = (f"{rows} x {columns}" for rows, columns in (sizes[0], sizes[-1]))
    size = least if len(sizes) == 1 else f"{least} to {most}"
    logger.info("%s '%s': %d images of %s pixels", key, name, len(records), size)
