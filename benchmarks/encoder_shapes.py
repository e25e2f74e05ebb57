"""Families of encoders with sparse operators: what is fused, and how much faster that is than ONNX Runtime's int8.

    make bench-encoders, or python -m benchmarks.encoder_shapes

Each family's model has the shape of its base model, but two layers and a small vocabulary; its weights are random, 90 %
of those of its Linear layers zero in 1x4 blocks, and it is quantized to int8. Its model.onnx and model.sparse.onnx take
turns on one row of 128 tokens, in one process on one thread; medians of processor time are compared. The files are kept
in --work_dir, and made only where they are missing. Minutes.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.onnx_exporters import OPSET, OUTPUTS, make_batch, make_model, quantize
from sparsification.export.onnx import ONNX_FILE, export_onnx
from sparsification.export.sparse import export_sparse
from sparsification.plan.timing import take_turns
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown
from sparsification.runtime import load_session
from sparsification.runtime.rewrite import DOMAIN, SPARSE_FILE

ROOT = Path(__file__).resolve().parent.parent
LAYERS, TOKENS, SPARSITY = 2, 128, 0.9
BASE = {"hidden_size": 768, "num_hidden_layers": LAYERS, "num_attention_heads": 12, "intermediate_size": 3072}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
# Name: model type and configuration; XLM-R's and CamemBERT's code is RoBERTa's.
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "BERT": ("bert", BASE),
    "RoBERTa, XLM-R": ("roberta", BASE | {"type_vocab_size": 1, "max_position_embeddings": 514}),
    "DistilBERT": ("distilbert", {"n_layers": LAYERS}),
    "ELECTRA": ("electra", BASE | {"embedding_size": 768}),
    "MPNet": ("mpnet", BASE),
    "DeBERTa v3": (
        "deberta-v2",
        BASE
        | {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0, "position_buckets": 256}
        | {"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True},
    ),
    "ModernBERT": ("modernbert", BASE | SPECIAL | {"intermediate_size": 1152}),
}
KINDS = ("QuantizedAttention", "AddNormQuantize", "AddNorm", "SparseLinearQuantized", "SparseLinear")
TEXT = f"""\
Base shapes with {LAYERS} layers, {SPARSITY:.0%} of the weights zero in 1x4 blocks, int8, one row of {TOKENS} tokens.
Processor time in ms, medians over {{rounds}} rounds in which both files of a model take turns. ONNX Runtime computes
`model.onnx`; `model.sparse.onnx` has the operators that are counted: attention as one node; a sum, LayerNormalization
and quantization as one (AddNormQuantize); a layer, with GELU if one follows, and with the next layer's quantization if
that follows (SparseLinearQuantized). What is not fused is left to ONNX Runtime.
"""


def main() -> None:
    """Make the files, time them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, default=ROOT / "benchmarks" / "out" / "encoder_shapes")
    parser.add_argument("--rounds", type=int, default=5, help="0 only makes the files")
    parser.add_argument("--seconds", type=float, default=0.3, help="of one file in one round")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "encoder_shapes.md")
    args = parser.parse_args()
    for family in FAMILIES:
        make_files(family, args.work_dir / family)
    if args.rounds == 0:
        return
    results = {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "rounds": args.rounds,
        "rows": [measure(family, args.work_dir / family, args.rounds, args.seconds) for family in FAMILIES],
    }
    args.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    args.output.write_text(report(results), encoding="utf-8")
    print(report(results))


def make_files(family: str, folder: Path) -> None:
    """Export a family's model, dense and sparse, where that has not been done."""
    if (folder / SPARSE_FILE).is_file():
        return
    model = make_model(*FAMILIES[family], SPARSITY)
    batches = [make_batch(model, rows, length, seed) for seed, (rows, length) in enumerate(((4, 96), (2, 40)))]
    quantize(model, batches)
    names = {"input_names": list(batches[0]), "output_names": OUTPUTS}
    exported = export_onnx(model, folder, **names, check_batches=batches, opset=OPSET)
    export_sparse(exported.path, batches)


def measure(family: str, folder: Path, rounds: int, seconds: float) -> dict:
    """Count the sparse operators of a family's file, and time both files."""
    nodes = onnx.load(folder / SPARSE_FILE).graph.node
    sessions = [load_session(folder / name, threads=1) for name in (ONNX_FILE, SPARSE_FILE)]
    ids = np.random.default_rng(7).integers(10, 2000, (1, TOKENS))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    dense, sparse = take_turns([partial(session.run, None, feed) for session in sessions], rounds, seconds)
    kinds = Counter(node.op_type for node in nodes if node.domain == DOMAIN)
    return {"family": family, "kinds": kinds, "dense": dense, "sparse": sparse}


def report(results: Mapping) -> str:
    """The results as Markdown."""
    rows = []
    for row in results["rows"]:
        counts = [str(row["kinds"].get(kind, 0)) for kind in KINDS]
        times = [f"{row['dense']:.2f}", f"{row['sparse']:.2f}", f"{row['dense'] / row['sparse']:.1f}x"]
        rows.append([row["family"], *counts, *times])
    lines = [
        "# Families of encoders with sparse operators",
        "",
        f"{results['date']}, one thread on {results['cpu']}; ONNX Runtime {results['onnxruntime']}. Made by "
        "`make bench-encoders`.",
        "",
        TEXT.format(**results),
        markdown((["encoder", *KINDS, "ONNX Runtime int8", "sparse", "faster"], rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
