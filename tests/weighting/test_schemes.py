from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from gbw_d2.registry import UnknownNameError
from gbw_d2.weighting import FLAGS, SCHEMES, ClassStatistics, build_scheme

CLASSES = 6
COUNTS = [1000.0, 10.0, 0.0, 500.0, 40.0, 3.0]
WEIGHTS = {"class_weights": (1, 2, 3, 4, 5, 6)}
UNADJUSTED = {"logit_adjustment": 0.0, "pseudo_label_adjustment": 0.0}
PRESENT = torch.tensor([1, 1, 0, 1, 1, 0]).bool()


def build(name, **overrides):
    """Builds any scheme with what it needs."""
    given = WEIGHTS if name == "fixed" else {}
    return build_scheme(name, CLASSES, {**given, **overrides}, COUNTS)


def make_statistics(counts=None, measure=None):
    counts = torch.tensor(counts or [100.0, 5.0, 0.0, 30.0, 1.0, 0.0], dtype=torch.float64)
    measure = torch.tensor(measure or [0.1, 0.4, 0.05, 0.2, 0.5, 0.01], dtype=torch.float64)
    clear = torch.zeros((), dtype=torch.bool)
    return ClassStatistics(counts, counts * 0.5, clear, clear, measure, counts > 0)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_contract_of_every_scheme(name):
    scheme = build(name)
    assert scheme.name == name
    for statistics in (
        make_statistics(),
        make_statistics([1.0] * 6),
        make_statistics([1e-300] * 6),
    ):
        weights = scheme.weights(statistics, "source")
        assert weights.shape == (CLASSES,)
        assert weights.dtype == torch.float32
        assert not weights.requires_grad
        assert weights.min() >= 0
        assert weights.sum().item() == pytest.approx(CLASSES, rel=1e-6)
    assert all(value.dtype == torch.long for value in scheme.counters().values())
    assert scheme.flags().keys() == FLAGS.keys()
    assert not any(scheme.flags().values())
    # Whatever it keeps is there from the start.
    fresh = {key: value.shape for key, value in build(name).state_dict().items()}
    assert fresh == {key: value.shape for key, value in scheme.state_dict().items()}


@pytest.mark.parametrize("name", SCHEMES.names())
def test_state_of_every_scheme_moves_in_training_only(name):
    for more in ({}, {"logit_adjustment": 1.0}, {"shaped_by": "source"}):
        scheme = build(name, **more)
        scheme.weights(make_statistics(), "source")
        state = copy.deepcopy(scheme.state_dict())
        counters = scheme.counters()
        other = make_statistics([1.0] * 6, [0.5, 0.1, 0.3, 0.2, 0.9, 0.7])
        scheme.eval()
        looked_at = scheme.weights(other, "source")
        for term in ("mixed", "pseudo"):
            scheme.weights(other, term)
        after = scheme.state_dict()
        assert all(torch.equal(after[key], state[key]) for key in state)
        assert scheme.counters() == counters
        # The same batch in training: the weights are the same, and what is kept moves.
        scheme.train()
        assert torch.equal(scheme.weights(other, "source"), looked_at)
        moved = any(
            not torch.equal(value, state[key]) for key, value in scheme.state_dict().items()
        )
        assert moved == bool(state)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_mean_weights_of_every_scheme_are_kept(name):
    first, second = (build(name, logit_adjustment=1.0) for _ in range(2))
    assert first.logit_shift("source").tolist() == [0.0] * CLASSES
    weights = first.weights(make_statistics(), "source")
    shift = first.logit_shift("source")
    torch.testing.assert_close(shift.exp()[PRESENT], weights[PRESENT])
    assert (shift[~PRESENT] == 0).all()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.logit_shift("source"), shift)
    # Off, nothing is kept that only this needs.
    off = build(name, **UNADJUSTED)
    off.weights(make_statistics(), "source")
    assert off.logit_shift("source") is None
    assert not any("mean_weights" in key for key in off.state_dict())


