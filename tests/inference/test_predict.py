"""Views of an image: by hand, on a network that sees exactly where it is, and on a real one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gbw_d2 import keys
from gbw_d2.engine.build import build_model
from gbw_d2.errors import UserError
from gbw_d2.inference.predict import (
    Views,
    network_size,
    predict,
    shown_views,
    window_starts,
)
from gbw_d2.modeling.protocol import Outputs, SemanticPrediction
from gbw_d2.modeling.views import merged_maps

LOGITS, CENTER, OFFSET = "logits", "center", "offset"


class Surveyor(nn.Module):
    """Reads logits and centre off each pixel; offsets point to the middle of the bright spot."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def images(self, batch: list[dict[str, Any]]) -> Tensor:
        self.seen += [tuple(sample[keys.IMAGE].shape[1:]) for sample in batch]
        # Padded to a stride of 4, as real networks do.
        rows, columns = self.seen[-1]
        pad = (0, -columns % 4, 0, -rows % 4)
        return nn.functional.pad(batch[0][keys.IMAGE][None].float(), pad)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        return {"images": images}

    def outputs(self, features: dict[str, Tensor], size: tuple[int, int]) -> Outputs:
        maps = self.maps(features, size)
        return Outputs(SemanticPrediction(maps[LOGITS], size), private=maps)

    def merge_views(self, views: Any, size: tuple[int, int], sample: Any) -> dict[str, Tensor]:
        return merged_maps(views, size, lambda seen: seen.private, LOGITS, frozenset({OFFSET}))

    def maps(self, features: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        red, _, spot = features["images"][0] / 255
        at = torch.stack(
            torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
        )
        middle = (at * spot).sum((1, 2)) / spot.sum().clamp_min(1e-6)
        return {
            LOGITS: torch.stack([red, 1 - red])[None],
            CENTER: spot[None, None],
            OFFSET: (middle.view(2, 1, 1) - at)[None],
        }


def merged(network: Surveyor, image: np.ndarray, views: Views) -> dict[str, Tensor]:
    size = image.shape[:2]
    return network.merge_views(shown_views(network, image, size, views), size, {})


@pytest.fixture
def picture() -> np.ndarray:
    image = np.full((32, 48, 3), (200, 0, 0), dtype=np.uint8)
    image[:, 24:, 0] = 40
    image[8:12, 6:14, 2] = 255
    return image


@pytest.mark.parametrize("views", [Views(flip=True), Views((0.5, 2.0)), Views((1.0, 2.0), True)])
def test_mirrored_and_resized_views_agree(picture: np.ndarray, views: Views) -> None:
    one = merged(Surveyor(), picture, Views())
    many = merged(Surveyor(), picture, views)
    assert one[OFFSET][:, 0, 0].tolist() == pytest.approx([9.5, 9.5])
    # Bilinear resizing flattens the ramp of offsets in the outermost pixel alone.
    inside = (slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(many[OFFSET][inside], one[OFFSET][inside], atol=0.02, rtol=0)
    away = (slice(None), slice(14, None), slice(None, 20))
    for key in (LOGITS, CENTER):
        torch.testing.assert_close(many[key][away], one[key][away], atol=1e-4, rtol=0)


def test_probabilities_are_averaged_not_logits(picture: np.ndarray) -> None:
    class Doubtful(Surveyor):
        def maps(self, features: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
            first = 4.0 if len(self.seen) == 1 else -8.0
            logits = torch.zeros(1, 2, *size)
            logits[:, 0] = first
            return {LOGITS: logits}

    found = merged(Doubtful(), picture, Views(flip=True))
    expected = (1 / (1 + np.exp(-4)) + 1 / (1 + np.exp(8))) / 2
    assert set(found) == {LOGITS}
    assert found[LOGITS].exp()[0, 3, 3].item() == pytest.approx(expected, abs=1e-6)


def test_windows_of_a_pixelwise_network_change_nothing(picture: np.ndarray) -> None:
    whole = merged(Surveyor(), picture, Views())
    network = Surveyor()
    parts = merged(network, picture, Views(window=(14, 20), overlap=0.3))
    for key in (LOGITS, CENTER):
        torch.testing.assert_close(parts[key], whole[key])
    assert set(network.seen) == {(14, 20)} and len(network.seen) == 3 * 3
    network = Surveyor()
    merged(network, picture, Views(window=(100, 20), overlap=0.0))
    assert network.seen == [(32, 20)] * 3


def test_window_starts_by_hand() -> None:
    assert window_starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert window_starts(10, 10, 0.5) == [0]
    assert window_starts(11, 10, 0.0) == [0, 1]


@pytest.mark.parametrize("length", range(5, 40, 3))
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_windows_cover_everything_and_overlap(length: int, overlap: float) -> None:
    starts = window_starts(length, 5, overlap)
    assert starts[0] == 0 and starts[-1] == length - 5
    gaps = np.diff(starts)
    assert (gaps > 0).all() and (gaps <= max(1, 5 * (1 - overlap))).all()


def test_network_size_keeps_the_shape() -> None:
    assert network_size((300, 400), ()) == (300, 400)
    assert network_size((1024, 2048), (512, 1024)) == (512, 1024)
    assert network_size((400, 300), (1024, 2048)) == (1024, 768)
    assert network_size((100, 1000), (512, 1024)) == (102, 1024)
    with pytest.raises(UserError, match="TEST_SIZE"):
        network_size((4, 4), (512,))


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0.0,)}, {"window": (0, 4)}, {"overlap": 1.0}]
)
def test_wrong_views_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Views(**wrong)


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (44, 70, 3), dtype=np.uint8)


def test_one_view_is_what_evaluation_sees(tiny_config: Any, street: np.ndarray) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config("MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD", 0.0)).eval()
    sample = {keys.IMAGE: torch.from_numpy(street.transpose(2, 0, 1).copy())}
    with torch.no_grad():
        expected = model([{**sample, keys.HEIGHT: 44, keys.WIDTH: 70}])[0]
    plain = predict(model, street)
    assert torch.equal(plain[keys.SEM_SEG], expected[keys.SEM_SEG])
    # The same view twice goes through the merging, which must then change nothing.
    merged = predict(model, street, views=Views((1.0, 1.0)))
    torch.testing.assert_close(
        merged[keys.SEM_SEG], expected[keys.SEM_SEG].log_softmax(0), atol=1e-5, rtol=0
    )
    found, segments = merged[keys.PANOPTIC_SEG]
    assert torch.equal(found, expected[keys.PANOPTIC_SEG][0])
    assert [s["area"] for s in segments] == [s["area"] for s in expected[keys.PANOPTIC_SEG][1]]


def test_results_have_the_size_of_the_file(tiny_config: Any, street: np.ndarray) -> None:
    model = build_model(tiny_config("MODEL.SEMANTIC_ONLY", True)).eval()
    result = predict(model, street, (31, 50), Views((0.5, 1.0), True, (20, 30)))
    assert set(result) == {keys.SEM_SEG} and result[keys.SEM_SEG].shape == (16, 44, 70)
    assert result[keys.SEM_SEG].isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_sees_the_same(tiny_config: Any, street: np.ndarray) -> None:
    model = build_model(tiny_config()).eval()
    views = Views((1.0, 1.5), True, (32, 48))
    here = predict(model, street, views=views)[keys.SEM_SEG]
    there = predict(model.to("cuda"), street, views=views)[keys.SEM_SEG]
    torch.testing.assert_close(there.cpu().exp(), here.exp(), atol=1e-2, rtol=0)
