"""A study: what its file means, what a result depends on, and a run of a real grid."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gbw_d2.config import load_config
from gbw_d2.errors import UserError
from gbw_studies import study as study_tool
from gbw_studies.grid import fingerprint, runs
from gbw_studies.grid.halving import arms_of, gain, ranking
from gbw_studies.grid.ledger import read_rows, replace_row, score, write_rows
from gbw_studies.grid.plan import load_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))

TINY = """
title: A tiny study
recipes:
  source: {config: configs/toy/semantic_source_only.yaml}
  taught:
    config: configs/toy/semantic_source_only.yaml
    with: [uda/self_training]
    UDA.WARM_UP: 0.5
arms:
  none: {WEIGHTING.NAME: none}
  gbw: {WEIGHTING.NAME: gbw, WEIGHTING.LAMBDA: 2.0}
  late: {recipes: [taught], WEIGHTING.NAME: gbw_norm}
baseline: none
rare: [rider, bus]
overrides: {INPUT.CROP_SIZE: [32, 64]}
choose: {datasets: [a], metrics: [mIoU_16, rare_IoU]}
rungs:
  - {seeds: [0, 1]}
  - {seeds: [2], best: 1, always: [late]}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def row(recipe: str, arm: str, seed: int, miou: float, rider: float | None, bus: float) -> Any:
    classes = {"rider": {"IoU": rider}, "bus": {"IoU": bus}, "road": {"IoU": 90.0}}
    scores = {"a": {"metrics": {"mIoU_16": miou}, "classes": classes}}
    return {
        **{"recipe": recipe, "arm": arm, "seed": seed, "config": "c", "package": "p", "threads": 1},
        **{"iterations": 9, "wall_seconds": 1.0, "step_seconds": 0.1, "peak_memory_mb": None},
        **{"torch": "2", "device": "cpu", "scores": scores},
    }


