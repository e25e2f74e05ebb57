"""Tables of models and their figures, for Markdown and the terminal."""

from collections.abc import Sequence

from sparsification.report.results import ModelResult, RunResult

Table = tuple[list[str], list[list[str]]]  # column names, and rows
Entry = tuple[str, RunResult, ModelResult]  # name of the row, the run, one of its models


def result_table(result: RunResult) -> Table:
    """One row for each model of a run."""
    return model_table([(model.name, result, model) for model in result.models])


def model_table(entries: Sequence[Entry]) -> Table:
    """One row for each model; columns without any value are left out."""
    labels = list(dict.fromkeys(label for _, result, _ in entries for label in result.metrics.values()))
    kept = f"{labels[-1]} kept" if labels else "kept"  # without a score the column is empty
    head = ["", *labels, kept, "parameters", "sparsity", "file", "gzipped", "latency", "throughput"]
    return _known(head, [_row(*entry, labels) for entry in entries])


def _row(name: str, result: RunResult, model: ModelResult, labels: Sequence[str]) -> list[str]:
    return [
        name,
        *(_text(model.scores.get(label), "{:.2f}") for label in labels),
        _text(result.recovery(model), "{:.1%}"),
        _text(model.parameters, "{:,}"),
        _text(model.sparsity, "{:.1%}"),
        _text(model.size, "{:.1f} MB", 1e-6),
        _text(model.gzipped, "{:.1f} MB", 1e-6),
        _text(model.latency, "{:.1f} ms"),
        _text(model.throughput, "{:.1f} /s"),
    ]


def _text(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value if scale == 1.0 else value * scale)


def _known(head: list[str], rows: list[list[str]]) -> Table:
    keep = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    return [head[column] for column in keep], [[row[column] for column in keep] for row in rows]


def markdown(table: Table) -> str:
    """The table as Markdown, numbers aligned to the right."""
    head, rows = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [head, rule, *rows])


def transpose(table: Table) -> Table:
    """A table with its rows as columns; a few models side by side fit on a phone this way."""
    (corner, *names), rows = table
    head = [corner, *(row[0] for row in rows)]
    return head, [[name, *(row[column] for row in rows)] for column, name in enumerate(names, start=1)]


def plain(table: Table) -> str:
    """The table as text for a terminal."""
    head, rows = table
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(_line(row, widths) for row in [head, *rows])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]).rstrip()
