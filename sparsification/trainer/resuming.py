"""State of a recipe in a Trainer's checkpoints: saved with the optimizer's, and checked when a run resumes."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers.trainer import OPTIMIZER_NAME

from sparsification.atomic_io import atomic_write_text
from sparsification.errors import SparsificationError, printable
from sparsification.manager import ManagerError
from sparsification.quantization.checkpoint import load_quantization, save_quantization
from sparsification.quantization.modules import enable_fake_quant
from sparsification.recipe.model import RECIPE_FILE
from sparsification.trainer.epoch_length import EPOCH_FILE, EpochLength, what_differs
from sparsification.trainer.trainer_base import TrainerBase

STATE_FILE = "sparsification.safetensors"


class CheckpointError(SparsificationError):
    """A checkpoint is missing, holds unexpected data, or does not fit the run."""


@contextlib.contextmanager
def _weights_only_errors(checkpoint: str | None) -> Iterator[None]:
    """Explain torch's refusal to unpickle: Trainer loads with ``weights_only``, which runs no code from a file."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{checkpoint} is not loaded: one of its files holds more than numbers, perhaps code, which was not run"
        ) from error


class ResumeMixin(TrainerBase):
    """Saves the recipe's state in checkpoints, and refuses checkpoints that do not fit the run."""

    _epoch_length: EpochLength | None = None  # set by train(); None if the data have no length

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.manager.before_save()
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        save_quantization(self.accelerator.unwrap_model(self.model), folder)
        if self.manager.recipe is not None:
            atomic_write_text(folder / RECIPE_FILE, self.manager.recipe.to_yaml())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self._save_beside_optimizer(Path(output_dir))

    def _save_beside_optimizer(self, checkpoint: Path) -> None:
        super()._save_beside_optimizer(checkpoint)
        if self.manager.modifiers:
            save_file(self.manager.state_dict(), os.path.join(checkpoint, STATE_FILE))
        if self._epoch_length is not None:
            self._epoch_length.save(checkpoint)

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        if resume_from_checkpoint is not None:
            self._refuse_other_epochs(Path(resume_from_checkpoint))
        return super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )

    def _refuse_other_epochs(self, checkpoint: Path) -> None:
        """Raise CheckpointError if a checkpoint's steps are at other places of this run's schedule."""
        try:
            saved = EpochLength.load(checkpoint)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint / EPOCH_FILE}: {error}") from error
        if saved is None or self._epoch_length is None:
            return
        if differs := what_differs(saved, self._epoch_length):
            raise CheckpointError(
                f"{checkpoint} cannot be resumed: {differs}, so its steps would be at other places of the schedule. "
                "Use the same settings, or train from the start with another --output_dir or --overwrite_output_dir"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        with (
            self.manager.loading(self._saved_state(resume_from_checkpoint)),
            _weights_only_errors(resume_from_checkpoint),
        ):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        unfinished = self.state.global_step < self.state.max_steps
        if checkpoint is not None and unfinished and not Path(checkpoint, OPTIMIZER_NAME).is_file():
            # Trainer would continue with a new optimizer.
            raise CheckpointError(
                f"{checkpoint} cannot be resumed: it has no {OPTIMIZER_NAME} (--save_only_model leaves it out). To "
                f"start a new run from its weights, give --model_name_or_path {checkpoint} and another --output_dir"
            )
        with _weights_only_errors(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            try:
                self.manager.load_state_dict(self._saved_state(checkpoint))
            except (KeyError, ValueError, RuntimeError) as error:
                raise ManagerError(
                    f"{Path(checkpoint, STATE_FILE)} does not fit this model and recipe: {printable(str(error))}"
                ) from error

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _weights_only_errors(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not Path(best).is_dir():  # Trainer would continue with the last weights
            raise CheckpointError(
                f"--load_best_model_at_end: process {self.args.process_index} does not find the best checkpoint "
                f"{best}. Keep it until the run ends. On several machines, use an --output_dir on a shared disk, or "
                "add --save_on_each_node"
            )
        super()._load_best_model()
        model = self.accelerator.unwrap_model(self.model)
        if not load_quantization(model, best):
            enable_fake_quant(model, False)

    def _saved_state(self, checkpoint: str) -> dict[str, torch.Tensor]:
        """Load the manager's state from a checkpoint of the same recipe."""
        recipe = self.manager.recipe
        if recipe is None or not self.manager.modifiers:
            return {}
        saved_recipe = Path(checkpoint, RECIPE_FILE)
        if not saved_recipe.is_file() or not Path(checkpoint, STATE_FILE).is_file():
            raise ManagerError(f"{checkpoint} cannot be resumed with a recipe: it was saved without one")
        if saved_recipe.read_text(encoding="utf-8") != recipe.to_yaml():
            raise ManagerError(
                f"{checkpoint} cannot be resumed with {recipe.source}: it was trained by another recipe "
                f"(see {saved_recipe}), or with other --recipe_args"
            )
        return load_file(os.path.join(checkpoint, STATE_FILE))

    def _issue_warnings_after_load(self, load_result) -> None:
        # A tied weight is saved under one of its names only.
        weights = dict(self.accelerator.unwrap_model(self.model).named_parameters(remove_duplicate=False))
        there = {id(weight) for name, weight in weights.items() if name not in load_result.missing_keys}
        missing = [name for name in load_result.missing_keys if id(weights.get(name)) not in there]
        load_result.missing_keys[:] = missing  # Trainer warns of these keys
        keys = [*missing, *load_result.unexpected_keys]
        if self.manager.modifiers and keys:
            raise ManagerError(
                f"the checkpoint does not fit this model and recipe: {len(keys)} parameters differ, {keys[0]} first"
            )
        super()._issue_warnings_after_load(load_result)
