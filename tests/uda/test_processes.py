"""Two processes with half a batch each, and two parts in one process, do what one does with all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from strategies import FOR_ALL

from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model, build_training_losses
from gbw_d2.engine.setup import resolve
from gbw_d2.engine.trainer import Trainer
from gbw_d2.uda import Context, build_strategy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OVERRIDES = [
    *("UDA.WARM_UP", "0.0"),
    *("MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"),
    *("MODEL.AUXILIARY_HEAD.ENABLED", "True", "MODEL.AUXILIARY_HEAD.CHANNELS", "32"),
    # The absolute error's slope jumps at 0, where rounding decides.
    *("MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT", "0.0"),
    *("UDA.MAX_SQUARES.MULTI_LEVEL", "True", "UDA.MAX_SQUARES.THRESHOLD", "0.1"),
    *("UDA.SELF_TRAINING.CONFIDENCE_THRESHOLD", "0.1"),
    *("UDA.SELF_TRAINING.FEATURE_DISTANCE_WEIGHT", "0.1"),
]


# cbst draws what it has labelled; tests/uda/test_cbst.py has its two processes.
NAMES = sorted(set(FOR_ALL) - {"cbst"})
# What a name such as "self_training + masked + hrda" switches on: further draws.
MORE = {
    # The target comes in with the second step.
    "late": ["UDA.WARM_UP", "0.5"],
    "masked": ["UDA.MASKED_CONSISTENCY.LOSS_WEIGHT", "1.0", "UDA.MASKED_CONSISTENCY.BLOCK", "8"],
    "adaptive": [
        *("UDA.SELF_TRAINING.THRESHOLDS", "adaptive", "UDA.SELF_TRAINING.CONFIDENCE_PER"),
        "segment",
    ],
    # One window of 16 x 32 pixels per image.
    "hrda": [
        *("MODEL.META_ARCHITECTURE", "GBWHRDA", "MODEL.HRDA.ATTENTION_CHANNELS", "32"),
        *("MODEL.HRDA.DETAIL_SIZE", "(16, 32)"),
    ],
    # All detections of random weights teach; RoIs are drawn by their images' generators.
    "rois": [
        *("UDA.SELF_TRAINING.INSTANCE_PSEUDO_LABELS", "True"),
        *("MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "16"),
    ],
}
# Model bases that it chooses.
BASES = {"rois": ["models/panoptic_fpn_tiny"]}


def draw(number: int) -> dict[str, Any]:
    """Draws sample ``number`` of a stream; the fixture of conftest.py draws whole batches."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(0, 16, (4, 8), generator=generator)
    labels = labels.repeat_interleave(8, 0).repeat_interleave(8, 1)
    things = labels >= 10
    weights = things.float()
    return {
        "file_name": f"{number}.png",
        "draw": number,
        "image": torch.randint(0, 256, (3, 32, 64), generator=generator, dtype=torch.uint8),
        "image_rows": (torch.arange(32) + 0.5) / 32,
        "sem_seg": labels,
        "center": torch.rand(32, 64, generator=generator, dtype=torch.float64),
        "center_weights": torch.ones(32, 64),
        "offset": torch.randn(2, 32, 64, generator=generator),
        "offset_weights": weights,
        "instance_class": torch.where(weights > 0, labels, 255),
        "instance_numbers": things.int() * (labels - 9).int(),
        "instance_classes": torch.arange(6),
    }


def train(name: str, rank: int, world: int, accumulation: int, scheme: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    weighting = ["WEIGHTING.NAME", scheme]
    name, *switched = name.split(" + ")
    bases = [base for switch in switched for base in BASES.get(switch, [])]
    more = [key for switch in switched for key in MORE[switch]]
    words = [*bases, *OVERRIDES, *weighting, *more]
    cfg = load_config(str(ROOT / "configs/toy/panoptic_source_only.yaml"), words)
    cfg.UDA.NAME = name
    resolve(cfg)
    torch.manual_seed(0)
    # In float64: in float32 rounding alone can turn a ReLU on, and its slope jumps there.
    model = build_model(cfg, build_training_losses(cfg)).double().train()
    strategy = build_strategy(name, model, cfg.UDA, seed=0, max_iter=2)
    for module in strategy.modules().values():
        module.double()
    strategy.prepare(strategy.stages()[0], Context(True, Path()))

    def batches() -> Any:
        for iteration in range(2):
            share = range(
                4 * iteration + 4 * rank // world, 4 * iteration + 4 * (rank + 1) // world
            )
            yield [draw(i) for i in share], [draw(100 + i) for i in share]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    extra = list(strategy.optimizers().values())
    Trainer(
        *(model, strategy, batches(), optimizer, 10, 0, accumulation), extra=extra, schedule_iters=2
    ).train(0, 2)
    modules = {"student": model, **strategy.modules()}
    return {key: module.state_dict() for key, module in modules.items()}


def _process(rank: int, name: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(train(name, rank, 2, 1, "gbw"), f"{folder}/{rank}.pth")
    # Whoever leaves first would tear the other's connection down in the middle of its last call.
    dist.barrier()
    dist.destroy_process_group()


def assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for module in a:
        for key, value in a[module].items():
            difference = (value - b[module][key]).abs().double().max()
            assert difference < 1e-10, f"{module} {key}: {difference:.1e}"


@pytest.mark.parametrize(
    "name",
    [
        *(*NAMES, "self_training + masked", "self_training + masked + hrda"),
        *("self_training + adaptive", "self_training + rois", "adversarial + late"),
    ],
)
def test_two_processes_equal_one(name: str, tmp_path: Path) -> None:
    whole = train(name, 0, 1, 1, "gbw")
    mp.spawn(_process, (name, str(tmp_path)), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for half in halves:
        assert_close(half, whole)


@pytest.mark.parametrize("name", [*sorted(set(NAMES) - {"self_training"}), "source_only + hrda"])
def test_two_parts_equal_the_whole_batch(name: str) -> None:
    # Without adaptive class weights, and without self-training's confidence of the whole batch:
    # both are those of a part.
    assert_close(train(name, 0, 1, 2, "none"), train(name, 0, 1, 1, "none"))
