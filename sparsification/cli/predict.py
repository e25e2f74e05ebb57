"""The command ``sparsification predict``: what a saved model of any task says about texts."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparsification.cli.values import positive

EXAMPLES = """\
examples:
  sparsification predict classifier --text "A fine film."
  sparsification predict reranker --text "Where is Oslo?" --text_pair "Oslo lies in Norway."
  sparsification predict tagger/onnx/model.onnx --file sentences.txt --json
  sparsification predict answers --question "Where is Oslo?" --context_file norway.txt
"""


def add_predict(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "predict",
        help="labels, entities, embeddings or answers of a saved model",
        description="What a saved model says about texts. Its task is that of its config.json. For a classifier, a "
        "tagger or a model of embeddings give --text or --file; for a model that answers questions, --question and "
        "--context: it answers as an evaluation does, with the answer's probability among the candidates, and its "
        "place in the context.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model or of an export, or an .onnx file")
    texts = parser.add_argument_group("classifiers, taggers and embeddings")
    texts.add_argument("--text", metavar="TEXT", help="the text")
    texts.add_argument("--text_pair", metavar="TEXT", help="the second text of a pair; needs --text")
    texts.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="texts: .txt (one on a line; a tab separates those of a pair), .csv, .json, .jsonl or .parquet",
    )
    answers = parser.add_argument_group("models that answer questions")
    answers.add_argument("--question", help="the question")
    context = answers.add_mutually_exclusive_group()
    context.add_argument("--context", metavar="TEXT", help="text that holds the answer")
    context.add_argument("--context_file", type=Path, metavar="FILE", help="file of that text, in UTF-8")
    answers.add_argument("--n_best", type=positive, default=1, metavar="N", help="answers to print (default 1)")
    answers.add_argument(
        "--version_2_with_negative", action="store_true", help="allow 'no answer', for a model trained with it"
    )
    answers.add_argument(
        "--doc_stride", type=positive, help="tokens that two windows share (default 128, or fewer in a smaller window)"
    )
    answers.add_argument("--max_answer_length", type=positive, default=30, help="longest answer in tokens (default 30)")
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    parser.add_argument(
        "--max_seq_length",
        type=positive,
        help="tokens of a text or of a window (default: the model's maximum; of a window 384, or the maximum if less)",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    given = args.context if args.context is not None else args.context_file
    if args.question is None:
        if given is not None:
            args.parser.error("the following arguments are required: --question")
        if (args.text is None) == (args.file is None):
            args.parser.error("one of the arguments --text --file --question is required")
        if args.text_pair is not None and args.text is None:
            args.parser.error("--text_pair needs --text")
    elif given is None:
        args.parser.error("one of the arguments --context --context_file is required")
    elif args.text is not None or args.file is not None or args.text_pair is not None:
        args.parser.error("--question and --text, --text_pair or --file exclude each other")
    # Imported here because torch takes a second or more, which --help does not need.
    from sparsification.errors import SparsificationError

    try:
        found, lines = _answers(args) if args.question is not None else _predictions(args)
    except (SparsificationError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else "\n".join(lines))
    return 0


def _predictions(args: argparse.Namespace) -> tuple[Sequence[object], Iterable[str]]:
    """Predictions for texts, as they are printed in JSON and as lines."""
    from sparsification.tasks.predict import load_predictor
    from sparsification.tasks.question_answering.predictor import QuestionAnswerer
    from sparsification.tasks.saved_model import PredictError

    predictor = load_predictor(args.model, args.max_seq_length)
    if isinstance(predictor, QuestionAnswerer):
        raise PredictError(f"{args.model} answers questions: give --question and --context")
    inputs: Sequence[tuple[str, ...]]
    if args.file is None:
        inputs = [(args.text,) if args.text_pair is None else (args.text, args.text_pair)]
    elif args.file.suffix.lower() == ".txt":
        lines = args.file.read_text(encoding="utf-8-sig").splitlines()
        inputs = [tuple(line.split("\t")) for line in lines if line.strip()]
        if len({len(texts) for texts in inputs}) != 1:
            raise PredictError(f"{args.file}: expected one text on each line, or two with a tab between them")
    else:
        inputs = predictor.read(args.file).inputs
    found = predictor.predict(inputs)
    if args.file is None and not args.json and "embedding" in found[0]:
        return found, [json.dumps(found[0]["embedding"])]
    return found, (
        f"{predictor.show(one)}" + ("" if args.file is None else f"  {predictor.text_of(texts)}")
        for one, texts in zip(found, inputs, strict=True)
    )


def _answers(args: argparse.Namespace) -> tuple[Sequence[object], Iterable[str]]:
    """Answers to the question, as they are printed in JSON and as lines."""
    from sparsification.tasks.question_answering.predict import load_predictor

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
    return [vars(answer) for answer in answers], (
        f"{answer.answer or 'no answer'}  ({answer.probability:.1%}"
        + ("" if answer.start is None else f", characters {answer.start} to {answer.end}")
        + ")"
        for answer in answers
    )
