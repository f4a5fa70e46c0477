"""Half precision: autocast, and the loss scaler that float16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from gbw_d2.registry import Registry

DTYPES: Registry[torch.dtype] = Registry("half precision (SOLVER.AMP.DTYPE)")
DTYPES.register("bfloat16")(torch.bfloat16)
DTYPES.register("float16")(torch.float16)


class Precision:
    """The numeric precision of a training step.

    float16 has too small a range for gradients, so losses are multiplied by a scale; when a
    gradient overflows, the step is skipped and the scale reduced. bfloat16 has the range of float32
    and needs no scale.

    Args:
        device_type: "cpu" or "cuda".
        dtype: dtype of matrix products and convolutions, or None for float32.
    """

    def __init__(self, device_type: str, dtype: torch.dtype | None = None) -> None:
        self.device_type = device_type
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler(device_type, enabled=dtype == torch.float16)

    @property
    def may_overflow(self) -> bool:
        """Whether infinite gradients occur occasionally and are handled by skipping the step."""
        return self.scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the autocast context of the forward pass."""
        return torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None)

    def state_dict(self) -> dict[str, Any]:
        """Returns the loss scaler's state, or {} if there is none."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the loss scaler's state; a resumed run may have another precision."""
        if state and self.may_overflow:
            self.scaler.load_state_dict(state)