def test_unweighted_terms_are_not_shifted():
    scheme = build_scheme("gbw_norm", CLASSES, {"acts_on": "source", "logit_adjustment": 1.0})
    scheme.weights(make_statistics(), "source")
    scheme.weights(make_statistics(), "mixed")
    assert scheme.logit_shift("source").abs().max() > 0.1
    assert scheme.logit_shift("mixed").abs().max() == 0


def test_pseudo_labels_lose_what_the_logits_keep_of_the_prior_shift():
    weights = torch.tensor([1, 2, 3, 4, 5, 6]) / 3.5

    def shift(left, removed):
        scheme = build("fixed", logit_adjustment=left, pseudo_label_adjustment=removed)
        before = scheme.pseudo_label_shift()
        assert (before is None) if removed <= left else (before == 0).all()
        scheme.weights(make_statistics([1.0] * 6), "source")
        return scheme.pseudo_label_shift()

    torch.testing.assert_close(shift(0.0, 1.0), -weights.log())
    torch.testing.assert_close(shift(0.5, 1.0), -0.5 * weights.log())
    assert shift(1.0, 1.0) is None and shift(0.5, 0.0) is None
    for name in ("logit_adjustment", "pseudo_label_adjustment"):
        with pytest.raises(ValueError, match=f"{name} is 1.5; expected a number >= 0 and <= 1"):
            build_scheme("none", CLASSES, {name: 1.5})


def test_shaped_by_source_knows_classes_that_the_last_source_batch_lacks():
    scheme = build_scheme("gbw_norm", CLASSES, {"shaped_by": "source"})
    first = scheme.weights(make_statistics(), "source")
    counts = [100.0, 0.0, 0.0, 30.0, 1.0, 0.0]
    second = scheme.weights(make_statistics(counts), "source")
    assert second[1] == 1 and first[1] != 1
    known = torch.where(torch.tensor(counts) > 0, second, first)
    restored = build_scheme("gbw_norm", CLASSES, {"shaped_by": "source"})
    restored.load_state_dict(scheme.state_dict())
    for each in (scheme, restored):
        weights = each.weights(make_statistics(), "mixed")
        torch.testing.assert_close(weights, known * 6 / known.sum())


def test_weights_of_the_source_that_are_all_zero_become_uniform():
    settings = {"shaped_by": "source", "lam": 1e-9}
    scheme = build_scheme("gbw_released", CLASSES, settings)
    # The whole budget goes to class 5, which the batch does not show.
    norms = [0.1, 0.1, 0.1, 0.1, 0.1, 9.0]
    weights = scheme.weights(make_statistics(measure=norms), "source")
    assert weights.tolist() == [0, 0, 0, 0, 0, 6]
    assert torch.isfinite(scheme.weights(make_statistics(), "mixed")).all()


def test_no_more_prior_shift_is_taken_out_than_there_is():
    with pytest.raises(ValueError, match="acts_on is 'source': the target's labels"):
        build_scheme("gbw", CLASSES, {"acts_on": "source"})
    build_scheme("gbw", CLASSES, {"acts_on": "source", "pseudo_label_adjustment": 0.5})


def test_the_names_are_known():
    assert SCHEMES.names() == [
        "effective_number",
        "fixed",
        "focal",
        "gbw",
        "gbw_balanced",
        "gbw_hindrance",
        "gbw_norm",
        "gbw_released",
        "inverse_frequency",
        "none",
    ]
    with pytest.raises(UnknownNameError, match="did you mean 'gbw_norm'"):
        build_scheme("gbw_nrom", CLASSES)


