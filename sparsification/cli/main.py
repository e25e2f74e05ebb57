"""What can be asked of recipes and models on the command line? ``python -m sparsification COMMAND --help`` says."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

CHECK_EXIT_CODES = """\
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
    parser = argparse.ArgumentParser(prog="python -m sparsification", description="Tools around recipes and models.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(commands)
    _add_predict(commands)
    _add_convert(commands)
    _add_compare(commands)
    return parser


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="say whether a recipe is right, what it will do, and whether that is what was meant",
        description="Say whether a recipe is right, what it will do and when, and what in it is probably not meant.",
        epilog=CHECK_EXIT_CODES,
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


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="ask a saved model a question",
        description="Ask a saved model a question, with what an evaluation does: the answer, its probability among the "
        "candidates, and where in the context it stands.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder of Transformers or of an export, or an .onnx file")
    parser.add_argument("--question", required=True)
    context = parser.add_mutually_exclusive_group(required=True)
    context.add_argument("--context", metavar="TEXT", help="what the answer is looked for in")
    context.add_argument("--context_file", type=Path, metavar="FILE", help="the same, from a file in UTF-8")
    parser.add_argument("--n_best", type=_positive, default=1, metavar="N", help="so many answers (default 1)")
    parser.add_argument("--json", action="store_true", help="as a list of JSON objects")
    parser.add_argument(
        "--version_2_with_negative", action="store_true", help="there may be no answer: the model was trained so"
    )
    parser.add_argument(
        "--max_seq_length", type=_positive, help="tokens of a window (default 384, or what the model has)"
    )
    parser.add_argument(
        "--doc_stride", type=_positive, help="tokens that two windows share (default 128, or what fits into a window)"
    )
    parser.add_argument("--max_answer_length", type=_positive, default=30, help="longest answer in tokens (default 30)")
    parser.set_defaults(run=_predict)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare runs: score, sparsity, size and latency",
        description="Compare runs by recipes, from the reports in their output folders.",
    )
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", type=Path, help="the --output_dir of a run")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png|svg|html",
        help="plot score against latency and size, with the Pareto front",
    )
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
    # The engine knows no task: this is the script's part, beside the package.
    from sparsification.errors import SparsificationError
    from sparsification.tasks.question_answering.predict import load_predictor

    try:
        context = args.context
        if args.context_file is not None:
            # Ends of lines as they are: answers are told by their characters.
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
        help="turn a directory that SparseML saved into a plain checkpoint",
        description="Turn a directory that SparseML saved into a plain checkpoint, its recipe and its int8 ranges.",
    )
    parser.add_argument("source", metavar="DIR", type=Path, help="what SparseML saved")
    parser.add_argument("target", metavar="OUT", type=Path, help="must not exist, or be empty")
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
