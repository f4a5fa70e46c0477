"""What the documents show is true: README's code runs, links lead somewhere, named files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gbw_d2.composition import AXES, known_choices

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "datasets/README.md",
        *ROOT.glob("studies/*.md"),
        *ROOT.glob("projects/*/README.md"),
    ]
)


def test_readme_code_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["criterion"].weights.sum().item() == pytest.approx(19, abs=1e-3)
    assert names["classifier"].weight.grad.abs().sum() > 0
    assert names["criterion"].measure is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for path in re.findall(r"`((?:gbw_d2|configs|tools|tests|docs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_name_what_there_is(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"(?:python|uv run) ([\w/]+\.py)", text):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"uv run -m ([\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for path in re.findall(r"--config-file ([\w/.]+\.yaml)", text):
        # The documents ask the reader to write this one.
        assert (ROOT / path).is_file() or path == "own/my_run.yaml", path
    known = {f"{axis}/{name}" for axis, names in known_choices().items() for name in names}
    choices = re.findall(rf"`((?:{'|'.join(AXES)})/\w+)`", text)
    for words in re.findall(r"--with ((?:[a-z]+/\w+ ?)+)", text):
        choices += words.split()
    assert known.issuperset(choices), set(choices) - known
