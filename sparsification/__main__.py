"""What can be asked of recipes and models on the command line? ``python -m sparsification COMMAND --help`` says."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXIT_CODES = """\
exit codes:
  0  the recipe is right; there may be warnings
  1  the recipe is wrong, or does not fit the model: one line each on standard error
  2  --strict, and there are warnings; or the command line is wrong
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(argv)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparsification", description="Tools around recipes.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(commands)
    _add_compare(commands)
    return parser


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="say whether a recipe is right, what it will do, and whether that is what was meant",
        description="Say whether a recipe is right, what it will do and when, and what in it is probably not meant.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a .yaml, .yml or .md file")
    parser.add_argument("--recipe_args", metavar="k=v,k=v", help="other values for the recipe's variables, or JSON")
    parser.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help="a model's folder, or its hub name: what the recipe matches in it, and what will be left of it",
    )
    parser.add_argument(
        "--num_examples",
        type=_positive,
        metavar="N",
        help="training features, more than questions where contexts are split: tells the run in steps",
    )
    parser.add_argument(
        "--batch_size",
        type=_positive,
        metavar="B",
        help="features in an optimizer step, all devices and accumulated batches together; goes with --num_examples",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it, too (needs matplotlib)")
    parser.add_argument("--strict", action="store_true", help="exit with 2 where there are warnings")
    parser.set_defaults(run=_check, parser=parser)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="put runs side by side: scores against zeros, size and speed",
        description="Put runs by recipes side by side, from the reports that they left in their output folders.",
    )
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", type=Path, help="the --output_dir of a run")
    parser.add_argument("--plot", type=Path, metavar="FILE.png|svg", help="draw it, too (needs matplotlib)")
    parser.set_defaults(run=_compare)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _check(args: argparse.Namespace) -> int:
    if (args.num_examples is None) != (args.batch_size is None):
        args.parser.error("--num_examples and --batch_size go together")
    # torch takes a second or more to import: not for --help.
    from sparsification.check import DOUBTFUL, OK, WRONG, CheckError, check

    try:
        report, warnings = check(
            args.recipe,
            args.recipe_args,
            model_name=args.model,
            num_examples=args.num_examples,
            batch_size=args.batch_size,
            plot=args.plot,
        )
    except CheckError as error:
        print(error, file=sys.stderr)
        return WRONG
    print(report)
    return DOUBTFUL if args.strict and warnings else OK


def _compare(args: argparse.Namespace) -> int:
    from sparsification.report.compare import compare
    from sparsification.report.facts import ReportError

    try:
        print(compare(args.runs, args.plot))
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
