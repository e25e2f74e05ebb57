"""Does optimum-onnx load an exported directory and answer a question with it?

Stand-alone, for an environment of its own (requirements-optimum.txt): Transformers 4.57 reads here what Transformers 5
wrote. `ORTModelForQuestionAnswering` loads the directory, the `question-answering` pipeline answers, and the logits are
compared with those of ONNX Runtime alone.

    python check.py EXPORTED_DIR [--question TEXT --context TEXT]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import transformers
from optimum.onnxruntime import ORTModelForQuestionAnswering
from transformers import AutoTokenizer, pipeline

QUESTION = "Which river flows through Paris?"
CONTEXT = "Paris is the capital of France. The Seine flows through the city, and the Loire is the longest river."


def main() -> int:
    """Load, answer, compare; 0 if the logits are equal and the answer is a piece of the context."""
    parser = argparse.ArgumentParser(description="Answer a question with an exported model through optimum-onnx.")
    parser.add_argument("directory", type=Path, help="what --onnx_export_path wrote: model.onnx, config, tokenizer")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--context", default=CONTEXT)
    args = parser.parse_args()
    path = args.directory / "model.onnx"
    if not path.is_file():
        parser.error(f"there is no {path}")

    model = ORTModelForQuestionAnswering.from_pretrained(args.directory)
    tokenizer = AutoTokenizer.from_pretrained(args.directory)
    answer = pipeline("question-answering", model=model, tokenizer=tokenizer)(
        question=args.question, context=args.context
    )
    print(f"transformers {transformers.__version__}, onnxruntime {onnxruntime.__version__}, {args.directory}")
    print(f"question: {args.question}\nanswer:   {answer['answer']}  (score {answer['score']:.3f})")

    features = tokenizer(args.question, args.context, return_tensors="np")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {node.name: features[node.name].astype(np.int64) for node in session.get_inputs()}
    raw = session.run(["start_logits", "end_logits"], feed)
    outputs = model(**features)
    pairs = zip(("start_logits", "end_logits"), raw, strict=True)
    difference = max(np.abs(outputs[name] - array).max() for name, array in pairs)
    print(f"layers: {model.config.num_hidden_layers}; largest difference from ONNX Runtime alone: {difference:.1e}")
    if not difference <= 1e-5:
        print("the logits differ", file=sys.stderr)
        return 1
    if not answer["answer"] or answer["answer"] not in args.context:
        print("the answer is no piece of the context", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
