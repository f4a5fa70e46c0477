"""Six axes: a choice replaces the leaf's whole base; all that former leaves gave is available."""

from __future__ import annotations

import functools
import itertools
import os
import random
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pairs import is_refused

from gbw_d2.catalog import get_dataset
from gbw_d2.catalog.preflight import check_data
from gbw_d2.composition import AXES, BASES, ConfigError, compose, known_choices, listing
from gbw_d2.config import load_config
from gbw_d2.engine.build import build_model
from gbw_d2.engine.setup import resolve

ROOT = Path(__file__).parents[1]
CHOICES = known_choices()
TOY = "configs/toy/panoptic_gbw.yaml"
REAL = "configs/synthia_panoptic_gbw.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if hasattr(value, "items"):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def plain(tmp_path: Path) -> dict[str, Any]:
    leaf = tmp_path / "plain.yaml"
    leaf.write_text("VERSION: 2\n")
    return flat(load_config(str(leaf)))


STRATEGY_NODES = {
    "source_only": "none",
    **{name: name.upper() for name in ("min_entropy", "max_squares", "adversarial", "cbst")},
    "self_training": "SELF_TRAINING",
}


def test_what_leaves_used_to_give(tmp_path: Path) -> None:
    table = yaml.safe_load((ROOT / "tests/former_recipes.yaml").read_text())
    defaults = plain(tmp_path)
    for name, recipe in table.pop("recipes").items():
        config_file, *choices = recipe["command"].split()
        expected = dict(defaults)
        for group, entries in table.items():
            expected |= entries[recipe[group]]
        found = flat(load_config(config_file, choices))
        # Margins belong to the target's images now, and are filled in from there.
        target = found["DATASETS.TARGET"]
        rows = get_dataset(target[0]).ignore_rows if target else (0.0, 0.0)
        for key, share in zip(("IGNORE_TOP", "IGNORE_BOTTOM"), rows, strict=True):
            key = f"UDA.SELF_TRAINING.{key}"
            found[key], expected[key] = share, expected[key] or 0.0
        # On purpose: strategies that are not chosen may have other settings. The weight of the
        # distance to ImageNet features is the encoder's now and stands there without being read.
        idle = [
            key
            for key in expected
            if key.startswith("UDA.")
            and key.count(".") > 1
            and key.split(".")[1] != STRATEGY_NODES[found["UDA.NAME"]]
        ]
        for key in ("OUTPUT_DIR", *idle):
            expected.pop(key), found.pop(key)
        assert found == expected, name


def test_a_leaf_is_one_choice_per_axis_and_nothing_else() -> None:
    leaves = [p for p in (ROOT / "configs").rglob("*.yaml") if BASES not in p.parents]
    leaves += (ROOT / "projects").glob("*/configs/*.yaml")
    assert len(leaves) > 30
    for path in leaves:
        content = yaml.safe_load(path.read_text())
        assert set(content) == {"_BASE_", "VERSION", "OUTPUT_DIR"}, path
        bases = [(path.parent / base).resolve() for base in content["_BASE_"]]
        assert [base.parent for base in bases] == [BASES / axis for axis in AXES], path
        assert Path(content["OUTPUT_DIR"]).name == path.stem


def test_no_key_belongs_to_two_axes() -> None:
    keys = {
        axis: {key for name in names for key in flat(compose(BASES / axis / f"{name}.yaml"))}
        for axis, names in CHOICES.items()
    }
    shared = {
        key: (one, other)
        for one, other in itertools.combinations(AXES, 2)
        for key in keys[one] & keys[other]
    }
    # Papers train at sizes of their own; the later axis wins.
    sizes = ("CROP_SIZE", "SCALE_RANGE", "TARGET_SIZE", "TEST_SIZE")
    assert shared == {f"INPUT.{size}": ("datasets", "schedules") for size in sizes}


