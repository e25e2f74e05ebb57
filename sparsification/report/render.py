"""What does a run's report say? The same in ``report.md`` and, with plots, in ``report.html``.

The HTML file needs nothing beside it and no network.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sparsification.atomic_io import atomic_write_text
from sparsification.report.curves import History, charts, evaluations
from sparsification.report.profiling import BATCH
from sparsification.report.results import RunResult, save_result
from sparsification.report.tables import html, markdown, result_table

_STYLE = """\
body { font: 15px/1.5 sans-serif; color: #222; background: #fff; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } .legend { font-size: 13px; margin: 0 0 1em }
svg { max-width: 100%; height: auto } pre { background: #f5f5f5; padding: 1em; overflow: auto; font-size: 13px }
"""


def write_documents(result: RunResult, history: History, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, each at one stroke."""
    save_result(result, folder)
    atomic_write_text(folder / "report.md", report_markdown(result, history))
    atomic_write_text(folder / "report.html", report_html(result, history))


def report_markdown(result: RunResult, history: History) -> str:
    """The report as Markdown."""
    parts = [f"# {result.name}", markdown(result_table(result)), *_remarks(result)]
    evaluated = evaluations(result, history)
    if evaluated[1]:
        parts += ["## Evaluations", markdown(evaluated)]
    parts += ["The plots are in `report.html`.", "## The run"]
    parts += ["\n".join(f"- {label}: {text}" for label, text in _circumstances(result))]
    parts += [f"```\n{result.command}\n```", "## The recipe", f"```yaml\n{result.recipe.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def report_html(result: RunResult, history: History) -> str:
    """The report as one page."""
    body = [f"<h1>{escape(result.name)}</h1>", html(result_table(result))]
    body += [f"<p>{escape(text)}</p>" for text in _remarks(result)]
    for title, picture in charts(result, history):
        body += [f"<h2>{escape(title)}</h2>", picture]
    body += ["<h2>The run</h2>", "<table>"]
    body += [f"<tr><td>{escape(label)}</td><td>{escape(text)}</td></tr>" for label, text in _circumstances(result)]
    body += ["</table>", f"<pre>{escape(result.command)}</pre>", "<h2>The recipe</h2>"]
    body += [f"<pre>{escape(result.recipe)}</pre>"]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"/>',
            f"<title>{escape(result.name)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def _remarks(result: RunResult) -> Sequence[str]:
    remarks = [
        "Zeros: of the matrices in the encoder's layers. Size: of the file as it is and after gzip (of files over 16 "
        "MiB estimated from as much)."
    ]
    if result.tokens:
        remarks.append(
            f"Latency: one feature of {result.tokens} tokens. Throughput: features a second in batches of up to "
            f"{BATCH}. Both on one thread, as medians of what fits into about a second at the end of the run: an "
            "impression, no benchmark."
        )
    return remarks


def _circumstances(result: RunResult) -> list[tuple[str, str]]:
    return [
        ("recipe", result.recipe_source),
        *((f"{split} data", text) for split, text in result.data.items()),
        ("machine", result.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
    ]
