"""PyTorch's two ONNX exporters side by side: which models they export, and what the files are like.

    make bench-exporters, or python -m benchmarks.onnx_exporters

Each family's model has four layers of width 256 and random weights, 80 % of those of its Linear layers zero in 1x4
blocks; one more is as large as BERT base. It is exported in fp32, in int8 for ONNX Runtime and in int8 for DeepSparse,
by both exporters, at opset 18, with the checks of ``export_onnx``. Times are processor time on one thread. The two
files of a model take turns in ONNX Runtime. Half an hour; what was measured before an interruption is kept.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedModel

from sparsification.base import TrainingStep
from sparsification.export.onnx import export_onnx
from sparsification.export.targets import DYNAMO, TORCHSCRIPT
from sparsification.export.verify import ExportError, OnnxModel
from sparsification.manager import ScheduledModifierManager
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown
from sparsification.runtime.rewrite import SparseGraphError, rewrite_sparse

ROOT = Path(__file__).resolve().parent.parent
OPSET = 18
OUTPUTS = ("start_logits", "end_logits")
SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
VOCABULARY = {"vocab_size": 2000}
SPECIAL = {"cls_token_id": 2, "sep_token_id": 3}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
DEBERTA_V2 = RELATIVE | {"position_buckets": 64, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
# Name: model type and configuration. XLM-R's and CamemBERT's code is RoBERTa's.
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "BERT": ("bert", SIZE),
    "RoBERTa": ("roberta", SIZE),
    "DistilBERT": ("distilbert", {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024}),
    "ELECTRA": ("electra", SIZE),
    "ALBERT": ("albert", SIZE),
    "MPNet": ("mpnet", SIZE),
    "ConvBERT": ("convbert", SIZE),
    "MobileBERT": ("mobilebert", {"num_hidden_layers": 4}),
    "DeBERTa v1": ("deberta", SIZE | RELATIVE | {"pos_att_type": ["c2p", "p2c"]}),
    "DeBERTa v2": ("deberta-v2", SIZE | DEBERTA_V2 | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "DeBERTa v3": ("deberta-v2", SIZE | DEBERTA_V2 | {"share_att_key": True}),
    "ModernBERT": ("modernbert", SIZE | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3} | SPECIAL),
    "XLNet": ("xlnet", {"d_model": 256, "n_layer": 4, "n_head": 4, "d_inner": 1024}),
    "BART": (
        "bart",
        {"d_model": 256, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    ),
    "BERT base": ("bert", {"vocab_size": 30522}),
}
FORMS = {"fp32": "onnxruntime", "int8": "onnxruntime", "int8, DeepSparse's form": "deepsparse"}  # and their targets
RECIPE = "modifiers:\n  - !QuantizationModifier {start_epoch: 0.0, disable_quantization_observer_epoch: 1.0}\n"
SPARSITY = 0.8
TEXT = """\
In each cell: TorchScript exporter / dynamo exporter. The export's processor time includes the checks. The difference is
the largest one from PyTorch's outputs (fp32), or the mean one from the fake-quantized model's in standard deviations
(int8). ONNX Runtime: ratio of the median processor times of one row of 128 tokens, over {rounds} rounds in which the
two files take turns. Sparse nodes: how many nodes of sparse operators `rewrite_sparse` puts into the int8 file.

`--onnx_exporter auto`, the default, follows from this table: dynamo with opsets 18 to 23, for ONNX Runtime and for all
models but XLNet (and mBART, whose file fails with one row); TorchScript otherwise. The default opset is 18.
DeepSparse's form passes the same checks from both exporters, but DeepSparse itself has only run TorchScript's files, at
opset 14 (`onnx_engines.md`): its default.
Forms that the table lacks have not been measured here; `tests/export/test_exporters.py` exports BERT, DistilBERT,
RoBERTa and ALBERT in int8 by both exporters and compares the files.

