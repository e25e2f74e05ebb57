"""Which encoders can be pruned, quantized, exported, resumed and trained by two processes?

    make encoders

A tiny random model of each family goes through ``run_qa.py``: pruned and exported in fp32; pruned, quantized and
exported in int8, dense and sparse; resumed from that run's first checkpoint; trained by two processes. What comes out
is checked, and the first section of docs/encoders.md says "yes" or the words of the refusal. Anything else ends the
study.
"""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from safetensors.torch import load_file
from tqdm.auto import tqdm

import run_qa
from helpers.data import PLACES, squad_json
from helpers.studies import (
    PRUNE,
    VERSIONS,
    Cells,
    check_weights,
    family_parser,
    must,
    outcome,
    publish,
    table,
    without_output,
)
from helpers.tiny_encoders import FAMILIES, save_tiny_encoder
from sparsification.quantization.checkpoint import QUANTIZATION_FILE
from sparsification.runtime.rewrite import DOMAIN, SPARSE_FILE
from sparsification.trainer import mixin

TITLE = "Question answering"
COLUMNS = ("prune", "quantize", "ONNX", "sparse ONNX", "resume", "two processes")
QUANTIZE = "  - !QuantizationModifier {start_epoch: 1.0, disable_quantization_observer_epoch: 1.5}\n"
# SGD: Adam would make steps of gradients that are nothing but rounding, which two processes do in another order.
FLAGS = (
    "--do_train --do_eval --use_cpu --max_seq_length 96 --doc_stride 16 --pad_to_max_length false --optim sgd "
    "--learning_rate 0.1 --max_train_samples 16 --save_strategy epoch --seed 3 --report_to none --disable_tqdm true "
    "--log_level warning"
)
BATCH = 8
TIE = 8  # two blocks of four that weigh the same but for rounding, one of them pruned


def prepare(folder: Path) -> None:
    """Write data and recipes."""
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES[:6])))
    (folder / "validation.json").write_text(json.dumps(squad_json(PLACES[6:])))
    (folder / "prune.yaml").write_text(PRUNE)
    (folder / "quantize.yaml").write_text(PRUNE + QUANTIZE)


