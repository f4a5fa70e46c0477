"""Damaged files of weights: either they load, or the message names them; nothing else happens."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1))


def contents() -> dict[str, bytes]:
    weights = network().state_dict()
    archive = io.BytesIO()
    torch.save({"model": weights, "iteration": 3}, archive)
    arrays = {"model": {k: v.numpy() for k, v in weights.items()}, "__author__": "x"}
    pickles = {f"{p}.pkl": pickle.dumps(arrays, protocol=p) for p in (0, 2, 4, 5)}
    return {"x.pth": archive.getvalue(), **pickles}


CONTENTS = contents()


@pytest.mark.filterwarnings("ignore")
@given(
    st.sampled_from(sorted(CONTENTS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 10**6),
)
def test_changed_bytes(
    tmp_path: Path, name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(CONTENTS[name])
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / name
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    try:
        Checkpointer(network(), "").load(str(path))
    except CheckpointError as error:
        assert str(path) in str(error)


@example("O8", "<", (2,), 63)
@example("f4", ">", (2,), 0)
@given(
    st.sampled_from(["O8", "O", "V8", "U1", "S8", "M8", "f4,O", "f16", "c16", "", None, 3]),
    st.sampled_from(["<", ">", "=", "|", "", None, "!", 7]),
    st.tuples() | st.tuples(st.integers(-3, 9)) | st.none(),
    st.integers(-(2**31), 2**31 - 1),
)
def test_forged_array_types(
    tmp_path: Path, name: object, order: object, shape: object, flags: int
) -> None:
    """NumPy itself takes some of these at their word, and then reads what is not there."""

    class Type:
        def __init__(self, name: object) -> None:
            self.name = name

        def __reduce__(self) -> tuple:
            state = (3, order, None, None, None, -1, -1, flags)
            return (np.dtype, (self.name, False, True), state)

    class Array:
        def __init__(self, name: object) -> None:
            self.name = name

        def __reduce__(self) -> tuple:
            state = (1, shape, Type(self.name), False, bytes(8))
            return (np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state)

    path = tmp_path / "forged.pkl"
    model = {k: v.numpy() for k, v in network().state_dict().items()}
    for kind in (name, "f4"):
        content = {"model": model | {"x": Array(kind)}, "__author__": "x"}
        path.write_bytes(pickle.dumps(content, protocol=4))
        try:
            Checkpointer(network(), "").load(str(path))
        except CheckpointError as error:
            assert "forged.pkl" in str(error)
        else:
            assert kind == "f4" and shape == (2,)
