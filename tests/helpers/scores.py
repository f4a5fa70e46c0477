"""Scores of an evaluation, for the tests of tables and files."""

import numpy as np

PER_CLASS = {
    "16": {
        "road": {"train_id": 0, "share": 40.0, "IoU": 90.0, "PQ": 80.0, "TP": 3},
        "rider": {"train_id": 12, "share": 0.2, "IoU": 12.345, "PQ": None, "TP": 0},
    },
    "16_void": {"road": {"train_id": 0, "share": 41.0, "IoU": 91.0, "PQ": 80.0, "TP": 3}},
}
METRICS = {
    "PQ_16": 40.0,
    "mIoU_16": 51.17,
    "mIoU_16_void": np.float64("nan"),
    "mIoU_classes_16": 2.0,
}
