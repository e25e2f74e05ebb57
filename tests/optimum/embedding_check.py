"""Does sentence-transformers load an exported model of embeddings, and give the embeddings of this project?

Stand-alone, for an environment of its own (requirements-optimum.txt), as check.py. ``SentenceTransformer(DIR,
backend="onnx")`` loads the export; its embeddings are compared with those of the file in ONNX Runtime alone, pooled and
normalized by what modules.json says.

    python embedding_check.py EXPORTED_DIR
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import sentence_transformers
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

TEXTS = ["Paris is the capital of France.", "The Seine flows through it.", "A sentence of a few more words than these."]


def main() -> int:
    """Load, embed, compare; 0 if the embeddings are equal."""
    parser = argparse.ArgumentParser(description="Embed texts with an exported model through sentence-transformers.")
    parser.add_argument("directory", type=Path, help="what run_embedding.py --onnx_export_path wrote")
    args = parser.parse_args()

    model = SentenceTransformer(str(args.directory), backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"})
    embeddings = model.encode(TEXTS)
    pooling = json.loads((args.directory / "1_Pooling" / "config.json").read_text())
    kinds = [step["type"] for step in json.loads((args.directory / "modules.json").read_text())]

    features = AutoTokenizer.from_pretrained(args.directory)(TEXTS, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(args.directory / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {node.name: features[node.name].astype(np.int64) for node in session.get_inputs()}
    (hidden,) = session.run(["last_hidden_state"], feed)
    mask = features["attention_mask"][:, :, None]
    expected = (hidden * mask).sum(axis=1) / mask.sum(axis=1) if pooling["pooling_mode_mean_tokens"] else hidden[:, 0]
    if any(kind.endswith("Normalize") for kind in kinds):
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    difference = np.abs(embeddings - expected).max()
    print(f"sentence-transformers {sentence_transformers.__version__}, {args.directory}: {embeddings.shape}")
    print(f"largest difference from ONNX Runtime alone: {difference:.1e}")
    if not difference <= 1e-5:
        print("the embeddings differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
