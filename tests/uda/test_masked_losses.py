"""Masked consistency within self-training and CBST: labels, weights, class weights, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gbw_d2 import keys
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import Targets
from gbw_d2.uda import STRATEGIES, Context, build_strategy, loss_terms
from gbw_d2.uda.parts.pseudo_labels import pseudo_labels
from gbw_d2.uda.stages import PSEUDO_LABELS

MASKED = ("UDA.MASKED_CONSISTENCY.LOSS_WEIGHT", 2.0, "UDA.MASKED_CONSISTENCY.BLOCK", 8)
PLAIN = (
    *("UDA.SELF_TRAINING.JITTER_PROBABILITY", 0.0, "UDA.SELF_TRAINING.BLUR_PROBABILITY", 0.0),
    *("UDA.SELF_TRAINING.IGNORE_BOTTOM", 0.25, "UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD", 0.0),
)


@pytest.fixture
def make(tiny_config: Any) -> Any:
    """Returns a function: overrides -> prepared strategy with masked consistency."""

    def build(*overrides: Any, name: str = "self_training", recipe: str = "semantic") -> Any:
        words = ("UDA.NAME", name, *MASKED, *PLAIN, *overrides)
        cfg = tiny_config(*words, name=f"toy/{recipe}_gbw")
        torch.manual_seed(0)
        model = build_model(cfg, build_training_losses(cfg)).train()
        strategy = build_strategy(name, model, cfg.UDA, seed=3, max_iter=10)
        if name != "cbst":
            strategy.prepare(strategy.stages()[0], Context(True, Path()))
        return strategy

    return build


def hidden_images(strategy: Any, target: Any) -> torch.Tensor:
    images = strategy.model.images(target)
    seen = strategy.masked.draw(strategy.generators("masked blocks", target), (32, 64))
    return strategy.masked.apply(images, seen)


def test_the_student_learns_the_teachers_labels_of_the_clean_picture(
    make: Any, samples: Any
) -> None:
    strategy = make("WEIGHTING.NAME", "none")
    model, source, target = strategy.model, samples(), samples(seed=1)
    clean = strategy.teacher.outputs(strategy.teacher.features(model.images(target)), (32, 64))
    labels, confidence = pseudo_labels(clean.semantic.dense())
    # Half the pixels are confident, so that the weight of the labels is neither 0 nor 1.
    strategy.thresholds.values.fill_(confidence.median().item())
    *_, (loss,) = (part.values() for part in strategy.training_losses(source, target, 0))

    weights = torch.full_like(confidence, 0.5)
    weights[:, 24:] = 0
    outputs = model.outputs(model.features(hidden_images(strategy, target)), (32, 64))
    expected = model.losses(outputs, Targets(labels), weights, keys.TERM_MASKED)
    torch.testing.assert_close(loss, 2 * expected["loss_semantic"], rtol=1e-3, atol=1e-4)


def test_parts_and_names(make: Any, samples: Any) -> None:
    on = ("UDA.SELF_TRAINING.INSTANCE_PSEUDO_LABELS", True)
    strategy = make(*on, recipe="panoptic")
    parts = list(strategy.training_losses(samples(), samples(seed=1), 0))
    names = {f"masked_loss_{head}" for head in ("semantic", "center", "offset")}
    assert len(parts) == 3 and set(parts[2]) == names
    sum(parts[2].values()).backward()
    assert strategy.model.backbone.stem.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in strategy.teacher.parameters())
    # The instance branch rests where the teacher's instances are no targets.
    parts = list(make(recipe="panoptic").training_losses(samples(), samples(seed=1), 0))
    assert set(parts[2]) == {"masked_loss_semantic"}


def test_nothing_else_of_the_step_changes(make: Any, samples: Any) -> None:
    args = (samples(), samples(seed=1), 0)
    with_it = list(make("UDA.SELF_TRAINING.JITTER_PROBABILITY", 1.0).training_losses(*args))
    off = ("UDA.SELF_TRAINING.JITTER_PROBABILITY", 1.0, *MASKED[:1], 0.0)
    without = list(make(*off).training_losses(*args))
    assert (len(with_it), len(without)) == (3, 2)
    assert without == with_it[:2]


def test_masked_pictures_are_augmented_by_draws_of_their_own(make: Any, samples: Any) -> None:
    args = (samples(), samples(seed=1), 0)
    plain, strong = (
        list(make("UDA.SELF_TRAINING.JITTER_PROBABILITY", p).training_losses(*args))
        for p in (0.0, 1.0)
    )
    assert plain[2] != strong[2]


def test_class_weights_act_on_the_masked_term(make: Any, samples: Any) -> None:
    # Road alone counts: a masked loss without it is 0.
    words = ("WEIGHTING.NAME", "fixed", "WEIGHTING.CLASS_WEIGHTS", [16.0] + [0.0] * 15)
    strategy = make(*words)
    with torch.no_grad():
        for network in (strategy.model, strategy.teacher):
            network.sem_seg_head.predictor.bias[3] += 50
    *_, (loss,) = (p.values() for p in strategy.training_losses(samples(), samples(seed=1), 0))
    assert loss.item() == 0
    log = strategy.weight_log.get("semantic", keys.TERM_MASKED)
    assert log.weights.tolist() == [16.0] + [0.0] * 15
    assert log.counts.nonzero().tolist() == [[3]]


def test_state_of_the_term_is_there_where_it_is_on_alone(tiny_config: Any) -> None:
    own = ("WEIGHTING.SHAPED_BY", "all", "WEIGHTING.MOMENTUM", 0.5)
    on, off = (
        build_training_losses(tiny_config(*own, *words, name="toy/semantic_gbw"))
        for words in (MASKED, ())
    )
    new = set(on.state_dict()) - set(off.state_dict())
    assert new and all("masked" in key for key in new)
    assert set(off.state_dict()) <= set(on.state_dict())


def test_cbst_masks_too(make: Any, samples: Any) -> None:
    strategy = make("WEIGHTING.NAME", "none", name="cbst")
    model = strategy.model
    target = [
        {**{k: s[k] for k in ("draw", "image", "image_rows")}, PSEUDO_LABELS: {"sem_seg": label}}
        for s, label in zip(samples(seed=1), (s["sem_seg"] for s in samples(seed=2)), strict=True)
    ]
    *_, pseudo, masked = strategy.training_losses(samples(), target, 9)
    assert set(pseudo) == {"pseudo_loss_semantic"} and set(masked) == {"masked_loss_semantic"}
    labels = torch.stack([s[PSEUDO_LABELS]["sem_seg"] for s in target])
    outputs = model.outputs(model.features(hidden_images(strategy, target)), (32, 64))
    expected = model.losses(outputs, Targets(labels), None, keys.TERM_MASKED)["loss_semantic"]
    torch.testing.assert_close(masked["masked_loss_semantic"], 2 * expected)


def test_warm_up_holds_for_masked_pictures_too(make: Any, samples: Any) -> None:
    strategy = make("UDA.WARM_UP", 0.5)
    lengths = [len(list(strategy.training_losses(samples(), samples(seed=1), i))) for i in (4, 5)]
    assert lengths == [1, 3]


def test_terms_and_who_refuses(tiny_config: Any) -> None:
    cfg = tiny_config(*MASKED)
    assert loss_terms("self_training", cfg.UDA) == ("source", "mixed", "masked")
    assert loss_terms("cbst", cfg.UDA) == ("source", "pseudo", "masked")
    able = {name for name in STRATEGIES.names() if STRATEGIES.get(name).has_pseudo_labels}
    assert able >= {"cbst", "self_training"}
    for name in set(STRATEGIES.names()) - able:
        message = rf"LOSS_WEIGHT is 2\.0, but UDA\.NAME '{name}' makes no pseudo-labels.*self_train"
        with pytest.raises(UserError, match=message):
            tiny_config("UDA.NAME", name, *MASKED)
    with pytest.raises(UserError, match=r"MASKED_CONSISTENCY\.RATIO is 1\.0; expected"):
        tiny_config("UDA.MASKED_CONSISTENCY.RATIO", 1.0)
    with pytest.raises(UserError, match=r"MASKED_CONSISTENCY\.BLOCK is 0; expected"):
        tiny_config("UDA.MASKED_CONSISTENCY.BLOCK", 0)