def test_defaults_are_the_documented_ones():
    gbw = build_scheme("gbw", CLASSES)
    assert gbw.needs_classifier
    assert not gbw.needs_norms
    chosen = gbw.settings
    assert (chosen.measure, chosen.momentum) == ("class_gradient", 0.99)
    assert (chosen.power, chosen.lam, chosen.min_weight, chosen.budget) == (1, 0.5, 0.1, "present")
    assert (chosen.frequency_power, chosen.scale) == (0.25, "relative")
    assert (chosen.acts_on, chosen.shaped_by) == ("all", "source")
    assert (chosen.logit_adjustment, chosen.pseudo_label_adjustment) == (0.5, 1.0)
    assert chosen.knows_prior_shift
    balanced = build_scheme("gbw_balanced", CLASSES).settings
    assert dataclasses.replace(balanced, power=1.0, frequency_power=0.25) == chosen
    assert (balanced.power, balanced.frequency_power) == (0.7, 1)
    chosen = build_scheme("gbw_hindrance", CLASSES).settings
    assert (chosen.measure, chosen.momentum) == ("hindrance", 0)
    assert (chosen.power, chosen.lam, chosen.min_weight, chosen.budget) == (0.5, 1, 0.5, "present")
    norm = build_scheme("gbw_norm", CLASSES)
    assert norm.needs_norms
    assert not norm.needs_classifier
    released = build_scheme("gbw_released", CLASSES).settings
    assert (released.scale, released.budget, released.lam) == ("released", "all", 1)
    assert type(gbw) is type(norm)
    assert build_scheme("focal", CLASSES).focal_gamma == 2
    static = [name for name in SCHEMES if SCHEMES.get(name).needs_class_counts]
    assert static == ["effective_number", "inverse_frequency"]
    for name in SCHEMES:
        if name != "focal":
            assert build(name).focal_gamma == 0


def test_overrides_replace_defaults_and_none_keeps_them():
    scheme = build_scheme("gbw_hindrance", CLASSES, {"measure": "norm", "lam": 3.0, "power": None})
    assert scheme.needs_norms
    assert (scheme.settings.lam, scheme.settings.power) == (3.0, 0.5)
    with pytest.raises(ValueError, match="scheme 'gbw' has no setting 'lamda'"):
        build_scheme("gbw", CLASSES, {"lamda": 1.0})


def test_gbw_hindrance_by_hand():
    # Present: 0, 1, 3, 4. sqrt r = (0, 2, 1, 3) over the mean 1.5; w = 1 + (u - 1) / 2.
    statistics = make_statistics(measure=[0.0, 4.0, 0.0, 1.0, 9.0, 0.0])
    scheme = build_scheme("gbw_hindrance", CLASSES)
    weights = scheme.weights(statistics, "source")
    expected = [0.5, 0.5 + 2 / 3, 1.0, 0.5 + 1 / 3, 1.5, 1.0]
    torch.testing.assert_close(weights, torch.tensor(expected))
    counters = {name: int(value) for name, value in scheme.counters().items()}
    assert counters == {"calls": 1, "at_min": 1, "at_max": 0, "absent": 2}