def test_ctrl_c_says_how_to_go_on(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    kept = [(each, signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(study_tool, "run_study", interrupted)
    try:
        assert study_tool.main([str(tiny)]) == 130
    finally:
        for each, handler in kept:
            signal.signal(each, handler)
    assert capsys.readouterr().err == "stopped; the same command continues with the missing runs\n"


def test_an_arm_of_an_earlier_version_is_not_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY.replace("{WEIGHTING.NAME: gbw, WEIGHTING.LAMBDA: 2.0}", '{recorded: "x"}'))
    study = load_study(tiny)
    assert "gbw" in study.arms
    assert "gbw" not in {job.arm for job in study.jobs(study.arms, (0,))}
    assert study_tool.main([str(tiny), "--arms", "gbw"]) == 2
    assert "arm 'gbw' was recorded by an earlier version (x)" in capsys.readouterr().err
    tiny.write_text(TINY.replace("{WEIGHTING.NAME: gbw, WEIGHTING.LAMBDA: 2.0}", "{recorded: 1}"))
    with pytest.raises(UserError, match="recorded must be a text, found 1"):
        load_study(tiny)


def test_the_grid_is_recipes_by_arms_by_seeds(tiny: Path) -> None:
    study = load_study(tiny)
    jobs = study.jobs(study.arms, (0, 1))
    assert [job.name for job in jobs[:5]] == [
        *("source-none-0", "source-gbw-0"),
        *("taught-none-0", "taught-gbw-0", "taught-late-0"),
    ]
    assert len(jobs) == 10
    choice, *pairs = jobs[3].words
    assert choice == "uda/self_training"
    words = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert words == {
        "INPUT.CROP_SIZE": "[32, 64]",
        "UDA.WARM_UP": "0.5",
        "WEIGHTING.NAME": "gbw",
        "WEIGHTING.LAMBDA": "2.0",
        "SEED": "0",
    }
    assert jobs[3].config_file == "configs/toy/semantic_source_only.yaml"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_run_of_every_study_has_a_config(path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    hashes = {}
    for job in study.jobs(study.arms, (0,)):
        hashes[job.name] = fingerprint.config_hash(load_config(job.config_file, job.words))
    assert len(set(hashes.values())) == len(hashes), "two arms are the same"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline: none", "baseline: plain", "no arm plain"),
        ("config: configs/toy/semantic_source_only.yaml", "config: [1]", "names no config"),
        ("baseline: none", "baseline: none\nrivals: [[gbw]]", "rivals must list a text each"),
        ("seeds: [2]", "seeds: [two]", "seeds must list a whole number each"),
        ("baseline: none", "", r"missing entries \['baseline'\]"),
        ("title:", "titel:", r"unknown entries \['titel'\], missing entries \['title'\]"),
        ("always: [late]", "always: [later]", "no arm later"),
        ("{recipes: [taught]", "{recipes: [tought]", r"unknown recipes \['tought'\]"),
        ("seeds: [2]", "seed: 2", "a rung has seeds"),
        ("- {seeds: [2], best: 1, always: [late]}", "- 2", "a rung has seeds.*found 2"),
        ("best: 1", "best: one", "a rung: best must be a whole number, found 'one'"),
        ("baseline: none", "baseline: none\nrivals: [gbw, dice]", "no arm dice .there are: none,"),
        ("baseline: none", "baseline: none\nproposed: [dice]", "proposed and .* no arm dice"),
        ("baseline: none", "baseline: none\nproposed: [none]", "proposed is 'none', which"),
        ("rare: [rider, bus]", "rare: rider", "rare must be a list, found 'rider'"),
        ("gbw: {WEIGHTING.NAME: gbw,", "gbw: [gbw, {", "is not valid YAML"),
        ("choose: {datasets", "choose: {sets", "choose may have datasets and metrics"),
        ("source: {config", "source: {file", "recipe 'source' names no config"),
        ("{config: configs/toy/semantic_source_only.yaml}", "a.yaml", "source must be a mapping"),
    ],
)
def test_mistakes_in_a_study_are_named(tiny: Path, old: str, new: str, message: str) -> None:
    tiny.write_text(TINY.replace(old, new))
    with pytest.raises(UserError, match=message):
        load_study(tiny)


def test_ranking_is_by_paired_differences(tiny: Path) -> None:
    study = load_study(tiny)
    rows = [
        row("source", "none", 0, 40.0, 10.0, 20.0),  # 40 and 15
        row("source", "gbw", 0, 44.0, 14.0, 20.0),  # 44 and 17: + 3
        row("source", "gbw", 1, 99.0, 99.0, 99.0),  # no baseline of this seed
        row("taught", "none", 0, 50.0, None, 30.0),  # 50 and 30
        row("taught", "gbw", 0, 49.0, 8.0, 20.0),  # 49 and 14: - 8.5
        row("taught", "late", 0, 51.0, 30.0, 30.0),  # + 0.5
    ]
    assert score(rows[3], "a", "rare_IoU", study.rare) == 30.0
    assert gain(study, "gbw", rows) == pytest.approx((3 - 8.5) / 2)
    assert ranking(study, rows) == [("late", 0.5), ("none", 0.0), ("gbw", -2.75)]
    assert arms_of(study, study.rungs[0], rows) == ["none", "gbw", "late"]
    assert arms_of(study, study.rungs[1], rows) == ["none", "gbw", "late"]
    failed = [*rows[:4], {**rows[4], "error": "NaN"}, rows[5]]
    assert gain(study, "gbw", failed) == pytest.approx((3 - 40) / 2)


def test_a_row_replaces_that_of_the_same_run_alone(tmp_path: Path) -> None:
    rows = [row("b", "x", 1, 1.0, 1.0, 1.0), row("a", "x", 1, 2.0, 1.0, 1.0)]
    rows = replace_row(rows, row("b", "x", 1, 3.0, 1.0, 1.0))
    write_rows(tmp_path, rows)
    found = read_rows(tmp_path)
    assert [(r["recipe"], r["scores"]["a"]["metrics"]["mIoU_16"]) for r in found] == [
        ("a", 2.0),
        ("b", 3.0),
    ]
    assert read_rows(tmp_path / "nothing") == []


def test_a_damaged_row_is_named_and_a_torn_last_one_left_out(tmp_path: Path) -> None:
    write_rows(tmp_path, [row("a", "x", seed, 1.0, 1.0, 1.0) for seed in (0, 1)])
    path = tmp_path / "results.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-9])
    assert [r["seed"] for r in read_rows(tmp_path)] == [0]
    for key, message in (("arm", "no 'arm'"), ("metrics", "no metrics or no classes of a")):
        path.write_text(whole.replace(f'"{key}"', '"other"'))
        with pytest.raises(UserError, match=rf"results.jsonl, line 1: .*{message}"):
            read_rows(tmp_path)
    path.write_text("<<<<<<< ours\n" + whole)
    with pytest.raises(UserError, match=r"line 1: .*the file is damaged"):
        read_rows(tmp_path)
    failed = row("a", "x", 0, 1.0, 1.0, 1.0) | {"error": "NaN", "scores": {}}
    del failed["torch"]
    write_rows(tmp_path, [failed])
    assert read_rows(tmp_path)[0]["error"] == "NaN"


def test_comments_do_not_count_and_code_does() -> None:
    plain = fingerprint._code("def f(x):\n    return x + 1\n")
    assert fingerprint._code('def f(x):\n    """Adds."""\n    # one\n    return (x + 1)\n') == plain
    assert fingerprint._code("def f(x):\n    return x + 2\n") != plain
    # Later versions of Python write fields that older ones do not have, so nothing empty is there.
    assert plain == (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='x')]),body=[Return(value="
        "BinOp(left=Name(id='x',ctx=Load()),op=Add(),right=Constant(value=1)))])])"
    )


def test_only_what_shapes_training_counts() -> None:
    root = ROOT / "gbw_d2"
    counted = {str(path.relative_to(root)) for path in fingerprint.training_files(root)}
    assert {"engine/trainer.py", "config.py", "data/mappers.py", "uda/parts/ema.py"} <= counted
    assert not any(name.startswith(("inference/", "evaluation/")) for name in counted)
    for name in fingerprint._NOT_TRAINING:
        assert (root / name).exists() and name not in counted


def test_the_package_of_another_clone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint.gbw_d2, "__file__", str(tmp_path / "gbw_d2" / "__init__.py"))
    with pytest.raises(UserError, match=f"imported from {tmp_path}"):
        fingerprint.package_hash.__wrapped__()


