"""Prints the class weights of the released scale on simulated logits, for several lambda.

    uv run -m gbw_studies.released_scale

Labels are drawn pixel by pixel with approximately the class frequencies of Cityscapes, because g_k
depends only on class counts and softmax, and not on the positions of the pixels. The logits are
noise of standard deviation 1 plus a margin, which is on the label for a share of the pixels
(correct predictions), and on a random class for the others. The last columns are the relative scale
on the same logits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from gbw_d2.commands import finish
from gbw_d2.weighting import gbw_weights, logit_gradient_norms

# Per cent of Cityscapes' labelled training pixels, rounded; in the order of the train ids.
SHARES = (
    *(36.9, 6.1, 22.8, 0.66, 0.88, 1.23, 0.21, 0.55, 15.9, 1.16),
    *(4.0, 1.22, 0.14, 7.0, 0.27, 0.24, 0.23, 0.1, 0.41),
)
LAMBDAS = (1.0, 0.1, 1e-3, 1e-4)
# Name, logit margin, share of pixels that have it on their label.
STAGES = (("start", 0.0, 0.0), ("middle", 4.0, 0.7), ("late", 10.0, 0.95))


def simulate(
    size: Sequence[int], rarest: int | None, margin: float, right: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws logits (N, K, H, W) and labels (N, H, W).

    Args:
        size: N, H, W.
        rarest: pixels of the rarest class; None for its share.
        margin: added to one logit of each pixel.
        right: share of the pixels whose own class has the margin.
        seed: of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels, classes = size[0] * size[1] * size[2], len(SHARES)
    labels = torch.multinomial(torch.tensor(SHARES), pixels, True, generator=generator)
    if rarest is not None:
        places = (labels == min(range(classes), key=SHARES.__getitem__)).nonzero().squeeze(1)
        labels[places[rarest:]] = 0
    guesses = torch.randint(0, classes, (pixels,), generator=generator)
    guesses = torch.where(torch.rand(pixels, generator=generator) < right, labels, guesses)
    logits = torch.randn(pixels, classes, generator=generator)
    logits[torch.arange(pixels), guesses] += margin
    return logits.view(*size, classes).permute(0, 3, 1, 2).contiguous(), labels.view(*size)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=3, default=(2, 512, 512), metavar=("N", "H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    header = [f"released {lam:g}" for lam in LAMBDAS] + ["relative 1, power 1"]
    print(" | ".join(["| logits", "rarest class", "mean g^2", *header]) + " |")
    print("|" + "---|" * (3 + len(header)))
    for stage, margin, right in STAGES:
        for rarest in (None, 30):
            logits, labels = simulate(args.size, rarest, margin, right, args.seed)
            norms = logit_gradient_norms(logits, labels)
            weights = [gbw_weights(norms, scale="released", lam=lam) for lam in LAMBDAS]
            weights.append(gbw_weights(norms, labels.flatten().bincount() > 0, lam=1.0))
            count = int(labels.flatten().bincount().min())
            cells = [f"{w.min():.4f} - {w.max():.4f}" for w in weights]
            row = [f"| {stage}", f"{count} px", f"{norms.square().mean():.1e}", *cells]
            print(" | ".join(row) + " |")


if __name__ == "__main__":
    sys.exit(finish(main))
