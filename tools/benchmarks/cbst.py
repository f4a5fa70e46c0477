"""The two labelling passes of cbst, compared with plain inference of the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]

# Network of the toy recipe, rows and columns of the images, and how many of them.
CASES: dict[str, tuple[str, int, int, int]] = {
    "toy semantic": ("semantic", 128, 256, 8),
    "toy panoptic": ("panoptic", 128, 256, 8),
    "half Cityscapes": ("semantic", 512, 1024, 2),
}

Candidate = Callable[[], None]


class _Images:
    """Images in memory, so that the reading of files does not dominate the passes."""

    def __init__(self, count: int, rows: int, columns: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.samples = []
        for i in range(count):
            coarse = torch.rand(1, 3, rows // 16, columns // 16, generator=generator)
            smooth = torch.nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear")
            image = (smooth[0] * 255).to(torch.uint8)
            self.samples.append(
                {"image": image, "image_id": str(i), "height": rows, "width": columns}
            )

    def ids(self) -> list[str]:
        return [sample["image_id"] for sample in self.samples]

    def batches(self, skip: Container[str] = ()) -> list[list[dict[str, Any]]]:
        return [[s] for s in self.samples if s["image_id"] not in skip]


def labelling_candidates(
    name: str, rows: int, columns: int, count: int, device: torch.device
) -> dict[str, Candidate]:
    """Returns inference, the threshold pass and the labelling pass over the same images.

    Args:
        name: semantic or panoptic, the toy recipe.
        rows: of the images.
        columns: of the images.
        count: images per pass.
        device: of the network.
    """
    from gbw_d2.config import load_config
    from gbw_d2.engine.build import build_model
    from gbw_d2.engine.setup import resolve
    from gbw_d2.uda import Context
    from gbw_d2.uda.parts.pseudo_label_files import RoundFiles
    from gbw_d2.uda.parts.round_labeller import LabellingPolicy, RoundLabeller

    leaf = str(ROOT / f"configs/toy/{name}_source_only.yaml")
    cfg = load_config(leaf, ["uda/cbst", "MODEL.DEVICE", str(device)])
    resolve(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    images = _Images(count, rows, columns)
    folder = tempfile.TemporaryDirectory()
    context = Context(True, Path(folder.name), target=images)
    settings = cfg.UDA.CBST
    policy = LabellingPolicy(
        policy=settings.POLICY,
        portion=settings.PORTION_START,
        min_pixels_per_class=settings.MIN_PIXELS_PER_CLASS,
        target_portion=settings.TARGET_PORTION,
        instance_pseudo_labels=settings.INSTANCE_PSEUDO_LABELS,
    )
    labeller = RoundLabeller(model, policy, None, None, RoundFiles(Path(folder.name)), context)
    chosen = labeller.find_thresholds()

    def infer() -> None:
        with torch.no_grad():
            for batch in images.batches():
                model(batch)

    def label(_keep: Any = folder) -> None:
        with tempfile.TemporaryDirectory(dir=_keep.name) as fresh:
            labeller.files = RoundFiles(Path(fresh))
            labeller.write_labels(chosen)

    return {
        "inference": infer,
        "threshold pass": lambda: labeller.find_thresholds() and None,
        "labelling pass": label,
    }
