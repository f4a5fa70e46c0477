"""Loads an encoder's weights from a file with any known naming, and checks their coverage.

If no name matched, training would silently start from random weights. So the matched parameters are
counted, and fewer than 90 % of the encoder's parameters is an error.
"""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gbw_d2.errors import UserError
from gbw_d2.files.archives import check_archive
from gbw_d2.modeling.backbones.key_maps import KEY_MAPS, KeyMap

# Minimum share of an encoder's parameters that a file must hold.
MIN_COVERAGE = 0.9
# Entries of a file that may hold the weights, and prefixes that other projects add to names.
_ENVELOPES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "teacher", "student")
_PACKAGE = "package:"
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "encoder.", "bottom_up.")


class PretrainedError(UserError):
    """Initial weights are missing, cannot be read, or belong to another encoder."""


@dataclass(frozen=True)
class Coverage:
    """The coverage of an encoder's parameters by a file.

    Attributes:
        found: number of the encoder's parameters that the file has with the right shape.
        total: number of all its parameters.
        missing: names of parameters, and of batch-norm statistics, that the file lacks.
        unexpected: names in the file that the encoder lacks.
        shapes: (name, shape in the file, shape in the encoder) where they differ.
    """

    found: int
    total: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def share(self) -> float:
        """The share of the encoder's parameters that the file has, 0..1."""
        return self.found / max(1, self.total)

    def __str__(self) -> str:
        shapes = [f"{name} {found} for {expected}" for name, found, expected in self.shapes]
        parts = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        )
        return "; ".join(f"{len(some)} {what}{_some(some)}" for what, some in parts)


def _some(names: Sequence[str], limit: int = 3) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})"