def train(folder: Path, family: str, out: str, recipe: str, *more: object, processes: int = 1) -> dict[str, float]:
    """Run the script on a family's model; ``out`` and exports are folders beside it."""
    files = ("--train_file", folder / "train.json", "--validation_file", folder / "validation.json")
    named = ("--model_name_or_path", folder / family / "model", "--output_dir", folder / family / out)
    fixed = ("--recipe", folder / recipe, "--cache_dir", folder / "cache")
    batch = ("--per_device_train_batch_size", BATCH // processes)
    return run_qa.main([str(argument) for argument in (*files, *named, *fixed, *batch, *FLAGS.split(), *more)])


def prune(folder: Path, family: str, export: bool) -> None:
    """Prune, and export in fp32."""
    here = folder / family
    metrics = train(folder, family, "pruned", "prune.yaml", *(("--onnx_export_path", here / "fp32") if export else ()))
    check_weights(here / "pruned")
    if export:
        must(metrics["eval_onnx_f1"] == metrics["eval_f1"], "the ONNX file has another F1")


def quantize(folder: Path, family: str, target: str | None, *flags: object) -> None:
    """Prune and quantize, and export in int8 for a target."""
    here = folder / family
    more = () if target is None else ("--onnx_export_path", here / "int8", "--onnx_target", target)
    metrics = train(folder, family, "quantized", "quantize.yaml", *more, *flags)
    check_weights(here / "quantized")
    ranges = load_file(here / "quantized" / QUANTIZATION_FILE)
    must(any(name.endswith("weight_quantizer.low") for name in ranges), "no weight has a range")
    if target is not None:
        must("eval_onnx_f1" in metrics, "the ONNX file was not evaluated")
        for path in (here / "int8").rglob("model.onnx"):
            kinds = [tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 2]
            must(kinds.count(onnx.TensorProto.INT8) >= 5, f"{path} has weights in int8: {kinds}")


def check_sparse(folder: Path, family: str) -> None:
    """Check that the sparse file has sparse layers; what they compute has been checked by the export."""
    path = folder / family / "int8" / SPARSE_FILE
    must(path.is_file(), "there is no sparse file")
    kinds = [node.op_type for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    must(sum(kind.startswith("SparseLinear") for kind in kinds) >= 4, f"the sparse file has {kinds}")


def resume(folder: Path, family: str) -> None:
    """Go on from the first checkpoint, and compare the end with that of the uninterrupted run."""
    here = folder / family
    steps = sorted(int(path.name.rpartition("-")[2]) for path in (here / "quantized").glob("checkpoint-*"))
    first = here / "quantized" / f"checkpoint-{steps[0]}"
    train(folder, family, "resumed", "quantize.yaml", "--resume_from_checkpoint", first)
    for name in ("model.safetensors", QUANTIZATION_FILE):
        whole, resumed = (load_file(here / out / name) for out in ("quantized", "resumed"))
        must(whole.keys() == resumed.keys(), f"the resumed run's {name} has other names")
        must(all(tensor.equal(resumed[key]) for key, tensor in whole.items()), f"the resumed run's {name} differs")


def study(folder: Path, family: str) -> tuple[Cells, list[str]]:
    """Fill the columns but for two processes; gives what stays in fp32 of a quantized model, too."""
    cells = {}
    save_tiny_encoder(family, folder / family / "model")
    fp32 = outcome(lambda: prune(folder, family, export=True), folder)
    cells["prune"] = fp32 if fp32 == "yes" else outcome(lambda: prune(folder, family, export=False), folder)
    with told() as lines:
        int8 = outcome(lambda: quantize(folder, family, "all"), folder)
        cells["quantize"] = int8 if int8 == "yes" else outcome(lambda: quantize(folder, family, None), folder)
    cells["ONNX"] = int8 if fp32 == "yes" else fp32
    cells["sparse ONNX"] = int8 if int8 != "yes" else outcome(lambda: check_sparse(folder, family), folder)
    trained = cells["quantize"]
    cells["resume"] = trained if trained != "yes" else outcome(lambda: resume(folder, family), folder)
    return cells, sorted({line.partition("QuantizationModifier: ")[2] for line in lines if "in fp32" in line})


@contextlib.contextmanager
def told() -> Iterator[list[str]]:
    """Collect what the trainer warns of."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    mixin.logger.addHandler(handler)
    yield lines
    mixin.logger.removeHandler(handler)


def by_two_processes(folder: Path, families: list[str]) -> Cells:
    """Train all families by two processes, one after another, and compare their masks with one process'."""
    arguments = ["--nproc_per_node", "2", __file__, "--second_half", folder, "--families", *families]
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    must(done.returncode == 0, f"two processes: {done.stderr[-3000:]}")
    cells = json.loads((folder / "two.json").read_text())
    for family in (family for family in families if cells[family] == "yes"):
        one, two = (check_weights(folder / family / out) for out in ("quantized", "two"))
        start = load_file(folder / family / "model" / "model.safetensors")
        for name, weight in one.items():
            swapped = int(((weight == 0) != (two[name] == 0)).sum())
            must(swapped <= TIE, f"{family}: two processes prune {name} otherwise, in {swapped} places")
        # Other sums round otherwise, and what is fake-quantized makes steps of some of that.
        apart, moved = (sum(float((one[name] - other[name]).abs().sum()) for name in one) for other in (two, start))
        must(apart <= 0.02 * moved, f"{family}: two processes train other weights, {apart / moved:.1%} off")
    return cells


def second_half(folder: Path, families: list[str]) -> None:
    """Be one of the two processes."""
    cells = {}
    for family in families:
        cells[family] = outcome(lambda f=family: train(folder, f, "two", "quantize.yaml", processes=2) and None, folder)
    if os.environ["RANK"] == "0":
        (folder / "two.json").write_text(json.dumps(cells))


def section(rows: dict[str, Cells], in_fp32: dict[str, list[str]]) -> list[str]:
    """The table, with what stays in fp32 below it."""
    return [
        "What `run_qa.py` does with a tiny random model of each family. A yes is checked, with",
        f"{VERSIONS}:",
        "",
        "- **prune**: the weights that `__ENCODER__` names have 80 % sparsity in 1x4 blocks, to the block.",
        "- **quantize**: after pruning, weights and activations with ranges; what stays in fp32 is below.",
        "- **ONNX**: in fp32 with the F1 of PyTorch, in int8 for ONNX Runtime and for DeepSparse.",
        "- **sparse ONNX**: `model.sparse.onnx` with sparse layers, compared with the int8 file piece by piece.",
        "- **resume**: from a checkpoint to the same bits.",
        "- **two processes**: masks and weights are those of one, but for rounding.",
        "",
        *table(COLUMNS, rows),
        "",
        "A run says before training what a recipe that quantizes leaves in fp32:",
        "",
        *(f"- {family}: {text}" for family, texts in in_fp32.items() for text in texts),
    ]


def main() -> None:
    """Study the families and write the section."""
    parser = family_parser(__doc__, FAMILIES)
    parser.add_argument("--second_half", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    families = options.families or list(FAMILIES)
    with without_output():
        if options.second_half:
            second_half(options.second_half, families)
            return
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            prepare(folder)
            rows, in_fp32 = {}, {}
            for family in families:
                rows[family], in_fp32[family] = study(folder, family)
                tqdm.write(f"{family}: {rows[family]}", file=sys.stderr)
            for family, text in by_two_processes(folder, families).items():
                rows[family]["two processes"] = text
    publish(TITLE, section(rows, in_fp32), whole=options.families is None)


if __name__ == "__main__":
    main()
