"""Parts of Mask2Former compared with those of transformers, and the memory of inference."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from gbw_d2.errors import UserError
from gbw_d2.losses import ClassWeightedQueryClassification, ClassWeightedQueryMask
from gbw_d2.modeling.mask2former.criterion import PointSettings, query_targets
from gbw_d2.modeling.mask2former.decoder import DecoderSettings, MaskedAttentionDecoder
from gbw_d2.modeling.mask2former.deformable import DeformableSelfAttention, cell_centres
from gbw_d2.modeling.mask2former.head import MaskHead
from gbw_d2.modeling.mask2former.matching import LossFactors
from gbw_d2.modeling.mask2former.pixel_decoder import PixelDecoder, PixelDecoderSettings
from gbw_d2.modeling.mask2former.resampling import Frame
from gbw_d2.modeling.mask2former.segments import SegmentSettings, panoptic_result, semantic_logits
from gbw_d2.modeling.targets.slots import SlotTargets, stuff_slots
from gbw_d2.weighting import build_scheme

Candidate = Callable[[], None]

CLASSES = 19
# (rows, columns) of the training images, and of the image for inference.
SIZE = (256, 512)
TESTED = (1024, 2048)
CHANNELS = (256, 512, 1024, 2048)
SEGMENTS = 20
# Number of queries for inference; a training step has 100.
QUERIES = 200


def _theirs() -> Any:
    try:
        from transformers.models.mask2former import modeling_mask2former
    except ImportError as error:
        raise UserError(
            "the benchmark mask2former needs transformers, which is in the dependency group dev: "
            "run uv sync"
        ) from error
    return modeling_mask2former


def _sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(size[0] // stride, size[1] // stride) for stride in (4, 8, 16, 32)]


def attention_candidates(device: torch.device) -> dict[str, Candidate]:
    """Makes forward and backward passes of one layer of deformable attention; theirs first."""
    torch.manual_seed(0)
    sizes = _sizes(SIZE)[:0:-1]
    count = sum(height * width for height, width in sizes)
    cells = torch.randn(2, count, 256, device=device, requires_grad=True)
    positions = torch.randn(count, 256, device=device)
    centres = cell_centres(sizes, device)
    theirs = _theirs().Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(256, 8, 3, 4)
    ours = DeformableSelfAttention(256, 8, 3, 4)
    copies = {
        "offsets": "sampling_offsets",
        "weights": "attention_weights",
        "value": "value_proj",
        "output": "output_proj",
    }
    for own, other in copies.items():
        getattr(ours, own).load_state_dict(getattr(theirs, other).state_dict())
    ours.to(device), theirs.to(device)
    reference = centres.view(1, count, 1, 2).expand(2, -1, 3, -1)

    def there() -> Tensor:
        return theirs(
            cells,
            encoder_hidden_states=cells,
            position_embeddings=positions.expand_as(cells),
            reference_points=reference,
            spatial_shapes_list=sizes,
        )[0]

    def here() -> Tensor:
        return ours(cells, positions, centres, sizes)

    return {"transformers": _both_ways(there), "ours": _both_ways(here)}


def _both_ways(output: Callable[[], Tensor]) -> Candidate:
    def run() -> None:
        output().sum().backward()

    return run


class _GivenMaps(nn.Module):
    """An encoder that returns given maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, pictures: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self.maps)


