"""Evaluation and export of a Trainer's model: by PyTorch, by ONNX Runtime, and of the teacher."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import PreTrainedModel

from sparsification.export.onnx import ONNX_FILE, ExportReport, OnnxModel, export_onnx
from sparsification.export.sparse import export_sparse
from sparsification.export.targets import ALL_TARGETS, SPARSE_TARGET, TARGETS
from sparsification.model_outputs import INTERMEDIATE_OUTPUTS
from sparsification.runtime.build import BuildError
from sparsification.runtime.convert import SPARSE_FILE, SparseGraphError
from sparsification.trainer.full_eval import full_eval

logger = logging.getLogger(__name__)

NUM_CHECKED_FEATURES = 32  # on so many an exported file is compared with the model


class EvaluationMixin:
    """Exports what a Trainer has trained, and evaluates the exported file or the teacher in place of the model."""

    _onnx_model: OnnxModel | None = None  # what evaluates, while it is not the model itself
    _asked: PreTrainedModel | None = None  # while it is the teacher that is evaluated

    def export_onnx(self, output_dir: str | Path, target: str = "onnxruntime", opset: int = 14) -> ExportReport | None:
        """Write the model as an ONNX file, checked against it on evaluation (else training) features.

        Args:
            output_dir: gets ``model.onnx``, the configuration and the tokenizer.
            target: engine that a quantized model is written for; with ``onnxruntime-sparse`` there is a
                ``model.sparse.onnx``, too, with ``all`` also DeepSparse's file, in a folder of its own.
            opset: ONNX operator set.

        Returns:
            The report of the check, of the first file; None on all processes but the first, which does the work.

        Raises:
            ExportError: a file would not be the model; nothing is left under its name.
            SparseGraphError: there is nothing sparse in int8 for ``onnxruntime-sparse``; with ``all``, a line says so.
            BuildError: there is no compiler for its operators, likewise.
        """
        reports = []
        if self.is_world_process_zero():
            dataset = self._sample_dataset()
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
                    output_names=[
                        name
                        for name, value in outputs.items()
                        if isinstance(value, torch.Tensor) and name not in INTERMEDIATE_OUTPUTS
                    ],
                    check_batches=batches,
                    target=engine,
                    opset=opset,
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

    def evaluate_onnx(
        self, directory: str | Path, file_name: str = ONNX_FILE, metric_key_prefix: str = "eval_onnx"
    ) -> dict[str, float]:
        """Evaluate as ever, but with ONNX Runtime's logits in place of the model's.

        Args:
            directory: where ``export_onnx`` put the file.
            file_name: which one, ``model.sparse.onnx`` if it is there.
            metric_key_prefix: put before every metric's name.

        Returns:
            The metrics that ``evaluate`` gives.
        """
        self._onnx_model = OnnxModel(Path(directory) / file_name)
        try:
            return self.evaluate(metric_key_prefix=metric_key_prefix)
        finally:
            self._onnx_model = None

    def evaluate_teacher(self, metric_key_prefix: str = "eval_teacher") -> dict[str, float]:
        """Evaluate as ever, but the teacher; gives the metrics that ``evaluate`` gives, under the prefix."""
        # The precision in which Trainer would evaluate it alone.
        full = {"fp16_full_eval": torch.float16, "bf16_full_eval": torch.bfloat16}
        precision = next((dtype for name, dtype in full.items() if getattr(self.args, name)), None)
        self._asked = self.teacher if precision is None else copy.deepcopy(self.teacher).to(precision)
        try:
            return self.evaluate(metric_key_prefix=metric_key_prefix)
        finally:
            self._asked = None

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
            return None, tuple(torch.from_numpy(logits) for logits in self._onnx_model(inputs)), None
        if self._asked is None:
            return super().prediction_step(model, self._for_student(inputs), prediction_loss_only, ignore_keys)
        labels = {name: inputs[name] for name in self.label_names if name in inputs}
        # Accelerate gives the model that it has prepared the same: lower precision inside, fp32 outside.
        with self.accelerator.autocast():
            step = super().prediction_step(
                self._asked, self._for_teacher(inputs) | labels, prediction_loss_only, ignore_keys
            )
        return convert_outputs_to_fp32(lambda: step)() if self.accelerator.native_amp else step
