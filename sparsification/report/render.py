"""Report of a run: ``report.md``, and ``report.html`` with plots; the latter needs no other file and no network."""

import re
from collections.abc import Sequence
from pathlib import Path

from sparsification.atomic_io import atomic_write_text
from sparsification.report.curves import charts, evaluations
from sparsification.report.page import html_charts, html_code, html_page, html_table, html_terms, html_tiles
from sparsification.report.profiling import BATCH
from sparsification.report.results import History, RunResult, save_result
from sparsification.report.tables import markdown, result_table, transpose

_FLAG = re.compile(r" (?=--\w)")


def write_documents(result: RunResult, history: History, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``; each file is replaced as a whole."""
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
    parts += [f"```\n{_by_flag(result.command)}\n```", "## The recipe", f"```yaml\n{result.recipe.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def report_html(result: RunResult, history: History) -> str:
    """The report as one page."""
    body = [html_tiles(headline(result)), html_charts(charts(result, history)), "<h2>Models</h2>"]
    body += [html_table(transpose(result_table(result)))]
    body += [f'<p class="note">{text}</p>' for text in _remarks(result)]
    body += ["<h2>The run</h2>", html_terms(_circumstances(result)), html_code(_by_flag(result.command))]
    body += ["<h2>The recipe</h2>", html_code(result.recipe)]
    return html_page(result.name, body)


def headline(result: RunResult) -> list[tuple[str, str, str]]:
    """The figures of the model that came out, each with the teacher's: name, value, comparison.

    The model is the last one of the table: the exported one where the run exported, otherwise the student.
    """
    model, teacher = result.models[-1], result.model("teacher")
    label = next(reversed(result.metrics.values()), None)
    tiles = []
    if label in model.scores:
        known = teacher is not None and label in teacher.scores
        tiles.append((label, f"{model.scores[label]:.1f}", f"teacher: {teacher.scores[label]:.1f}" if known else ""))
    if model.sparsity is not None:
        tiles.append(("Encoder sparsity", f"{model.sparsity:.1%}", f"{model.parameters:,} parameters"))
    if model.gzipped is not None:
        known = teacher is not None and teacher.gzipped is not None
        note = f", teacher: {teacher.gzipped / 1e6:.1f} MB" if known else ""
        tiles.append(("File size", f"{model.gzipped / 1e6:.1f} MB", f"after gzip{note}"))
    if model.latency is not None:
        tiles.append(("Latency", f"{model.latency:.1f} ms", f"{model.name}, one thread"))
    return tiles


def _by_flag(command: str) -> str:
    """A command line with one flag a line, which a shell takes as it is."""
    return _FLAG.sub(" \\\\\n    ", command)


def _remarks(result: RunResult) -> Sequence[str]:
    remarks = [
        "Sparsity: share of zeros in the matrices of the encoder's layers. Size: of the file, and of the file after "
        "gzip (estimated from samples of 16 MiB where the file is larger)."
    ]
    if result.tokens:
        remarks.append(
            f"Latency: one feature of {result.tokens} tokens. Throughput: features per second in batches of up to "
            f"{BATCH}. Both are measured on one thread, as the median of about one second of runs at the end of "
            "training. Use a benchmark for exact figures."
        )
    return remarks


def _circumstances(result: RunResult) -> list[tuple[str, str]]:
    return [
        ("recipe", result.recipe_source),
        *((f"{split} data", text) for split, text in result.data.items()),
        ("machine", result.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
    ]
