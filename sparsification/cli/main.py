"""Command line of the package: ``sparsification COMMAND``, or ``python -m sparsification COMMAND``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsification.cli.compare import add_compare
from sparsification.cli.plan import add_plan
from sparsification.cli.predict import add_predict
from sparsification.cli.values import positive

CHECK_EXIT_CODES = """\
exit codes:
  0  the recipe is valid; there may be warnings
  1  the recipe is not valid, or does not fit the model: one line for each error on standard error
  2  --strict is given and there are warnings, or the command line is not valid
"""


def main(argv: Sequence[str] | None = None, prog: str = "sparsification") -> int:
    """Run one command.

    Args:
        argv: the arguments; None means this process's own.
        prog: how the command was called, for its help and its errors.

    Returns:
        The exit code.
    """
    args = _parser(prog).parse_args(argv)
    return args.run(args)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Tools for recipes and models.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(commands)
    add_predict(commands)
    _add_convert(commands)
    add_compare(commands)
    add_plan(commands)
    return parser


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="check a recipe, and show what it will do",
        description="Check a recipe: its errors, what it will do and when, and settings that are probably mistakes.",
        epilog=CHECK_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a .yaml, .yml or .md file")
    parser.add_argument("--recipe_args", metavar="k=v,k=v", help="recipe variables to override, as k=v pairs or JSON")
    parser.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        help="folder of a model, or its name on the hub: show what the recipe matches in it, and its size afterwards",
    )
    parser.add_argument(
        "--num_examples",
        type=positive,
        metavar="N",
        help="number of training features (more than questions where contexts are split); shows the schedule in steps",
    )
    parser.add_argument(
        "--batch_size",
        type=positive,
        metavar="B",
        help="features in one optimizer step, over all devices and accumulated batches; needs --num_examples",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also plot the schedule")
    parser.add_argument("--strict", action="store_true", help="exit with status 2 if there are warnings")
    parser.set_defaults(run=_check, parser=parser)


def _check(args: argparse.Namespace) -> int:
    if (args.num_examples is None) != (args.batch_size is None):
        args.parser.error("--num_examples and --batch_size must be given together")
    # Imported here because torch takes a second or more, which --help does not need.
    from sparsification.check.report import EXIT_WARNINGS, OK, WRONG, CheckError, check

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
    return EXIT_WARNINGS if args.strict and warnings else OK


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert a directory that SparseML saved into a plain checkpoint",
        description="Convert a directory that SparseML saved into a plain checkpoint, its recipe and its int8 ranges.",
    )
    parser.add_argument("source", metavar="DIR", type=Path, help="directory that SparseML saved")
    parser.add_argument("target", metavar="OUT", type=Path, help="directory to write; must be empty or not exist")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    from sparsification.compat.sparseml_checkpoint import convert_checkpoint
    from sparsification.errors import SparsificationError

    try:
        print("\n".join(convert_checkpoint(args.source, args.target)))
    except SparsificationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
