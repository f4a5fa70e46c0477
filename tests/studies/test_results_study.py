"""Tables and pictures of a study, on runs written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gbw_d2.errors import UserError
from gbw_studies import results_table
from gbw_studies.results.comparison import Section, bootstrap_interval, chosen_arms, sections
from gbw_studies.results.proposed import ALL, proposed_table, proposed_tables
from gbw_studies.results.rows import Scores, read_results
from gbw_studies.results.tables import differences_table, study_tables

STUDY = {
    "title": "Study T: by hand",
    "question": "Does it add up?",
    "recipes": {"source_only": {"config": "configs/a.yaml"}},
    "arms": {"none": {"WEIGHTING.NAME": "none"}, "gbw": {}, "focal": {}},
    "baseline": "none",
    "rivals": ["focal"],
    "rare": ["bus", "rider"],
    "answer": "It\ndoes, |x| and all.",
    "notes": "It does, to the digit.",
    "rungs": [{"seeds": [0, 1, 2]}],
}
LATE = {"arms": {"none": {}, "gbw": {}, "focal": {}, "late": {}, "elsewhere": {"recipes": []}}}


def run(arm: str, seed: int, miou: float, bus: float | None, **changed: Any) -> dict[str, Any]:
    """One line: the rider has IoU 10 always, recall is IoU + 1, road fills up."""
    rows = {"road": 90.0, "bus": bus, "rider": 10.0}
    classes = {n: {"IoU": v, "recall": None if v is None else v + 1} for n, v in rows.items()}
    # mIoU_13 and mIoU_16_void must not be taken for the leading mIoU_16.
    metrics = {"mIoU_13": 1.0, "mIoU_16": miou, "mIoU_16_void": 2.0, "recall_16": miou + 1}
    return {
        **{"recipe": "source_only", "arm": arm, "seed": seed, "config": "0" * 12},
        **{"package": "a" * 12, "iterations": 100, "wall_seconds": 9.0, "step_seconds": 0.2},
        **{"peak_memory_mb": 100.0, "torch": "2.15.0", "device": "cpu", "threads": 1},
        "scores": {"toy_val": {"metrics": metrics, "classes": classes}},
        **changed,
    }


RUNS = [
    run("none", 0, 40.0, 20.0),
    run("none", 1, 50.0, 22.0),
    run("none", 2, 45.0, 24.0),
    run("gbw", 0, 41.0, 26.0, step_seconds=0.3),
    run("gbw", 2, 47.0, None, step_seconds=0.5),
    run("gbw", 3, 99.0, 99.0, step_seconds=0.4, peak_memory_mb=None),
    run("focal", 0, 39.0, 21.0),
    run("focal", 1, 49.0, 23.0),
    run("focal", 2, 44.0, 25.0),
]


TAUGHT = [("none", 0, 40.0), ("gbw", 0, 43.0), ("focal", 1, 2.0)]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(runs: list[dict[str, Any]], tail: str = "", **changed: Any) -> Path:
        path = tmp_path / "studies/scale.yaml"
        path.with_suffix("").mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(STUDY | changed, sort_keys=False))
        lines = "".join(json.dumps(line) + "\n" for line in runs)
        path.with_suffix("").joinpath("results.jsonl").write_text(lines + tail)
        return path

    return write


def by_seed(values: list[float]) -> dict[tuple[str, int], float]:
    return {("one recipe", seed): value for seed, value in enumerate(values)}


def only_section(path: Path) -> Section:
    (section,) = sections(read_results(path))
    return section


def test_values_by_hand(write: Any) -> None:
    row = only_section(write(RUNS)).row("gbw")
    assert row.seeds == (0, 2, 3)
    assert row.values["mIoU"] == [41.0, 47.0, 99.0]
    # Bus and rider where both are defined, the rider alone where the bus is not.
    assert row.values["rare IoU"] == [18.0, 10.0, 54.5]
    assert row.values["PQ"] == [None] * 3
    assert row.step_ratio == pytest.approx(0.4 / 0.2)
    assert row.memory_ratio == 1.0


def test_paired_differences_with_a_missing_seed(write: Any) -> None:
    found = only_section(write(RUNS)).row("gbw").differences
    # Seed 1 lacks gbw and seed 3 the baseline.
    assert found["mIoU"].values == {("source_only", 0): 1.0, ("source_only", 2): 2.0}
    assert (found["mIoU"].mean, found["mIoU"].interval) == (1.5, None)
    # Seed 2: the bus is undefined in gbw, so that the baseline's bus must not count either.
    assert found["rare IoU"].values == {("source_only", 0): 3.0, ("source_only", 2): 0.0}
    assert "PQ" not in found


def test_differences_table(write: Any) -> None:
    path = write(RUNS)
    lines = differences_table(read_results(path), only_section(path)).splitlines()
    assert lines[0] == "| arm | pairs | Δ mIoU | Δ rare IoU | Δ rare recall | step time | memory |"
    assert lines[2] == "| `gbw` | 2 | +1.5 | +1.5 | +1.5 | 2.00 x | 1.00 x |"
    assert lines[3] == (
        "| `focal` (rival) | 3 | **-1.0 [-1.0, -1.0]** | **+0.5 [+0.5, +0.5]** | "
        "**+0.5 [+0.5, +0.5]** | 1.00 x | 1.00 x |"
    )


def test_the_proposed_arm_is_compared_with_each_rival(write: Any) -> None:
    taught = [run(arm, s, miou, 20.0, recipe="taught") for arm, s, miou in TAUGHT]
    recipes = {"source_only": {"config": "a"}, "taught": {"config": "b"}}
    path = write([*RUNS, *taught], proposed=["gbw"], recipes=recipes)
    lines = proposed_table(read_results(path), "gbw", "toy_val").splitlines()
    assert lines[0] == "| minus | recipe | pairs | Δ mIoU | Δ rare IoU | Δ rare recall |"
    assert lines[2] == "| `none` (baseline) | source_only | 2 | +1.5 | +1.5 | +1.5 |"
    assert lines[4].startswith("| `none` (baseline) | all recipes | 2 | +2.0 | ")
    # Seed 0: 41 - 39, bus 26 - 21. Seed 2: 47 - 44, the bus is undefined, the rider does not move.
    assert lines[5] == "| `focal` (rival) | source_only | 2 | +2.5 | +1.2 | +1.2 |"
    # No other recipe has the two together.
    assert len(lines) == 6
    apart = [run(arm, 3, miou, 20.0, recipe="taught") for arm, _, miou in TAUGHT]
    path = write([*RUNS, *apart], proposed=["gbw"], recipes=recipes)
    assert ALL not in proposed_table(read_results(path), "gbw", "toy_val")


def test_the_pooled_interval_draws_whole_seeds() -> None:
    # Two seeds, however many recipes: none.
    assert bootstrap_interval({(r, s): 1.0 for r in "abcd" for s in (0, 1)}) is None
    # Seed 0 three times is (0 + 10) / 2, and never 0 or 10; seed 2 three times is 6.
    pooled = bootstrap_interval({("a", 0): 0.0, ("b", 0): 10.0, ("a", 1): 5.0, ("a", 2): 6.0})
    assert pooled == (5.0, 6.0)


def test_without_a_proposed_arm_there_is_no_such_table(write: Any) -> None:
    assert proposed_tables(read_results(write(RUNS))) == ""


def test_proposed_arms_are_compared_with_each_other(write: Any) -> None:
    results = read_results(write(RUNS, proposed=["gbw", "focal"], rivals=[]))
    assert proposed_tables(results).count(" against its rivals") == 2
    # Seeds 0 and 2, as above, the other way round.
    lines = proposed_table(results, "focal", "toy_val").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `none` (baseline)", "| `gbw`"]
    assert lines[3] == "| `gbw` | source_only | 2 | -2.5 | -1.2 | -1.2 |"


def test_no_change_is_not_bold(write: Any) -> None:
    runs = [run(arm, seed, 40.0, 20.0) for arm in ("none", "gbw") for seed in range(3)]
    path = write(runs)
    assert "| `gbw` | 3 | +0.0 [+0.0, +0.0] | +0.0" in differences_table(
        read_results(path), only_section(path)
    )


def test_bootstrap_of_a_constant() -> None:
    assert bootstrap_interval(by_seed([0.3] * 5)) == pytest.approx((0.3, 0.3))
    assert bootstrap_interval(by_seed([0.3, 0.3])) is None


def test_bootstrap_against_all_resamples() -> None:
    # Of the 27 equally likely resamples of three values, one is all of the least: 3.7 % > 2.5 %.
    assert bootstrap_interval(by_seed([1.0, 2.0, 6.0])) == (1.0, 6.0)
    values = np.array([-1.0, 0.0, 2.0, 3.0, 7.0])
    every = values[np.stack(np.meshgrid(*[range(5)] * 5), -1).reshape(-1, 5)].mean(1)
    expected = np.quantile(every, (0.025, 0.975))
    assert bootstrap_interval(by_seed(values.tolist())) == pytest.approx(expected, abs=0.21)


def test_the_last_line_for_a_seed_counts_and_a_torn_one_does_not(write: Any) -> None:
    again = [*RUNS, run("gbw", 0, 43.0, 26.0)]
    row = only_section(write(again, tail='{"recipe": "sou')).row("gbw")
    assert row.values["mIoU"] == [43.0, 47.0, 99.0]


def test_provenance(write: Any) -> None:
    runs = [*RUNS[:-1], RUNS[-1] | {"package": "b" * 12}, run("gone", 0, 1.0, 1.0)]
    runs[1] |= {"taken_from": "long"}
    path = write(runs, **LATE)
    text = study_tables(read_results(path))
    assert "\n\n1 of them are runs of studies/long.yaml.\n\n" in text
    assert "9 runs. Machine: cpu, torch 2.15.0, 1 thread(s). Iterations: 100." in text
    assert "of the package:** bbbbbbbbbbbb made source_only focal." in text
    assert "Not run yet: source_only late.\n" in text
    assert "because scale.yaml does not have them: source_only gone." in text


def test_failed_runs_are_named_and_left_out_of_means(write: Any) -> None:
    failed = {"recipe": "source_only", "seed": 1, "config": "0", "package": "a" * 12, "threads": 1}
    failed |= {"error": "FloatingPointError: loss is nan", "scores": {}}
    path = write([*RUNS, failed | {"arm": "gbw"}, failed | {"arm": "late"}], **LATE)
    text = study_tables(read_results(path))
    assert "| `gbw` | 3, 1 failed | 62.3 ± 31.9 |" in text
    assert "left out of the means:** source_only gbw 1, source_only late 1 (" in text
    assert "Not run yet" not in text


def test_one_package_is_not_called_several(write: Any) -> None:
    assert "Several versions" not in study_tables(read_results(write(RUNS)))


def test_seeds_after_a_choice_have_their_own_table(write: Any) -> None:
    path = write(RUNS, rungs=[{"seeds": [0, 1]}, {"seeds": [2], "best": 1}])
    assert read_results(path).first_seeds == (0, 1)
    text = study_tables(read_results(path))
    assert "By their scores with seeds 0, 1 on all test sets" in text
    assert text.index("not used for the choice") < text.index("| `gbw` | 1 | +2.0 | +0.0 | +0.0 |")


def test_chosen_arms_are_the_best_of_both_kinds(write: Any) -> None:
    gains = {"none": 0, "a": 1, "b": 3, "c": 2, "r": 9, "s": 8}
    runs = [run(arm, 0, 40.0 + gain, 20.0) for arm, gain in gains.items()]
    path = write(runs, arms={arm: {} for arm in gains}, rivals=["r", "s"])
    results = read_results(path)
    assert chosen_arms(results, sections(results), 4) == ["none", "b", "c", "r"]
    assert chosen_arms(results, sections(results), 99) == list(gains)
    # Worse than others, and there all the same: what is proposed, and the first rival.
    path = write(runs, arms={arm: {} for arm in gains}, rivals=["s", "r"], proposed=["a"])
    results = read_results(path)
    assert chosen_arms(results, sections(results), 4) == ["none", "a", "b", "s"]


def test_files(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    panoptic = json.loads(json.dumps(RUNS).replace("source_only", "self_training"))
    for line in panoptic:
        line["scores"]["toy_val"]["metrics"]["PQ_16"] = 30.0
        for row in line["scores"]["toy_val"]["classes"].values():
            row["PQ"] = 7.0
    recipes = {name: {"config": "configs/a.yaml"} for name in ("source_only", "self_training")}
    path = write([*RUNS, *panoptic], recipes=recipes, proposed=["gbw"])
    assert results_table.main([str(path), "--arms", "focal"]) == 0
    folder = path.with_suffix("")
    names = ["table.md", "per_class.md", "table.csv", "per_class.csv", "arms.png", "classes.png"]
    assert capsys.readouterr().out.split() == [str(folder / name) for name in names]

    with (folder / "table.csv").open(newline="") as file:
        rows = {(row["recipe"], row["arm"]): row for row in csv.DictReader(file)}
    assert rows["source_only", "gbw"]["d_mIoU"] == "1.5"
    assert rows["source_only", "gbw"]["seeds"] == "0 2 3"
    assert rows["source_only", "gbw"]["PQ"] == ""
    assert rows["self_training", "focal"]["rare_PQ"] == "7.0"
    with (folder / "per_class.csv").open(newline="") as file:
        bus = [r for r in csv.DictReader(file) if (r["arm"], r["class"]) == ("gbw", "bus")]
    # 26 and 99, and one undefined: their mean, and 73 / sqrt 2.
    assert [*bus[0].values()][4:] == ["IoU", "62.5", "51.6188", "2"]

    classes = (folder / "per_class.md").read_text()
    assert "| IoU | `none` (baseline) | `focal` (rival) |" in classes
    assert "| bus * | 22.0 ± 2.0 | 23.0 ± 2.0 |" in classes
    for picture in ("arms.png", "classes.png"):
        content = (folder / picture).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 150_000
    table = (folder / "table.md").read_text()
    order = ["--arms focal`", "The toy world is a toy", "Does it add up?", "It does, |x| and all."]
    order += ["It does, to the digit.", "| PQ | rare PQ |", "\n## `gbw` against its rivals\n"]
    places = [table.index(part) for part in order]
    assert places == sorted(places)


def test_the_protocol_of_all_classes_leads() -> None:
    scores = Scores(
        {"mIoU_16": 1.0, "mIoU_all": 2.0, "mIoU_rare": 3.0, "PQ_13": 4.0, "PQ_16": 5.0}, {}
    )
    assert [scores.leading(name) for name in ("mIoU", "PQ", "recall")] == [2.0, 5.0, None]


def test_photos_are_not_called_a_toy(write: Any) -> None:
    photos = json.loads(json.dumps(RUNS).replace("toy_val", "camvid_val"))
    path = write(photos)
    assert results_table.main([str(path)]) == 0
    assert "toy" not in (path.with_suffix("") / "table.md").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"baseline": "plain"}, "no arm plain .there are: none, gbw, focal"),
        ({"rivals": ["focal", "dice"]}, "no arm dice"),
        ({"rare": ["bus", "buss"]}, "rare classes buss .there are: bus, rider, road"),
        ({"arms": ["none"]}, "arms must be a mapping, found"),
    ],
)
def test_errors_of_the_file(write: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_results(write(RUNS, **changed))


def test_a_damaged_line_is_named(write: Any) -> None:
    path = write([RUNS[0], {"recipe": "source_only"}, RUNS[1]])
    with pytest.raises(UserError, match=r"results.jsonl, line 2: .*'arm'"):
        read_results(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "dice"], "no arm dice (there are: none, gbw, focal)"),
        (["output/a_run"], "either output folders, or studies"),
    ],
)
def test_errors_of_the_command(
    write: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results_table.main([str(write(RUNS)), *words]) == 2
    assert message in capsys.readouterr().err


def test_studies_without_finished_runs_are_named_and_left_out(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, waiting = write(RUNS), tmp_path / "waiting.yaml"
    waiting.write_text(path.read_text())
    assert results_table.main([str(waiting), str(path)]) == 0
    said = capsys.readouterr()
    assert said.err == f"{waiting}: no run of its recipes and arms is finished\n"
    assert "table.md" in said.out and not waiting.with_suffix("").exists()


def test_no_finished_run_at_all(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = write(RUNS, recipes={"other": {"config": "configs/a.yaml"}})
    assert results_table.main([str(elsewhere)]) == 2
    assert "no finished run to show; run gbw_studies.study" in capsys.readouterr().err
    assert results_table.main([str(tmp_path / "no.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err
