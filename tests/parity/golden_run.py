"""The plain training loop in which SparseML's golden data was recorded (tests/golden/README.md), with our manager."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForQuestionAnswering

from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep

GOLDEN = Path(__file__).parent.parent / "golden"
STEPS_PER_EPOCH = 10


def load_case(name: str) -> dict:
    """Read what SparseML did, e.g. ``gmp/gmp_cubic_f0.5``."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def load_masks(name: str) -> dict[int, np.ndarray]:
    """Read SparseML's packed masks by step."""
    archive = np.load(GOLDEN / f"{name}.masks.npz")
    return dict(zip(archive["steps"].tolist(), archive["packed"], strict=True))


def load_model(weights: str) -> BertForQuestionAnswering:
    """Build the golden model with the weights of a file beside it; dropout is 0."""
    config = BertConfig(**json.loads((GOLDEN / "model_config.json").read_text()), attn_implementation="eager")
    model = BertForQuestionAnswering(config)
    state = load_file(GOLDEN / f"{weights}.safetensors")
    state.pop("bert.embeddings.position_ids", None)  # a buffer that older Transformers saved
    model.load_state_dict(state)
    return model.train()


class Replay:
    """One run of a golden case.

    Args:
        case: what SparseML recorded.
        weights: file to start from.
        with_teacher: whether the golden teacher is asked.
        skip_update: steps at which the manager is not updated.
        lose_gradients: steps whose gradients are lost after the update, so that the optimizer moves nothing.
        backward: what makes the gradients of a step from its loss and number.
    """

    def __init__(
        self,
        case: dict,
        weights: str = "model_student",
        with_teacher: bool = False,
        skip_update: Callable[[int], bool] = lambda step: False,
        lose_gradients: Callable[[int], bool] = lambda step: False,
        backward: Callable[[torch.Tensor, int], None] = lambda loss, step: loss.backward(),
    ):
        self.case = case
        self.model = load_model(weights)
        self.teacher = load_model("model_teacher").eval() if with_teacher else None
        self.manager = ScheduledModifierManager.from_yaml(case["recipe"])
        self.manager.initialize(self.model)
        self.manager.set_gradient_sampler(self._sample_gradients)
        if self.teacher is not None:
            self.manager.attach_teacher(self.teacher)
        settings = case["optimizer"]
        parameters = list(self.model.parameters())
        if settings["type"] == "adamw":
            self.optimizer = torch.optim.AdamW(parameters, lr=settings["lr"], weight_decay=settings["weight_decay"])
        else:
            self.optimizer = torch.optim.SGD(
                parameters, settings["lr"], momentum=settings["momentum"], weight_decay=settings["weight_decay"]
            )
        self._skip_update = skip_update
        self._lose_gradients = lose_gradients
        self._backward = backward
        self._steps_per_epoch = case.get("steps_per_epoch", STEPS_PER_EPOCH)
        self._batches = load_file(GOLDEN / "batches.safetensors")
        self._samples = itertools.count()  # SparseML's sampler goes on where it stopped

    def _batch(self, number: int) -> dict[str, torch.Tensor]:
        return {name: tensor[number % 10] for name, tensor in self._batches.items()}

    def _sample_gradients(self, parameters, count, batch_size, moment, labels) -> Iterator[Sequence[torch.Tensor]]:
        for number in itertools.islice(self._samples, count):
            yield torch.autograd.grad(self.model(**self._batch(number)).loss, parameters)

    def steps(self) -> Iterator[tuple[dict, float, float]]:
        """Train, and yield after each step: SparseML's record of it, our task loss and our total loss."""
        base = self.case["optimizer"]["lr"]
        self.manager.on_train_begin(TrainingStep(0, self._steps_per_epoch))
        for record in self.case["steps"]:
            step = record["step"]
            now = TrainingStep(step, self._steps_per_epoch)
            inputs = self._batch(step)
            self.optimizer.zero_grad()
            outputs = self.model(**inputs)
            loss = outputs.loss
            if self.teacher is not None and self.manager.distills_at(now):
                with torch.no_grad():
                    teacher_outputs = self.teacher(**{k: v for k, v in inputs.items() if "positions" not in k})
                loss = self.manager.update_loss(loss, outputs, teacher_outputs, now)
            self._backward(loss, step)
            self.manager.after_backward()
            if not self._skip_update(step):
                self.manager.update(now, self.optimizer)
            if self._lose_gradients(step):
                self.optimizer.zero_grad()
            for index, group in enumerate(self.optimizer.param_groups):
                group["lr"] = self.manager.learning_rate(now, index, base)
            self.optimizer.step()
            self.manager.after_optimizer_step()
            yield record, outputs.loss.item(), loss.item()
        self.manager.finalize()

    def logits(self) -> dict[str, torch.Tensor]:
        """What the model answers to the first batch in evaluation mode."""
        with torch.no_grad():
            outputs = self.model.eval()(**self._batch(0))
        return {name: outputs[name] for name in ("start_logits", "end_logits")}
