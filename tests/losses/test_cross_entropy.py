from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gbw_d2.losses import ClassWeightedCrossEntropy
from gbw_d2.weighting import (
    SCHEMES,
    WeightLog,
    build_scheme,
    class_hindrance,
    downsample_labels,
)
from gbw_d2.weighting import pixels as pixels_module

ADAPTIVE = [name for name in SCHEMES if name.startswith("gbw")]


def make_batch(classes=5, shape=(2, 6, 7), dtype=torch.float64, seed=0, ignore_index=255):
    """Logits, labels with one absent class and ignored pixels, pixel weights, classifier."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator)
    labels = torch.randint(0, max(classes - 1, 1), shape, generator=generator)
    labels[:, :1] = ignore_index
    weights = torch.rand(shape, generator=generator)
    weights[:, -1] = 0
    features = torch.randn(shape[0], 4, 3, 3, generator=generator)
    low = 0.1 * torch.randn(shape[0], classes, 3, 3, generator=generator)
    return logits.to(dtype), labels, weights.to(dtype), (features, low)


def make_loss(name, classes=5, ignore_index=255, **overrides):
    given = {"class_weights": range(1, classes + 1)} if name == "fixed" else {}
    scheme = build_scheme(name, classes, {**given, **overrides}, torch.arange(1.0, classes + 1))
    return ClassWeightedCrossEntropy(scheme, ignore_index=ignore_index)


def call(criterion, *batch, term="source"):
    """Returns the loss and its log entry."""
    log = WeightLog()
    return criterion(*batch, term=term, log=log), log.get("loss", term)


def reference(logits, labels, weights, pixel_weights, gamma=0.0, ignore_index=255):
    losses = F.cross_entropy(
        logits, labels, weights.to(logits), ignore_index=ignore_index, reduction="none"
    )
    if gamma:
        index = labels.masked_fill(labels == ignore_index, 0)
        losses = losses * (1 - logits.softmax(1).gather(1, index[:, None])[:, 0]) ** gamma
    return (pixel_weights * losses).sum() / labels.numel()


@pytest.mark.parametrize("name", SCHEMES.names())
def test_value_and_gradient_against_torch(name):
    logits, labels, q, classifier = make_batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    criterion = make_loss(name)
    loss, last = call(criterion, ours, labels, q, classifier)
    expected = reference(theirs, labels, last.weights, q, criterion.scheme.focal_gamma)
    torch.testing.assert_close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert last.counts.tolist() == [(labels == c).sum() for c in range(5)]
    assert (last.measure is not None) == (name in ADAPTIVE)
    assert not last.weights.requires_grad


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *(("none", {}), ("inverse_frequency", {}), ("inverse_frequency", {"frequency_power": 0.5})),
        *(("focal", {}), *(("focal", {"gamma": gamma}) for gamma in (0.5, 1.0, 5.0))),
    ],
)
def test_gradcheck_with_fixed_weights(name, overrides):
    logits, labels, q, _ = make_batch(shape=(1, 3, 4))
    criterion = make_loss(name, **overrides)
    torch.autograd.gradcheck(
        lambda z: criterion(z, labels, q), logits.requires_grad_(), eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", ADAPTIVE)
def test_gradcheck_with_the_batchs_own_weights_held_fixed(name):
    # The weights depend on the logits but are constants in the backward pass.
    logits, labels, q, classifier = make_batch(shape=(1, 3, 4))
    leaf = logits.clone().requires_grad_()
    criterion = make_loss(name, lam=0.5 if name != "gbw_released" else 1e-2)
    loss, last = call(criterion, leaf, labels, q, classifier)
    loss.backward()
    weights = last.weights
    assert (weights - 1).abs().max() > 0.05
    probe = logits.clone().requires_grad_()
    reference(probe, labels, weights, q).backward()
    torch.testing.assert_close(leaf.grad, probe.grad)


@pytest.mark.parametrize("size", [(24, 28), (11, 9)])
@pytest.mark.parametrize("name", SCHEMES.names())
def test_low_resolution_is_the_same_as_upsampling_first(name, size):
    logits, _, _, classifier = make_batch()
    _, labels, q, _ = make_batch(shape=(2, *size))
    results = []
    for upsampled in (False, True):
        criterion = make_loss(name, pixel_weights_in_gradient=True)
        leaf = logits.clone().requires_grad_()
        for term in ("source", "mixed"):  # the second batch of a term has something to adjust by
            given = leaf
            if upsampled:
                given = F.interpolate(leaf, size=size, mode="bilinear", align_corners=False)
            for _ in range(2):
                loss, last = call(criterion, given, labels, q, classifier, term=term)
        loss.backward()
        results.append((loss.detach(), leaf.grad, last.weights))
    for ours, former in zip(*results, strict=True):
        torch.testing.assert_close(ours, former, rtol=1e-9, atol=1e-9 * former.abs().max().item())


def test_focal_gradient_where_the_prediction_is_certain():
    logits = torch.tensor([200.0, 0.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = make_loss("focal", 3, gamma=0.5)(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("classes", [2, 3, 150])
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_class_counts_and_ignore_values(name, classes, ignore_index):
    logits, labels, q, classifier = make_batch(classes, ignore_index=ignore_index)
    criterion = make_loss(name, classes, ignore_index)
    loss, last = call(criterion, logits, labels, q, classifier)
    weights = last.weights
    assert weights.sum().item() == pytest.approx(classes, rel=1e-6)
    expected = reference(logits, labels, weights, q, ignore_index=ignore_index)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", SCHEMES.names())
def test_all_ignored(name):
    logits, labels, q, classifier = make_batch()
    logits.requires_grad_()
    criterion = make_loss(name)
    loss, last = call(criterion, logits, torch.full_like(labels, 255), q, classifier)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    if name in ADAPTIVE:
        assert last.weights.tolist() == [1.0] * 5


@pytest.mark.parametrize("name", SCHEMES.names())
def test_one_pixel(name):
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    labels = torch.ones(1, 1, 1, dtype=torch.long)
    given = {"class_weights": (1, 1)} if name == "fixed" else {}
    scheme = build_scheme(name, 2, given, torch.ones(2))
    classifier = (torch.ones(1, 3, 1, 1), torch.zeros(1, 2, 1, 1))
    loss = ClassWeightedCrossEntropy(scheme)(logits, labels, None, classifier)
    factor = 0.25 if name == "focal" else 1.0
    assert loss.item() == pytest.approx(factor * 0.6931472, rel=1e-6)
    loss.backward()
    assert logits.grad[0, 0] == -logits.grad[0, 1]
    assert logits.grad[0, 0] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision(dtype, autocast):
    logits, labels, q, classifier = make_batch(dtype=dtype)
    features, low = classifier
    ours, wide = logits.clone().requires_grad_(), logits.float().requires_grad_()
    criterion = make_loss("gbw_hindrance")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, half = call(criterion, ours, labels, q, (features.to(dtype), low.to(dtype)))
    rounded = features.to(dtype).float(), low.to(dtype).float()
    expected, single = call(criterion, wide, labels, q, rounded)
    assert torch.equal(half.weights, single.weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, wide.grad.to(dtype))


def test_channels_last_and_chunks(monkeypatch):
    logits, labels, q, classifier = make_batch(dtype=torch.float32)
    results = []
    for chunk in (2**20, 1):
        monkeypatch.setattr(pixels_module, "CHUNK_ELEMENTS_CPU", chunk)
        for memory in (torch.contiguous_format, torch.channels_last):
            leaf = logits.clone(memory_format=memory).requires_grad_()
            loss = make_loss("gbw_norm")(leaf, labels, q, classifier)
            loss.backward()
            assert leaf.grad.is_contiguous(memory_format=memory)
            results.append((loss.detach(), leaf.grad))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("name", SCHEMES.names())
def test_extreme_logits(name):
    logits, labels, q, classifier = make_batch(dtype=torch.float32)
    leaf = torch.where(logits > 0, 1e4, -1e4).requires_grad_()
    criterion = make_loss(name)
    loss, last = call(criterion, leaf, labels, q, classifier)
    loss.backward()
    wide, gamma = leaf.detach().double(), criterion.scheme.focal_gamma
    expected = reference(wide, labels, last.weights, q.double(), gamma)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert torch.isfinite(leaf.grad).all()


def test_loss_keeps_its_digits_on_confident_pixels():
    logits = torch.zeros(1, 2, 1, 1)
    logits[0, 0] = 30.0
    loss = make_loss("none", 2)(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    assert loss.item() == pytest.approx(9.3576e-14, rel=1e-4, abs=0)


@pytest.mark.parametrize("name", SCHEMES.names())
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_logits_raise(name, value):
    logits, labels, q, classifier = make_batch()
    for row in (0, 3):  # row 0 is ignored: its gradient would be NaN all the same
        broken = logits.clone()
        broken[0, 1, row, 3] = value
        with pytest.raises(ValueError, match="NaN or inf"):
            make_loss(name)(broken, labels, q, classifier)


def test_nonfinite_pixel_weights_raise():
    logits, labels, q, _ = make_batch()
    q[1, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="pixel weights"):
        make_loss("none")(logits, labels, q)


def test_arguments_are_checked():
    logits, labels, q, _ = make_batch()
    with pytest.raises(ValueError, match=r"classifier=\(features, logits\)"):
        make_loss("gbw_hindrance")(logits, labels)
    with pytest.raises(ValueError, match=r"labels hold 11, 12; .* ignore value 255"):
        wrong = labels.clone()
        wrong[0, 2, 2], wrong[0, 3, 3] = 11, 12
        make_loss("none")(logits, wrong)
    with pytest.raises(ValueError, match="labels hold 255"):
        make_loss("none", ignore_index=-1)(logits, labels)
    with pytest.raises(ValueError, match="pixel weights have shape"):
        make_loss("none")(logits, labels, q[:1])
    with pytest.raises(ValueError, match="was built for 7"):
        make_loss("none", 7)(logits, labels)


@pytest.mark.parametrize("name", ["gbw_norm", "gbw_hindrance", "gbw"])
def test_pixel_weights_in_gradient(name):
    logits, labels, q, classifier = make_batch()
    q = torch.where(labels == 1, 0.0, q)
    _, released = call(make_loss(name), logits, labels, q, classifier)
    shaping = {"pixel_weights_in_gradient": True}
    _, shaped = call(make_loss(name, **shaping), logits, labels, q, classifier)
    assert released.counts[1] > 0
    assert shaped.counts[1] == 0
    assert shaped.weights[1] == 1
    assert not torch.equal(shaped.weights, released.weights)
    if name == "gbw_hindrance":
        features, low = classifier
        small, small_q = (downsample_labels(each, (3, 3)) for each in (labels, q))
        expected, _ = class_hindrance(features, low, small, pixel_weights=small_q)
        torch.testing.assert_close(shaped.measure, expected)
    ones = torch.ones_like(q)
    _, plain = call(make_loss(name), logits, labels, ones, classifier)
    _, unit = call(make_loss(name, **shaping), logits, labels, ones, classifier)
    torch.testing.assert_close(unit.weights, plain.weights)


def test_terms_are_kept_apart():
    logits, labels, *_ = make_batch()
    criterion, last = make_loss("gbw_norm", momentum=0.9), {}
    for term, scale in (("source", 1), ("mixed", 3)):
        _, last[term] = call(criterion, scale * logits, labels, term=term)
    state = criterion.scheme.state_dict()
    for term, entry in last.items():
        expected = torch.where(entry.counts > 0, entry.measure, 0.0).float()
        assert torch.equal(state[f"state.{term}_norm.mean"], expected)
    assert not state["state.pseudo_norm.seen"].any()
    with pytest.raises(
        ValueError, match=r"no state for loss term 'late' \(it has: source, mixed, "
    ):
        criterion(logits, labels, term="late")


BOUNDS = {"max_weight": 1.5, "min_weight": 0.2}


@pytest.mark.parametrize(
    ("name", "bounds"), [*((n, {}) for n in SCHEMES), *((n, BOUNDS) for n in ADAPTIVE)]
)
def test_a_step_never_asks_the_device_for_a_value(name, bounds):
    # Tensors of the meta device have no values: item, bool and boolean indexing raise there.
    if name in ADAPTIVE:
        bounds = {**bounds, "momentum": 0.9, "pixel_weights_in_gradient": True}
    logits, labels, q, (features, low) = make_batch()
    criterion = make_loss(name, **bounds).to("meta")
    leaf = logits.to("meta").requires_grad_()
    classifier = features.to("meta"), low.to("meta")
    for term in ("source", "mixed", "source"):
        criterion(leaf, labels.to("meta"), q.to("meta"), classifier, term=term).backward()
    assert leaf.grad.shape == logits.shape
    for flag in criterion.scheme.flags().values():
        assert flag.device.type == "meta"
    with pytest.raises(RuntimeError):
        bool(criterion.scheme.nonfinite)


def test_inference_mode_and_no_grad_give_the_same_loss():
    logits, labels, q, classifier = make_batch()
    expected = make_loss("gbw_hindrance")(logits, labels, q, classifier)
    with torch.no_grad():
        assert torch.equal(make_loss("gbw_hindrance")(logits, labels, q, classifier), expected)


@pytest.mark.parametrize("setting", ["acts_on", "shaped_by"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_terms_that_do_not_shape_weights_are_not_measured(name, setting):
    logits, labels, q, classifier = make_batch()
    settings = {"acts_on": "all", "shaped_by": "all", "pseudo_label_adjustment": 0.0}
    criterion = make_loss(name, **{**settings, setting: "source"})
    _, source = call(criterion, logits, labels, q, classifier)
    # No classifier is asked for, since nothing is measured at it.
    loss, last = call(criterion, logits, labels, q, None, term="mixed")
    assert last.measure is None
    expected = torch.ones(5) if setting == "acts_on" else source.weights
    assert torch.equal(last.weights, expected)
    torch.testing.assert_close(loss.double(), reference(logits, labels, expected, q).double())


@pytest.mark.parametrize("name", SCHEMES.names())
def test_adjusted_logits_against_torch(name):
    logits, labels, q, classifier = make_batch()
    criterion = make_loss(name, logit_adjustment=0.5)
    criterion(logits, labels, q, classifier)
    # Given, so that schemes whose weights are 1 have something to shift by too; class 4 has not
    # been seen.
    before = torch.tensor([0.5, 2.0, 1.5, 0.7, 9.0])
    state = criterion.scheme.state_dict()
    assert state["mean_weights.source_batches"].tolist() == [1, 1, 1, 1, 0]
    criterion.scheme.load_state_dict({**state, "mean_weights.source_mean": before})
    before[4] = 1
    shift = 0.5 * before.double().log().view(1, -1, 1, 1)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, last = call(criterion, ours, labels, q, classifier)
    gamma = criterion.scheme.focal_gamma
    expected = reference(theirs + shift, labels, last.weights, q, gamma)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    if criterion.scheme.needs_classifier:
        # The gradients that shape the weights are those of this loss.
        features, low = classifier
        shifted = features, low + shift.float()
        _, again = call(make_loss(name), logits + shift, labels, q, shifted)
        torch.testing.assert_close(last.measure, again.measure)


@pytest.mark.parametrize(("adjustment", "share"), [(1.0, 0.75), (0.0, 0.5), (0.5, 0.634)])
def test_the_best_logits_by_hand(adjustment, share):
    # Three pixels of four are class 0 and nothing tells them apart. Weights 1 : 3 make the network
    # say 1/2 each; freed of them it says 3/4; by half, in between: sqrt 3 / (sqrt 3 + 1).
    criterion = make_loss("fixed", 2, class_weights=[1.0, 3.0], logit_adjustment=adjustment)
    labels = torch.tensor([[[0, 0, 0, 1]]])
    criterion(torch.zeros(1, 2, 1, 4), labels)
    said = torch.tensor([share, 1 - share], dtype=torch.float64).log()
    logits = said.view(1, 2, 1, 1).requires_grad_()
    criterion(logits.expand(1, 2, 1, 4), labels).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-4, rtol=0)


def test_half_precision_is_for_storage_with_an_adjustment_too():
    logits, labels, q, _ = make_batch(dtype=torch.float32)
    half = logits.bfloat16()
    losses, gradients = [], []
    for given in (half, half.float()):
        criterion = make_loss("inverse_frequency", logit_adjustment=1.0)
        criterion(given, labels, q)
        leaf = given.clone().requires_grad_()
        loss = criterion(leaf, labels, q)
        loss.backward()
        losses.append(loss)
        gradients.append(leaf.grad)
    assert torch.equal(*losses)
    assert gradients[0].dtype == torch.bfloat16
    torch.testing.assert_close(gradients[0].float(), gradients[1], atol=1e-5, rtol=1e-2)
