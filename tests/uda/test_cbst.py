"""cbst: labels of a round, resumed after a kill; the samples of a round; its losses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cbst_runs import (
    COLUMNS,
    COUNT,
    ROWS,
    Images,
    files_in,
    logits_of,
    move,
    prepare,
    strategy_of,
)

from gbw_d2 import keys
from gbw_d2.class_tables import ids_of_colors
from gbw_d2.engine.build import build_training_losses
from gbw_d2.errors import UserError
from gbw_d2.losses.regularisers import lrent_soft_labels, mrkld_loss, soft_cross_entropy
from gbw_d2.modeling import meta_arch  # noqa: F401  (registers them in a spawned process too)
from gbw_d2.uda import Context
from gbw_d2.uda.parts.labelling import confidence_and_class, image_score
from gbw_d2.uda.parts.pseudo_label_files import PseudoLabelError, RoundFiles
from gbw_d2.uda.parts.pseudo_labels import class_balanced_pseudo_labels, class_balanced_thresholds
from gbw_d2.uda.stages import PSEUDO_LABELS


@pytest.fixture
def make(tiny_config: Any) -> Any:
    """Returns a function: settings of UDA.CBST -> strategy."""

    def build(**settings: Any) -> Any:
        changed = {"WARM_UP": 0.0, "ROUNDS": 2, **settings}
        overrides = [x for k, v in changed.items() for x in (f"UDA.CBST.{k}", v)]
        return strategy_of(tiny_config(*overrides, name="toy/semantic_source_only uda/cbst"))

    return build


def test_stages_share_the_run(make: Any) -> None:
    stages = make(WARM_UP=0.4, ROUNDS=4, LR_FACTOR=0.5, LR_DECAY=0.1).stages()
    assert [(s.name, s.first, s.last) for s in stages] == [
        ("warm_up", 0, 4),
        ("round_0", 4, 5),
        ("round_1", 5, 7),
        ("round_2", 7, 8),
        ("round_3", 8, 10),
    ]
    assert [s.lr_factor for s in stages] == pytest.approx([1, 0.5, 0.05, 0.005, 0.0005])
    assert [s.name for s in make().stages()] == ["round_0", "round_1"]
    with pytest.raises(UserError, match=r"leaves 1 iterations .* 3 rounds"):
        make(WARM_UP=0.9, ROUNDS=3).stages()


def test_the_warm_up_is_supervised(make: Any, samples: Any, tmp_path: Path) -> None:
    strategy = make(WARM_UP=0.5)
    prepare(strategy, tmp_path, Images(limit=0))
    data = strategy.data(strategy.stages()[0])
    assert (data.with_target, data.pseudo_labels, data.source_portion) == (False, None, 1.0)
    (losses,) = strategy.training_losses(samples(), None, 0)
    assert losses["loss_semantic"] == strategy.model(samples())["loss_semantic"]
    assert not list(tmp_path.iterdir())


def test_labels_are_those_of_the_exact_thresholds(make: Any, tmp_path: Path) -> None:
    strategy = make(PORTION_START=0.3, MIN_PIXELS_PER_CLASS=0)
    prepare(strategy, tmp_path, Images())
    assert strategy.model.training
    probs = logits_of(strategy).softmax(1)
    files = RoundFiles(tmp_path / "pseudo_labels/round_0")
    limits = torch.tensor(files.thresholds()["thresholds"])
    exact = class_balanced_thresholds(probs, 0.3)
    assert (limits <= exact).all() and (exact - limits).max() < 0.001
    assert (exact < 1).sum() >= 4 and not torch.equal(limits, exact)
    space = strategy.model.label_space
    labels = torch.stack([torch.from_numpy(files.read_labels(i)) for i in Images().ids()])
    assert torch.equal(labels.long(), class_balanced_pseudo_labels(probs, limits))
    summary = files.summary()
    counts = torch.bincount(labels.flatten().long(), minlength=256)[:16]
    assert torch.equal(torch.from_numpy(files.pixels(len(labels), 16)).sum(0), counts)
    rows = summary["classes"].values()
    assert [r["labelled_pixels"] for r in rows] == counts.tolist()
    predicted = torch.bincount(probs.argmax(1).flatten(), minlength=16)
    assert [r["predicted_pixels"] for r in rows] == predicted.tolist()
    assert summary["kept_share"] == pytest.approx(counts.sum().item() / predicted.sum().item())
    names = [n for n, count in zip(space.class_names, predicted, strict=True) if count == 0]
    assert summary["never_predicted"] == names != []
    never = [row for row in rows if row["predicted_pixels"] == 0]
    assert {(row["threshold"], row["kept_share"]) for row in never} == {(1.0, 0.0)}


def test_global_policy_is_one_threshold_on_the_confidence(make: Any, tmp_path: Path) -> None:
    strategy = make(POLICY="global", PORTION_START=0.4)
    prepare(strategy, tmp_path, Images())
    files = RoundFiles(tmp_path / "pseudo_labels/round_0")
    (limit,) = set(files.thresholds()["thresholds"])
    confidence, predicted = logits_of(strategy).softmax(1).max(1)
    assert (confidence >= limit).float().mean().item() == pytest.approx(0.4, abs=0.01)
    labels = np.stack([files.read_labels(i) for i in Images().ids()])
    expected = predicted.masked_fill(confidence < limit, 255).numpy().astype(np.uint8)
    assert np.array_equal(labels, expected)


def test_labelling_says_how_far_it_is(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt), caplog.at_level("INFO"):
        prepare(make(), tmp_path, Images(COUNT + 2))
    assert f"Thresholds: {COUNT} of {COUNT} target images, 0:00:00 left" in caplog.text
    assert "Pseudo-labels:" not in caplog.text
    with caplog.at_level("INFO"):
        prepare(make(), tmp_path, Images())
    rest = COUNT - 2
    assert f"Pseudo-labels: {rest} of {rest} target images, 0:00:00 left" in caplog.text


@pytest.mark.parametrize("limit", [2, COUNT, COUNT + 2])
def test_killed_while_labelling_and_resumed(make: Any, tmp_path: Path, limit: int) -> None:
    prepare(make(), tmp_path / "whole", Images())
    with pytest.raises(KeyboardInterrupt):
        prepare(make(), tmp_path / "parts", Images(limit))
    written = files_in(tmp_path / "parts")
    again = Images()
    strategy = make()
    prepare(strategy, tmp_path / "parts", again)
    # Both passes anew, or only the images whose labels are missing.
    passes = 1 if limit >= COUNT else 2
    assert len(again.read) == passes * COUNT - max(0, limit - COUNT)
    finished = files_in(tmp_path / "parts")
    assert finished == files_in(tmp_path / "whole")
    assert written.items() <= finished.items()
    # And once more: nothing is read at all.
    prepare(strategy, tmp_path / "parts", Images(limit=0))


def test_resumed_while_training_takes_the_labels_as_they_are(make: Any, tmp_path: Path) -> None:
    strategy = make()
    prepare(strategy, tmp_path, Images())
    before = files_in(tmp_path)
    move(strategy)
    prepare(strategy, tmp_path, Images(limit=0), fresh=False)
    assert files_in(tmp_path) == before
    assert strategy.data(strategy.stages()[0]).pseudo_labels.image_ids == Images().ids()
    with pytest.raises(PseudoLabelError, match="inside round_1"):
        prepare(strategy, tmp_path, Images(), fresh=False, stage=1)


def test_another_network_labels_anew(make: Any, tmp_path: Path) -> None:
    strategy = make()
    prepare(strategy, tmp_path, Images())
    before = files_in(tmp_path)
    move(strategy)
    images = Images()
    prepare(strategy, tmp_path, images)
    assert len(images.read) == 2 * COUNT and files_in(tmp_path) != before
    # A later round has a folder of its own and a greater portion.
    prepare(strategy, tmp_path, Images(), stage=1)
    first, second = (
        json.loads((tmp_path / f"pseudo_labels/round_{n}/round.json").read_text()) for n in (0, 1)
    )
    assert (first["portion"], second["portion"]) == (0.2, 0.25)
    assert first["weights"] == second["weights"]
    assert first["kept_share"] < second["kept_share"]


def test_instances_of_panoptic_networks(tiny_config: Any, tmp_path: Path) -> None:
    cfg = tiny_config("UDA.CBST.WARM_UP", 0.0, name="toy/panoptic_source_only uda/cbst")
    # No threshold that a config may have: every peak of a network from scratch is a centre.
    cfg.MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD = -1.0
    strategy = strategy_of(cfg)
    prepare(strategy, tmp_path, Images())
    files = RoundFiles(tmp_path / "pseudo_labels/round_0")
    limits = files.thresholds()["instance_thresholds"]
    assert sum(files.thresholds()["instances"]) > 20
    strategy.model.eval()
    kept = 0
    for i in range(COUNT):
        segments, info = strategy.model([Images().sample(i)])[0][keys.PANOPTIC_SEG]
        colors = cv2.imread(str(files.instances / f"city/{i}.png"), cv2.IMREAD_UNCHANGED)
        written = ids_of_colors(colors)
        expected = np.zeros((ROWS, COLUMNS), dtype=np.int64)
        for segment in info:
            c = segment["category_id"]
            if segment["isthing"] and segment["score"] >= limits[c]:
                mask = segments.numpy() == segment["id"]
                expected[mask] = c + 1
                assert np.unique(written[mask]).size == 1
                kept += 1
        assert np.array_equal(written // 1000, expected)
    assert 1 <= kept < sum(files.thresholds()["instances"])
    assert strategy.data(strategy.stages()[0]).pseudo_labels.instance_folder == files.instances


def test_the_best_target_images(make: Any, tmp_path: Path) -> None:
    strategy = make(TARGET_PORTION=0.4)
    prepare(strategy, tmp_path, Images())
    scores = [image_score(*confidence_and_class(z), 16).item() for z in logits_of(strategy)]
    best = sorted(sorted(range(COUNT), key=lambda i: -scores[i])[:2])
    labels = strategy.data(strategy.stages()[0]).pseudo_labels
    assert labels.image_ids == [f"city/{i}" for i in best]
    assert labels.class_pixels.shape == (2, 16)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_labels_have_no_prior_shift(tiny_config: Any, samples: Any, tmp_path: Path) -> None:
    cfg = tiny_config(
        *("UDA.CBST.WARM_UP", 0.0, "UDA.CBST.ROUNDS", 2, "WEIGHTING.NAME", "fixed"),
        *("WEIGHTING.CLASS_WEIGHTS", [*range(1, 17)], "WEIGHTING.PSEUDO_LABEL_ADJUSTMENT", 1.0),
        name="toy/semantic_source_only uda/cbst",
    )
    strategy = strategy_of(cfg, build_training_losses(cfg))
    # Labels that were made with another shift are not taken over.
    prepare(strategy_of(cfg), tmp_path, Images())
    source = samples()
    for sample in source:
        # Every class is there, so that the shift of each is known.
        sample[keys.SEM_SEG][0, :16] = torch.arange(16)
    strategy.supervised_losses(source)
    prepare(strategy, tmp_path, images := Images())
    assert len(images.read) == 2 * COUNT
    shift = (torch.arange(1.0, 17) / 8.5).log().view(1, -1, 1, 1)
    logits = logits_of(strategy)
    expected = (logits - shift).argmax(1).flatten().bincount(minlength=16)
    assert strategy._chosen["predicted"] == expected.tolist()
    assert expected.tolist() != logits.argmax(1).flatten().bincount(minlength=16).tolist()
    # It stays that of the round's start, for LRENT's soft labels and after a resumption.
    torch.testing.assert_close(strategy._shift, -shift.flatten())
    resumed = strategy_of(cfg)
    prepare(resumed, tmp_path, Images(limit=0), fresh=False)
    assert torch.equal(resumed._shift, strategy._shift)


def test_a_prior_changes_the_labels(make: Any, tmp_path: Path) -> None:
    for name, on in (("with", True), ("without", False)):
        strategy = make(SPATIAL_PRIOR=on)
        prepare(strategy, tmp_path / name, Images())
    one, other = (
        json.loads((tmp_path / name / "pseudo_labels/round_0/round.json").read_text())
        for name in ("with", "without")
    )
    assert one["prior"] != other["prior"] == "none"
    assert one["classes"] != other["classes"]


def test_rare_classes_are_mined(make: Any, tmp_path: Path) -> None:
    strategy = make(MINING_PROBABILITY=0.7, MINING_SHARE=0.01, SOURCE_PORTION_START=0.5)
    prepare(strategy, tmp_path, Images())
    data = strategy.data(strategy.stages()[0])
    predicted = np.array(RoundFiles(tmp_path / "pseudo_labels/round_0").thresholds()["predicted"])
    assert data.mining.first == np.flatnonzero(predicted < 0.01 * predicted.sum()).tolist()
    assert len(data.mining.second) == 3
    assert predicted[data.mining.second].max() <= np.sort(predicted)[2]
    assert (data.mining.probability, data.source_portion) == (0.7, 0.5)
    off = make(MINING_PROBABILITY=0.0)
    prepare(off, tmp_path, Images())
    assert off.data(off.stages()[0]).mining is None


def labelled(samples: Any) -> Any:
    return [{**s, PSEUDO_LABELS: {keys.SEM_SEG: s[keys.SEM_SEG].flip(0)}} for s in samples(seed=1)]


def test_losses(make: Any, samples: Any, tmp_path: Path) -> None:
    target = labelled(samples)
    plain, mrkld, lrent = (
        make(REGULARISER=name, LOSS_WEIGHT=2.0) for name in ("none", "mrkld", "lrent")
    )
    for strategy in (plain, mrkld, lrent):
        prepare(strategy, tmp_path, Images())
    model = plain.model
    images, labels = model.images(target), model.targets([s[PSEUDO_LABELS] for s in target])
    outputs = model.outputs(model.features(images), (32, 64))
    logits = outputs.semantic.dense()

    source, pseudo = plain.training_losses(samples(), target, 0)
    assert source["loss_semantic"] == model(samples())["loss_semantic"]
    hard = model.losses(outputs, labels, None, keys.TERM_PSEUDO)["loss_semantic"]
    assert {k: v.item() for k, v in pseudo.items()} == {
        "pseudo_loss_semantic": pytest.approx(2 * hard.item())
    }
    _, pseudo = mrkld.training_losses(samples(), target, 0)
    assert {k: v.item() for k, v in pseudo.items()} == {
        "pseudo_loss_semantic": pytest.approx(2 * hard.item()),
        "pseudo_loss_mrkld": pytest.approx(2 * 0.01 * mrkld_loss(logits, labels.semantic).item()),
    }
    # Soft labels are those of the network at the round's start, whatever the student has become.
    limits = torch.tensor(RoundFiles(tmp_path / "pseudo_labels/round_0").thresholds()["thresholds"])
    soft, kept = lrent_soft_labels(logits, limits, 0.25)
    assert 0.02 < kept.float().mean() < 1
    move(lrent)
    prepare(lrent, tmp_path, Images(limit=0), fresh=False)
    moved = lrent.model.outputs(lrent.model.features(images), (32, 64)).semantic.dense()
    _, pseudo = lrent.training_losses(samples(), target, 0)
    assert {k: v.item() for k, v in pseudo.items()} == {
        "pseudo_loss_lrent": pytest.approx(2 * soft_cross_entropy(moved, soft, kept).item())
    }
    assert set(lrent.modules()) == {"labeller"} and plain.modules() == {}


@pytest.mark.parametrize("regulariser", ["none", "lrent"])
def test_instance_losses(tiny_config: Any, samples: Any, tmp_path: Path, regulariser: str) -> None:
    overrides = ("UDA.CBST.WARM_UP", 0.0, "UDA.CBST.REGULARISER", regulariser)
    strategy = strategy_of(tiny_config(*overrides, name="toy/panoptic_source_only uda/cbst"))
    prepare(strategy, tmp_path, Images())
    target = [{**s, PSEUDO_LABELS: s} for s in samples(seed=1)]
    _, pseudo = strategy.training_losses(samples(), target, 0)
    semantic = "lrent" if regulariser == "lrent" else "semantic"
    names = {f"pseudo_loss_{name}" for name in (semantic, "center", "offset")}
    assert set(pseudo) == names
    plain = strategy.model(samples(seed=1))
    assert pseudo["pseudo_loss_center"].item() == pytest.approx(plain["loss_center"].item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"POLICY": "fair"}, "POLICY is 'fair'; expected one of class_balanced, global"),
        ({"REGULARISER": "l2"}, "REGULARISER is 'l2'; expected one of none, mrkld, lrent"),
        ({"REGULARISER": "lrent", "SPATIAL_PRIOR": True}, "SPATIAL_PRIOR False"),
    ],
)
def test_wrong_settings_are_told(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**settings)


def _label(rank: int, file: str, folders: list[str], cfg: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for folder in folders:
        images = Images(rank=rank, world_size=2)
        strategy = strategy_of(cfg)
        context = Context(True, Path(folder), is_main=rank == 0, target=images)
        strategy.prepare(strategy.stages()[0], context)
        assert strategy.data(strategy.stages()[0]).pseudo_labels.class_pixels.any()
        Path(folder, f"read_{rank}.json").write_text(json.dumps(images.read))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_labelling(make: Any, tiny_config: Any, tmp_path: Path) -> None:
    overrides = ("UDA.CBST.WARM_UP", 0.0, "UDA.CBST.TARGET_PORTION", 0.8)
    cfg = tiny_config(*overrides, name="toy/semantic_source_only uda/cbst")
    prepare(strategy_of(cfg), tmp_path / "one", Images())
    expected = files_in(tmp_path / "one/pseudo_labels")
    # A run that was killed when two images had their labels.
    shutil.copytree(tmp_path / "one", tmp_path / "killed")
    left = tmp_path / "killed/pseudo_labels/round_0"
    for path in (left / "round.json", left / "pixels.npy", *sorted(left.rglob("*.png"))[1:3]):
        path.unlink()
    folders = [str(tmp_path / name) for name in ("two", "killed")]
    for folder in folders:
        Path(folder).mkdir(exist_ok=True)
    mp.spawn(_label, (str(tmp_path / "rendezvous"), folders, cfg), nprocs=2)
    for folder in folders:
        assert files_in(Path(folder) / "pseudo_labels") == expected
    read = [json.loads((tmp_path / f"killed/read_{rank}.json").read_text()) for rank in (0, 1)]
    assert len(read[0]) + len(read[1]) == 2