def step_candidates(device: torch.device) -> dict[str, Candidate]:
    """Makes forward and backward passes of both decoders with their losses, on given maps."""
    torch.manual_seed(0)
    maps = [
        torch.randn(2, channels, *size, device=device, requires_grad=True)
        for channels, size in zip(CHANNELS, _sizes(SIZE), strict=True)
    ]
    slots = torch.randint(1 + CLASSES, 1 + CLASSES + SEGMENTS, (2, 8, 16), device=device)
    slots = slots.repeat_interleave(SIZE[0] // 8, 1).repeat_interleave(SIZE[1] // 16, 2)
    of_things = torch.randint(CLASSES, (2, SEGMENTS))
    table = torch.cat([stuff_slots(CLASSES).expand(2, -1), of_things], 1).to(device)
    return {"transformers": _their_step(maps, slots, table), "ours": _our_step(maps, slots, table)}


def _their_step(maps: list[Tensor], slots: Tensor, table: Tensor) -> Candidate:
    from transformers import Mask2FormerConfig, SwinConfig

    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    # A placeholder for the encoder; the given maps replace it below.
    swin = SwinConfig(embed_dim=CHANNELS[0], depths=[1] * 4, out_features=stages)
    config = Mask2FormerConfig(backbone_config=swin, num_labels=CLASSES, num_queries=100)
    network = _theirs().Mask2FormerForUniversalSegmentation(config)
    network.model.pixel_level_module.encoder = _GivenMaps(maps)
    network.to(maps[0].device).train()
    first = 1 + CLASSES
    present = [image.unique() for image in slots]
    masks = [
        (image == each.view(-1, 1, 1)).float() for image, each in zip(slots, present, strict=True)
    ]
    classes = [row[each] for row, each in zip(table, present, strict=True)]
    assert all(int(each.min()) >= first for each in present)
    pictures = torch.zeros(2, 3, *SIZE, device=maps[0].device)
    return _both_ways(lambda: network(pictures, mask_labels=masks, class_labels=classes).loss)


def _our_step(maps: list[Tensor], slots: Tensor, table: Tensor) -> Candidate:
    names = [f"res{number}" for number in (2, 3, 4, 5)]
    head = MaskHead(
        names,
        PixelDecoder(CHANNELS, PixelDecoderSettings()),
        MaskedAttentionDecoder(CLASSES, 3, DecoderSettings()),
    ).to(maps[0].device)
    of_classes = ClassWeightedQueryClassification(build_scheme("none", CLASSES))
    of_masks = ClassWeightedQueryMask(build_scheme("none", CLASSES))
    factors, targets = LossFactors(), SlotTargets(slots, table)

    def loss() -> Tensor:
        said = head(dict(zip(names, maps, strict=True)))
        learned = query_targets(said, targets, None, factors, PointSettings())
        classes = of_classes(
            said.classes.flatten(0, 2), learned.labels.flatten(), predictions=len(said.masks)
        )
        masks = of_masks(
            learned.mask_logits.flatten(0, 1),
            learned.mask_truth.flatten(0, 1),
            learned.mask_labels.flatten(),
            learned.importance.flatten(),
            learned.mass,
            (factors.mask, factors.dice),
        )
        return factors.classes * classes + masks

    return _both_ways(loss)


def inference_candidates(device: torch.device) -> dict[str, Candidate]:
    """Makes the maps of an image from the queries' outputs, to measure memory."""
    torch.manual_seed(0)
    classes = 4 * torch.randn(QUERIES, CLASSES + 1, device=device)
    classes[:, -1] -= 4
    masks = 4 * torch.randn(QUERIES, TESTED[0] // 4, TESTED[1] // 4, device=device)
    return {f"{QUERIES} queries": _inference(classes, masks)}


def _inference(classes: Tensor, masks: Tensor) -> Candidate:
    frame = Frame((masks.shape[1], masks.shape[2]), TESTED, TESTED, TESTED)

    @torch.no_grad()
    def run() -> None:
        logits = frame.whole(semantic_logits(classes[None], masks[None])[0])
        found = panoptic_result(classes, masks, frame, range(11, CLASSES), SegmentSettings())
        assert len(logits) == CLASSES and len(found) == 2

    return run


def run_mask2former(report: Any, repetitions: int, device: torch.device) -> dict[str, Any]:
    """Benchmarks deformable attention, a step without its encoder, and inference.

    On a CPU, processor time is measured, because other processes hardly change it. Inference, whose
    memory is measured, runs once.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rows = {}
    for title, candidates, times, memory in (
        ("deformable attention", attention_candidates, repetitions, True),
        ("decoders and losses", step_candidates, repetitions, False),
        ("1024x2048 inference", inference_candidates, 1, True),
    ):
        rows[title] = report(candidates(device), times, device, memory, clock)
        for name, row in rows[title].items():
            said = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
            print(f"{title}: {name}: {said}", flush=True)
    return rows
