"""Settings of the schemes: ranges, defaults, config keys; a new scheme with a key of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gbw_d2.config import ConfigError, load_config
from gbw_d2.engine.build import build_training_losses
from gbw_d2.engine.setup import resolve
from gbw_d2.settings import check_settings, config_keys, declarations, merge_settings, setting
from gbw_d2.weighting import (
    SCHEMES,
    ClassStatistics,
    SchemeEntry,
    SchemeSettings,
    WeightingScheme,
    WeightLog,
    build_scheme,
)
from gbw_d2.weighting.gradient_scheme import GradientSettings

INF, NAN = math.inf, math.nan
SHARED = {
    *("PIXEL_WEIGHTS_IN_GRADIENT", "SHAPED_BY", "ACTS_ON"),
    *("LOGIT_ADJUSTMENT", "PSEUDO_LABEL_ADJUSTMENT"),
}
GRADIENT = {
    *("MEASURE", "SCALE", "POWER", "LAMBDA", "MOMENTUM", "BUDGET", "MIN_PIXELS"),
    *("MIN_WEIGHT", "MAX_WEIGHT", "QP_SOLVER", "FREQUENCY_POWER"),
}
OWN = {
    "none": set(),
    "fixed": {"CLASS_WEIGHTS"},
    "focal": {"GAMMA"},
    "effective_number": {"BETA"},
    "inverse_frequency": {"FREQUENCY_POWER"},
}
# Field -> values that are allowed, and values that are not.
RANGES = {
    "power": ([1e-9, 5.0], [0.0, -1.0, INF, NAN]),
    "lam": ([1e-9, INF], [0.0, -1.0, NAN]),
    "momentum": ([0.0, 0.999], [1.0, -0.1, NAN]),
    "min_pixels": ([0.0, 100.0], [-1.0, INF, NAN]),
    "min_weight": ([0.0, 1.0], [-0.1, 1.1, NAN]),
    "max_weight": ([1.0, INF], [0.9, NAN]),
    "frequency_power": ([0.0, 2.0], [-0.5, INF, NAN]),
    "gamma": ([0.0, 5.0], [-1.0, INF, NAN]),
    "beta": ([0.0, 1 - 1e-12], [1.0, -0.1, NAN]),
    "logit_adjustment": ([0.0, 1.0], [-0.1, 1.5, NAN]),
    "pseudo_label_adjustment": ([0.0, 1.0], [-0.1, 1.5, NAN]),
}
CHOICES = {
    "measure": ("norm", "class_gradient", "hindrance"),
    "scale": ("relative", "released"),
    "budget": ("all", "present"),
    "qp_solver": ("closed_form", "cvxopt"),
    "shaped_by": ("all", "source"),
    "acts_on": ("all", "source"),
}


def settings_of(name: str) -> type[SchemeSettings]:
    return SCHEMES.get(name).scheme.Settings


@pytest.mark.parametrize("name", SCHEMES.names())
def test_keys_and_defaults_of_every_scheme(name: str) -> None:
    cls, defaults = settings_of(name), SCHEMES.get(name).defaults
    keys = config_keys(cls)
    assert set(keys) >= SHARED
    if name in OWN or issubclass(cls, GradientSettings):
        assert set(keys) == SHARED | OWN.get(name, GRADIENT)
    # Every field can be set; a default of the scheme is one of them, and is allowed.
    assert set(keys.values()) == {field.name for field in dataclasses.fields(cls)}
    check_settings(merge_settings(cls, name, defaults))
    for field, declared in declarations(cls):
        assert declared.meaning.endswith("."), field.name
        # One key of the config cannot be two fields.
        assert keys[declared.key or field.name.upper()] == field.name


def test_a_key_is_the_same_field_in_every_scheme() -> None:
    fields: dict[str, set[str]] = {}
    for name in SCHEMES:
        for key, field in config_keys(settings_of(name)).items():
            fields.setdefault(key, set()).add(field)
    assert all(len(each) == 1 for each in fields.values())
    assert fields["LAMBDA"] == {"lam"}


@pytest.mark.parametrize("name", SCHEMES.names())
def test_ranges_of_every_scheme(name: str) -> None:
    cls = settings_of(name)
    for field in dataclasses.fields(cls):
        if field.name in RANGES:
            allowed, refused = RANGES[field.name]
            for value in allowed:
                assert getattr(merge_settings(cls, name, {field.name: value}), field.name) == value
            for value in refused:
                with pytest.raises(
                    ValueError, match=rf"{field.name} is {value}; expected a number"
                ):
                    merge_settings(cls, name, {field.name: value})
            for value in ("strong", [1.0], True):
                with pytest.raises(ValueError, match=rf"{field.name} is .*; expected a number"):
                    merge_settings(cls, name, {field.name: value})
        elif field.type in ("bool", bool):
            with pytest.raises(ValueError, match=f"{field.name} is 'yes'; expected True or False"):
                merge_settings(cls, name, {field.name: "yes"})
        elif field.name in CHOICES:
            for value in CHOICES[field.name]:
                merge_settings(cls, name, {field.name: value})
            with pytest.raises(ValueError, match=f"{field.name} is 'some'; expected one of .*, "):
                merge_settings(cls, name, {field.name: "some"})
        elif name in OWN or issubclass(cls, GradientSettings):
            assert field.name == "class_weights"


def test_messages_say_what_is_expected() -> None:
    for given, told in (
        ({"power": 0.0}, "power is 0.0; expected a number > 0 and finite"),
        ({"lam": -1.0}, "lam is -1.0; expected a number > 0"),
        ({"momentum": 1.0}, "momentum is 1.0; expected a number >= 0 and < 1"),
        ({"budget": "some"}, "budget is 'some'; expected one of all, present"),
        ({"lambda": 1.0}, "scheme 'x' has no setting 'lambda' (it has: pixel_weights_in_gradient,"),
    ):
        with pytest.raises(ValueError) as caught:
            merge_settings(GradientSettings, "scheme 'x'", given)
        assert str(caught.value).startswith(told)


def test_a_setting_of_another_scheme_is_an_error() -> None:
    for name, given in (("none", {"lam": 1.0}), ("gbw", {"gamma": 1.0}), ("focal", {"beta": 0.5})):
        with pytest.raises(ValueError, match=f"weighting scheme '{name}' has no setting"):
            build_scheme(name, 3, given)


def test_layers_and_what_is_not_set() -> None:
    merged = merge_settings(
        GradientSettings, "x", {"lam": 3.0, "power": 2.0}, {"lam": None, "power": 0.5}
    )
    assert (merged.lam, merged.power, merged.momentum) == (3.0, 0.5, 0.0)
    # YAML and command lines leave inf a text.
    merged = merge_settings(GradientSettings, "x", {"lam": "inf", "max_weight": "inf"})
    assert (merged.lam, merged.max_weight) == (INF, INF)


def test_types_are_known_with_and_without_postponed_annotations() -> None:
    kinds = {"size": float, "count": int, "flag": bool}
    fields = [(name, kind, setting(kind(1), "A word.", low=0)) for name, kind in kinds.items()]
    cls = dataclasses.make_dataclass("Plain", fields, bases=(SchemeSettings,), frozen=True)
    assert merge_settings(cls, "x", {"size": "inf"}).size == INF
    for name, value in (("size", "large"), ("count", "one"), ("flag", 1)):
        with pytest.raises(ValueError, match=rf"{name} is {value!r}; expected (a number|True)"):
            merge_settings(cls, "x", {name: value})


# What somebody writes who adds a scheme: settings, a class, and one line that registers it.


@dataclasses.dataclass(frozen=True)
class SmoothedSettings(SchemeSettings):
    added: float = setting(1.0, "Pixels added to each class.", low=0, key="PIXELS_ADDED")


class SmoothedScheme(WeightingScheme):
    """w_k in proportion to 1 / (pixels of the batch + some)."""

    Settings = SmoothedSettings
    settings: SmoothedSettings

    def solve(self, statistics: ClassStatistics, term: str) -> Tensor:
        raw = 1 / (statistics.counts + self.settings.added)
        return (raw * self.num_classes / raw.sum()).float()


@pytest.fixture
def smoothed() -> Iterator[None]:
    SCHEMES.register("smoothed")(SchemeEntry(SmoothedScheme, {"added": 5.0}))
    yield
    del SCHEMES._entries["smoothed"]


def write(folder: Path, repository: Path, weighting: str) -> str:
    path = folder / "smoothed.yaml"
    base = repository / "configs/toy/semantic_source_only.yaml"
    path.write_text(f"_BASE_: {base}\nMODEL: {{DEVICE: cpu}}\nWEIGHTING: {{{weighting}}}\n")
    return str(path)


def test_a_new_scheme_is_a_class_a_line_and_a_yaml(
    smoothed: None, repository: Path, tmp_path: Path
) -> None:
    def losses(weighting: str) -> Any:
        cfg = load_config(write(tmp_path, repository, weighting))
        resolve(cfg)
        return build_training_losses(cfg)

    assert losses("NAME: smoothed")["semantic"].scheme.settings.added == 5
    criterion = losses("NAME: smoothed, PIXELS_ADDED: 2")["semantic"]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 6, 4, 8, generator=generator)
    labels = torch.randint(0, 3, (1, 4, 8), generator=generator)
    layer, log = torch.nn.Conv2d(6, 16, 1), WeightLog()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    logits = layer(features)
    loss = criterion(logits, labels, log=log)
    raw = [1 / (n + 2) for n in labels.flatten().bincount(minlength=16).tolist()]
    weights = torch.tensor([16 * value / sum(raw) for value in raw])
    torch.testing.assert_close(log.get("semantic", "source").weights, weights)
    expected = F.cross_entropy(logits, labels, weights, reduction="none").mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(expected, layer.weight, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(layer.weight.grad, gradient)
    optimizer.step()
    assert criterion(layer(features), labels) < loss
    for weighting, told in (
        (
            "NAME: smoothed, PIXELS_ADDED: -1",
            r"^WEIGHTING\.PIXELS_ADDED is -1; expected a number >= 0",
        ),
        ("NAME: gbw, PIXELS_ADDED: 2", r"PIXELS_ADDED is 2, but scheme 'gbw' has no such key"),
        ("NAME: smoothed, GAMMA: 2.0", r"GAMMA is 2.0, but scheme 'smoothed' has no such key"),
    ):
        with pytest.raises(ConfigError, match=told):
            losses(weighting)


def test_without_its_scheme_the_key_is_unknown(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown config key WEIGHTING\.PIXELS_ADDED"):
        load_config(write(tmp_path, repository, "PIXELS_ADDED: 2"))
