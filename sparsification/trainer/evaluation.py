"""Evaluation and export of a Trainer's model: by PyTorch, by ONNX Runtime, and of the teacher."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import PreTrainedModel

from sparsification.export.onnx import ONNX_FILE, ExportReport, export_onnx
from sparsification.export.sparse import export_sparse
from sparsification.export.targets import ALL_TARGETS, AUTO, SPARSE_TARGET, TARGETS
from sparsification.export.verify import OnnxModel
from sparsification.model_outputs import INTERMEDIATE_OUTPUTS
from sparsification.runtime.build import BuildError
from sparsification.runtime.rewrite import SPARSE_FILE, SparseGraphError
from sparsification.trainer.full_eval import full_eval
from sparsification.trainer.trainer_base import TrainerBase

logger = logging.getLogger(__name__)

NUM_CHECKED_FEATURES = 32  # features on which an exported file is compared with the model


class EvaluationMixin(TrainerBase):
    """Mixin of a Trainer: export of its model, and evaluation of the exported file or of the teacher."""

    _onnx_model: OnnxModel | None = None  # set while an exported file is evaluated in place of the model
    _evaluated_teacher: PreTrainedModel | None = None  # set while the teacher is evaluated in place of the model

    def export_onnx(
        self, output_dir: str | Path, target: str = "onnxruntime", opset: int | None = None, exporter: str = AUTO
    ) -> ExportReport | None:
        """Write the model as an ONNX file, checked against it on evaluation (else training) features.

        Args:
            output_dir: gets ``model.onnx``, the configuration and the tokenizer.
            target: engine that the model is written for. ``onnxruntime-sparse`` also writes
                ``model.sparse.onnx``; ``all`` writes DeepSparse's file, too, in a folder of its own.
            opset: ONNX operator set, as for ``sparsification.export_onnx``.
            exporter: PyTorch's exporter, likewise.

        Returns:
            The report on the first file; None on all processes but the first, which exports.

        Raises:
            ExportError: a file would not compute what the model computes; it is not kept.
            SparseGraphError: no layer is sparse enough for ``onnxruntime-sparse``; a warning with ``all``.
            BuildError: there is no compiler for the sparse operators; a warning with ``all``.
        """
        reports = []
        if self.is_world_process_zero():
            dataset = self._sample_dataset()
            if dataset is None:
                raise ValueError("eval_dataset or train_dataset must be given to check the exported file, got None")
            features = torch.utils.data.Subset(dataset, range(min(NUM_CHECKED_FEATURES, len(dataset))))
            batches = list(self.get_eval_dataloader(features))
            model = self.accelerator.unwrap_model(self.model).eval()
            inputs = self._graph_inputs(batches[0])
            with torch.no_grad():
                outputs = model(**{name: tensor[:1] for name, tensor in inputs.items()})
            first, *others = {ALL_TARGETS: TARGETS, SPARSE_TARGET: ["onnxruntime"]}.get(target, [target])
            folders = {first: Path(output_dir)} | {other: Path(output_dir) / other for other in others}
            for engine, folder in folders.items():
                report = export_onnx(
                    model,
                    folder,
                    self.processing_class,
                    input_names=list(inputs),
                    output_names=self._graph_outputs(outputs),
                    check_batches=batches,
                    target=engine,
                    opset=opset,
                    exporter=exporter,
                    file_name=ONNX_FILE,
                )
                reports.append(report)
            if target in (SPARSE_TARGET, ALL_TARGETS):
                try:
                    export_sparse(reports[0].path, batches)
                except (BuildError, SparseGraphError) as error:
                    if target == SPARSE_TARGET:
                        raise
                    logger.warning(f"There is no {SPARSE_FILE}: {error}")
        self.accelerator.wait_for_everyone()
        return reports[0] if reports else None

    def _graph_outputs(self, outputs: Mapping[str, object]) -> list[str]:
        """Names of the model's outputs that an exported graph has."""
        return [
            name
            for name, value in outputs.items()
            if isinstance(value, torch.Tensor) and name not in INTERMEDIATE_OUTPUTS
        ]

    def evaluate_onnx(
        self, directory: str | Path, file_name: str = ONNX_FILE, metric_key_prefix: str = "eval_onnx"
    ) -> dict[str, float]:
        """Evaluate an exported file in ONNX Runtime in place of the model; with onnxruntime-ep-sparse, if installed.

        Args:
            directory: folder to which ``export_onnx`` wrote the file.
            file_name: name of the file, ``model.onnx`` or ``model.sparse.onnx``.
            metric_key_prefix: prefix of the metrics' names.

        Returns:
            The metrics of ``evaluate``.
        """
        self._onnx_model = OnnxModel(Path(directory) / file_name, sparse_provider=True)
        try:
            return self.evaluate(metric_key_prefix=metric_key_prefix)
        finally:
            self._onnx_model = None

    def evaluate_teacher(self, metric_key_prefix: str = "eval_teacher") -> dict[str, float]:
        """Evaluate the teacher in place of the model; return the metrics of ``evaluate``, with the prefix."""
        # The precision in which Trainer would evaluate the teacher alone.
        full = {"fp16_full_eval": torch.float16, "bf16_full_eval": torch.bfloat16}
        precision = next((dtype for name, dtype in full.items() if getattr(self.args, name)), None)
        teacher = self.teacher
        if teacher is not None and precision is not None:
            teacher = copy.deepcopy(teacher)
            module: torch.nn.Module = teacher  # the annotation of PreTrainedModel.to hides its arguments
            module.to(precision)
        self._evaluated_teacher = teacher
        try:
            return self.evaluate(metric_key_prefix=metric_key_prefix)
        finally:
            self._evaluated_teacher = None

    def evaluation_loop(self, *args, **kwargs):
        if self.is_in_train and self.manager.modifiers:
            # A DataLoader draws a number each time it starts. Put the generator back: how often a run by a recipe
            # evaluates must not change the order of its training data.
            with torch.random.fork_rng(devices=[]):
                return super().evaluation_loop(*args, **kwargs)
        if self.is_in_train:
            return super().evaluation_loop(*args, **kwargs)
        with full_eval(self.accelerator.unwrap_model(self.model), self.args):
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if self._onnx_model is not None:
            logits = [torch.from_numpy(output) for output in self._onnx_model(inputs)]
            targets = [inputs[name] for name in self.label_names if name in inputs]
            return None, _one_or_all(logits), _one_or_all(targets)
        if self._evaluated_teacher is None:
            return super().prediction_step(model, self._for_student(inputs), prediction_loss_only, ignore_keys)
        labels = {name: inputs[name] for name in self.label_names if name in inputs}
        # As Accelerate does for a prepared model: lower precision inside, fp32 outside.
        with self.accelerator.autocast():
            step = super().prediction_step(
                self._evaluated_teacher, self._for_teacher(inputs) | labels, prediction_loss_only, ignore_keys
            )
        return convert_outputs_to_fp32(lambda: step)() if self.accelerator.native_amp else step


def _one_or_all(tensors: list[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, ...] | None:
    """A single tensor as it is, several as a tuple, None for none: as Trainer's own ``prediction_step`` has them."""
    return tensors[0] if len(tensors) == 1 else tuple(tensors) or None
