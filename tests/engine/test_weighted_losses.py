"""From WEIGHTING's keys to the losses of each head, and a few steps with them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2.config import ConfigError
from gbw_d2.engine.build import architecture, build_model, build_training_losses
from gbw_d2.engine.hooks import ClassWeights
from gbw_d2.engine.trainer import Trainer
from gbw_d2.engine.weighted_losses import weighted_heads
from gbw_d2.keys import TERM_SOURCE
from gbw_d2.label_spaces import LABEL_SPACES
from gbw_d2.losses import WeightedLosses
from gbw_d2.uda import build_strategy
from gbw_d2.weighting import SCHEMES, WeightLog

ALL_HEADS = ("WEIGHTING.HEADS", "['offset', 'center', 'semantic']", "WEIGHTING.WEIGHTS_FROM", "[]")
INSTANCE_HEADS = ("center", "offset")
THINGS = ["person", "rider", "car", "bus", "motorcycle", "bicycle"]
COUNTS = torch.arange(1.0, 17.0)


def heads_of(cfg: Any) -> tuple[str, ...]:
    space = LABEL_SPACES.get(cfg.DATASETS.LABEL_SPACE)
    return tuple(weighted_heads(cfg, architecture(cfg), space))


def train(
    cfg: Any, samples: Any, steps: int, folder: Path
) -> tuple[WeightedLosses, WeightLog, list[dict]]:
    """Trains on random samples; returns losses, log and the rows of class_weights.csv."""
    losses = build_training_losses(cfg, COUNTS)
    torch.manual_seed(0)
    model = build_model(cfg, losses)
    strategy = build_strategy("source_only", model, cfg.UDA)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = Trainer(model, strategy, iter(lambda: (samples(), None), None), optimizer, 1, 0)
    path = folder / "class_weights.csv"
    schemes = {head: losses[head].scheme for head in heads_of(cfg)}
    log, names = strategy.weight_log, model.label_space.class_names
    trainer.register_hooks([ClassWeights(schemes, log, names, steps, path)])
    before = model.ins_embed_head.offset_predictor.weight.detach().clone()
    trainer.train(0, steps)
    assert not torch.equal(model.ins_embed_head.offset_predictor.weight, before)
    with path.open(newline="") as file:
        return losses, log, list(csv.DictReader(file))


def test_numbers_from_the_command_line(tiny_config: Any) -> None:
    # What comes after the config file: no Python literal, so a text.
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", "WEIGHTING.LAMBDA", "inf")
    assert cfg.WEIGHTING.LAMBDA == "inf"
    assert build_training_losses(cfg)["semantic"].scheme.settings.lam == float("inf")
    with pytest.raises(ConfigError, match=r"^WEIGHTING\.LAMBDA is 'strong'; expected a number"):
        tiny_config("WEIGHTING.NAME", "gbw_norm", "WEIGHTING.LAMBDA", "strong")


def test_all_heads_train_and_are_logged(tiny_config: Any, samples: Any, tmp_path: Path) -> None:
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", *ALL_HEADS)
    losses, _, rows = train(cfg, samples, 2, tmp_path)
    assert list(losses) == ["semantic", *INSTANCE_HEADS]
    for head in INSTANCE_HEADS:
        mine = [r for r in rows if r["head"] == head]
        assert [r["class"] for r in mine] == THINGS
        assert sum(float(r["weight"]) for r in mine) == pytest.approx(6, abs=1e-4)
        assert min(float(r["measure"]) for r in mine) > 0
        # The samples' instance class is their label, weighted by 1 or 0.
        weights = torch.stack([s[f"{head}_weights"] for s in samples()])
        labels = torch.stack([s["sem_seg"] for s in samples()])
        things = torch.tensor([10, 11, 12, 13, 14, 15])
        expected = [int((weights * (labels == i)).sum()) for i in things]
        assert [int(r["pixels"]) for r in mine] == expected
    assert len([r for r in rows if r["head"] == "semantic"]) == 16


def test_heads_that_are_not_named_are_plain_and_not_logged(
    tiny_config: Any, samples: Any, tmp_path: Path
) -> None:
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", "WEIGHTING.HEADS", "['center']")
    losses, _, rows = train(cfg, samples, 1, tmp_path)
    assert {r["head"] for r in rows} == {"center"}
    assert losses["semantic"].scheme.name == losses["offset"].scheme.name == "none"


@pytest.mark.parametrize("other", ["center", "semantic"])
def test_a_head_uses_the_weights_of_another(
    tiny_config: Any, samples: Any, tmp_path: Path, other: str
) -> None:
    share = ("WEIGHTING.WEIGHTS_FROM", f"[['offset', '{other}']]")
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", *ALL_HEADS, *share)
    _, log, _ = train(cfg, samples, 1, tmp_path)
    shared = log.get(other, TERM_SOURCE).weights[-6:]
    offset = log.get("offset", TERM_SOURCE)
    torch.testing.assert_close(offset.weights, shared * 6 / shared.sum())
    assert (offset.weights - 1).abs().max() > 1e-3
    assert offset.measure is None


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ("[['offset', 'mask']]", "gives head 'offset' the weights of 'mask', which has no weights"),
        ("[['offset', 'center'], ['center', 'semantic']]", "'center', which has no weights"),
        ("[['semantic', 'center']]", "no weights for some of its classes"),
    ],
)
def test_weights_that_cannot_be_shared(tiny_config: Any, pairs: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        tiny_config("WEIGHTING.NAME", "gbw_norm", *ALL_HEADS, "WEIGHTING.WEIGHTS_FROM", pairs)


@pytest.mark.parametrize(
    ("leaf", "on", "off", "term"),
    [
        (
            "toy/panoptic_gbw uda/self_training",
            ("UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT", "0.5"),
            ("UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT", "0.0"),
            r"term 'pasted' \(UDA.SELF_TRAINING.INSTANCE_MIX_WEIGHT 0.5\); take the pair out",
        ),
        (
            "toy/panoptic_gbw uda/cbst",
            ("UDA.CBST.REGULARISER", "lrent"),
            ("UDA.CBST.REGULARISER", "lrent", "UDA.CBST.INSTANCE_PSEUDO_LABELS", "False"),
            r"term 'pseudo' \(UDA.CBST.REGULARISER lrent with INSTANCE_PSEUDO_LABELS True\)",
        ),
    ],
)
def test_weights_of_a_head_without_loss_in_a_term_are_refused_before_training(
    tiny_config: Any, leaf: str, on: tuple[str, ...], off: tuple[str, ...], term: str
) -> None:
    heads = ("WEIGHTING.HEADS", "['all']", "WEIGHTING.WEIGHTS_FROM")
    told = f"gives head 'center' the weights of 'semantic', which has no loss .* {term}"
    with pytest.raises(ConfigError, match=told):
        tiny_config(*on, *heads, "[['center', 'semantic']]", name=leaf)
    tiny_config(*off, *heads, "[['center', 'semantic']]", name=leaf)
    tiny_config(*on, *heads, "[['offset', 'center']]", name=leaf)


def test_a_measure_at_the_classifier_becomes_the_norm_and_the_log_says_so(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        losses = build_training_losses(tiny_config(*ALL_HEADS))
    assert losses["semantic"].scheme.needs_classifier
    for head in INSTANCE_HEADS:
        scheme = losses[head].scheme
        assert scheme.name == "gbw_norm" and scheme.needs_norms
        settings = scheme.settings
        assert (settings.momentum, settings.lam, settings.frequency_power) == (0, 1, 0)
        # Which terms are weighted is as in the scheme that the user named.
        assert settings.acts_on == losses["semantic"].scheme.settings.acts_on == "all"
        assert settings.shaped_by == losses["semantic"].scheme.settings.shaped_by == "source"
        assert f"Head '{head}' has no classifier" in caplog.text
    asked = ("WEIGHTING.LAMBDA", 3.0, "WEIGHTING.MEASURE", "class_gradient")
    scheme = build_training_losses(tiny_config(*asked, *ALL_HEADS))["center"].scheme
    assert (scheme.settings.lam, scheme.settings.measure) == (3, "norm")
    on_source = ("WEIGHTING.ACTS_ON", "source", "WEIGHTING.PSEUDO_LABEL_ADJUSTMENT", 0.0)
    losses = build_training_losses(tiny_config(*on_source, *ALL_HEADS))
    assert losses["center"].scheme.settings.acts_on == "source"


def test_values_per_class_are_those_of_the_heads_classes(tiny_config: Any) -> None:
    fixed = ("WEIGHTING.NAME", "fixed", *ALL_HEADS, "WEIGHTING.CLASS_WEIGHTS")
    for wrong in (2.0, [1.0] * 19):
        with pytest.raises(ConfigError, match=r"CLASS_WEIGHTS is .*; expected 16 numbers"):
            tiny_config(*fixed, wrong)
    losses = build_training_losses(tiny_config(*fixed, list(range(1, 17))))
    assert losses["center"].scheme.settings.class_weights == [11, 12, 13, 14, 15, 16]


def test_a_key_that_the_scheme_does_not_have_is_refused(tiny_config: Any) -> None:
    with pytest.raises(ConfigError, match=r"GAMMA is 2\.0, but scheme 'gbw' has no such key"):
        tiny_config("WEIGHTING.GAMMA", 2.0)


def test_instance_heads_have_no_logits_to_adjust(tiny_config: Any) -> None:
    keys_ = ("WEIGHTING.LOGIT_ADJUSTMENT", 0.5, "WEIGHTING.PSEUDO_LABEL_ADJUSTMENT", 1.0)
    losses = build_training_losses(tiny_config("WEIGHTING.NAME", "gbw", *keys_, *ALL_HEADS))
    semantic = losses["semantic"].scheme.settings
    assert (semantic.logit_adjustment, semantic.pseudo_label_adjustment) == (0.5, 1.0)
    assert not any(losses[head].scheme.settings.knows_prior_shift for head in INSTANCE_HEADS)
    norm = build_training_losses(tiny_config("WEIGHTING.MEASURE", "norm", *ALL_HEADS))
    assert norm["semantic"].scheme.settings.knows_prior_shift
    assert norm["center"].scheme.settings.shaped_by == "source"
    assert not norm["center"].scheme.settings.knows_prior_shift
    with pytest.raises(
        ConfigError, match=r"^WEIGHTING\.LOGIT_ADJUSTMENT is 2\.0; expected a number >= 0"
    ):
        tiny_config("WEIGHTING.LOGIT_ADJUSTMENT", 2.0)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_every_scheme_on_every_head_works_or_refuses(tiny_config: Any, name: str) -> None:
    given = ("WEIGHTING.CLASS_WEIGHTS", list(range(1, 17))) if name == "fixed" else ()
    overrides = ("WEIGHTING.NAME", name, *given, *ALL_HEADS)
    if SCHEMES.get(name).scheme.needs_softmax:
        with pytest.raises(ConfigError, match=f"head 'center': scheme '{name}' is not defined"):
            tiny_config(*overrides)
        # Without names, the heads are those for which it is defined.
        assert heads_of(tiny_config(*overrides, "WEIGHTING.HEADS", "['all']")) == ("semantic",)
        return
    losses = build_training_losses(tiny_config(*overrides), COUNTS)
    assert losses["center"].scheme.num_classes == 6
    if SCHEMES.get(name).needs_class_counts or name == "fixed":
        own, whole = (losses[h].scheme._constant for h in ("center", "semantic"))
        torch.testing.assert_close(own, whole[-6:] * 6 / whole[-6:].sum())


def test_semantic_only_leaves_the_instance_heads_out(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        cfg = tiny_config(*ALL_HEADS, "MODEL.SEMANTIC_ONLY", True)
    assert list(build_training_losses(cfg)) == ["semantic"]
    assert "heads offset, center of WEIGHTING.HEADS are left out" in caplog.text
    with pytest.raises(ConfigError, match=r"names mask; .* has semantic "):
        tiny_config("WEIGHTING.HEADS", "['mask', 'center']", "MODEL.SEMANTIC_ONLY", True)


def test_heads_that_the_network_does_not_have(tiny_config: Any) -> None:
    with pytest.raises(ConfigError, match=r"names mask; .* has semantic, center, offset"):
        tiny_config("WEIGHTING.HEADS", "['mask', 'center']")
    # Without quotes, Detectron2 takes a list on the command line for a text.
    with pytest.raises(ConfigError, match=r"is the text '\[semantic\]', not a list"):
        tiny_config("WEIGHTING.HEADS", "[semantic]")
    every = ("WEIGHTING.HEADS", "['all']", "WEIGHTING.WEIGHTS_FROM", "[]")
    assert heads_of(tiny_config(*every)) == ("semantic", *INSTANCE_HEADS)
    assert heads_of(tiny_config(*every, "MODEL.SEMANTIC_ONLY", True)) == ("semantic",)
    auxiliary = ("MODEL.AUXILIARY_HEAD.ENABLED", True, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3")
    assert heads_of(tiny_config(*every, *auxiliary)) == ("semantic", "auxiliary", *INSTANCE_HEADS)


def test_a_model_has_a_loss_for_each_of_its_heads(tiny_config: Any) -> None:
    model = build_model(tiny_config())
    assert tuple(model.weighted_losses) == ("semantic", *INSTANCE_HEADS)
    assert not any("weighted_losses" in name for name in model.state_dict())
    assert model.frozen_copy().weighted_losses is None
