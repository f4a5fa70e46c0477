"""A self-contained HTML page as text, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; margin: 0 auto; max-width: 1180px;
  padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
p.note { color: #555; margin: .3rem 0 .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid #e3e5e8;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
td.better { color: #00603f; } td.worse { color: #a3271b; }
tr.rare td:first-child { font-weight: 600; }
img { display: block; max-width: 100%; height: auto; }
.wide > img { max-width: max(100%, 900px); }
figure { margin: 0 0 1.2rem; } figcaption { color: #555; font-size: .92rem; margin-bottom: .3rem; }
.four img { width: 100%; }
.four { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px; }
@media (max-width: 700px) { .four { grid-template-columns: repeat(2, 1fr); } }
pre { background: #f5f6f7; padding: .8rem; overflow-x: auto; font-size: .85rem; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em;
  border: 1px solid #999; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Returns the text of a page.

    Args:
        title: plain text.
        parts: HTML that the functions below return.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """Returns a section with a heading and, below it, a line of explanation (plain text)."""
    words = f'<p class="note">{html.escape(note)}</p>\n' if note else ""
    return f"<h2>{html.escape(title)}</h2>\n{words}" + "\n".join(parts)


def paragraph(text: str) -> str:
    """Returns a paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Returns a table.

    Args:
        head: names of the columns.
        rows: class of the row, and its cells as (class, text); "" for no class.
    """
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in head)]
    marks = [""]
    for row_class, cells in rows:
        marks.append(f' class="{row_class}"' if row_class else "")
        lines.append(
            "".join(
                f'<td class="{kind}">{html.escape(text)}</td>'
                if kind
                else f"<td>{html.escape(text)}</td>"
                for kind, text in cells
            )
        )
    body = "\n".join(f"<tr{mark}>{line}</tr>" for mark, line in zip(marks, lines, strict=True))
    return f'<div class="wide"><table>\n{body}\n</table></div>'


def image(data: bytes, kind: str, words: str) -> str:
    """Returns an image that is embedded in the page.

    Args:
        data: the file's content.
        kind: ``png`` or ``jpeg``.
        words: alternative text.
    """
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/{kind};base64,{encoded}">'


def figure(picture: str, caption: str = "") -> str:
    """Returns a picture that scrolls horizontally on screens that are too narrow for it."""
    above = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure>{above}<div class="wide">{picture}</div></figure>'


def four(pictures: Sequence[str], caption: str) -> str:
    """Returns pictures in one row below a caption, or two per row on a narrow screen."""
    return (
        f"<figure><figcaption>{html.escape(caption)}</figcaption>\n"
        f'<div class="four">{"".join(pictures)}</div></figure>'
    )


def folded(title: str, text: str) -> str:
    """Returns preformatted text that opens on a click."""
    summary = f"<summary>{html.escape(title)}</summary>"
    return f"<details>{summary}<pre>{html.escape(text)}</pre></details>"


def color_key(entries: Sequence[tuple[str, tuple[int, int, int]]]) -> str:
    """Returns a legend of names and colours."""
    squares = (
        f'<span class="key" style="background: rgb{tuple(color)}"></span>{html.escape(name)}'
        for name, color in entries
    )
    return f"<p>{' '.join(squares)}</p>"
