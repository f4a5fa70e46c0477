"""Every YAML loads, and mistakes in a config are reported in one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbw_d2.catalog import get_dataset
from gbw_d2.composition import BASES, compose
from gbw_d2.config import ConfigError, load_config
from gbw_d2.engine.setup import resolve
from gbw_d2.registry import UnknownNameError
from gbw_d2.settings import config_keys
from gbw_d2.uda import STRATEGIES
from gbw_d2.weighting import SCHEMES

ROOT = Path(__file__).parents[1]
LEAVES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if "base" not in p.parts)
LEAVES += sorted((ROOT / "projects").glob("*/configs/*.yaml"))
# What a leaf's name begins with, by its datasets -> number of classes. A toy twin without one is
# SYNTHIA's.
CLASSES = {"synthia": 16, "gta5": 19, "foggy": 16, "crosscity": 13, "vistas": 16}
CLASSES |= {"camvid_day_to_dusk": 11, "toy_to_camvid": 11, "urbansyn": 19, "acdc": 19}


def datasets_of(name: str) -> str | None:
    return next((known for known in CLASSES if name.startswith(f"{known}_")), None)


def real_twin(path: Path) -> Path:
    # Toy twins of recipes of other datasets than SYNTHIA say so: toy_gta5_semantic_hrda.
    name = next(
        (n for n in (path.name, path.name.removeprefix("toy_")) if datasets_of(n) is not None),
        f"synthia_{path.name}",
    )
    return ROOT / "configs" / name


# What a leaf's name says of its method, `_gbw` aside -> its strategy. Those that are not here are
# called as their strategy is.
STRATEGY_OF = dict.fromkeys(
    ("", "daformer", "dinov2", "edaps", "fpn", "hrda", "mask2former", "mic", "vit"), "self_training"
)
STRATEGY_OF |= {"oracle": "source_only", "advent": "adversarial"}
STRATEGY_OF |= dict.fromkeys(("mc_panda", "mc_panda_plus"), "mask_teacher")


def test_every_leaf_resolves_to_what_its_name_says() -> None:
    for path in LEAVES:
        cfg = load_config(str(path))
        resolve(cfg)
        stem = real_twin(path).stem
        source = datasets_of(stem)
        assert source is not None, path
        words = stem.removeprefix(f"{source}_").removeprefix("toy_").split("_")
        task, weighted = words[0], words[-1] == "gbw"
        method = "_".join(words[1 : -1 if weighted else None])
        assert CLASSES[source] == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, path
        folder = path.relative_to(ROOT / "configs").parent if "projects" not in path.parts else "."
        assert str(Path("output") / folder / path.stem) == cfg.OUTPUT_DIR
        assert cfg.DATASETS.TEST and cfg.DATASETS.TRAIN
        assert (task == "semantic") == cfg.MODEL.SEMANTIC_ONLY, path
        assert STRATEGY_OF.get(method, method) == cfg.UDA.NAME, path
        assert ("gbw" if weighted else "none") == cfg.WEIGHTING.NAME, path
        assert bool(cfg.DATASETS.TARGET) == (method != "oracle"), path


def test_every_method_has_a_yaml() -> None:
    for registry, axis, key in ((SCHEMES, "weighting", "WEIGHTING"), (STRATEGIES, "uda", "UDA")):
        files = (BASES / axis).glob("*.yaml")
        assert {compose(path)[key]["NAME"] for path in files} == set(registry)


def test_every_leaf_has_its_toy_twin() -> None:
    twins = {real_twin(path) for path in (ROOT / "configs/toy").glob("*.yaml")}
    assert twins == set((ROOT / "configs").glob("*.yaml"))


def test_toy_twins_differ_from_their_originals_in_scale_only() -> None:
    for path in [*(ROOT / "configs/toy").glob("*.yaml"), *(ROOT / "configs/toy_large").glob("*")]:
        toy, real = load_config(str(path)), load_config(str(real_twin(path)))
        for key in ("TRAIN", "TARGET", "TEST"):
            # The source of toy_to_camvid is a toy in both.
            names, originals = (
                [n.removeprefix("toy_").removeprefix("large_") for n in cfg.DATASETS[key]]
                for cfg in (toy, real)
            )
            assert names == originals
        assert toy.WEIGHTING == real.WEIGHTING
        # The teacher's memory is a matter of scale; toy networks start from random weights.
        toy.UDA.WARM_UP = real.UDA.WARM_UP
        toy.UDA.CBST.LR_FACTOR = real.UDA.CBST.LR_FACTOR
        for key in ("EMA_DECAY", "FEATURE_DISTANCE_WEIGHT"):
            toy.UDA.SELF_TRAINING[key] = real.UDA.SELF_TRAINING[key]
        toy.UDA.MASK_TEACHER.EMA_DECAY = real.UDA.MASK_TEACHER.EMA_DECAY
        # So is the side of a hidden block, in pixels.
        toy.UDA.MASKED_CONSISTENCY.BLOCK = real.UDA.MASKED_CONSISTENCY.BLOCK
        # So is the height of the own car's hood in a picture, but not that there is one.
        margins = [
            [get_dataset(name).ignore_rows[1] > 0 for name in cfg.DATASETS.TARGET]
            for cfg in (toy, real)
        ]
        assert margins[0] == margins[1]
        assert toy.UDA == real.UDA, path
        assert toy.MODEL.META_ARCHITECTURE == real.MODEL.META_ARCHITECTURE


def test_defaults_are_plain() -> None:
    cfg = load_config(str(ROOT / "configs/toy/panoptic_source_only.yaml"))
    assert (cfg.UDA.NAME, cfg.WEIGHTING.NAME) == ("source_only", "none")


def test_weighting_keys_are_the_settings() -> None:
    cfg = load_config(str(LEAVES[0]))
    settings = [SCHEMES.get(name).scheme.Settings for name in SCHEMES]
    declared = {key for each in settings for key in config_keys(each)}
    assert set(cfg.WEIGHTING) - {"NAME", "HEADS", "WEIGHTS_FROM"} == declared
    assert {"LAMBDA", "MOMENTUM", "BETA", "GAMMA", "CLASS_WEIGHTS"} < declared


def _load(tmp_path: Path, text: str, *overrides: str) -> None:
    path = tmp_path / "leaf.yaml"
    path.write_text(f"_BASE_: {ROOT}/configs/toy/panoptic_gbw.yaml\nVERSION: 2\n{text}\n")
    resolve(load_config(str(path), overrides))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WEIGHTING:\n  LAMDA: 1", "unknown config key WEIGHTING.LAMDA; did you mean .*LAMBDA"),
        ("WEIGHTING:\n  NAME: gwb", "unknown weighting scheme 'gwb'; did you mean 'gbw'"),
        (
            "WEIGHTING:\n  HEADS: [mask]",
            "HEADS names mask; GBWPanopticDeepLab with .* has semantic, ",
        ),
        (
            "MODEL:\n  META_ARCHITECTURE: GBWSemanticSegmentor\nWEIGHTING:\n  HEADS: [center]",
            "HEADS names center; GBWSemanticSegmentor with these keys has semantic ",
        ),
        (
            "WEIGHTING:\n  HEADS: [semantic, offset]\n  WEIGHTS_FROM: [[offset, center]]",
            "'center', which has no weights of its own",
        ),
        ("UDA:\n  NAME: source", "unknown adaptation strategy .*known: .*source_only"),
        ("MODEL:\n  META_ARCHITECTURE: X", "unknown architecture .*GBWPanopticDeepLab"),
        ("SOLVER:\n  OPTIMIZER: LION", "unknown optimiser .*known: ADAM, ADAMW, SGD"),
        ("DATASETS:\n  LABEL_SPACE: voc", "unknown label space 'voc'"),
        ('DATASETS:\n  TRAIN: ("synthia",)', "unknown dataset 'synthia'"),
        ("MODEL:\n  SEM_SEG_HEAD:\n    NUM_CLASSES: 19", "has 16 classes"),
        ('EVAL:\n  PROTOCOLS: ("19",)', "can be scored by 16, 16_void"),
        ("MODEL:\n  DEVICE: gpu", "MODEL.DEVICE 'gpu' cannot be used"),
        ("MODEL:\n  BACKBONE:\n    NAME: vgg", "unknown backbone .*build_resnet_backbone"),
        ("MODEL:\n  SEM_SEG_HEAD:\n    NAME: X", "unknown head .*DeepLabV3PlusHead"),
        ("SOLVER:\n  IMS_PER_BATCH: 0", "IMS_PER_BATCH is 0; expected a whole number >= 1"),
        ("DATALOADER:\n  NUM_WORKERS: -1", "NUM_WORKERS is -1"),
        (
            "MODEL:\n  TIMM:\n    ARGS: [a]",
            r"ARGS is \['a'\], of type list; expected keys below it",
        ),
        ("UDA:\n  NAME: min_entropy\nDATASETS:\n  TARGET: ()", "needs target images"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        _load(tmp_path, text)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="constructor"):
        _load(tmp_path, f"SEED: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITER"], "KEY VALUE pairs"),
        (["SOLVER.MAXITER", "3"], "unknown config key SOLVER.MAXITER; did you mean .*MAX_ITER"),
        (
            ["SOLVER.MAX_ITER", "many"],
            "MAX_ITER is many, of type str; expected a value of type int",
        ),
        (["MODEL.TIMM.ARGS", "['a']"], r"ARGS is \['a'\], of type list; expected keys below it"),
    ],
)
def test_wrong_command_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, "", *overrides)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config("configs/none.yaml")