def test_the_config_hash_sees_what_has_an_effect() -> None:
    def digest(*words: str) -> str:
        return fingerprint.config_hash(load_config("configs/toy/semantic_gbw.yaml", words))

    plain = digest()
    assert digest("OUTPUT_DIR", "elsewhere", "EVAL.PICTURES", "7") == plain
    assert digest("MODEL.DEVICE", "cpu") == digest("MODEL.DEVICE", "cuda") == plain
    assert digest("SEED", "1") != plain
    assert digest("WEIGHTING.LAMBDA", "2.0") != plain
    # Weighting counts as what it comes to: 0.5 is lambda's default in this scheme.
    assert digest("WEIGHTING.LAMBDA", "0.5") == plain
    assert digest("WEIGHTING.HEADS", "[]") != plain


def test_a_killed_server_is_not_a_result(tmp_path: Path) -> None:
    assert runs.last_words(tmp_path) == "no log"


def test_a_signal_waits_for_the_block_and_is_not_lost() -> None:
    heard = []
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: heard.append(number)),
        # A shell that starts the tests in the background has it ignored.
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        with runs.signals_wait():
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt), runs.signals_wait():
            signal.raise_signal(signal.SIGINT)
            heard.append(signal.SIGINT)
        assert heard == [signal.SIGTERM, signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_of_another_study_is_taken_over(tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    tiny.with_suffix("").mkdir()
    study = load_study(tiny)
    queue = study_tool.Queue(study, tiny.parent / "runs", retry=False, keep_checkpoints=False)
    wanted, other_recipe, other_seed = study.jobs(["gbw"], (0, 1))[:3]
    done = row("source_only", "default", 0, 50.0, 1.0, 2.0)
    done |= {"config": queue.hash_of(wanted), "package": queue.package}
    failed = done | {"arm": "broken", "error": "diverged", "scores": {}}
    old = done | {"arm": "old", "seed": 1, "package": "of last year"}
    threads = done | {"arm": "all cores", "threads": 2, "scores": {}}
    (tiny.parent / "other").mkdir()
    write_rows(tiny.parent / "other", [failed, old, threads, done])
    chained = done | {"seed": 2, "taken_from": "a third"}
    write_rows(tiny.parent / "other", [failed, old, threads, done, chained])
    jobs = study.jobs(["gbw"], (0, 1))
    queue.take_over(jobs)
    (taken,) = read_rows(tiny.with_suffix(""))
    assert taken == done | {"recipe": "source", "arm": "gbw", "taken_from": "other"}
    assert queue.row_of(wanted) == taken
    assert queue.row_of(other_recipe) is None and queue.row_of(other_seed) is None
    (third,) = (j for j in study.jobs(["gbw"], (2,)) if j.recipe == "source")
    monkeypatch.setitem(queue._hashes, third, queue.hash_of(wanted))
    queue.take_over([third])
    assert queue.row_of(third)["taken_from"] == "a third"
    # What the study has itself stays, unless it ended in an error and is wanted again.
    own = taken | {"scores": {}, "taken_from": "itself"}
    queue.rows = [own]
    write_rows(tiny.with_suffix(""), [own])
    queue.take_over(jobs)
    assert read_rows(tiny.with_suffix("")) == [own]
    queue.rows = [own | {"error": "diverged"}]
    queue.take_over(jobs)
    assert read_rows(tiny.with_suffix("")) == [own]
    queue.retry = True
    queue.take_over(jobs)
    assert read_rows(tiny.with_suffix("")) == [taken]


@pytest.mark.slow
def test_a_miniature_study_runs_resumes_and_makes_its_table(
    tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "miniature.yaml"
    path.write_text((ROOT / "studies/miniature.yaml").read_text())
    arguments = [str(path), "--output", str(tmp_path / "runs"), "--workers", "2"]
    assert study_tool.main([*arguments, "--arms", "none"]) == 0
    first = read_rows(path.with_suffix(""))
    assert [r["arm"] for r in first] == ["none"]
    assert study_tool.main(arguments) == 0
    rows = read_rows(path.with_suffix(""))
    assert rows[1] == first[0] and [r["arm"] for r in rows] == ["gbw", "none"]
    assert "1 of 2 runs done" in capfd.readouterr().out
    assert all(len(r["scores"]) == 2 for r in rows)
    assert not list((tmp_path / "runs").rglob("*.pth"))
    from gbw_studies import results_table

    assert results_table.main([str(path)]) == 0
    assert "gbw" in (path.with_suffix("") / "table.md").read_text()
    assert json.dumps(rows)  # plain values only
