"""Building blocks of a report: one page that needs nothing but itself."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import final

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #dde2e9; --tint: #f5f7fa;
  --accent: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 75ch; }
.answer { margin: 1.25rem 0; padding: 1rem 1.25rem; background: var(--tint); font-size: 1.1rem;
  border-left: 4px solid var(--accent); border-radius: 0 6px 6px 0; max-width: none; }
.note { color: var(--soft); font-size: .9rem; max-width: 95ch; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom;
  white-space: normal; }
th.left, td.left { text-align: left; }
tbody tr:hover { background: var(--tint); }
td.good { color: #0b6b3a; font-weight: 600; }
td.bad { color: #a4262c; font-weight: 600; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; max-width: 95ch; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--accent); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: .75rem 0;
  font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { main { max-width: none; padding: 0; } tbody tr:hover { background: none; } }
"""


@final
@dataclass(frozen=True)
class Html:
    """Markup that is safe to put into a page: made by these functions, its texts escaped."""

    markup: str

    def __add__(self, other: "Html") -> "Html":
        return Html(self.markup + other.markup)


def text(kind: str, content: str, *, style: str = "") -> Html:
    """A heading or a paragraph.

    Args:
        kind: ``"h1"``, ``"h2"``, ``"h3"`` or ``"p"``.
        content: Its text; escaped.
        style: ``"answer"``, ``"note"`` or nothing.
    """
    attribute = f' class="{escape(style)}"' if style else ""
    return Html(f"<{escape(kind)}{attribute}>{escape(content)}</{escape(kind)}>\n")


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    n_left: int = 1,
    styles: Sequence[Sequence[str]] | None = None,
) -> Html:
    """A table that scrolls sideways where the window is narrow.

    Args:
        header: One title a column.
        rows: One text a column in every row.
        n_left: How many of the first columns are aligned to the left.
        styles: ``"good"``, ``"bad"`` or nothing for every field.

    Raises:
        ValueError: A row has another number of columns than the header.
    """

    def field(tag: str, column: int, content: str, style: str = "") -> str:
        names = " ".join(name for name in ("left" if column < n_left else "", style) if name)
        attribute = f' class="{escape(names)}"' if names else ""
        return f"<{tag}{attribute}>{escape(content)}</{tag}>"

    lines = ["".join(field("th", i, title) for i, title in enumerate(header))]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} columns, the header {len(header)}: {row!r}")
        style = styles[number] if styles is not None else [""] * len(row)
        lines.append("".join(field("td", i, row[i], style[i]) for i in range(len(row))))
    head, *body = (f"<tr>{line}</tr>\n" for line in lines)
    return Html(
        f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>{"".join(body)}</tbody>\n'
        "</table></div>\n"
    )


def figure(svg: bytes, caption: str, *, description: str) -> Html:
    """A picture inside the page.

    As an image in a data address it cannot run scripts, load anything or mix its names with those
    of other pictures.

    Args:
        svg: The picture.
        caption: Text below it.
        description: What it shows, for who does not see it.
    """
    data = base64.b64encode(svg).decode()
    return Html(
        f'<figure><img alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def details(summary: str, content: Html) -> Html:
    """A part that is folded away until it is clicked on."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{content.markup}</details>\n")


def definitions(entries: Sequence[tuple[str, str]]) -> Html:
    """A list of terms and what they are."""
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(what)}</dd>\n" for term, what in entries)
    return Html(f"<dl>{items}</dl>\n")


def page(title: str, parts: Sequence[Html]) -> str:
    """A whole page: no script, and nothing loaded from anywhere.

    Args:
        title: The window's title; escaped.
        parts: What stands in it, in order.

    Returns:
        The page's source. Its policy forbids the browser to load anything but inline pictures.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    body = "".join(part.markup for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
