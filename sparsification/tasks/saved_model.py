"""A saved model of any task, in PyTorch or in ONNX Runtime: arrays by name in, arrays out.

A model is a folder of Transformers, with quantization ranges or without; a folder of an export; a folder as
optimum-onnx writes it, with ``onnx/model.onnx``; or an ONNX file. Configuration and tokenizer are in the file's folder,
or in the one above.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from sparsification import runtime
from sparsification.errors import SparsificationError
from sparsification.model_io import forward_names, knows_no_words, position_limit, position_limit_of, tokenizer_limit
from sparsification.quantization.checkpoint import load_quantization
from sparsification.quiet import no_progress_bars
from sparsification.runtime.rewrite import SPARSE_FILE
from sparsification.saved_weights import check_saved_shapes, has_weights
from sparsification.tasks.errors import TaskError

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

ONNX_FILES = (SPARSE_FILE, "model.onnx")  # the first one that is there is used
SUBFOLDER = "onnx"  # of optimum-onnx
BATCH = 32  # rows of a batch
Features = Mapping[str, np.ndarray]


class PredictError(TaskError):
    """A model that cannot be used, or an input that it cannot answer."""


@dataclass(frozen=True)
class SavedModel:
    """A loaded model with its tokenizer."""

    name: str  # as it was given
    file: Path  # with its weights
    folder: Path  # of its configuration
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None  # maximum number of tokens; None: no limit
    run: Callable[[Features], list[np.ndarray]]  # int64 (batch, tokens) by name -> the outputs, (batch, ...)

    @property
    def labels(self) -> list[str]:
        """The names of the model's labels, in the order of their numbers."""
        return [str(name) for _, name in sorted((self.config.id2label or {}).items())]

    def limit(self, *lengths: int | None) -> int | None:
        """The least of some numbers of tokens and the maxima of the model and of the tokenizer, None for no limit."""
        known = [*lengths, self.max_length, tokenizer_limit(self.tokenizer)]
        return min((length for length in known if length is not None), default=None)

    def outputs(self, texts: Sequence[Sequence[str]], max_length: int | None) -> list[list[np.ndarray]]:
        """Run texts, those of about one length together.

        Args:
            texts: one or two for each row.
            max_length: tokens of a row, longer ones are cut off.

        Returns:
            Of each row its outputs, without the batch axis; those of each token have the length of its batch.
        """
        found: list[list[np.ndarray]] = [[]] * len(texts)
        for rows, features in self.batches(texts, max_length):
            arrays = self.run(features)
            for position, row in enumerate(rows):
                found[row] = [array[position] for array in arrays]
        return found

    def batches(self, texts: Sequence[Sequence[str]], max_length: int | None) -> Iterator[tuple[list[int], Features]]:
        """Yield batches of texts of about one length: their rows, and their features; arguments as for ``outputs``."""
        order = sorted(range(len(texts)), key=lambda row: sum(map(len, texts[row])))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            yield rows, self.features([texts[row] for row in rows], max_length)

    def features(self, texts: Sequence[Sequence[str]], max_length: int | None) -> Features:
        """Tokenize texts into one batch, padded to the longest; arguments as for ``outputs``."""
        parts = [list(part) for part in zip(*texts, strict=True)]
        return self.tokenizer(
            *parts, truncation=max_length is not None, max_length=max_length, padding=True, return_tensors="np"
        )


