"""HTML page of a report: style sheet, tables and charts, readable from 360 pixels on, without a network or a script."""

from collections.abc import Iterable, Sequence
from html import escape

from sparsification.report.tables import Table

_STYLE = """\
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; color: #1f2933; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; -webkit-text-size-adjust: 100% }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2rem 0 .75rem }
p { margin: .75rem 0 } .note { color: #52606d; font-size: .85rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0 0 1.25rem }
.tiles div { background: #f0f4f8; border-radius: 8px; padding: .6rem .8rem }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.3 } .tiles span { color: #52606d; font-size: .85rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem }
figure { margin: 0; padding: .75rem; border: 1px solid #e4e7eb; border-radius: 8px; min-width: 0 }
figcaption { font-weight: 600; margin: 0 0 .4rem } svg { display: block; width: 100%; height: auto }
svg text { font-family: inherit !important }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #e4e7eb; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left; padding-left: 0; white-space: normal;
  position: sticky; left: 0; background: #fff }
thead th { border-bottom: 2px solid #9aa5b1 } tbody th { font-weight: 400; color: #52606d }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; margin: 0 }
dt { color: #52606d } dd { margin: 0; overflow-wrap: anywhere }
pre { background: #f0f4f8; border-radius: 8px; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
@media (max-width: 40rem) { td, th { padding: .3rem .35rem; font-size: .85rem }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .5rem } .charts { gap: .75rem }
  figure { padding: .5rem } pre { font-size: 11px } }
"""


def html_page(title: str, body: Iterable[str]) -> str:
    """A whole page; everything that it needs is in it.

    Args:
        title: shown at the top and by the browser.
        body: elements of HTML below the title.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *body,
            "</body></html>\n",
        ]
    )


def html_table(table: Table) -> str:
    """A table that scrolls within its own box where the page is too narrow for it."""
    head, rows = table
    lines = ["<thead><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr></thead>", "<tbody>"]
    for first, *cells in rows:
        lines.append(f"<tr><th>{escape(first)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</tbody></table></div>"


def html_charts(charts: Sequence[tuple[str, str]]) -> str:
    """Charts in two columns, on a phone in one.

    Args:
        charts: titles with SVG.
    """
    figures = [f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in charts]
    return '<div class="charts">\n' + "\n".join(figures) + "\n</div>"


def html_tiles(tiles: Sequence[tuple[str, str, str]]) -> str:
    """The figures to see first: a name, a value, and what to compare it with, for each."""
    cells = [
        f"<div>{escape(name)} <b>{escape(value)}</b> <span>{escape(note)}</span></div>" for name, value, note in tiles
    ]
    return '<div class="tiles">\n' + "\n".join(cells) + "\n</div>"


def html_terms(terms: Sequence[tuple[str, str]]) -> str:
    """A list of names with texts of any length."""
    return "<dl>\n" + "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in terms) + "\n</dl>"


def html_code(text: str) -> str:
    """A command line or a file as it is; long lines are wrapped within the box."""
    return f"<pre>{escape(text)}</pre>"
