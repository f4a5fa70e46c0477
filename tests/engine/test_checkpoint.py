"""Checkpoints: plain content, nothing half-written, and errors where they do not fit."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from gbw_d2.engine.checkpoint import Checkpointer, CheckpointError
from gbw_d2.engine.zoo_pickle import read_zoo_pickle
from gbw_d2.errors import UserError
from gbw_d2.losses import ClassWeightedCrossEntropy, WeightedLosses
from gbw_d2.weighting import build_scheme

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, classes, 1))


def losses_with(scheme: str) -> WeightedLosses:
    return WeightedLosses({"semantic": ClassWeightedCrossEntropy(build_scheme(scheme, 3))})


def test_round_trip_with_plain_content(tmp_path: Path) -> None:
    model, losses = network(), losses_with("gbw")
    losses["semantic"].scheme.state["source_class_gradient"].mean = torch.rand(3)
    Checkpointer(model, str(tmp_path), weighted_losses=losses).save("model_a", iteration=7)
    assert torch.load(tmp_path / "model_a.pth", weights_only=True)["iteration"] == 7
    other, empty = network(), losses_with("gbw")
    checkpointer = Checkpointer(other, str(tmp_path), weighted_losses=empty)
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 7
    assert torch.equal(other[1].weight, model[1].weight)
    restored, saved = empty.state_dict(), losses.state_dict()
    assert restored.keys() == saved.keys()
    assert all(torch.equal(restored[key], saved[key]) for key in saved)


@pytest.mark.parametrize("size", [0, 100, 4000])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, small_disk: Any, size: int) -> None:
    checkpointer = Checkpointer(nn.Linear(100, 100), str(tmp_path))
    checkpointer.save("model_0", iteration=1)
    message = r"model_0\.pth' could not be written .*--resume"
    with pytest.raises(CheckpointError, match=message), small_disk(size):
        checkpointer.save("model_0", iteration=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0.pth"]
    assert torch.load(tmp_path / "model_0.pth", weights_only=True)["iteration"] == 1


def test_a_disk_that_is_full_for_the_tag_keeps_the_old_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.save("model_0")

    def fail(path: Path, _content: bytes) -> None:
        with path.open("wb") as file:
            file.write(b"mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpointer.save("model_1")
    assert (tmp_path / "last_checkpoint").read_bytes() == b"model_0.pth"
    assert not list(tmp_path.glob("*.tmp"))


def test_other_class_count_raises(tmp_path: Path) -> None:
    Checkpointer(network(3), str(tmp_path)).save("model")
    with pytest.raises(CheckpointError, match=r"1.weight: file \(3, 4, 1, 1\), network \(5, "):
        Checkpointer(network(5), str(tmp_path)).load(str(tmp_path / "model.pth"))


def test_missing_part_raises_only_where_strict(tmp_path: Path) -> None:
    torch.save({"model": {"0.weight": network()[0].weight.detach()}}, tmp_path / "part.pth")
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.load(str(tmp_path / "part.pth"))
    checkpointer.strict = True
    with pytest.raises(CheckpointError, match="lacks 3 of the 4 tensors"):
        checkpointer.load(str(tmp_path / "part.pth"))


def test_a_part_is_refused_where_the_whole_network_is_needed(tmp_path: Path) -> None:
    part = {"0.weight": network()[0].weight.detach()}
    torch.save({"model": part}, tmp_path / "part.pth")
    torch.save({"model": network().state_dict()}, tmp_path / "whole.pth")
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.why_whole = "the teacher would be untrained"
    words = r"part.pth': 3 of the 4 parameters .* first of them 0.bias; the teacher would be untra"
    with pytest.raises(CheckpointError, match=words):
        checkpointer.load(str(tmp_path / "part.pth"))
    checkpointer.load(str(tmp_path / "whole.pth"))


def test_weights_of_quite_another_network_raise(tmp_path: Path) -> None:
    torch.save({"conv9.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth': .*lacks 4 of the 4 tensors"):
        Checkpointer(network(), str(tmp_path)).load(str(tmp_path / "other.pth"))


@pytest.mark.parametrize("path", ["none.pth", "none.pkl", "nowhere://none.pth", "."])
def test_missing_file_raises(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match=r"do not exist; set MODEL\.WEIGHTS"):
        Checkpointer(network(), str(tmp_path)).load(path)


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(network(), str(tmp_path))

    def fail(_path: str) -> str:
        raise URLError("no route")

    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", fail, raising=False)
    with pytest.raises(CheckpointError, match=r"could not be fetched .*no route.*other means"):
        checkpointer.load("https://example.org/weights.pkl")


def test_settings_that_changed_before_resuming(tmp_path: Path) -> None:
    with_memory = losses_with("gbw")
    Checkpointer(network(), str(tmp_path), weighted_losses=with_memory).save("model")
    plain = Checkpointer(network(), str(tmp_path), weighted_losses=losses_with("none"))
    with pytest.raises(CheckpointError, match=r"other settings.*other WEIGHTING.*mean_weights"):
        plain.resume_or_load("", resume=True)

    parameters = list(network().parameters())
    one = torch.optim.SGD(parameters, 0.1)
    two = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], 0.1)
    Checkpointer(network(), str(tmp_path), optimizer=one).save("model")
    with pytest.raises(CheckpointError, match=r"other settings.*parameter groups"):
        Checkpointer(network(), str(tmp_path), optimizer=two).resume_or_load("", resume=True)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def write_evil(folder: Path, name: str) -> Path:
    content = {"model": {"x": Evil(folder / "made")}, "__author__": "me"}
    path = folder / name
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization="old" not in name)
    return path


@pytest.mark.parametrize("name", ["evil.pth", "evil_old.pth", "evil.pkl", "evil.pyth"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, name: str) -> None:
    path = write_evil(tmp_path, name)
    with pytest.raises(CheckpointError, match=r"may run code.*TRUST_WEIGHTS True") as error:
        Checkpointer(network(), str(tmp_path)).load(str(path))
    assert str(path) in str(error.value)
    assert re.search("asks for .*(getattr|Path)", str(error.value))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["evil.pth", "evil_old.pth", "evil.pkl"])
def test_trusted_weights_may_run_code(tmp_path: Path, name: str) -> None:
    path = write_evil(tmp_path, name)
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.trust = True
    # The file loads and does what it wants; that it holds no tensor under "x" is another matter.
    with pytest.raises(CheckpointError, match="'x' is a NoneType"):
        checkpointer.load(str(path))
    assert (tmp_path / "made").exists()


def test_a_pickle_cannot_reach_code_by_way_of_an_allowed_module(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    for text in (
        b"cnumpy.testing._private.utils\nrunstring\n.",
        b"cnumpy\nndarray.__reduce__\n.",
        b"cos\nsystem\n(S'touch made'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ctorch.storage\n_load_from_bytes\n.",
    ):
        path.write_bytes(text)
        with pytest.raises(CheckpointError, match="may run code"):
            Checkpointer(network(), str(tmp_path)).load(str(path))


class Pretrained(nn.Module):
    """A ResNet-18 in the place where the networks have it."""

    def __init__(self) -> None:
        super().__init__()
        cfg = get_cfg()
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
        cfg.MODEL.RESNETS.NORM = "BN"
        self.backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_file_of_the_model_zoo_loads_into_the_backbone(tmp_path: Path, protocol: int) -> None:
    origin, network = Pretrained(), Pretrained()
    arrays = {k: v.numpy() for k, v in origin.backbone.state_dict().items()}
    arrays["stem.fc.weight"] = np.ones((1000, 512), dtype=np.float32)
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    before = network.state_dict()["backbone.res2.0.conv1.weight"].clone()
    Checkpointer(network, str(tmp_path)).load(str(tmp_path / "R-18.pkl"))
    after, expected = network.state_dict(), origin.state_dict()
    assert not torch.equal(before, after["backbone.res2.0.conv1.weight"])
    assert all(torch.equal(after[key], expected[key]) for key in expected)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f8", "i1", ">i8", "bool"])
def test_arrays_keep_their_numbers(tmp_path: Path, dtype: str) -> None:
    arrays = {
        "flat": np.arange(6).astype(dtype),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)),
        "scalar": np.array(1, dtype=dtype),
        "empty": np.zeros((0, 3), dtype=dtype),
    }
    for protocol in (0, 2, 5):
        content = {"model": arrays, "__author__": "x"}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_zoo_pickle(tmp_path / "x.pkl")["model"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert torch.from_numpy(found[name]).shape == array.shape


def test_a_file_of_python_2(tmp_path: Path) -> None:
    """Caffe2's files: byte strings for names and numbers, written here opcode by opcode."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = np.array([1.5, -2, 3e-9], dtype="<f4")
    pickled = (
        b"\x80\x02}" + text(b"blobs") + b"}" + text(b"conv1_b") + b"cnumpy.core.multiarray\n"
        b"_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01K\x03\x85"
        b"cnumpy\ndtype\n" + text(b"f4") + b"K\x00K\x01\x87R(K\x03" + text(b"<") + b"NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(array.tobytes()) + b"tbs"
        b"s."
    )
    (tmp_path / "R-18.pkl").write_bytes(pickled)
    loaded = Checkpointer(network(), str(tmp_path))._load_file(str(tmp_path / "R-18.pkl"))
    assert loaded["__author__"] == "Caffe2" and loaded["matching_heuristics"] is True
    np.testing.assert_array_equal(loaded["model"]["conv1_b"], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "it holds a Tensor in place of the weights"),
        ([1, 2], "it holds a list in place"),
        ({"model": 3}, "it holds a int in place"),
        ({"state_dict": {"0.weight": 3}, "epoch": 3}, "'0.weight' is a int"),
        ({"0.weight": "text"}, "'0.weight' is a str, expected a tensor"),
        ({0: torch.zeros(3)}, "entry 0 is a Tensor"),
    ],
)
def test_content_that_is_no_network(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=message):
        Checkpointer(network(), str(tmp_path)).load(str(tmp_path / "odd.pth"))


