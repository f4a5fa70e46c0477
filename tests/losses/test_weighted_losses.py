"""The losses of several heads together: order, flags, and a state that is restored whole or not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gbw_d2.losses import (
    ClassWeightedCenterLoss,
    ClassWeightedCrossEntropy,
    ClassWeightedOffsetLoss,
    WeightedLosses,
    in_order,
)
from gbw_d2.weighting import FLAGS, SCHEMES, SharedWeights, WeightLog, build_scheme

K, THINGS = 5, (1, 3)


def make_losses(name: str, classes: int = K, terms: Any = ("source", "mixed"), **settings: Any):
    """A semantic head with any scheme, centres with norms, offsets with the centres' weights."""
    given = {"class_weights": range(1, classes + 1)} if name == "fixed" else {}
    counts = torch.arange(1.0, classes + 1)
    semantic = build_scheme(name, classes, {**given, **settings}, counts, terms)
    norm = build_scheme("gbw_norm", 2, {"momentum": 0.5}, terms=terms)
    return WeightedLosses(
        {
            "semantic": ClassWeightedCrossEntropy(semantic, head="semantic"),
            "offset": ClassWeightedOffsetLoss(SharedWeights("center", (0, 1)), THINGS, K, "offset"),
            "center": ClassWeightedCenterLoss(norm, THINGS, K, "center"),
        }
    )


