"""Command line of the package: ``sparsification COMMAND``, or ``python -m sparsification COMMAND``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsification.cli.plan import add_plan

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
    _add_predict(commands)
    _add_convert(commands)
    _add_compare(commands)
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
        type=_positive,
        metavar="N",
        help="number of training features (more than questions where contexts are split); shows the schedule in steps",
    )
    parser.add_argument(
        "--batch_size",
        type=_positive,
        metavar="B",
        help="features in one optimizer step, over all devices and accumulated batches; needs --num_examples",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also plot the schedule")
    parser.add_argument("--strict", action="store_true", help="exit with status 2 if there are warnings")
    parser.set_defaults(run=_check, parser=parser)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="answer a question with a saved model",
        description="Answer a question with a saved model, as an evaluation does: the answer, its probability among "
        "the candidates, and its place in the context.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model or of an export, or an .onnx file")
    parser.add_argument("--question", required=True, help="the question")
    context = parser.add_mutually_exclusive_group(required=True)
    context.add_argument("--context", metavar="TEXT", help="text that holds the answer")
    context.add_argument("--context_file", type=Path, metavar="FILE", help="file of that text, in UTF-8")
    parser.add_argument("--n_best", type=_positive, default=1, metavar="N", help="answers to print (default 1)")
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    parser.add_argument(
        "--version_2_with_negative", action="store_true", help="allow 'no answer', for a model trained with it"
    )
    parser.add_argument(
        "--max_seq_length", type=_positive, help="tokens of a window (default 384, or the model's maximum if less)"
    )
    parser.add_argument(
        "--doc_stride", type=_positive, help="tokens that two windows share (default 128, or fewer in a smaller window)"
    )
    parser.add_argument("--max_answer_length", type=_positive, default=30, help="longest answer in tokens (default 30)")
    parser.set_defaults(run=_predict)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare runs: scores, sparsity, size and speed",
        description="Compare runs with recipes by the reports in their output folders.",
    )
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", type=Path, help="the --output_dir of a run")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png|svg|html",
        help="also plot scores against latency and size, with the Pareto front",
    )
    parser.set_defaults(run=_compare)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


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


def _predict(args: argparse.Namespace) -> int:
    from sparsification.errors import SparsificationError
    from sparsification.tasks.question_answering.predict import load_predictor

    try:
        context = args.context
        if args.context_file is not None:
            # newline="": answers are located by character, so line ends must not be translated.
            with args.context_file.open(encoding="utf-8-sig", newline="") as file:
                context = file.read()
        answers = load_predictor(args.model).answer(
            args.question,
            context,
            version_2_with_negative=args.version_2_with_negative,
            max_seq_length=args.max_seq_length,
            doc_stride=args.doc_stride,
            max_answer_length=args.max_answer_length,
        )[: args.n_best]
    except (SparsificationError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps([vars(answer) for answer in answers], indent=2, ensure_ascii=False))
    for answer in [] if args.json else answers:
        place = "" if answer.start is None else f", characters {answer.start} to {answer.end}"
        print(f"{answer.answer or 'no answer'}  ({answer.probability:.1%}{place})")
    return 0


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


def _compare(args: argparse.Namespace) -> int:
    from sparsification.errors import SparsificationError
    from sparsification.report.compare import compare

    try:
        print(compare(args.runs, args.plot))
    except SparsificationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
