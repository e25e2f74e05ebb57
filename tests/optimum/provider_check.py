"""Do optimum-onnx and sentence-transformers run an exported model of embeddings on the sparse execution provider?

Stand-alone, for an environment of its own (requirements-optimum.txt) with onnxruntime-ep-sparse, as check.py. Both
libraries pass the name of a provider to ONNX Runtime, which then ignores the providers of the session's options: the
session that they have made is replaced. The embeddings are compared with those of the CPU provider.

    python provider_check.py EXPORTED_DIR
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from sentence_transformers import SentenceTransformer

import onnxruntime_ep_sparse as sparse

TEXTS = ["Paris is the capital of France.", "The Seine flows through it.", "A sentence of a few more words than these."]


def main() -> int:
    """Load, embed, compare; 0 if layers are sparse and the embeddings are close."""
    parser = argparse.ArgumentParser(description="Embed texts on the sparse execution provider.")
    parser.add_argument("directory", type=Path, help="what run_embedding.py --onnx_export_path wrote")
    directory = parser.parse_args().directory

    model = SentenceTransformer(str(directory), backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"})
    expected = model.encode(TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        session = onnxruntime.InferenceSession(directory / "model.onnx", sparse.session_options(report=report))
        taken = sum('"taken": ""' not in line for line in report.read_text().splitlines())
    model[0].auto_model.session = session  # an ORTModelForFeatureExtraction of optimum-onnx
    embeddings = model.encode(TEXTS)
    difference = np.abs(embeddings - expected).max()
    print(f"{directory}: {taken} sparse layers; largest difference from the CPU provider: {difference:.1e}")
    if not taken or not difference <= 1e-2:  # a quantization step of an int8 model
        print("no layer is sparse, or the embeddings differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
