"""Self-training: teacher, mixed images, pseudo-label weights, feature distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gbw_d2 import keys
from gbw_d2.catalog import get_dataset, register_with_detectron2
from gbw_d2.data.augmentation import AugmentationSettings
from gbw_d2.data.mappers import TargetMapper
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.modeling.protocol import Targets
from gbw_d2.uda import Context, build_strategy
from gbw_d2.uda.parts import class_mix


@pytest.fixture
def make(tiny_config: Any) -> Any:
    """Returns a function: overrides of UDA.SELF_TRAINING -> prepared strategy."""

    def build(architecture: str = "panoptic", fresh: bool = True, **settings: Any) -> Any:
        # Nothing is augmented or left out, so that the mixed images are known.
        plain = {"JITTER_PROBABILITY": 0.0, "BLUR_PROBABILITY": 0.0, "IGNORE_BOTTOM": 0.0}
        plain |= settings
        overrides = [x for k, v in plain.items() for x in (f"UDA.SELF_TRAINING.{k}", v)]
        cfg = tiny_config(*overrides, name=f"toy/{architecture}_gbw")
        torch.manual_seed(0)
        model = build_model(cfg).train()
        strategy = build_strategy("self_training", model, cfg.UDA, seed=3, max_iter=10)
        strategy.prepare(strategy.stages()[0], Context(fresh, Path()))
        return strategy

    return build


def mixed_losses(strategy: Any, source: Any, target: Any) -> dict[str, torch.Tensor]:
    yielded = list(strategy.training_losses(source, target, 0))
    assert len(yielded) == 2
    return yielded[1]


def test_teacher_starts_as_the_student_and_follows_it(make: Any) -> None:
    strategy = make(EMA_DECAY=0.9)
    student = dict(strategy.model.named_parameters())
    teacher = dict(strategy.networks()["teacher"].named_parameters())
    assert all(torch.equal(student[k], teacher[k]) for k in student)
    with torch.no_grad():
        for parameter in student.values():
            parameter += 1
    start = {k: v.clone() for k, v in teacher.items()}
    strategy.after_step(0)  # decay min(1 - 1/2, 0.9)
    for key, value in teacher.items():
        torch.testing.assert_close(value, start[key] + 0.5)
    strategy.after_step(99)  # decay 0.9
    for key, value in teacher.items():
        torch.testing.assert_close(value, start[key] + 0.55)


def test_adaptive_thresholds_follow_the_teacher_and_go_on(make: Any, samples: Any) -> None:
    keyed = {"THRESHOLDS": "adaptive", "THRESHOLD_MOMENTUM": 0.9, "CONFIDENCE_PER": "segment"}
    # A run of ten steps has no memory at all: a twentieth of it is less than a step.
    strategy, again = make("semantic", **keyed), make("semantic", **keyed)
    assert "thresholds" not in make("semantic").modules() and strategy.thresholds.momentum == 0
    for each in (strategy, again):
        each.thresholds.momentum = 0.5
    mixed_losses(strategy, samples(), samples(seed=1))
    first = strategy.thresholds.values.clone()
    # Of random weights each class has about 1 / 16 everywhere, and half of that is taken in.
    assert first.max() > 0.5 / 16 and first.max() < 0.5
    again.modules()["thresholds"].load_state_dict(strategy.modules()["thresholds"].state_dict())
    for each in (strategy, again):
        mixed_losses(each, samples(), samples(seed=2))
    assert torch.equal(strategy.thresholds.values, again.thresholds.values)
    assert not torch.equal(strategy.thresholds.values, first)


def test_a_resumed_teacher_is_left_alone(make: Any) -> None:
    strategy = make()
    with torch.no_grad():
        for parameter in strategy.model.parameters():
            parameter += 1
    strategy.prepare(strategy.stages()[0], Context(False, Path()))
    student = strategy.model.sem_seg_head.predictor.weight
    teacher = strategy.networks()["teacher"].sem_seg_head.predictor.weight
    torch.testing.assert_close(student, teacher + 1)


def test_mixed_loss_is_that_of_the_mixed_image(make: Any, samples: Any) -> None:
    # Threshold 0: every pixel is confident, all weights are 1.
    strategy = make("semantic", CONFIDENCE_THRESHOLD=0.0, LOSS_WEIGHT=2.0)
    model, source, target = strategy.model, samples(), samples(seed=1)
    (loss,) = mixed_losses(strategy, source, target).values()

    labels = model.targets(source).semantic
    scores = class_mix.class_scores(strategy.generators("class mix", source), 16)
    mask = class_mix.mix_mask(labels, class_mix.drawn_classes(labels, scores))
    assert 0.2 < mask.float().mean() < 0.8
    taught = model.outputs(model.features(model.images(target)), (32, 64))
    pseudo = taught.semantic.dense().argmax(1)
    images = torch.where(mask[:, None], model.images(source), model.images(target))
    outputs = model.outputs(model.features(images), (32, 64))
    expected = model.losses(outputs, Targets(torch.where(mask, labels, pseudo)), None, "mixed")
    torch.testing.assert_close(loss, 2 * expected["loss_semantic"], rtol=1e-4, atol=1e-5)


def test_pseudo_labels_are_freed_of_the_prior_shift(tiny_config: Any, samples: Any) -> None:
    # The network sees bicycles where the weights made it, and other classes without their shift.
    weights = [1.0] * 15 + [50.0]
    cfg = tiny_config(
        *("UDA.SELF_TRAINING.JITTER_PROBABILITY", 0.0, "UDA.SELF_TRAINING.BLUR_PROBABILITY", 0.0),
        *("UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD", 0.0, "WEIGHTING.NAME", "fixed"),
        *("WEIGHTING.CLASS_WEIGHTS", weights, "WEIGHTING.PSEUDO_LABEL_ADJUSTMENT", 1.0),
        *("UDA.SELF_TRAINING.IGNORE_BOTTOM", 0.0),
        name="toy/semantic_gbw",
    )
    torch.manual_seed(0)
    model = build_model(cfg, build_training_losses(cfg)).train()
    with torch.no_grad():
        model.sem_seg_head.predictor.bias[15] += 2
    strategy = build_strategy("self_training", model, cfg.UDA, seed=3, max_iter=10)
    strategy.prepare(strategy.stages()[0], Context(True, Path()))
    source, target = samples(), samples(seed=1)
    for sample in source:
        # Every class is there, so that the shift of each is known.
        sample[keys.SEM_SEG][0, :16] = torch.arange(16)
    (loss,) = mixed_losses(strategy, source, target).values()

    labels = model.targets(source).semantic
    scores = class_mix.class_scores(strategy.generators("class mix", source), 16)
    mask = class_mix.mix_mask(labels, class_mix.drawn_classes(labels, scores))
    logits = model.outputs(model.features(model.images(target)), (32, 64)).semantic.dense()
    shift = (16 * torch.tensor(weights) / sum(weights)).log()
    pseudo = (logits - shift.view(1, -1, 1, 1)).argmax(1)
    assert (logits.argmax(1) == 15).all() and not (pseudo == 15).any()
    images = torch.where(mask[:, None], model.images(source), model.images(target))
    outputs = model.outputs(model.features(images), (32, 64))
    expected = model.losses(outputs, Targets(torch.where(mask, labels, pseudo)), None, "mixed")
    torch.testing.assert_close(loss, expected["loss_semantic"], rtol=1e-4, atol=1e-5)


def test_pseudo_labels_nobody_is_sure_of_weigh_nothing(make: Any, samples: Any) -> None:
    strategy = make("semantic")
    strategy.thresholds.values.fill_(1.1)
    sure = make("semantic", CONFIDENCE_THRESHOLD=0.0)
    args = (samples(), samples(seed=1))
    # What is left is the loss of the pasted source pixels.
    assert mixed_losses(strategy, *args)["mixed_loss_semantic"].item() > 0
    less, more = (mixed_losses(s, *args)["mixed_loss_semantic"] for s in (strategy, sure))
    assert less < 0.9 * more
    # Margins over all rows but two do nearly the same, wherever the crop lies in the image.
    for sample in args[1]:
        sample[keys.IMAGE_ROWS] = (torch.arange(32) + 16.5) / 64
    margins = make("semantic", CONFIDENCE_THRESHOLD=0.0, IGNORE_TOP=0.5, IGNORE_BOTTOM=0.46875)
    between = mixed_losses(margins, *args)["mixed_loss_semantic"]
    assert less < between < less + 0.1 * (more - less) + 1e-6


@pytest.mark.parametrize(("top", "bottom"), [(1.0, 0.0), (0.5, 0.5), (-0.1, 0.0), (0.0, -0.1)])
def test_margins_must_leave_rows(make: Any, top: float, bottom: float) -> None:
    with pytest.raises(UserError, match=r"shares of the image's rows|or a number >= 0 and <= 1"):
        make("semantic", IGNORE_TOP=top, IGNORE_BOTTOM=bottom)


def test_margins_of_the_mappers_samples(make: Any, toy_datasets: Path) -> None:
    # Crops of any place and scale, some of them larger than the image.
    settings = AugmentationSettings(crop_size=(48, 64), scale_range=(0.5, 2.0))
    mapper, rng = TargetMapper(settings), np.random.default_rng(0)
    register_with_detectron2()
    record = get_dataset("toy_cityscapes_unlabelled_train").load()[0]
    image = cv2.imread(record[keys.FILE_NAME])
    # The lowest quarter of the file is painted white: what is white has no weight.
    image[48:] = 255
    record = record | {keys.FILE_NAME: str(toy_datasets / "painted.png")}
    cv2.imwrite(record[keys.FILE_NAME], image)
    strategy = make("semantic", CONFIDENCE_THRESHOLD=0.0, IGNORE_BOTTOM=0.25)
    target = [mapper(record, rng) for _ in range(20)]
    rows = strategy._kept_rows(torch.ones(20, 48, 64), target)
    shares = []
    for sample, kept in zip(target, rows, strict=True):
        white = (sample[keys.IMAGE] > 250).all(0).float().mean(1) > 0.5
        padding = (sample[keys.IMAGE] == sample[keys.IMAGE][:, -1:, -1:]).all(0).all(1)
        # Resizing blurs the border: one row.
        assert (kept & (white | padding)).sum() <= 1
        assert (~kept & ~(white | padding)).sum() <= 1
        shares.append(kept.float().mean().item())
    assert min(shares) < 0.6 and max(shares) == 1


def test_samples_that_do_not_say_where_their_rows_lie(make: Any, samples: Any) -> None:
    target = samples(seed=1)
    del target[1][keys.IMAGE_ROWS]
    assert mixed_losses(make("semantic"), samples(), target)
    with pytest.raises(ValueError, match=r"no 'image_rows'.*TargetMapper gives it"):
        mixed_losses(make("semantic", IGNORE_BOTTOM=0.1), samples(), target)


def test_augmentation_changes_the_mixed_image_only(make: Any, samples: Any) -> None:
    args = (samples(), samples(seed=1))
    plain, strong = make("semantic"), make("semantic", JITTER_PROBABILITY=1.0)
    source, mixed = zip(*(s.training_losses(*args, 0) for s in (plain, strong)), strict=True)
    assert source[0]["loss_semantic"] == source[1]["loss_semantic"]
    assert mixed[0]["mixed_loss_semantic"] != mixed[1]["mixed_loss_semantic"]


def test_instance_pseudo_labels(make: Any, samples: Any) -> None:
    args = (samples(), samples(seed=1))
    assert set(mixed_losses(make(), *args)) == {"mixed_loss_semantic"}
    on = make(INSTANCE_PSEUDO_LABELS=True, CONFIDENCE_THRESHOLD=0.0)
    losses = mixed_losses(on, *args)
    assert set(losses) == {"mixed_loss_semantic", "mixed_loss_center", "mixed_loss_offset"}


def test_feature_distance_is_zero_at_first_and_pulls_the_encoder_back(
    make: Any, samples: Any
) -> None:
    strategy = make(FEATURE_DISTANCE_WEIGHT=0.5, FEATURE_DISTANCE_MAP="res2")
    source = samples()
    for sample in source:
        sample[keys.SEM_SEG].fill_(10)  # person
    first = next(strategy.training_losses(source, samples(seed=1), 0))
    assert first["loss_feature_distance"] == 0
    with torch.no_grad():
        for parameter in strategy.model.backbone.parameters():
            parameter += 0.1
    loss = next(strategy.training_losses(source, samples(seed=1), 0))["loss_feature_distance"]
    assert loss > 0
    loss.backward()
    assert strategy.model.backbone.stem.conv1.weight.grad is not None
    assert all(p.grad is None for p in strategy.model.sem_seg_head.parameters())
    # Nothing but road: no cell is compared.
    for sample in source:
        sample[keys.SEM_SEG].fill_(0)
    loss = next(strategy.training_losses(source, samples(seed=1), 0))["loss_feature_distance"]
    assert loss == 0 and "initial_encoder" in strategy.modules()


def test_errors_name_the_key(make: Any, samples: Any) -> None:
    with pytest.raises(UserError, match=r"CONFIDENCE_PER is 'pixel'; expected .* or segment"):
        make(CONFIDENCE_PER="pixel")
    with pytest.raises(UserError, match=r"INPUT\.CROP_SIZE"):
        mixed_losses(make(), samples(), samples(columns=96, seed=1))
    strategy = make(FEATURE_DISTANCE_WEIGHT=1.0, FEATURE_DISTANCE_MAP="res9")
    with pytest.raises(UserError, match="FEATURE_DISTANCE_MAP is 'res9'; the encoder gives stem"):
        next(strategy.training_losses(samples(), samples(seed=1), 0))