def find_model(path: str | Path) -> tuple[Path | None, Path]:
    """Find the files of a model.

    Args:
        path: see the module.

    Returns:
        Its ONNX file, None for weights of PyTorch; and the folder of its configuration and tokenizer.

    Raises:
        PredictError: it does not exist, or is none of these.
    """
    path = Path(path)
    if not path.exists():
        raise PredictError(f"{path}: no such file or folder")
    if not path.is_dir() and path.suffix != ".onnx":
        raise PredictError(f"{path} is neither a folder nor an .onnx file")
    if not path.is_dir():
        file: Path | None = path
    else:
        folders = [path] if has_weights(path) else [path, path / SUBFOLDER]
        exported = [folder / name for folder in folders for name in ONNX_FILES if (folder / name).is_file()]
        file = exported[0] if exported else None
    folder = path if file is None else file.parent
    if (
        not (folder / "config.json").is_file()
        and folder.name == SUBFOLDER
        and (folder.parent / "config.json").is_file()
    ):
        folder = folder.parent
    if file is None and not (folder / "config.json").is_file():
        raise PredictError(f"{path} holds no model: neither {SPARSE_FILE}, model.onnx nor config.json")
    if not any(folder.glob("tokenizer*")):
        raise PredictError(f"{folder} has no tokenizer: it must hold the model's tokenizer.json")
    return file, folder


def architecture(folder: Path) -> str:
    """Name of a saved model's class in its configuration, "" if it has none."""
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError) as error:
        raise PredictError(f"{folder / 'config.json'}: {error}") from error
    return names[0] if names else ""


def open_model(
    path: str | Path,
    auto_class: "type[_BaseAutoModelClass]",
    outputs: Sequence[str],
    purpose: str,
    threads: int | None = None,
) -> SavedModel:
    """Load a saved model.

    Args:
        path: see the module. Of a folder of an export, ``model.sparse.onnx`` is preferred to ``model.onnx``. A folder
            that has both an ONNX file and weights of PyTorch is loaded as an export.
        auto_class: class that loads it in PyTorch.
        outputs: names of the outputs to compute.
        purpose: what a model with these outputs does, for messages.
        threads: of ONNX Runtime; its own choice by default.

    Raises:
        PredictError: it does not exist, is none of these, or cannot be loaded.
    """
    file, folder = find_model(path)
    try:
        tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
        if file is not None:
            run, max_length = _onnx_run(file, outputs, purpose, threads), position_limit_of(config)
        else:
            run, max_length = _torch_run(folder, auto_class, outputs)
    except (OSError, ValueError, RuntimeError, SafetensorError, SparsificationError, *runtime.ENGINE_ERRORS) as error:
        raise PredictError(f"{path}: {error}") from error
    if knows_no_words(tokenizer):
        raise PredictError(f"{folder} has no tokenizer: it must hold the model's tokenizer.json")
    if not tokenizer.is_fast:
        raise PredictError(f"{folder}: its tokenizer is not a fast one, which is needed for the positions of tokens")
    weights = file or next((folder / name for name in ("model.safetensors", "pytorch_model.bin")), folder)
    return SavedModel(str(path), weights, folder, config, tokenizer, max_length, run)


def _onnx_run(file: Path, outputs: Sequence[str], purpose: str, threads: int | None):
    session = runtime.load_session(file, threads, sparse_provider=True)
    given = [node.name for node in session.get_outputs()]
    if missing := [name for name in outputs if name not in given]:
        raise PredictError(f"its outputs are {', '.join(given)}: a model that {purpose} also has {missing[0]}")
    names = [node.name for node in session.get_inputs()]

    def run(features: Features) -> list[np.ndarray]:
        lacking = [name for name in names if name not in features]
        if lacking:
            raise PredictError(f"{file} takes {lacking[0]}, which the tokenizer in its folder does not make")
        return session.run(list(outputs), {name: np.asarray(features[name], np.int64) for name in names})

    return run


def _torch_run(folder: Path, auto_class: "type[_BaseAutoModelClass]", outputs: Sequence[str]):
    with no_progress_bars():
        check_saved_shapes(folder, AutoConfig.from_pretrained(folder), auto_class.from_config)
        model = auto_class.from_pretrained(folder).eval()
    load_quantization(model, folder)
    taken = forward_names(model)

    def run(features: Features) -> list[np.ndarray]:
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in features.items() if name in taken}
        with torch.no_grad():
            found = model(**tensors)
        return [found[name].float().numpy() for name in outputs]

    return run, position_limit(model)
