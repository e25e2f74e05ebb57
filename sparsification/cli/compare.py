"""The command ``sparsification compare``: runs by their reports, or two models on a data file."""

import argparse
import sys
from pathlib import Path

EPILOG = """\
examples:
  sparsification compare runs/prune80 runs/prune90 --plot runs.svg
  sparsification compare dense sparse/onnx --data test.csv --min_metric 0.9 --min_agreement 0.98

exit codes with --data:
  0  the second model passes
  1  a model or the data cannot be used
  3  the second model is below --min_metric or --min_agreement
"""
BELOW = 3


def add_compare(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "compare",
        help="compare runs by their reports, or two models on a data file",
        description="Compare runs with recipes by the reports in their output folders: scores, sparsity, size and "
        "speed. With --data, compare two models of one task, a dense one and a sparse one, on the records of a file: "
        "metrics, share of equal verdicts, the largest changes with their texts, size and latency.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="the --output_dir of a run; with --data two models: folders of saved models or exports, or .onnx files",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png|svg|html",
        help="also plot the runs' scores against latency and size, with the Pareto front",
    )
    gate = parser.add_argument_group("two models")
    gate.add_argument("--data", type=Path, metavar="FILE", help="records: .csv, .json, .jsonl, .parquet or .txt")
    gate.add_argument(
        "--min_metric", type=float, metavar="X", help="least value of the task's main metric for the second model"
    )
    gate.add_argument(
        "--min_agreement", type=float, metavar="X", help="least share of equal verdicts of both models, in [0, 1]"
    )
    gate.add_argument("--changes", type=int, default=5, metavar="N", help="changes to show (default 5)")
    gate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a JSON file")
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    given = {"min_metric": args.min_metric, "min_agreement": args.min_agreement, "json": args.json}
    if args.data is None and any(value is not None for value in given.values()):
        args.parser.error(
            f"{', '.join(f'--{name}' for name, value in given.items() if value is not None)}: need --data"
        )
    if args.data is not None and (len(args.runs) != 2 or args.plot is not None):
        args.parser.error("--data compares two models, without --plot")
    from sparsification.errors import SparsificationError

    try:
        return _compare_runs(args) if args.data is None else _compare_models(args)
    except (SparsificationError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _compare_runs(args: argparse.Namespace) -> int:
    from sparsification.report.compare import compare

    print(compare(args.runs, args.plot))
    return 0


def _compare_models(args: argparse.Namespace) -> int:
    from sparsification.tasks.gate import compare_models, failures, report

    dense, sparse = args.runs
    comparison = compare_models(dense, sparse, args.data, args.changes)
    print(report(comparison))
    if args.json is not None:
        comparison.save(args.json)
    failed = failures(comparison, args.min_metric, args.min_agreement)
    for line in failed:
        print(line, file=sys.stderr)
    return BELOW if failed else 0
