"""Trainer of sentence embeddings: an encoder without a head learns the embeddings of a dense model.

The target of a text is its embedding by the teacher, computed once and kept as the text's label. So the loss, the
metrics and the evaluation of exported files need no teacher, and text without labels is enough. Where pairs are given,
a ranking loss is added: each text must find its partner among those of the batch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel

from sparsification.atomic_io import atomic_path
from sparsification.distillation.teacher_cache import cache_key, fingerprint, settings
from sparsification.export.onnx import ExportReport
from sparsification.export.targets import AUTO
from sparsification.tasks.embedding.modules import SentenceModules
from sparsification.tasks.in_order import InOrderTrainer
from sparsification.tasks.script import TaskTrainer

HIDDEN = "last_hidden_state"
SCALE = 20.0  # of cosines in the ranking loss, as in sentence-transformers


def ranking_loss(embeddings: Tensor, texts_per_row: int) -> Tensor:
    """Cross entropy of finding the partner of each text among those of the batch, by 20 · cosine.

    Henderson et al. 2017, arXiv:1705.00652 (multiple negatives).

    Args:
        embeddings: (texts_per_row · rows, width): the first texts of all rows, their partners, then texts that are
            wrong for each of them, if there are any.
        texts_per_row: 2 for pairs, 3 for triplets.

    Returns:
        Scalar.
    """
    rows = len(embeddings) // texts_per_row
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    return torch.nn.functional.cross_entropy(
        SCALE * unit[:rows] @ unit[rows:].T, torch.arange(rows, device=embeddings.device)
    )


class _EmbeddingLoss(InOrderTrainer):
    """A Trainer whose loss is 1 - cosine to the labels, and in training the ranking loss."""

    modules: SentenceModules
    texts_per_row = 1
    ranking_share = 0.0  # of the ranking loss in the loss, in [0, 1]

    def embedding_loss(self, hidden: Tensor, inputs: Mapping[str, Tensor], ranks: bool) -> Tensor:
        """Compute the loss.

        Args:
            hidden: the encoder's last hidden state, (texts, tokens, width).
            inputs: the columns of the batch, labels (texts, width) included.
            ranks: whether to add the ranking loss.
        """
        embeddings = self.modules.embed(hidden, inputs["attention_mask"])
        cosines = torch.nn.functional.cosine_similarity(embeddings, inputs["labels"].float(), dim=1)
        loss = 1 - cosines.mean()
        if not ranks or self.ranking_share == 0:
            return loss
        ranking = ranking_loss(embeddings, self.texts_per_row)
        return (1 - self.ranking_share) * loss + self.ranking_share * ranking

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = self.embedding_loss(outputs[HIDDEN], inputs, model.training)
        return (loss, {"loss": loss, HIDDEN: outputs[HIDDEN]}) if return_outputs else loss


class EmbeddingTrainer(TaskTrainer, _EmbeddingLoss):
    """Trains an encoder on the embeddings in the column ``labels``, see ``add_targets``.

    Args:
        modules: pooling and normalization; saved beside each model and export.
        texts_per_row: 1, or 2 or 3 for training rows that are pairs or triplets.
        ranking_share: share of the ranking loss in the training loss, in [0, 1].
        *args, **kwargs: see ``SparseTrainer``. Its collator must be ``collate_texts``.
    """

    def __init__(
        self, *args: Any, modules: SentenceModules, texts_per_row: int = 1, ranking_share: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.modules, self.texts_per_row, self.ranking_share = modules, texts_per_row, ranking_share
        self.model_accepts_loss_kwargs, self.loss_is_scaled_for_ga = False, False  # the loss is a mean over the batch

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, hidden, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return loss, None if hidden is None else self.modules.embed(hidden, inputs["attention_mask"]), labels

    def _loss_of(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Mapping[str, Tensor], Tensor]:
        inputs = {name: value for name, value in self._for_student(batch).items() if name != "labels"}
        outputs = type(model).forward(model, **inputs)
        return outputs, self.embedding_loss(outputs[HIDDEN], batch, ranks=True)

    def _graph_outputs(self, outputs: Mapping[str, Any]) -> list[str]:
        return [HIDDEN]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self._save_modules(Path(output_dir or self.args.output_dir))

    def export_onnx(
        self, output_dir: str | Path, target: str = "onnxruntime", opset: int | None = None, exporter: str = AUTO
    ) -> ExportReport | None:
        report = super().export_onnx(output_dir, target, opset, exporter)
        if report is not None:
            self._save_modules(report.path.parent)
        return report

    def _save_modules(self, folder: Path) -> None:
        self.modules.save(folder, self.accelerator.unwrap_model(self.model).config.hidden_size)


def collate_texts(collator: DataCollatorWithPadding, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Make a batch of rows of one text, or of several, which then follow each other: all first ones, all second ones.

    Args:
        collator: pads the texts.
        rows: the tokenizer's columns and perhaps ``labels``; of several texts, lists of them.
    """
    ids = rows[0]["input_ids"]
    if not isinstance(ids[0], int):
        parts = range(len(ids))
        rows = [{name: value[part] for name, value in row.items()} for part in parts for row in rows]
    return collator([dict(row) for row in rows])


@torch.inference_mode()
def add_targets(
    features: Dataset, teacher: PreTrainedModel, modules: SentenceModules, collator: Any, cache: str | None
) -> Dataset:
    """Add the teacher's embeddings as the column ``labels``; computed once if there is a cache.

    Args:
        features: rows of one text or several, see ``collate_texts``.
        teacher: runs in fp32, where it is.
        modules: pooling and normalization.
        collator: makes a batch of rows.
        cache: folder of embeddings; None: compute them.
    """
    names = features.column_names
    path = None
    if cache is not None:
        key = cache_key(teacher, settings(teacher.config), fingerprint(features, sorted(names)), modules)
        path = Path(cache) / f"embeddings-{key}.npy"
    if path is not None and path.is_file():
        targets = np.load(path)
    else:
        targets = _embeddings(features, teacher.eval(), modules, collator)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial, partial.open("wb") as file:
                np.save(file, targets)
    return features.add_column("labels", list(targets) if targets.ndim == 2 else [list(row) for row in targets])


def _embeddings(features: Dataset, teacher: PreTrainedModel, modules: SentenceModules, collator: Any) -> np.ndarray:
    """Embeddings of all texts, (rows, width), or (rows, texts, width) where a row has several."""
    ids = features["input_ids"]
    order = sorted(range(len(features)), key=lambda row: len(ids[row]))  # less padding
    found: list[np.ndarray] = [np.empty(0)] * len(features)
    for first in range(0, len(order), 32):
        rows = order[first : first + 32]
        batch = {name: value.to(teacher.device) for name, value in collator([features[row] for row in rows]).items()}
        embedded = modules.embed(teacher(**batch)[HIDDEN], batch["attention_mask"]).cpu().numpy()
        several = len(embedded) // len(rows)
        parts = embedded.reshape(several, len(rows), -1).swapaxes(0, 1)
        for row, values in zip(rows, parts, strict=True):
            found[row] = values if several > 1 else values[0]
    return np.stack(found)