Two changes to the dynamo exporter's graph are part of the export (`sparsification/export/graph.py`). As the exporter
writes it, ONNX Runtime does not fuse GELU, and it fuses LayerNormalization into a slower operator.
"""


def main() -> None:
    """Measure what has not been measured, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES, metavar="FAMILY")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM")
    parser.add_argument("--rounds", type=int, default=20, help="of ONNX Runtime's runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "onnx_exporters.md")
    parser.add_argument("--anew", action="store_true", help="forget the rows that were measured before")
    args = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("torch", "onnxscript", "onnxruntime", "transformers")
    results = {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "versions": {name: version(name) for name in packages},
        "rounds": args.rounds,
        "rows": [],
    }
    measured = args.output.with_suffix(".json")
    if measured.exists() and not args.anew:
        before = json.loads(measured.read_text(encoding="utf-8"))
        if {**before, "rows": [], "date": ""} == {**results, "date": ""}:  # the same machine and packages
            results["rows"] = before["rows"]
    done = {(row["family"], row["form"]) for row in results["rows"]}
    todo = [(family, form) for form in args.forms for family in args.families if (family, form) not in done]
    if todo:
        compare_exporters("BERT", "fp32", 1)  # the first export imports modules
    for family, form in todo:
        results["rows"].append(compare_exporters(family, form, args.rounds))
        results["rows"].sort(key=lambda row: (list(FAMILIES).index(row["family"]), list(FORMS).index(row["form"])))
        measured.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(
            row_of(next(row for row in results["rows"] if (row["family"], row["form"]) == (family, form))), flush=True
        )
    args.output.write_text(report(results), encoding="utf-8")


def compare_exporters(family: str, form: str, rounds: int) -> dict:
    """Export one model by both exporters, and run the files."""
    model = make_model(*FAMILIES[family])
    batches = [make_batch(model, rows, length, seed) for seed, (rows, length) in enumerate(((4, 96), (2, 40)))]
    if form != "fp32":
        quantize(model, batches)
    row: dict = {"family": family, "form": form}
    with tempfile.TemporaryDirectory() as scratch:
        paths = {}
        for exporter in (TORCHSCRIPT, DYNAMO):
            folder = Path(scratch) / exporter
            start = time.process_time()
            try:
                exported = export_onnx(
                    model,
                    folder,
                    input_names=list(batches[0]),
                    output_names=OUTPUTS,
                    check_batches=batches,
                    opset=OPSET,
                    target=FORMS[form],
                    exporter=exporter,
                )
            except ExportError as error:
                row[exporter] = {"error": str(error)}
                continue
            row[exporter] = {
                "seconds": time.process_time() - start,
                "megabytes": exported.size_bytes / 1e6,
                "nodes": len(onnx.load(exported.path).graph.node),
                "difference": exported.max_difference if form == "fp32" else exported.mean_difference,
                "sparse_nodes": sparse_nodes(exported.path) if form == "int8" else None,
            }
            paths[exporter] = exported.path
        if len(paths) == 2:
            row["time_ratio"] = time_ratio(paths, make_batch(model, 1, 128, 7), rounds)
    return row


def make_model(model_type: str, sizes: Mapping[str, object], sparsity: float = SPARSITY) -> PreTrainedModel:
    """A random model for question answering, sparse in 1x4 blocks."""
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(
        AutoConfig.for_model(model_type, **VOCABULARY | dict(sizes))
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.in_features % 4 == 0:
            rows, columns = module.weight.shape
            keep = torch.rand(rows, columns // 4, generator=generator) >= sparsity
            module.weight.data *= keep.repeat_interleave(4, dim=1)
    return model


def make_batch(model: PreTrainedModel, rows: int, length: int, seed: int) -> dict[str, Tensor]:
    """Random tokens, each row but the last with more padding at its end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 2000, (rows, length), generator=generator)
    lengths = torch.arange(length - 8 * (rows - 1), length + 1, 8)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": torch.where(mask == 1, ids, model.config.pad_token_id or 0), "attention_mask": mask}


def quantize(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Quantize a model, with ranges from a few batches."""
    manager = ScheduledModifierManager.from_yaml(RECIPE)
    manager.initialize(model)
    manager.on_train_begin(TrainingStep(0, 1))
    with torch.no_grad():
        model.train()
        for batch in batches:
            model(**batch)
    manager.finalize()
    model.eval()


def sparse_nodes(path: Path) -> int:
    """How many nodes of sparse operators an int8 file gets; 0 if it is refused."""
    try:
        return sum(rewrite_sparse(path).fused.values())
    except SparseGraphError:
        return 0


def time_ratio(paths: Mapping[str, Path], batch: Mapping[str, Tensor], rounds: int) -> float:
    """Median processor time of the dynamo exporter's file over that of the TorchScript exporter's; they take turns."""
    models = {exporter: OnnxModel(path, threads=1) for exporter, path in paths.items()}
    times: dict[str, list[float]] = {exporter: [] for exporter in models}
    for _ in range(rounds + 1):
        for exporter, run in models.items():
            start = time.process_time()
            run(batch)
            times[exporter].append(time.process_time() - start)
    medians = {exporter: statistics.median(mine[1:]) for exporter, mine in times.items()}
    return medians[DYNAMO] / medians[TORCHSCRIPT]


def row_of(row: Mapping) -> list[str]:
    """A row of the table; of an exporter that fails, its error in place of figures."""
    cells = [row["family"], row["form"]]
    for key, pattern in (("seconds", "{:.1f}"), ("megabytes", "{:.2f}"), ("nodes", "{}"), ("difference", "{:.1e}")):
        pair = [row[exporter].get(key) for exporter in (TORCHSCRIPT, DYNAMO)]
        cells.append(" / ".join("failed" if value is None else pattern.format(value) for value in pair))
    ratio = row.get("time_ratio")
    cells.append("" if ratio is None else f"{ratio:.2f}")
    pair = [row[exporter].get("sparse_nodes") for exporter in (TORCHSCRIPT, DYNAMO)]
    cells.append(
        "" if pair == [None, None] else " / ".join("failed" if value is None else str(value) for value in pair)
    )
    return cells


def report(results: Mapping) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    heads = "family|form|export, s|file, MB|nodes|difference|ONNX Runtime, dynamo / TorchScript|sparse nodes".split("|")
    errors = [
        f"- {row['family']}, {row['form']}, {exporter}: {row[exporter]['error']}"
        for row in results["rows"]
        for exporter in (TORCHSCRIPT, DYNAMO)
        if "error" in row[exporter]
    ]
    return (
        "\n".join(
            [
                "# PyTorch's ONNX exporters side by side",
                "",
                f"{results['date']}, one thread on {results['cpu']}; {versions}; opset {OPSET}. Made by `make "
                "bench-exporters`.",
                "",
                TEXT.format(**results),
                markdown((heads, [row_of(row) for row in results["rows"]])),
                *(["", "What failed:", "", *errors] if errors else []),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
