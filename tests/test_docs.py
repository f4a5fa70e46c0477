"""What the documents show is true: README's code runs, links lead somewhere, named files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "datasets/README.md",
        ROOT / "studies/README.md",
        *ROOT.glob("projects/*/README.md"),
    ]
)


def test_readme_code_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["criterion"].weights.sum().item() == pytest.approx(19, abs=1e-3)
    assert names["classifier"].weight.grad.abs().sum() > 0
    assert names["criterion"].classifier_measure is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for path in re.findall(r"`((?:gbw_d2|configs|tools|tests|docs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_commands_of_readme_name_what_there_is() -> None:
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"(?:python|uv run) ([\w/]+\.py)", text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"--config-file (\S+)", text):
        assert (ROOT / path).is_file(), path