def coverage(state: Mapping[str, Tensor], encoder: nn.Module) -> Coverage:
    """Compares a state with an encoder's parameters by name and shape.

    Args:
        state: tensors by the encoder's names.
        encoder: the network without adapters, pyramids and heads.
    """
    own = encoder.state_dict()
    parameters = dict(encoder.named_parameters())
    needed = [n for n in own if n in parameters or n.endswith(("running_mean", "running_var"))]
    shapes = tuple(
        (name, tuple(state[name].shape), tuple(own[name].shape))
        for name in needed
        if name in state and state[name].shape != own[name].shape
    )
    wrong = {name for name, _, _ in shapes}
    found = [name for name in parameters if name in state and name not in wrong]
    return Coverage(
        found=sum(parameters[name].numel() for name in found),
        total=sum(parameter.numel() for parameter in parameters.values()),
        missing=tuple(name for name in needed if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        shapes=shapes,
    )


def envelope(loaded: Any) -> Any:
    """Returns the dictionary of weights inside a file's content, with unchanged names.

    A running mean (ema) is preferred to the weights that it averages; files of this project have
    neither.
    """
    while isinstance(loaded, Mapping):
        inside = [loaded[k] for k in _ENVELOPES if isinstance(loaded.get(k), Mapping)]
        if not inside:
            break
        loaded = inside[0]
    return loaded


def unusable(value: Tensor | np.ndarray) -> str:
    """Returns why a tensor or array cannot be a weight, or "" if it can."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return "is no plain tensor"
    if value.is_complex():
        return "holds complex numbers"
    # isfinite is not implemented for 8-bit floating point.
    small = value.is_floating_point() and value.element_size() == 1
    if not torch.isfinite(value.float() if small else value).all():
        return "holds numbers that are not finite: training has diverged, or the file is damaged"
    return ""


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error, for an error message."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def unwrap(loaded: Any) -> dict[str, Tensor]:
    """Returns the weights inside a file's content, without enclosing entries and prefixes.

    Raises:
        PretrainedError: no dictionary of tensors by name is in it.
    """
    loaded = envelope(loaded)
    if not isinstance(loaded, Mapping):
        raise PretrainedError(
            f"it holds a {type(loaded).__name__}, expected a dictionary of names and tensors"
        )
    state = {str(n): v for n, v in loaded.items() if isinstance(v, Tensor)}
    if not state:
        raise PretrainedError("it holds no tensor, expected a dictionary of names and tensors")
    for name, value in state.items():
        if problem := unusable(value):
            raise PretrainedError(f"its entry '{name}' {problem}")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            inner = {n[len(prefix) :]: v for n, v in state.items() if n.startswith(prefix)}
            # If the file also has heads, only its backbone is taken.
            if inner:
                state, stripped = inner, True
    return state


def read_weights(path: str, trust: bool = False) -> dict[str, Tensor]:
    """Reads a file of weights (.safetensors, or a file written by ``torch.save``).

    Args:
        path: the file; ``package:NAME/inner/path`` is a file in an installed Python package.
        trust: whether the file may execute code that it contains.

    Raises:
        PretrainedError: the file does not exist or cannot be read.
    """
    path = _in_package(path) if path.startswith(_PACKAGE) else path
    if not Path(path).is_file():
        raise PretrainedError(
            f"MODEL.TIMM.PRETRAINED '{path}' does not exist; set it to a file, to True for timm's "
            "own weights, or to False for none"
        )
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return unwrap(load_file(path))
        check_archive(path)
        return unwrap(torch.load(path, map_location="cpu", weights_only=not trust))
    except PretrainedError as error:
        raise PretrainedError(f"MODEL.TIMM.PRETRAINED '{path}': {error}") from error
    except pickle.UnpicklingError as error:
        raise PretrainedError(
            f"MODEL.TIMM.PRETRAINED '{path}' is damaged, or holds more than weights, which may run "
            "code; if you trust its source, MODEL.TRUST_WEIGHTS True loads it"
        ) from error
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise PretrainedError(
            f"MODEL.TIMM.PRETRAINED '{path}' cannot be read ({first_line(error)}); copy or "
            "download it again"
        ) from error
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise PretrainedError(
            f"MODEL.TIMM.PRETRAINED '{path}' is no file of weights ({first_line(error)})"
        ) from error


def _in_package(path: str) -> str:
    package, _, inner = path.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PretrainedError(
            f"MODEL.TIMM.PRETRAINED '{path}': package {package} is not installed; install it "
            "(`uv sync --group imagenet` has those that configs name), or set it to a file"
        )
    return str(Path(spec.submodule_search_locations[0]) / inner)


def hub_weights(name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Downloads timm's own weights of an encoder; the only place with network access.

    Args:
        name: name of timm's model; its tag chooses between several weights.
        arguments: arguments that the encoder was created with.

    Raises:
        PretrainedError: timm has no weights, or they cannot be downloaded.
    """
    import timm

    try:
        return timm.create_model(name, pretrained=True, **arguments).state_dict()
    except Exception as error:
        # The hub's client, its transport and timm raise a dozen different exceptions.
        known = timm.models.get_pretrained_cfg(name)
        source = known and (known.hf_hub_id or known.url)
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise PretrainedError(
            f"MODEL.TIMM.PRETRAINED is True, but the weights of '{name}' could not be fetched from "
            f"{source or 'anywhere: timm names none'} ({reason}); fetch the file by other means "
            "and set MODEL.TIMM.PRETRAINED to it, or to False"
        ) from error


def choose(
    state: Mapping[str, Tensor], encoder: nn.Module, key_maps: Sequence[KeyMap] = KEY_MAPS
) -> tuple[str, dict[str, Tensor], Coverage]:
    """Renames a state by the first key map that covers 90 % of an encoder.

    Returns:
        the map's name, the renamed state, and its coverage; if no map covers 90 %, those of the map
        with the highest coverage.
    """
    best: tuple[str, dict[str, Tensor], Coverage] | None = None
    for key_map in key_maps:
        try:
            renamed = key_map.rename(dict(state), encoder)
        except UserError:
            raise
        except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
            # A map for another encoder may fail on unknown names.
            continue
        covered = coverage(renamed, encoder)
        if best is None or covered.share > best[2].share:
            best = (key_map.name, renamed, covered)
        if covered.share >= MIN_COVERAGE:
            break
    assert best is not None, "the last key map renames nothing and cannot fail"
    return best


def load_encoder(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Loads a state with any known naming into an encoder, in place.

    Args:
        encoder: timm's encoder without its classifier.
        state: the result of :func:`read_weights` or :func:`hub_weights`.
        source: origin of the weights, for messages.

    Returns:
        one line that describes the loaded weights.

    Raises:
        PretrainedError: the state has fewer than 90 % of the parameters, lacks statistics that are
            frozen, or a key map finds an error.
    """
    try:
        name, renamed, covered = choose(state, encoder)
    except UserError as error:
        raise PretrainedError(f"weights '{source}': {error}") from error
    statistics = [n for n in covered.missing if n.endswith(("running_mean", "running_var"))]
    if covered.share < MIN_COVERAGE or statistics:
        raise PretrainedError(
            f"weights '{source}' hold {covered.share:.0%} of the encoder's parameters, expected "
            f"{MIN_COVERAGE:.0%} and all statistics of batch norms, so they are of another encoder "
            f"or naming (nearest: {name}): {covered}"
        )
    wrong = {n for n, _, _ in covered.shapes}
    own = encoder.state_dict()
    fitting = {n: v for n, v in renamed.items() if n in own and n not in wrong}
    try:
        encoder.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        # A buffer of another shape, which the coverage does not include.
        reason = " ".join(str(error).split())[:300]
        raise PretrainedError(f"weights '{source}' do not fit the encoder: {reason}") from error
    return f"Encoder weights '{source}' ({name}): {covered.share:.1%} of its parameters; {covered}"