def test_released_budget_counts_absent_classes():
    statistics = make_statistics()
    present = build_scheme("gbw_norm", CLASSES).weights(statistics, "source")
    everyone = build_scheme("gbw_norm", CLASSES, {"budget": "all"}).weights(statistics, "source")
    assert present[[2, 5]].tolist() == [1.0, 1.0]
    assert everyone[2] < 1
    released = build_scheme("gbw_released", CLASSES).weights(statistics, "source")
    squared = statistics.measure.square()
    expected = 1 + (squared - squared.mean()) / 2
    torch.testing.assert_close(released.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("budget", ["all", "present"])
def test_min_pixels_takes_small_classes_out(budget):
    scheme = build_scheme("gbw_norm", CLASSES, {"min_pixels": 6, "budget": budget})
    weights = scheme.weights(make_statistics(), "source")
    assert weights[[1, 2, 4, 5]].tolist() == [1.0] * 4
    assert weights[0] < 1 < weights[3]


def test_momentum_is_kept_per_term_and_only_for_observed_classes():
    settings = {"momentum": 0.75, "measure": "hindrance", "lam": 0.5}
    scheme = build_scheme("gbw_norm", CLASSES, settings)
    scheme.weights(make_statistics(measure=[1.0, 2.0, 0.0, 3.0, 4.0, 0.0]), "source")
    scheme.weights(make_statistics(measure=[9.0, 9.0, 0.0, 9.0, 1.0, 0.0]), "mixed")
    # Class 1 is absent now and keeps its mean; class 2 is new and taken as it is.
    later = make_statistics([10.0, 0.0, 5.0, 1.0, 1.0, 0.0], [5.0, 0.0, 6.0, 3.0, 8.0, 0.0])
    weights = scheme.weights(later, "source")
    means = torch.tensor([2.0, 2.0, 6.0, 3.0, 5.0, 0.0])
    torch.testing.assert_close(scheme.state_dict()["state.source_hindrance.mean"], means)
    expected = means / 4
    expected[[1, 5]] = 1.0
    torch.testing.assert_close(weights, expected)


def test_state_round_trip_continues_exactly(tmp_path):
    first = build_scheme("gbw_norm", CLASSES, {"momentum": 0.9})
    first.weights(make_statistics(), "source")
    torch.save(first.state_dict(), tmp_path / "state.pth")
    second = build_scheme("gbw_norm", CLASSES, {"momentum": 0.9})
    second.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    later = make_statistics(measure=[0.9, 0.1, 0.2, 0.1, 0.3, 0.2])
    expected = first.weights(later, "source")
    assert torch.equal(second.weights(later, "source"), expected)
    fresh = build_scheme("gbw_norm", CLASSES, {"momentum": 0.9})
    assert not torch.equal(fresh.weights(later, "source"), expected)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_nonfinite_statistics_raise_on_the_cpu(name):
    statistics = make_statistics()
    statistics.nonfinite = torch.ones((), dtype=torch.bool)
    with pytest.raises(ValueError, match=r"term 'mixed' hold\s+NaN or inf"):
        build(name).weights(statistics, "mixed")


def test_inverse_frequency_by_hand():
    # 1 / (1, 4, 16) is 16 : 4 : 1 of 21; two classes are absent from the source.
    counts = [1.0, 4.0, 0.0, 16.0, 0.0]
    plain = build_scheme("inverse_frequency", 5, class_counts=counts)
    root = build_scheme("inverse_frequency", 5, {"frequency_power": 0.5}, class_counts=counts)
    batch = make_statistics()
    torch.testing.assert_close(
        plain.weights(batch, "source"), torch.tensor([48 / 21, 12 / 21, 1, 3 / 21, 1])
    )
    torch.testing.assert_close(
        root.weights(batch, "source"), torch.tensor([12 / 7, 6 / 7, 1, 3 / 7, 1])
    )


def test_effective_number_by_hand_and_its_limits():
    batch = make_statistics()
    # beta 1/2, n = 1 and 2: 1 / (1/2) and 1 / (3/4), in the ratio 3 : 2.
    scheme = build_scheme("effective_number", 2, {"beta": 0.5}, class_counts=[1.0, 2.0])
    torch.testing.assert_close(scheme.weights(batch, "source"), torch.tensor([1.2, 0.8]))
    flat = build_scheme("effective_number", 2, {"beta": 0.0}, class_counts=[1.0, 2.0])
    assert flat.weights(batch, "source").tolist() == [1.0, 1.0]
    # 1 - 1e-12: the weights of inverse frequency.
    steep = build_scheme("effective_number", 2, {"beta": 1 - 1e-12}, class_counts=[1e4, 2e4])
    torch.testing.assert_close(
        steep.weights(batch, "source"), torch.tensor([4 / 3, 2 / 3]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", ["inverse_frequency", "effective_number"])
def test_static_schemes_name_what_is_missing(name):
    with pytest.raises(ValueError, match="needs class_counts"):
        build_scheme(name, CLASSES)
    with pytest.raises(ValueError, match=r"expected \(6,\)"):
        build_scheme(name, CLASSES, class_counts=[1.0])
    with pytest.raises(ValueError, match="finite numbers"):
        build_scheme(name, 2, class_counts=[1.0, float("nan")])
    uniform = build_scheme(name, 2, class_counts=[0, 0])
    assert uniform.weights(make_statistics(), "source").tolist() == [1.0, 1.0]


def test_fixed_weights_are_those_given_with_the_mean_1():
    scheme = build_scheme("fixed", 3, {"class_weights": [2, 0, 4]})
    statistics = make_statistics([1.0, 2.0, 3.0], [0.0] * 3)
    assert scheme.weights(statistics, "source").tolist() == [1.0, 0.0, 2.0]
    for wrong in ([], [1, 2], [1, -1, 3], [0, 0, 0], [1, float("nan"), 1], [1, None, 2], "abc"):
        with pytest.raises(ValueError, match="3 finite numbers"):
            build_scheme("fixed", 3, {"class_weights": wrong})


def test_the_source_shapes_the_weights_of_every_term():
    scheme = build_scheme("gbw_norm", CLASSES, {"shaped_by": "source"})
    with pytest.raises(ValueError, match="came before any of the source"):
        scheme.weights(make_statistics(), "mixed")
    of_source = scheme.weights(make_statistics(), "source")
    other = make_statistics(measure=[0.5, 0.1, 0.05, 0.2, 0.1, 0.01])
    assert torch.equal(scheme.weights(other, "mixed"), of_source)
    own = build_scheme("gbw_norm", CLASSES).weights(other, "mixed")
    assert not torch.equal(own, of_source)


def test_the_measure_over_a_power_of_the_running_share():
    settings = {"measure": "class_gradient", "frequency_power": 0.5, "power": 1.0, "lam": 0.5}
    settings |= {"momentum": 0.9, "min_weight": 0.0, "budget": "all", "scale": "relative"}
    scheme = build_scheme("gbw", 3, settings)
    first = make_statistics([16.0, 4.0, 0.0], [1.0, 1.0, 0.0])
    # Shares 0.8, 0.2 and the least one; the third class has shown no gradient yet.
    expected = torch.tensor([0.8**-0.5, 0.2**-0.5, 0.0])
    torch.testing.assert_close(scheme.weights(first, "source"), expected * 3 / expected.sum())
    # The second batch counts half, for the first ten are averaged: shares 0.4, 0.6 and 0.
    second = make_statistics([0.0, 20.0, 0.0], [0.0, 3.0, 0.0])
    expected = torch.tensor([0.4**-0.5, (0.9 * 1 + 0.1 * 3) * 0.6**-0.5, 0.0])
    torch.testing.assert_close(scheme.weights(second, "source"), expected * 3 / expected.sum())
    restored = build_scheme("gbw", 3, settings)
    restored.load_state_dict(scheme.state_dict())
    assert torch.equal(restored.weights(first, "source"), scheme.weights(first, "source"))
    nothing = make_statistics([0.0, 0.0, 0.0], [0.0] * 3)
    before = scheme.state_dict()["state.source_class_gradient.share"].clone()
    scheme.weights(nothing, "source")
    assert torch.equal(scheme.state_dict()["state.source_class_gradient.share"], before)


def test_the_share_is_a_running_one_without_momentum_too():
    settings = {"measure": "class_gradient", "frequency_power": 1.0, "lam": 0.5, "budget": "all"}
    settings |= {"momentum": 0.0, "min_weight": 0.0, "power": 1.0, "scale": "relative"}
    scheme = build_scheme("gbw", 2, settings)
    for counts in ([10.0, 0.0], [10.0, 10.0]):
        weights = scheme.weights(make_statistics(counts, [1.0, 1.0]), "source")
    # Shares (1 + 1/2) / 2 and (0 + 1/2) / 2.
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5]))


def test_a_class_lost_at_the_classifier_keeps_its_running_mean():
    settings = {"momentum": 0.5, "frequency_power": 0.0, "min_weight": 0.0, "scale": "relative"}
    scheme = build_scheme("gbw", 3, settings)
    scheme.weights(make_statistics([4.0, 4.0, 4.0], [1.0, 2.0, 3.0]), "source")
    statistics = make_statistics([4.0, 4.0, 0.0], [1.0, 0.0, 0.0])
    statistics.observed = torch.tensor([True, False, False])
    weights = scheme.weights(statistics, "source")
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 4 / 3, 1.0]))


def test_weights_that_act_on_the_source_leave_other_terms_alone():
    for name in ("gbw_norm", "inverse_frequency"):
        scheme = build_scheme(name, CLASSES, {"acts_on": "source"}, COUNTS)
        assert scheme.weights(make_statistics(), "mixed").tolist() == [1.0] * CLASSES
        usual = build_scheme(name, CLASSES, {}, COUNTS).weights(make_statistics(), "source")
        assert torch.equal(scheme.weights(make_statistics(), "source"), usual)
