"""From WEIGHTING's keys to the losses of each head, and a few steps with them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2 import keys
from gbw_d2.config import ConfigError
from gbw_d2.engine.build import build_model
from gbw_d2.engine.criteria import INSTANCE_LOSSES, make_criteria
from gbw_d2.engine.hooks import ClassWeights
from gbw_d2.engine.trainer import Trainer
from gbw_d2.modeling.meta_arch import GBWPanopticDeepLab, GBWSemanticSegmentor
from gbw_d2.uda import build_strategy
from gbw_d2.weighting import SCHEMES

ALL_HEADS = (
    *("WEIGHTING.HEADS", "['offset', 'center', 'semantic']"),
    *("WEIGHTING.OFFSET_WEIGHTS_FROM", "own"),
)
THINGS = ["person", "rider", "car", "bus", "motorcycle", "bicycle"]
COUNTS = torch.arange(1.0, 17.0)


def train(cfg: Any, samples: Any, steps: int, folder: Path) -> tuple[dict, list[dict]]:
    """Trains on random samples; returns the criteria and the rows of class_weights.csv."""
    criteria = make_criteria(cfg, COUNTS)
    torch.manual_seed(0)
    model = build_model(cfg, criteria)
    strategy = build_strategy("source_only", model, cfg.UDA)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = Trainer(model, strategy, iter(lambda: (samples(), None), None), optimizer, 1, 0)
    path = folder / "class_weights.csv"
    trainer.register_hooks([ClassWeights(criteria, model.label_space.class_names, steps, path)])
    before = model.ins_embed_head.offset_predictor.weight.detach().clone()
    trainer.train(0, steps)
    assert not torch.equal(model.ins_embed_head.offset_predictor.weight, before)
    with path.open(newline="") as file:
        return criteria, list(csv.DictReader(file))


def test_numbers_from_the_command_line(tiny_config: Any) -> None:
    # What comes after the config file: no Python literal, so a text.
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", "WEIGHTING.LAMBDA", "inf")
    assert cfg.WEIGHTING.LAMBDA == "inf"
    assert make_criteria(cfg, COUNTS)["semantic"].scheme.settings.lam == float("inf")
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", "WEIGHTING.LAMBDA", "strong")
    with pytest.raises(ConfigError, match="'semantic': lam is 'strong'; expected a number"):
        make_criteria(cfg, COUNTS)


def test_all_heads_train_and_are_logged(tiny_config: Any, samples: Any, tmp_path: Path) -> None:
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", *ALL_HEADS)
    criteria, rows = train(cfg, samples, 2, tmp_path)
    assert list(criteria) == ["semantic", "center", "offset"]
    for head in INSTANCE_LOSSES:
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


@pytest.mark.parametrize("lender", ["center", "semantic"])
def test_offsets_use_the_weights_of_another_head(
    tiny_config: Any, samples: Any, tmp_path: Path, lender: str
) -> None:
    share = ("WEIGHTING.OFFSET_WEIGHTS_FROM", lender)
    cfg = tiny_config("WEIGHTING.NAME", "gbw_norm", *ALL_HEADS, *share)
    criteria, _ = train(cfg, samples, 1, tmp_path)
    lent = criteria[lender].last[keys.TERM_SOURCE].weights[-6:]
    weights = criteria["offset"].last[keys.TERM_SOURCE].weights
    torch.testing.assert_close(weights, lent * 6 / lent.sum())
    assert (weights - 1).abs().max() > 1e-3
    assert criteria["offset"].last[keys.TERM_SOURCE].norms is None


def test_a_measure_at_the_classifier_becomes_the_norm_and_the_log_says_so(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        criteria = make_criteria(tiny_config(*ALL_HEADS), None)
    assert criteria["semantic"].scheme.needs_classifier
    for head in INSTANCE_LOSSES:
        scheme = criteria[head].scheme
        assert scheme.name == "gbw_norm" and scheme.needs_norms
        settings = scheme.settings
        assert (settings.momentum, settings.lam, settings.frequency_power) == (0, 1, 0)
        # Which terms are weighted is as in the scheme that the user named.
        assert settings.acts_on == criteria["semantic"].scheme.settings.acts_on == "all"
        assert settings.shaped_by == criteria["semantic"].scheme.settings.shaped_by == "source"
        assert f"Head '{head}' has no classifier" in caplog.text
    asked = ("WEIGHTING.LAMBDA", 3.0, "WEIGHTING.MEASURE", "class_gradient")
    criteria = make_criteria(tiny_config(*asked, *ALL_HEADS), None)
    assert criteria["center"].scheme.settings.lam == 3
    fading = make_criteria(tiny_config("WEIGHTING.NAME", "gbw_fading", *ALL_HEADS), None)
    assert fading["center"].scheme.settings.acts_on == "source"
    assert criteria["center"].scheme.settings.measure == "norm"
    for wrong in (2.0, [1.0] * 19):
        with pytest.raises(ConfigError, match="expected 16 numbers"):
            make_criteria(tiny_config("WEIGHTING.CLASS_WEIGHTS", wrong, *ALL_HEADS), None)


def test_instance_heads_have_no_logits_to_adjust(tiny_config: Any) -> None:
    keys_ = ("WEIGHTING.LOGIT_ADJUSTMENT", 0.5, "WEIGHTING.PSEUDO_LABEL_ADJUSTMENT", 1.0)
    criteria = make_criteria(tiny_config("WEIGHTING.NAME", "gbw", *keys_, *ALL_HEADS), None)
    semantic = criteria["semantic"].scheme.settings
    assert (semantic.logit_adjustment, semantic.pseudo_label_adjustment) == (0.5, 1.0)
    assert not any(criteria[head].scheme.settings.knows_tilt for head in INSTANCE_LOSSES)
    norm = make_criteria(tiny_config("WEIGHTING.MEASURE", "norm", *ALL_HEADS), None)
    assert norm["semantic"].scheme.settings.knows_tilt
    assert norm["center"].scheme.settings.shaped_by == "source"
    assert not norm["center"].scheme.settings.knows_tilt
    with pytest.raises(ConfigError, match=r"logit_adjustment is 2\.0; expected 0"):
        make_criteria(tiny_config("WEIGHTING.LOGIT_ADJUSTMENT", 2.0), None)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_every_scheme(tiny_config: Any, name: str) -> None:
    given = ("WEIGHTING.CLASS_WEIGHTS", list(range(1, 17)))
    cfg = tiny_config("WEIGHTING.NAME", name, *given, *ALL_HEADS)
    if name == "focal":
        with pytest.raises(ConfigError, match="head 'center': scheme 'focal' is not defined"):
            make_criteria(cfg, None)
        return
    criteria = make_criteria(cfg, COUNTS)
    assert criteria["center"].scheme.num_classes == 6
    if SCHEMES.get(name).needs_class_counts or name == "fixed":
        own, whole = (criteria[h].scheme._fixed for h in ("center", "semantic"))
        torch.testing.assert_close(own, whole[-6:] * 6 / whole[-6:].sum())


def test_semantic_only_leaves_the_instance_heads_out(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        criteria = make_criteria(tiny_config(*ALL_HEADS, "MODEL.SEMANTIC_ONLY", True), None)
    assert list(criteria) == ["semantic"]
    assert "heads center, offset of WEIGHTING.HEADS are left out" in caplog.text


def test_the_full_recipe_weights_all_heads_and_the_default_one(tiny_config: Any) -> None:
    assert tiny_config().WEIGHTING.HEADS == ["semantic", "center", "offset"]
    assert tiny_config(name="toy/panoptic_source_only").WEIGHTING.HEADS == ["semantic"]


def test_a_model_has_a_loss_for_each_of_its_heads(tiny_config: Any) -> None:
    model = build_model(tiny_config(), {})
    assert tuple(model.criteria) == GBWPanopticDeepLab.weighted_heads
    assert GBWSemanticSegmentor.weighted_heads == ("semantic", "auxiliary")
