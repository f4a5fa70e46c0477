"""What only a GPU shows: no step waits for it, and its numbers are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks import recipe
from strategies import FOR_ALL

from gbw_d2.engine.finite import FiniteCheck
from gbw_d2.losses import ClassWeightedCrossEntropy, WeightedLosses
from gbw_d2.modeling.postprocessing import PanopticSettings, panoptic_from_centers
from gbw_d2.weighting import FLAGS, SCHEMES, WeightLog, build_scheme

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SMALL = ["INPUT.CROP_SIZE", "(64, 128)", "SOLVER.IMS_PER_BATCH", "2"]


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """Convolutions in float32: TensorFloat-32 has a precision of only three digits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def waiting_allowed_afterwards() -> Iterator[None]:
    """Lets the tests that follow wait again, however this one ends."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def training_step(
    repository: Path, name: str, device: torch.device, *more: str
) -> recipe.TrainingStep:
    config = str(repository / "configs/toy/panoptic_gbw.yaml")
    overrides = [*SMALL, "UDA.NAME", name, *more]
    return recipe.recipe_candidates(config, overrides, device)[0]["gbw"]


def losses(step: recipe.TrainingStep) -> dict[str, float]:
    """Does one step and returns its losses and the norm of its gradient."""
    step()
    return {name: float(value) for name, value in step.trainer._sums.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FOR_ALL)
def test_no_step_waits(
    name: str, precision: str, repository: Path, waiting_allowed_afterwards: None
) -> None:
    amp = ["SOLVER.AMP.ENABLED", str(precision != "float32"), "SOLVER.AMP.DTYPE", "bfloat16"]
    step = training_step(repository, name, torch.device("cuda"), *amp)
    step()  # libraries are loaded and set up by the first
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device="cuda").item()
    for _ in range(3):
        step()


@pytest.mark.parametrize("name", FOR_ALL)
def test_a_step_is_that_of_the_cpu(name: str, repository: Path) -> None:
    here, there = (
        losses(training_step(repository, name, torch.device(device))) for device in ("cpu", "cuda")
    )
    assert there == pytest.approx(here, rel=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(dtype: str, repository: Path) -> None:
    amp = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype]
    gpu = torch.device("cuda")
    whole, half = (
        losses(training_step(repository, "self_training", gpu, *more)) for more in ([], amp)
    )
    names = [name for name in whole if name.startswith("loss")]
    assert len(names) >= 3
    assert {n: half[n] for n in names} == pytest.approx({n: whole[n] for n in names}, rel=0.05)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_losses_weights_and_gradients_are_those_of_the_cpu(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = 5
    logits = 3 * torch.randn(2, classes, 16, 32, generator=generator)
    features = torch.randn(2, 8, 4, 8, generator=generator)
    low = torch.randn(2, classes, 4, 8, generator=generator)
    labels = torch.randint(0, classes, (2, 16, 32), generator=generator)
    labels[:, :2] = 255
    static = {"class_weights": [0.5, 1.0, 1.5, 1.0, 1.0]} if name == "fixed" else {}
    counts = torch.arange(1, classes + 1)
    results = []
    for device in ("cpu", "cuda"):
        scheme = build_scheme(name, classes, static, counts)
        criterion, log = ClassWeightedCrossEntropy(scheme).to(device), WeightLog()
        leaf = logits.clone().to(device).requires_grad_()
        classifier = (features.to(device), low.to(device))
        values = []
        for _ in range(2):  # the second reads the running mean of the first
            values.append(criterion(leaf, labels.to(device), None, classifier, log=log))
        torch.stack(values).sum().backward()
        assert leaf.grad is not None
        entry, state = log.get("loss", "source"), criterion.state_dict()
        assert entry is not None and all(v.device.type == device for v in state.values())
        found = (torch.stack(values).detach(), entry.weights, leaf.grad, *state.values())
        results.append([each.cpu() for each in found])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-7)


def test_a_panoptic_map_is_that_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 19, 8, 16, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, scale_factor=8)[0]
    center = torch.rand(1, 64, 128, generator=generator)
    offset = 3 * torch.randn(2, 64, 128, generator=generator)
    maps, settings = (logits, center, offset), PanopticSettings(stuff_area=16)
    here, mine = panoptic_from_centers(*maps, thing_ids=range(11, 19), settings=settings)
    there, theirs = panoptic_from_centers(
        *(each.cuda() for each in maps), thing_ids=range(11, 19), settings=settings
    )
    assert torch.equal(there.cpu(), here) and len(mine) > 10
    same = ("id", "category_id", "isthing", "area")
    assert [[s[key] for key in same] for s in theirs] == [[s[key] for key in same] for s in mine]


def test_what_is_not_finite_is_raised_without_waiting(waiting_allowed_afterwards: None) -> None:
    check = FiniteCheck()
    good, bad = (torch.tensor(value, device="cuda") for value in (1.0, float("nan")))
    torch.cuda.set_sync_debug_mode("error")
    check.add(0, {"loss": good}, ["a.png"])
    # Either it has arrived by itself already, or the end waits for it.
    with pytest.raises(FloatingPointError, match=r"iteration 1: loss not finite.*b\.png"):
        check.add(1, {"loss": bad}, ["b.png"])
        torch.cuda.set_sync_debug_mode("default")
        check.finish()


@pytest.mark.parametrize("wrong", ["invalid_labels", "nonfinite", "source_missing"])
def test_what_the_losses_could_not_look_at_is_raised_without_waiting(
    wrong: str, waiting_allowed_afterwards: None
) -> None:
    logits = torch.randn(1, 3, 4, 4, device="cuda")
    labels = torch.zeros(1, 4, 4, dtype=torch.long, device="cuda")
    scheme = build_scheme("gbw_norm", 3, {"shaped_by": "source"})
    losses = WeightedLosses({"semantic": ClassWeightedCrossEntropy(scheme, head="semantic")})
    losses.cuda()
    term = "source"
    if wrong == "invalid_labels":
        labels += 77
    elif wrong == "nonfinite":
        logits *= float("nan")
    else:
        term = "mixed"
    check = FiniteCheck()
    torch.cuda.set_sync_debug_mode("error")
    check.add(0, {}, ["a.png"], losses.flags())
    losses["semantic"](logits, labels, term=term)
    assert [name for _, name in losses.flags()] == list(FLAGS)
    with pytest.raises(ValueError, match=r"iteration 1: head 'semantic' had .*b\.png") as caught:
        check.add(1, {}, ["b.png"], losses.flags())
        torch.cuda.set_sync_debug_mode("default")
        check.finish()
    assert FLAGS[wrong] in str(caught.value)
