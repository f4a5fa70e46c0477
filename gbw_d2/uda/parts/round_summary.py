"""The summary of a round's pseudo-labels, for its file and for the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def class_rows(
    names: Sequence[str],
    thresholds: Sequence[float],
    predicted: Sequence[int],
    labelled: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Returns threshold, predicted and labelled pixels, and kept share of each class by name.

    Args:
        names: of the classes.
        thresholds: confidence from which on a pixel is labelled, 0..1.
        predicted: pixels predicted as the class.
        labelled: pixels labelled as the class; there may be more than the chosen portion of the
            predicted pixels, because a pixel's label is the class with the highest ratio and not
            the highest probability.
    """
    return {
        name: {
            "threshold": threshold,
            "predicted_pixels": n,
            "labelled_pixels": kept,
            "kept_share": kept / n if n else 0.0,
        }
        for name, threshold, n, kept in zip(names, thresholds, predicted, labelled, strict=True)
    }


def never_predicted(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the names of the classes that are predicted at no pixel."""
    return [name for name, row in rows.items() if row["predicted_pixels"] == 0]


def as_text(rows: dict[str, dict[str, Any]]) -> str:
    """Returns one line per class."""
    return "\n".join(
        f"  {name:14s} threshold {row['threshold']:.4f}  kept {row['kept_share']:6.1%} of "
        f"{row['predicted_pixels']} pixels"
        for name, row in rows.items()
    )