def make_calls(losses: WeightedLosses, seed: int, term: str, log: WeightLog) -> dict[str, Any]:
    """Returns head -> computes its loss on a random batch."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator)

    classes = losses["semantic"].num_classes
    labels = torch.randint(0, classes, (2, 4, 6), generator=generator)
    owner = torch.tensor([1, 3, 3, 255])[torch.randint(0, 4, (2, 4, 6), generator=generator)]
    ones, more = torch.ones(2, 4, 6), {"term": term, "log": log}
    semantic = draw(classes, 4, 6), labels, None, (draw(3, 4, 6), draw(classes, 4, 6))
    center = draw(1, 4, 6), draw(4, 6), ones, owner
    offset = draw(2, 4, 6), draw(2, 4, 6), ones, owner
    return {
        "semantic": lambda: losses["semantic"](*semantic, **more),
        "center": lambda: losses["center"](*center, **more),
        "offset": lambda: losses["offset"](*offset, **more),
    }


def compute(losses: WeightedLosses, seed: int, term: str = "source") -> tuple[Tensor, WeightLog]:
    log = WeightLog()
    values = in_order(losses, make_calls(losses, seed, term, log))
    return torch.stack(list(values.values())), log


def test_a_mapping_of_heads_and_a_module() -> None:
    losses = make_losses("gbw")
    assert list(losses) == ["semantic", "offset", "center"] and len(losses) == 3
    assert "center" in losses and "mask" not in losses and losses.get("mask") is None
    assert losses == losses and losses != make_losses("gbw")
    # Moving it moves what all heads keep.
    losses.to("meta")
    assert {value.device.type for value in losses.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("order", [("center", "offset"), ("offset", "center")])
def test_a_head_whose_weights_others_use_comes_first(order: tuple[str, str]) -> None:
    losses, log = make_losses("gbw"), WeightLog()
    calls = make_calls(losses, 0, "source", log)
    values = in_order(losses, {head: calls[head] for head in order})
    assert tuple(values) == order
    own, taken = (log.get(head, "source") for head in ("center", "offset"))
    torch.testing.assert_close(taken.weights, own.weights)
    assert (taken.weights - 1).abs().max() > 1e-3
    fresh, log = make_losses("gbw"), WeightLog()
    calls = make_calls(fresh, 0, "source", log)
    with pytest.raises(ValueError, match="head 'center' has no weights of term 'source' to share"):
        calls["offset"]()
    for head in ("center", "offset"):
        assert torch.equal(calls[head](), values[head])


def test_flags_of_every_head() -> None:
    losses = make_losses("gbw")
    assert set(losses.flags()) == {(head, flag) for head in losses for flag in FLAGS}
    assert not any(losses.flags().values())
    losses["center"].scheme.invalid_labels = torch.tensor(True)
    assert [key for key, flag in losses.flags().items() if flag] == [("center", "invalid_labels")]


@pytest.mark.parametrize("name", SCHEMES.names())
def test_a_state_continues_exactly_and_stands_still_in_eval(name: str, tmp_path: Path) -> None:
    first = make_losses(name)
    for seed, term in enumerate(("source", "mixed", "source")):
        compute(first, seed, term)
    torch.save(first.state_dict(), tmp_path / "losses.pth")
    before = copy.deepcopy(first.state_dict())
    first.eval()
    looked_at = [compute(first, seed, term)[0] for seed, term in ((3, "source"), (4, "mixed"))]
    assert all(torch.equal(value, before[key]) for key, value in first.state_dict().items())
    first.train()
    second = make_losses(name)
    second.load_state_dict(torch.load(tmp_path / "losses.pth", weights_only=True))
    for seed, term in ((3, "source"), (4, "mixed"), (5, "source")):
        (one, log), (other, other_log) = (compute(each, seed, term) for each in (first, second))
        assert torch.equal(one, other)
        for head in first:
            weights, others = (each.get(head, term).weights for each in (log, other_log))
            assert torch.equal(weights, others)
        if seed == 3:
            assert torch.equal(one, looked_at[0])
            # What was kept matters: centres have a running mean.
            fresh, _ = compute(make_losses(name), seed, term)
            assert not torch.equal(fresh, one)
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (make_losses("none"), r"it lacks heads\.semantic\.scheme\.mean_weights.* \.\.\.\)"),
        (
            make_losses("gbw", momentum=0.0),
            r"it lacks .*\.state\.source_class_gradient\.mean, .*\.seen\)",
        ),
        (make_losses("gbw", frequency_power=0.0), r"it lacks .*batches, .*\.share\)"),
        (make_losses("gbw", shaped_by="all"), r"it lacks .*source_batches.*; it holds besides"),
        (make_losses("gbw", terms=("source",)), r"it lacks heads\.center.*\.mixed_norm\.mean, "),
        (make_losses("gbw", classes=7), r"other shapes have .*, .*, .* \.\.\.\)"),
        (WeightedLosses({"semantic": make_losses("gbw")["semantic"]}), "it lacks heads.center"),
    ],
)
def test_a_state_of_another_run_is_refused_whole(other: WeightedLosses, told: str) -> None:
    losses = make_losses("gbw")
    compute(losses, 0)
    before = copy.deepcopy(losses.state_dict())
    with pytest.raises(ValueError, match=told) as caught:
        losses.load_state_dict(other.state_dict())
    message = str(caught.value)
    assert message.startswith("the class weights' state was written with other WEIGHTING keys")
    assert "set those it was trained with" in message and "\n" not in message
    after = losses.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_one_wrong_entry_leaves_all_as_it_was() -> None:
    first, second = make_losses("gbw"), make_losses("gbw")
    compute(first, 0)
    compute(second, 1)
    theirs, ours = first.state_dict(), copy.deepcopy(second.state_dict())
    assert len(ours) > 5
    for key in theirs:
        for wrong in (torch.ones(K + 1), 3, None):
            with pytest.raises(ValueError, match="other shapes have"):
                second.load_state_dict({**theirs, key: wrong})
        with pytest.raises(ValueError, match=f"it lacks {key}"):
            second.load_state_dict({k: v for k, v in theirs.items() if k != key})
        after = second.state_dict()
        assert all(torch.equal(after[k], ours[k]) for k in ours), key
    second.load_state_dict(theirs)
    assert all(torch.equal(second.state_dict()[k], theirs[k]) for k in theirs)


def test_a_scheme_for_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="was built for 3 classes; head 'semantic' has 2"):
        ClassWeightedCrossEntropy(build_scheme("none", 3), (0, 1), 3, "semantic")