def test_replacing_takes_all_of_the_old_choice_away(tmp_path: Path) -> None:
    defaults = plain(tmp_path)
    # Another schedule does not keep the toy schedule's clipping, warm-up, length or memory.
    cfg = flat(load_config(TOY, ["schedules/90k"]))
    for key in ("SOLVER.CLIP_GRADIENTS.ENABLED", "UDA.SELF_TRAINING.EMA_DECAY"):
        assert cfg[key] == defaults[key]
    assert cfg["SOLVER.WARMUP_ITERS"] == 1000 and cfg["SOLVER.MAX_ITER"] == 90000
    # Another encoder has its own order of channels and its own means; DeepLabV2's were BGR.
    cfg = load_config(
        "configs/gta5_semantic_gbw.yaml", ["encoders/resnet50", "models/semantic_deeplabv3plus"]
    )
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.PIXEL_MEAN[0] == 123.675
    assert defaults["MODEL.RESNETS.RES4_DILATION"] == cfg.MODEL.RESNETS.RES4_DILATION
    # Rare class sampling goes with the strategy that it is a part of.
    cfg = load_config("configs/gta5_semantic_gbw.yaml", ["uda/cbst"])
    assert not cfg.DATASETS.RARE_CLASS_SAMPLING.ENABLED
    # What random weights need goes with them.
    cfg = load_config(TOY, ["encoders/resnet50", "models/panoptic_deeplab"])
    assert cfg.UDA.WARM_UP == 0.0 and cfg.UDA.SELF_TRAINING.FEATURE_DISTANCE_WEIGHT == 0.005


def test_output_dir_is_named_in_the_order_of_the_axes() -> None:
    leaf = "configs/synthia_panoptic_gbw.yaml"
    name = "output/synthia_panoptic_gbw-uda_advent-weighting_none"
    for words in (["uda/advent", "weighting/none"], ["weighting/none", "uda/advent"]):
        assert name == load_config(leaf, words).OUTPUT_DIR
    # The leaf's own choice is no change.
    same = load_config(leaf, ["uda/self_training", "weighting/gbw"])
    assert same.OUTPUT_DIR == "output/synthia_panoptic_gbw"
    assert load_config(leaf, ["uda/advent", "OUTPUT_DIR", "mine"]).OUTPUT_DIR == "mine"


def test_a_leaf_of_a_leaf(tmp_path: Path) -> None:
    leaf = tmp_path / "mine.yaml"
    leaf.write_text(f"_BASE_: {ROOT / TOY}\nVERSION: 2\nSEED: 7\n")
    cfg = load_config(str(leaf), ["uda/cbst", "SOLVER.MAX_ITER", "9"])
    assert (cfg.SEED, cfg.UDA.NAME, cfg.SOLVER.MAX_ITER) == (7, "cbst", 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["uda/advnt"], "unknown base 'uda/advnt'; did you mean uda/advent.*uda has advent, "),
        (["weighting/advent"], "unknown base 'weighting/advent'; did you mean uda/advent"),
        (["strategy/gbw"], "'strategy/gbw'; did you mean weighting/gbw.*axes: datasets, encoders"),
        (["uda/x/y"], "unknown base 'uda/x/y'"),
        (["uda/cbst", "uda/advent"], "axis 'uda' twice: cbst and advent"),
    ],
)
def test_wrong_names(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TOY, words)


def test_a_config_without_the_axis(tmp_path: Path) -> None:
    leaf = tmp_path / "mine.yaml"
    leaf.write_text(f"_BASE_: {BASES}/uda/advent.yaml\nVERSION: 2\n")
    with pytest.raises(ConfigError, match=r"no base of axis 'weighting'.*names: uda"):
        load_config(str(leaf), ["weighting/gbw"])


