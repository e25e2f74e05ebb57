"""The command ``sparsification plan``: a recipe for a target latency or file size."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparsification.cli.values import positive

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sparsification.plan.calibration import Row
    from sparsification.plan.costs import Setting
    from sparsification.plan.planner import AnyPlan


def add_plan(commands: argparse._SubParsersAction) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "plan",
        help="make a recipe for a target latency or file size on this machine",
        description="Measure on this machine what each layer costs and loses at each sparsity, and write the recipe "
        "that loses least and meets a target. Results of measurements are kept and used again.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of a saved model")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="texts for calibration: .txt with a paragraph on each line, or JSON, CSV or parquet with a context and "
        "perhaps a question",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--speedup", type=_above_zero, metavar="X", help="speed in relation to the dense fp32 model")
    target.add_argument("--latency_ms", type=_above_zero, metavar="MS", help="milliseconds of a batch")
    target.add_argument("--size_mb", type=_above_zero, metavar="MB", help="megabytes of the ONNX file")
    parser.add_argument("--batch", type=positive, default=1, help="examples of a batch (default 1)")
    parser.add_argument("--length", type=positive, default=128, help="tokens of an example (default 128)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of ONNX Runtime (default 1)")
    parser.add_argument(
        "--engine",
        choices=("operators", "provider", "any"),
        default="operators",
        help="what computes sparse layers in ONNX Runtime: the operators of model.sparse.onnx (default), or the "
        "execution provider of onnxruntime-ep-sparse for model.onnx. any: no sparse layers, but a smaller dense model "
        "with fewer layers and neurons",
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "int8"), default="auto", help="number format (default: what loses less)"
    )
    parser.add_argument("--keep_layers", action="store_true", help="drop no encoder layers")
    parser.add_argument(
        "--num_train_epochs",
        type=float,
        default=0.0,
        metavar="N",
        help="write a recipe that trains with distillation; default: one that is applied in one shot",
    )
    parser.add_argument("--num_samples", type=positive, default=128, help="calibration examples (default 128)")
    parser.add_argument("--output", type=Path, default=Path("plan.yaml"), metavar="FILE", help="default plan.yaml")
    parser.add_argument("--apply", type=Path, metavar="DIR", help="also prune, save and export the model in one shot")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also plot the loss over the latency or size")
    parser.add_argument("--cache_dir", type=Path, metavar="DIR", help="default ~/.cache/sparsification-plan")
    parser.set_defaults(run=_plan)


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number


def _plan(args: argparse.Namespace) -> int:
    # Imported here because torch and transformers take seconds, which --help does not need.
    from sparsification.errors import SparsificationError

    try:
        _run(args)
    except (SparsificationError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    from sparsification.atomic_io import atomic_write_text
    from sparsification.plan.apply import apply_recipe
    from sparsification.plan.calibration import as_batches, read_rows
    from sparsification.plan.costs import Setting, time_files
    from sparsification.plan.engines import ANY
    from sparsification.plan.report import draw, summary
    from sparsification.report.environment import cpu_name
    from sparsification.tasks.embedding.modules import MODULES_FILE, load_modules

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    setting = Setting(args.batch, args.length, args.threads, args.engine)
    model, tokenizer = _load(args.model)
    modules = load_modules(args.model) if args.apply and (args.model / MODULES_FILE).is_file() else None
    rows = read_rows(args.data, model, tokenizer, args.num_samples, args.length)
    folder = args.cache_dir or home / "sparsification-plan"
    inputs = _Inputs(args, model, tokenizer, rows, as_batches(rows, tokenizer), setting, folder)
    found = _smaller(inputs) if args.engine == ANY else _sparse(inputs)
    comments = [
        f"Made by: sparsification plan --model {shlex.quote(args.model.name)} {found.plan.target.flag}",
        f"{cpu_name()}: batch {args.batch}, length {args.length}, threads {args.threads}, {args.engine}.",
        summary(found.plan),
        *found.reasons,
        "",
        *found.table,
    ]
    atomic_write_text(args.output, found.write(comments, epochs=args.num_train_epochs))
    print("\n".join([*found.table, "", summary(found.plan), f"Recipe: {args.output}"]))
    if args.plot:
        draw(found.plan, args.plot)
        print(f"Picture: {args.plot}")
    if args.apply:
        path = apply_recipe(model, tokenizer, found.write(), rows, args.apply, found.sparse_file)
        if modules is not None:  # without them embeddings would be pooled by the mean
            for folder in (args.apply, path.parent):
                modules.save(folder, model.config.hidden_size)
        (milliseconds,) = time_files([path], setting, model.config.vocab_size)
        print(f"Model: {args.apply}; {path.relative_to(args.apply)} takes {milliseconds:.2f} ms, measured")


@dataclass(frozen=True)
class _Inputs:
    """What a plan is made from."""

    args: argparse.Namespace
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    rows: Sequence["Row"]
    batches: Sequence[Mapping[str, "Tensor"]]
    setting: "Setting"
    folder: Path  # of the files with what was measured


@dataclass(frozen=True)
class _Found:
    """A plan, and what is said about it."""

    plan: "AnyPlan"
    table: list[str]
    reasons: list[str]
    write: Callable[..., str]  # the recipe; takes comments and epochs
    sparse_file: bool  # whether the sparse operators load a file of their own


def _sparse(inputs: _Inputs) -> _Found:
    """Plan the sparsities of a model's layers."""
    from sparsification.plan.costs import measure_costs
    from sparsification.plan.drops import NONE, layer_names, measure_drops
    from sparsification.plan.engines import OPERATORS
    from sparsification.plan.losses import measure_losses
    from sparsification.plan.planner import make_plan
    from sparsification.plan.recipe import write_recipe
    from sparsification.plan.report import reasons, table
    from sparsification.plan.units import PATTERNS, find_units, outside_of_units

    args, model = inputs.args, inputs.model
    units = find_units(model, inputs.batches[0])
    layers = layer_names(model)
    costs = measure_costs(model, inputs.tokenizer, inputs.rows, units, layers, inputs.setting, inputs.folder, _say)
    drops = measure_drops(model, layers, inputs.batches, inputs.folder, _say) if not args.keep_layers else NONE
    losses = measure_losses(model, units, inputs.batches, inputs.folder, _say)
    precisions = list(PATTERNS) if args.precision == "auto" else [args.precision]
    plan = make_plan(units, costs, losses, _target(args, costs.dense.milliseconds), precisions, layers, drops)
    sparse_file = plan.is_sparse and args.engine == OPERATORS
    write = partial(write_recipe, plan, num_samples=args.num_samples)
    return _Found(plan, table(plan), reasons(plan, outside_of_units(model, units)), write, sparse_file)


