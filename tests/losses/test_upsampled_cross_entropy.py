"""The loss of upsampled logits against ``F.interpolate``, ``F.cross_entropy`` and autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gbw_d2.losses.upsampled import upsampled_cross_entropy, weighted_cross_entropy
from gbw_d2.weighting import pixels as pixels_module
from gbw_d2.weighting import statistics as statistics_module
from gbw_d2.weighting.pixels import prepare_labels
from gbw_d2.weighting.statistics import class_statistics

CLASSES = 5
LOW = (6, 7)
SIZES = [(24, 28), (17, 33), (6, 7), (3, 4), (1, 1), (25, 4)]


def make_batch(size=(17, 33), low=LOW, dtype=torch.float64, ignore_index=255):
    """Low-resolution logits, labels with an absent class and ignored rows, q, w and a shift."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, CLASSES, *low, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES - 1, (2, *size), generator=generator)
    labels[0, : size[0] // 3] = ignore_index
    q = torch.rand(2, *size, generator=generator, dtype=torch.float64)
    weights = torch.rand(CLASSES, generator=generator, dtype=torch.float64)
    shift = torch.randn(CLASSES, generator=generator, dtype=torch.float64)
    return logits.to(dtype), labels, q, weights, shift


def upsample(logits: Tensor, labels: Tensor, shift: Tensor | None = None) -> Tensor:
    up = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return up if shift is None else up + shift.view(1, -1, 1, 1)


def reference_losses(up, labels, weights=None, q=None, gamma=0.0, ignore_index=255):
    """Per-pixel losses by torch: w_y q (1 - p_y)^gamma CE, 0 at ignored pixels."""
    losses = F.cross_entropy(up, labels, weights, ignore_index=ignore_index, reduction="none")
    if gamma:
        index = labels.masked_fill(labels == ignore_index, 0)
        losses = losses * (1 - up.softmax(1).gather(1, index[:, None])[:, 0]) ** gamma
    return losses if q is None else losses * q


def with_gradient(function, logits: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    loss = function(leaf)
    (factor * loss).backward()
    return loss.detach(), leaf.grad


def assert_same(ours, theirs, tolerance: float = 1e-9) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        difference = (mine.double() - other.double()).norm()
        assert difference <= tolerance * other.double().norm()


@pytest.fixture(params=[2**19, 200], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "CHUNK_ELEMENTS_CPU", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_against_torch(size: tuple[int, int], weighted: bool) -> None:
    logits, labels, q, weights, _ = make_batch(size)
    given = (weights, q) if weighted else (None, None)
    ours = with_gradient(lambda z: upsampled_cross_entropy(z, labels, *given), logits, 3.0)
    theirs = with_gradient(
        lambda z: reference_losses(upsample(z, labels), labels, *given).mean(), logits, 3.0
    )
    assert theirs[1].norm() > 0
    assert_same(ours, theirs)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [(24, 28), (17, 33), (3, 4)])
def test_focal_factor_and_shift(size: tuple[int, int], gamma: float) -> None:
    logits, labels, q, weights, shift = make_batch(size)
    targets, _ = prepare_labels(labels, CLASSES, 255)
    ours = with_gradient(
        lambda z: weighted_cross_entropy(z, targets, weights, gamma, q, shift), logits
    )
    theirs = with_gradient(
        lambda z: reference_losses(upsample(z, labels, shift), labels, weights, q, gamma).mean(),
        logits,
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("ignore_index", [-1, 0, 255])
def test_ignore_values(ignore_index: int) -> None:
    logits, labels, q, weights, _ = make_batch(ignore_index=ignore_index)
    ours = with_gradient(
        lambda z: upsampled_cross_entropy(z, labels, weights, q, ignore_index), logits
    )
    theirs = with_gradient(
        lambda z: reference_losses(
            upsample(z, labels), labels, weights, q, ignore_index=ignore_index
        ).mean(),
        logits,
    )
    assert_same(ours, theirs)


def test_all_ignored() -> None:
    logits, labels, *_ = make_batch()
    value, gradient = with_gradient(
        lambda z: upsampled_cross_entropy(z, torch.full_like(labels, 255)), logits
    )
    assert value == 0
    assert not gradient.any()


def test_memory_formats_and_integer_types() -> None:
    logits, labels, q, weights, _ = make_batch()
    expected = with_gradient(lambda z: upsampled_cross_entropy(z, labels, weights, q), logits)
    formats = {
        "channels last": logits.contiguous(memory_format=torch.channels_last),
        "transposed": logits.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for given, integer in itertools.product(formats.values(), (torch.uint8, torch.int32)):
        assert not given.is_contiguous()
        small = labels.to(integer)
        assert_same(
            with_gradient(lambda z, y=small: upsampled_cross_entropy(z, y, weights, q), given),
            expected,
            1e-15,
        )
    # A view with gaps, as a slice of a larger tensor is.
    padded = F.pad(logits, (1, 2, 3, 4)).requires_grad_()
    view = padded[:, :, 3:-4, 1:-2]
    upsampled_cross_entropy(view, labels, weights, q).backward()
    assert_same([padded.grad[:, :, 3:-4, 1:-2]], expected[1:], 1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_storage_only(dtype: torch.dtype) -> None:
    logits, labels, q, weights, _ = make_batch(dtype=dtype)
    value, gradient = with_gradient(
        lambda z: upsampled_cross_entropy(z, labels, weights, q), logits
    )
    expected = with_gradient(
        lambda z: reference_losses(upsample(z, labels), labels, weights, q).mean(), logits.double()
    )
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert_same([value], expected[:1], 1e-6)
    assert_same([gradient], expected[1:], 2 * torch.finfo(dtype).eps)


def test_a_loss_scaler_rescues_gradients_too_small_for_half_precision() -> None:
    logits, labels, *_ = make_batch(dtype=torch.float16)
    tiny = 1e-6 * torch.ones(CLASSES)

    def loss(z: Tensor) -> Tensor:
        return upsampled_cross_entropy(z, labels, tiny)

    _, scaled = with_gradient(loss, logits, 2.0**16)
    _, exact = with_gradient(loss, logits.double(), 2.0**16)
    assert_same([scaled], [exact], 1e-3)


def test_autocast_does_not_round_what_is_interpolated() -> None:
    logits, labels, *_ = make_batch(dtype=torch.float32)
    targets, invalid = prepare_labels(labels, CLASSES, 255)

    def compute() -> tuple[Tensor, ...]:
        norms = class_statistics(logits, targets, invalid).measure
        return *with_gradient(lambda z: upsampled_cross_entropy(z, labels), logits), norms

    outside = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compute()
    assert all(torch.equal(*pair) for pair in zip(inside, outside, strict=True))


def test_confident_pixels_keep_their_digits() -> None:
    # The gradient at the label is p - 1 = -1e-16 or so, which float32 does not know.
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 8, 8, dtype=torch.long)
    logits[:, 0] = torch.tensor([[36.0, 38.0], [37.0, 39.0]])
    ours = with_gradient(lambda z: upsampled_cross_entropy(z, labels), logits)
    theirs = with_gradient(lambda z: upsampled_cross_entropy(z, labels), logits.double())
    # By hand at the corner pixels: the loss of a pixel is log(1 + 2 exp(-margin)).
    up = upsample(logits.double(), labels)[:, 0]
    assert theirs[0].item() == pytest.approx(torch.log1p(2 * torch.exp(-up)).mean().item())
    assert_same(ours, theirs, 1e-5)


def test_no_gradient_asked_for_and_asked_for_twice() -> None:
    logits, labels, *_ = make_batch()
    with torch.no_grad():
        value = upsampled_cross_entropy(logits.requires_grad_(), labels)
    assert not value.requires_grad
    loss = upsampled_cross_entropy(logits, labels)
    assert loss == value
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    second = torch.autograd.grad(2 * loss, logits)[0]
    torch.testing.assert_close(2 * first, second)


def autograd_norms(up: Tensor, labels: Tensor, importance: Tensor, gamma: float = 0.0) -> Tensor:
    """g_k^2 as the released code has it: autograd through sum_c L_c in the upsampled logits."""
    up = up.detach().requires_grad_()
    one_hot = F.one_hot(labels.masked_fill(labels == 255, CLASSES), CLASSES + 1)[..., :-1]
    shares = one_hot * importance[..., None]
    counts = shares.sum((0, 1, 2))
    losses = reference_losses(up, labels)[..., None] * shares
    (losses.sum((0, 1, 2)) / (counts + 1)).sum().backward()
    return up.grad.square().sum((0, 2, 3))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("in_gradient", [False, True])
@pytest.mark.parametrize("size", [(24, 28), (17, 33), (3, 4)])
def test_statistics_against_autograd(size: tuple[int, int], in_gradient: bool) -> None:
    logits, labels, q, _, shift = make_batch(size)
    targets, invalid = prepare_labels(labels, CLASSES, 255)
    statistics = class_statistics(
        logits, targets, invalid, q, pixel_weights_in_gradient=in_gradient, shift=shift
    )
    importance = q if in_gradient else torch.ones_like(q)
    up = upsample(logits, labels, shift)
    assert_same([statistics.measure.square()], [autograd_norms(up, labels, importance)])
    losses = reference_losses(up, labels, None, q)
    for k in range(CLASSES):
        at = labels == k
        assert statistics.counts[k].item() == pytest.approx(importance[at].sum().item())
        assert statistics.loss_sums[k].item() == pytest.approx(losses[at].sum().item(), rel=1e-9)
    assert not statistics.nonfinite


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_loss_sums_are_those_of_the_loss(gamma: float) -> None:
    logits, labels, q, weights, shift = make_batch()
    targets, invalid = prepare_labels(labels, CLASSES, 255)
    statistics = class_statistics(logits, targets, invalid, q, focal_gamma=gamma, shift=shift)
    loss = weighted_cross_entropy(logits, targets, weights, gamma, q, shift)
    expected = (weights * statistics.loss_sums).sum() / labels.numel()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_without_norms_the_labels_say_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, q, *_ = make_batch()
    targets, invalid = prepare_labels(labels, CLASSES, 255)
    monkeypatch.setattr(statistics_module, "norms_and_loss_sums", None)
    statistics = class_statistics(logits, targets, invalid, q, norms=False)
    assert statistics.counts.tolist() == [(labels == k).sum() for k in range(CLASSES)]
    assert statistics.measure is statistics.loss_sums is None


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["logits", "pixel weights", "shift"])
def test_what_is_not_finite_is_flagged(where: str, value: float, norms: bool) -> None:
    logits, labels, q, _, shift = make_batch(dtype=torch.float16)
    targets, invalid = prepare_labels(labels, CLASSES, 255)
    big = torch.full_like(logits, 6e4)  # finite, and so is their sum
    assert not class_statistics(big, targets, invalid, q, norms).nonfinite
    {"logits": logits, "pixel weights": q, "shift": shift}[where].view(-1)[-1] = value
    assert class_statistics(logits, targets, invalid, q, norms, shift=shift).nonfinite


def test_counts_and_norms_are_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two processes with the same batch: each count doubles, and so does each squared norm's sum.
    logits, labels, *_ = make_batch()
    targets, invalid = prepare_labels(labels, CLASSES, 255)
    twice = [torch.cat([each, each]) for each in (logits, targets)]
    expected = class_statistics(*twice, invalid)
    monkeypatch.setattr(statistics_module, "all_reduce_sum", lambda sums: 2 * sums)
    found = class_statistics(logits, targets, invalid)
    torch.testing.assert_close(found.counts, expected.counts)
    torch.testing.assert_close(found.measure, expected.measure)
    torch.testing.assert_close(2 * found.loss_sums, expected.loss_sums)
    alone = class_statistics(logits, targets, invalid, all_processes=False)
    torch.testing.assert_close(2 * alone.counts, expected.counts)


@pytest.mark.parametrize("norms", [False, True])
def test_the_upsampled_map_never_exists(norms: bool) -> None:
    classes, size = 19, (512, 512)
    torch.manual_seed(0)
    logits = torch.randn(1, classes, 128, 128, requires_grad=True)
    targets = torch.randint(0, classes, (1, *size))
    invalid = torch.zeros((), dtype=torch.bool)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        if norms:
            class_statistics(logits, targets, invalid)
        else:
            weighted_cross_entropy(logits, targets, torch.ones(classes)).backward()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peak = max(itertools.accumulate(bytes_ for _, bytes_ in changes))
    assert 0 < peak < 4 * classes * size[0] * size[1] / 2


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        ((2, 5, 6), (2, 8, 8), {}, "logits have shape"),
        ((2, 5, 6, 7), (3, 8, 8), {}, r"need labels of shape \(2, H, W\)"),
        ((2, 5, 6, 7), (2, 5, 8, 8), {}, "labels have shape"),
        ((2, 5, 6, 7), (2, 0, 8), {}, "hold no pixel"),
        ((2, 5, 0, 7), (2, 8, 8), {}, "hold no pixel"),
        ((2, 5, 6, 7), (2, 8, 8), {"class_weights": torch.ones(4)}, r"expected \(5,\)"),
        ((2, 5, 6, 7), (2, 8, 8), {"pixel_weights": torch.ones(2, 6, 7)}, "pixel weights have"),
    ],
)
def test_what_does_not_fit_is_told(logits, labels, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        upsampled_cross_entropy(torch.zeros(logits), torch.zeros(labels).long(), **options)


def test_labels_that_are_no_classes_are_told() -> None:
    logits, labels, *_ = make_batch()
    with pytest.raises(ValueError, match="labels hold 7; expected class ids"):
        upsampled_cross_entropy(logits, labels.clone().fill_(7))
    with pytest.raises(ValueError, match="expected integer class ids"):
        upsampled_cross_entropy(logits, labels.float())
    with pytest.raises(ValueError, match="expected floating point"):
        upsampled_cross_entropy(logits.long(), labels)