def test_preflight_reads_the_same_composition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    toy_data = ["--with", "datasets/toy_synthia_to_cityscapes", "SOLVER.MAX_ITER", "3"]
    check_data(["--config-file", REAL, *toy_data])
    with pytest.raises(ConfigError, match="did you mean uda/advent"):
        check_data(["--config-file", TOY, "--with", "uda/advnt"])
    from gbw_d2.data.spec import DatasetError

    with pytest.raises(DatasetError, match="synthia"):
        check_data(["--config-file", TOY, "--with", "datasets/synthia_to_cityscapes"])


# Finds torch, but refuses to import it.
WITHOUT_TORCH = """
import importlib.machinery, runpy, sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "torch" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise ImportError("torch was imported")
sys.meta_path.insert(0, Refusing())
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"{WITHOUT_TORCH}sys.argv = ['train_net.py', *{list(arguments)!r}]\n"
        "runpy.run_path('train_net.py', run_name='__main__')"
    )
    run = [sys.executable, "-c", code]
    return subprocess.run(run, capture_output=True, text=True, env=dict(os.environ))


def test_the_command_lists_and_refuses_at_once() -> None:
    done = command("--config-file", TOY, "--with")
    assert done.returncode == 0 and done.stdout.strip() == listing(), done.stderr
    for axis in AXES:
        assert f"{axis}: {' '.join(CHOICES[axis])}" in done.stdout
    done = command("--config-file", TOY, "--with", "uda/advnt")
    assert done.returncode == 2 and done.stderr.startswith("error: --with: unknown base")
    assert "uda/advent" in done.stderr and len(done.stderr.splitlines()) == 1


def networks() -> list[tuple[str, str]]:
    """Lists every encoder with every model."""
    return list(itertools.product(CHOICES["encoders"], CHOICES["models"]))


def spread() -> list[tuple[str, str]]:
    """Lists some of the networks, with every encoder and every model among them."""
    every = networks()
    chosen = [next(pair for pair in every if pair[0] == encoder) for encoder, _ in every]
    chosen += [next(pair for pair in reversed(every) if pair[1] == model) for _, model in every]
    return sorted(set(chosen))


@functools.cache
def datasets_of(name: str) -> dict[str, Any]:
    return compose(BASES / "datasets" / f"{name}.yaml")["DATASETS"]


OWN_DATA = {name for name in CHOICES["datasets"] if ".yaml:" in datasets_of(name)["TRAIN"]}


def fits(choice: dict[str, str]) -> bool:
    """Whether a network can learn from the datasets, by a strategy and weights that are for it."""
    # Classes and files of one's own are read from a file that has to be there.
    if choice["datasets"] in OWN_DATA:
        return False
    instances = choice["models"].startswith(("panoptic", "mask2former"))
    # A strategy that asks for what these networks alone can do.
    able = {"mask_teacher": ("mask2former", "panoptic"), "cvrn": ("panoptic_fpn", "panoptic_edaps")}
    uda = compose(BASES / "uda" / f"{choice['uda']}.yaml")["UDA"]
    if not choice["models"].startswith(able.get(uda["NAME"], "")):
        return False
    if choice["uda"].endswith("_instance_mix") and not instances:
        return False
    data = datasets_of(choice["datasets"])
    without_target = data["TARGET"] == "()"
    if instances and "_semantic_" in data["TRAIN"]:
        return False
    if without_target and choice["uda"] != "source_only":
        return False
    has_16 = data["LABEL_SPACE"] == "cityscapes_16"
    return has_16 or choice["weighting"] != "fixed"


@pytest.mark.parametrize(
    "some", [spread, pytest.param(networks, marks=pytest.mark.slow)], ids=["spread", "all"]
)
def test_combinations_resolve(some: Callable[[], list[tuple[str, str]]]) -> None:
    """All datasets with the networks that fit; the other axes, which share no keys, are random.

    Of the choices that fit, the one with the most new names is taken, so that all names are used.
    """
    generator = random.Random(0)
    used: set[str] = set()
    for data, (encoder, model) in itertools.product(CHOICES["datasets"], some()):
        fixed = {"datasets": data, "encoders": encoder, "models": model}
        others = ("schedules", "uda", "weighting")
        draws = [
            fixed | {axis: generator.choice(CHOICES[axis]) for axis in others} for _ in range(50)
        ]
        able = [{f"{axis}/{name}" for axis, name in c.items()} for c in draws if fits(c)]
        if able:
            words = max(able, key=lambda drawn: len(drawn - used))
            resolve(load_config(REAL, sorted(words)))
            used |= words
    every = {f"{axis}/{name}" for axis, names in CHOICES.items() for name in names}
    assert every - used == {f"datasets/{name}" for name in OWN_DATA}
    assert "toy_own" in OWN_DATA


@pytest.mark.parametrize(
    ("encoder", "model"),
    [
        pair if pair in spread() else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in networks()
    ],
)
def test_every_network_can_be_built(encoder: str, model: str) -> None:
    words = [f"encoders/{encoder}", f"models/{model}", "weighting/none", "MODEL.DEVICE", "meta"]
    cfg = load_config(REAL, words)
    resolve(cfg)
    if is_refused(encoder, model):
        with torch.device("meta"), pytest.raises(ValueError, match="powers of two in a row, such"):
            build_model(cfg)
        return
    # Shapes without memory.
    with torch.device("meta"):
        network = build_model(cfg)
    norms = {type(m).__name__ for m in network.backbone.modules() if "Norm" in type(m).__name__}
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        # timm's norms: tests/modeling/backbones. Whatever they are, no weights are thrown away.
        assert norms and not cfg.MODEL.WEIGHTS
        return
    # Frozen statistics are those of the weights that they come with.
    assert norms == {"FrozenBatchNorm2d" if cfg.MODEL.WEIGHTS else "GroupNorm"}


SPREAD = [
    "configs/toy/panoptic_gbw.yaml uda/advent weighting/none",
    "configs/toy/panoptic_source_only.yaml uda/max_squares weighting/gbw_balanced",
    "configs/toy/semantic_gbw.yaml uda/crst_mrkld weighting/inverse_sqrt_frequency",
    "configs/toy/semantic_gbw.yaml schedules/daformer_40k uda/min_entropy",
    "configs/toy/semantic_gbw.yaml encoders/resnet50 models/semantic_deeplabv3plus schedules/90k",
    "configs/toy/semantic_gbw.yaml encoders/resnet101_caffe models/semantic_deeplabv2_auxiliary "
    "schedules/advent_90k uda/adversarial weighting/focal",
    "configs/synthia_panoptic_gbw.yaml datasets/toy_synthia_to_cityscapes",
]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SPREAD)
def test_one_step_of_a_spread(recipe: str, toy_datasets: Path, tmp_path: Path) -> None:
    from gbw_d2.engine.setup import setup
    from gbw_d2.engine.train import train

    small = [
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)),
        # Without ImageNet's weights frozen statistics would normalise nothing.
        *("MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "GN"),
        *("SOLVER.MAX_ITER", "1", "SOLVER.LR_ITERS", "0", "SOLVER.IMS_PER_BATCH", "1"),
        *("INPUT.SOURCE_SIZE", "(64, 128)", "INPUT.TARGET_SIZE", "(64, 128)"),
        *("INPUT.TEST_SIZE", "(64, 128)", "INPUT.CROP_SIZE", "(64, 128)"),
        *("DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0", "EVAL.PICTURES", "0"),
        *("UDA.WARM_UP", "0.0", "UDA.CBST.ROUNDS", "1"),
    ]
    config_file, *choices = recipe.split()
    args = Namespace(
        config_file=config_file, opts=[*choices, *small], eval_only=False, resume=False
    )
    metrics = train(setup(args), resume=False)
    assert any(name.startswith("mIoU_") for name in metrics)