@pytest.mark.parametrize(
    "content", [[1], "text", {"model": {"a": np.array([None])}, "__author__": "x"}, {1: 2}]
)
def test_pickled_content_that_is_no_network(tmp_path: Path, content: object) -> None:
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"odd\.pkl': it"):
        Checkpointer(network(), str(tmp_path)).load(str(tmp_path / "odd.pkl"))


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    whole = io.BytesIO()
    if suffix == ".pkl":
        weights = {k: v.numpy() for k, v in network().state_dict().items()}
        pickle.dump({"model": weights, "__author__": "x"}, whole)
    else:
        torch.save({"model": network().state_dict()}, whole)
    data, path = whole.getvalue(), tmp_path / f"broken{suffix}"
    half = len(data) // 2
    for damaged in (b"", b"\x80", data[:3], data[:half], data[: half // 2], data[:-1], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"broken\{suffix}': it is damaged"):
            Checkpointer(network(), str(tmp_path)).load(str(path))


def test_a_folder_that_lost_its_last_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(network(), str(tmp_path))
    checkpointer.save("model_0")
    (tmp_path / "model_0.pth").unlink()
    with pytest.raises(CheckpointError, match=r"model_0\.pth' do not exist.*last_checkpoint"):
        checkpointer.resume_or_load("", resume=True)


def test_resuming_goes_back_to_a_whole_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = Checkpointer(network(), str(tmp_path))
    for iteration in (1, 3, 5):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    last = tmp_path / "model_0000005.pth"
    whole = last.read_bytes()
    checkpointer.leave_out_damaged()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 5
    last.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    checkpointer.leave_out_damaged()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert "is truncated; resuming from the one before it, model_0000001.pth" in caplog.text
    # Nothing to go back to: the file's own error.
    (tmp_path / "model_0000001.pth").write_bytes(whole[:-1])
    checkpointer.leave_out_damaged()
    with pytest.raises(CheckpointError, match=r"model_0000001\.pth': it is damaged"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    weights = network().state_dict()
    weights["0.weight"][0] = value
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"'0\.weight' holds numbers that are not finite"):
        Checkpointer(network()).load(str(tmp_path / "a.pth"))


def test_one_changed_bit_of_the_weights_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    weights = {"0.weight": torch.full((4, 3, 1, 1), 0.3)}
    for written in (True, False):
        torch.serialization.set_crc32_options(written)
        try:
            torch.save(weights, path)
        finally:
            torch.serialization.set_crc32_options(True)
        data = bytearray(path.read_bytes())
        at = data.find(weights["0.weight"].numpy().tobytes())
        Checkpointer(network()).load(str(path))
        data[at] ^= 1
        path.write_bytes(data)
        if written:
            with pytest.raises(CheckpointError, match=r"damaged.*Bad CRC-32"):
                Checkpointer(network()).load(str(path))
    # A file without checksums is taken as it is.
    Checkpointer(network()).load(str(path))


@pytest.mark.parametrize(
    "changed", [{"iteration": "7"}, {"iteration": True}, {"optimizer": 3}, {"optimizer": {}}]
)
def test_entries_of_another_kind_are_told(tmp_path: Path, changed: dict[str, Any]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    checkpointer = Checkpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.strict = True
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 3}
    torch.save(state | changed, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth") as caught:
        checkpointer.load(str(tmp_path / "a.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"../a.pth", b"a\0b", b"a\nb"])
def test_last_checkpoint_must_name_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(UserError, match="last_checkpoint' should name a checkpoint"):
        Checkpointer(network(), str(tmp_path)).resume_or_load("", resume=True)
