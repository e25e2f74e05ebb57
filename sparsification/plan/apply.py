"""Applies a recipe to a model without training, and exports the result."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainingArguments
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.export.targets import SPARSE_TARGET
from sparsification.manager import ScheduledModifierManager
from sparsification.runtime.rewrite import SPARSE_FILE
from sparsification.trainer.sparse_trainer import SparseTrainer

BATCH_SIZE = 16  # of calibration and of the check of the export; enough rows for a file that is only timed


def apply_recipe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: str,
    rows: Sequence[Mapping[str, list[int]]],
    folder: Path,
    sparse: bool,
) -> Path:
    """Apply a recipe in one shot, save the model in a folder and its ONNX file in ``onnx`` in it.

    Args:
        model: not changed.
        tokenizer: saved with the model.
        recipe: text of the recipe.
        rows: features for calibration and for the check of the export, without labels.
        folder: made if missing.
        sparse: whether to write ``model.sparse.onnx``, too.

    Returns:
        The ONNX file: the sparse one if there is one.

    Raises:
        ManagerError: the recipe does not fit the model.
        ExportError: the model cannot be exported, or the exported file computes something else.
        SparseGraphError: no layer is sparse enough for the sparse file.
        BuildError: there is no compiler for the sparse operators.
    """
    manager = ScheduledModifierManager.from_yaml(recipe)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        num_train_epochs=1.0,  # that of the recipe
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SparseTrainer(
        manager=manager,
        model=copy.deepcopy(model),
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    with torch.no_grad():
        trainer.apply_one_shot()
        trainer.export_onnx(folder / "onnx", SPARSE_TARGET if sparse else "onnxruntime")
    return folder / "onnx" / (SPARSE_FILE if sparse else "model.onnx")
