"""Codings of instance files, and the detection of the coding from their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gbw_d2.class_tables import ids_of_colors
from gbw_d2.data.formats.files import decoded, few, read_array
from gbw_d2.data.formats.own import entries
from gbw_d2.data.formats.segments import MAX_INSTANCE
from gbw_d2.data.spec import DatasetError

_CITYSCAPES = 1000
# Divisors of public datasets, which the check tries.
_DIVISORS = (256, 1000, 10000, 100000)


@dataclass(frozen=True)
class InstanceCoding:
    """One coding of instance files.

    Args:
        name: its name in a data.yaml.
        identity: maps values to themselves if they identify an instance, else to 0.
        colors: whether the file holds colours, R + 256 G + 65536 B.
        crowd: additional values that mark crowds.
    """

    name: str
    identity: Callable[[np.ndarray], np.ndarray]
    colors: bool = False
    crowd: tuple[int, ...] = ()


def _plain(values: np.ndarray) -> np.ndarray:
    return values


def _above(limit: int, values: np.ndarray) -> np.ndarray:
    return np.where(values >= limit, values, 0)


def _divided(divisor: int, values: np.ndarray) -> np.ndarray:
    return np.where(values % divisor != 0, values, 0)


def read_coding(path: Path, what: str, found: Any, crowd: Any) -> InstanceCoding:
    """Returns the coding of a split.

    Args:
        path: the description, for errors.
        what: the split, for errors.
        found: its entry ``instance_coding``.
        crowd: its entry ``crowd``, a list of values.
    """
    values = crowd or []
    if not isinstance(values, list) or not all(entries.is_whole(v) for v in values):
        raise DatasetError(f"'{path}': {what}: crowd is {crowd!r}; expected a list of values")
    group = tuple(values)
    if found in (None, "plain"):
        return InstanceCoding("plain", _plain, crowd=group)
    if found == "cityscapes":
        return InstanceCoding("cityscapes", partial(_above, _CITYSCAPES), crowd=group)
    if found == "rgb":
        return InstanceCoding("rgb", _plain, colors=True, crowd=group)
    if isinstance(found, dict) and [*found] == ["divisor"]:
        divisor = found["divisor"]
        if entries.is_whole(divisor) and divisor > 1:
            name = f"{{divisor: {divisor}}}"
            return InstanceCoding(name, partial(_divided, divisor), crowd=group)
    raise DatasetError(
        f"'{path}': {what}: instance_coding is {found!r}; expected plain, cityscapes, rgb or "
        "{divisor: 256}"
    )


def read_values(file: str | Path, coding: InstanceCoding) -> np.ndarray:
    """Reads an instance file: (H, W), its values with the file's bit depth; colours as int32.

    Raises:
        DatasetError: the file does not fit the coding.
    """
    if coding.colors:
        array = read_array(file, cv2.IMREAD_UNCHANGED)
        if array.ndim != 3 or array.dtype != np.uint8:
            raise DatasetError(
                f"'{file}' is not an 8-bit colour file, which `instance_coding: rgb` says; leave "
                "that out for numbers in grey"
            )
        return ids_of_colors(np.ascontiguousarray(array[:, :, :3]))
    with decoded(file) as image:
        if image.mode not in ("P", "L", "I", "I;16", "I;16B"):
            raise DatasetError(
                f"'{file}' is not a grey PNG file of 8 or 16 bits: it must hold one number per "
                "pixel, 0 where there is no instance, or say `instance_coding: rgb`"
            )
        return np.array(image)


def instances_of(values: np.ndarray, coding: InstanceCoding) -> np.ndarray:
    """Numbers the instances of an image: (H, W) int32, 0 = none, at most 65535."""
    values = values.astype(np.int32)
    instances = coding.identity(values)
    if coding.crowd:
        instances = np.where(np.isin(values, coding.crowd), 0, instances)
    if instances.size and instances.max() > MAX_INSTANCE:
        numbers, instances = np.unique(np.append(0, instances.ravel()), return_inverse=True)
        if len(numbers) > MAX_INSTANCE:
            raise DatasetError(f"an image has {len(numbers)} instances; at most {MAX_INSTANCE}")
        instances = instances[1:].reshape(values.shape)
    return instances.astype(np.int32)


@dataclass
class CodingEvidence:
    """Evidence for the instance coding of a split, from the values of all its files.

    Args:
        stated: the coding that the description states.
    """

    stated: InstanceCoding
    pairs: set[tuple[int, int]] = field(default_factory=set)

    def add(self, codes: np.ndarray, values: np.ndarray, things: np.ndarray) -> None:
        """Adds the values of an image.

        Args:
            codes: (H, W), codes of the label file.
            values: (H, W), values of the instance file.
            things: (H, W) bool, where the class is a thing.
        """
        joined = codes[things].astype(np.int64) << 32 | values[things].astype(np.int64)
        found = np.unique(joined)
        self.pairs.update(zip((found >> 32).tolist(), (found & 0xFFFFFFFF).tolist(), strict=True))

    def suspicion(self) -> str | None:
        """Returns the line that the data.yaml should have, or None if the stated coding fits."""
        passed_over = (0, *self.stated.crowd)
        pairs = [(code, value) for code, value in self.pairs if value not in passed_over]
        if not pairs or self.stated.colors:
            return None
        looks = [name for name, fits in self._candidates(pairs).items() if fits]
        if self.stated.name in looks or not looks:
            return None
        return f"instance_coding: {looks[0]}"

    def _candidates(self, pairs: list[tuple[int, int]]) -> dict[str, bool]:
        cityscapes = all(v == c or v // _CITYSCAPES == c for c, v in pairs)
        has_instances = any(c > 0 and v // _CITYSCAPES == c for c, v in pairs)
        small = all(v < _CITYSCAPES for _, v in pairs) and any(v != c for c, v in pairs)
        by_divisor = {
            n: all(v // n == c for c, v in pairs) and any(c > 0 and v % n for c, v in pairs)
            for n in dict.fromkeys((*_DIVISORS, *self._own_divisor()))
        }
        divided = {f"{{divisor: {n}}}": fits for n, fits in by_divisor.items()}
        coded = cityscapes and has_instances
        # Values that contain their class are not plain numbers; small values that do not, are.
        plain = not coded and not any(by_divisor.values())
        if self.stated.name == "plain":
            return {"plain": plain, "cityscapes": coded, **divided}
        return {"cityscapes": coded or (not small and cityscapes), **divided, "plain": plain}

    def _own_divisor(self) -> tuple[int, ...]:
        name = self.stated.name
        return (int(name.strip("{}").split(":")[1]),) if name.startswith("{") else ()


def describe_pairs(evidence: CodingEvidence) -> str:
    """Returns some pairs of label and instance values as text, for the check's message."""
    shown = [f"{value} on label {code}" for code, value in sorted(evidence.pairs) if value]
    return few(shown)