def _smaller(inputs: _Inputs) -> _Found:
    """Plan the layers and the neurons of a smaller dense model."""
    from sparsification.plan.shape.costs import measure_costs
    from sparsification.plan.shape.encoder import find_encoder
    from sparsification.plan.shape.losses import measure_losses
    from sparsification.plan.shape.planner import make_plan
    from sparsification.plan.shape.recipe import write_recipe
    from sparsification.plan.shape.report import reasons, table

    model, encoder = inputs.model, find_encoder(inputs.model)
    precision = "fp32" if inputs.args.precision == "fp32" else "int8"  # which loses less than a smaller shape
    costs = measure_costs(model, inputs.tokenizer, inputs.rows, encoder, precision, inputs.setting, inputs.folder, _say)
    losses = measure_losses(model, encoder, inputs.batches, inputs.folder, _say)
    plan = make_plan(costs, losses, _target(inputs.args, costs.dense.milliseconds))
    samples = inputs.args.num_samples
    write = partial(write_recipe, encoder, plan.shape, precision == "int8", num_samples=samples)
    return _Found(plan, table(plan), reasons(plan), write, sparse_file=False)


def _target(args: argparse.Namespace, dense: float):
    from sparsification.plan.planner import BYTES, MILLISECONDS, Target

    if args.speedup:
        return Target(f"--speedup {args.speedup:g}", MILLISECONDS, dense / args.speedup)
    if args.latency_ms:
        return Target(f"--latency_ms {args.latency_ms:g}", MILLISECONDS, args.latency_ms)
    return Target(f"--size_mb {args.size_mb:g}", BYTES, 1e6 * args.size_mb)


def _load(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a model, of the class that its configuration names, and its tokenizer."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from sparsification.model_io import named_class
    from sparsification.plan.units import PlanError

    try:
        kind = named_class(AutoConfig.from_pretrained(folder)) or AutoModel
        model = kind.from_pretrained(folder, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise PlanError(f"--model {folder}: {str(error).strip().partition(chr(10))[0]}") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
