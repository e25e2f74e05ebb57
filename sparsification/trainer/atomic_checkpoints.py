"""Atomic checkpoints of a Trainer: a crash leaves nothing half written under a final name.

``AtomicCheckpointMixin`` is a base class before any Trainer class. A checkpoint is written to a staging folder and
renamed when all processes have written their part. The final model and results are written in the same way, file by
file.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sparsification.atomic_io import (
    SAVING,
    SavingError,
    atomic_replace,
    atomic_write_dir,
    explaining_faults,
    staging_dir,
)
from sparsification.trainer.checkpoints import (
    TRAINED,
    remove_old_checkpoints,
    remove_replaced,
    set_aside_checkpoints,
)
from sparsification.trainer.trainer_base import TrainerBase

logger = logging.getLogger(__name__)


class AtomicCheckpointMixin(TrainerBase):
    """Makes a Trainer save atomically: ``class MyTrainer(AtomicCheckpointMixin, Trainer)``."""

    _scratch: Path | None = None  # staging folder, while a checkpoint is written
    keeps_end = False  # whether to keep a checkpoint of the end of training until ``forget_end``
    replaces_run = False  # whether training from the start replaces the checkpoints in the output folder

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._scratch is None else str(self._scratch)

    def _save_checkpoint(self, model, trial) -> None:
        """Save a checkpoint under another name, and rename it when all processes have written it."""
        if self.args.push_to_hub:  # uploads the folder while training continues: it must keep its name
            with explaining_faults(Path(self.args.output_dir), "a checkpoint"):
                super()._save_checkpoint(model, trial)
            self._remove_replaced()
            return
        run_dir = Path(self._get_output_dir(trial))
        final = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if not self.args.should_save:
            self._scratch = run_dir / SAVING
            self.accelerator.wait_for_everyone()  # the folder is empty
            with explaining_faults(run_dir, final.name):
                super()._save_checkpoint(model, trial)
            self._name_best_checkpoint(self._scratch / final.name, final)
            self.accelerator.wait_for_everyone()  # all have written
            self.accelerator.wait_for_everyone()  # it is renamed
            return
        with staging_dir(run_dir, final.name) as self._scratch:
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            saved = self._scratch / final.name
            if self._name_best_checkpoint(saved, final):
                self.state.save_to_json(str(saved / TRAINER_STATE_NAME))
            atomic_replace(saved, final)
            logger.info(f"Saved {final}")
        self._remove_replaced()
        remove_old_checkpoints(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _name_best_checkpoint(self, written: Path, final: Path) -> bool:
        """After writing: put the final name of the best checkpoint into ``state``, on every process.

        Args:
            written: path of the checkpoint in the staging folder.
            final: path to which it is renamed.

        Returns:
            Whether the checkpoint just written is the best one.
        """
        self._scratch = None
        if self.state.best_model_checkpoint != str(written):
            return False
        self.state.best_model_checkpoint = str(final)
        return True

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        """Find the best checkpoint next to the one that is resumed: the folder may have been moved since then."""
        done = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            saved = TrainerState.load_from_json(str(Path(resume_from_checkpoint, TRAINER_STATE_NAME)))
            if saved.best_model_checkpoint is not None:
                best = Path(resume_from_checkpoint).parent / Path(saved.best_model_checkpoint).name
                if best.is_dir():
                    self.state.best_model_checkpoint = str(best)
                elif self.state.best_model_checkpoint is None:  # removed: the best later checkpoint replaces it
                    self.state.best_metric = self.state.best_global_step = None
        if self.keeps_end and Path(resume_from_checkpoint or "").name != TRAINED:
            self.forget_end()  # of another run
        if self.replaces_run and resume_from_checkpoint is None:
            self.accelerator.wait_for_everyone()  # all processes have loaded the model, which may be one of these
            if self.args.should_save:
                set_aside_checkpoints(Path(self.args.output_dir))
        return done

    def _remove_replaced(self) -> None:
        """Remove the checkpoints that were set aside when training started: this run has saved its own now."""
        if self.args.should_save:
            remove_replaced(Path(self.args.output_dir))

    @property
    def made_no_step(self) -> bool:
        """Whether the resumed run had made all steps already, so that ``train`` made none."""
        return self.state.global_step == self._initial_global_step

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # resumed at the end, where Trainer would make another step
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        splits_weights = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.keeps_end and self.args.should_save and not splits_weights and not self.args.push_to_hub:
            self._keep_end()
        return super()._finalize_training(*args, **kwargs)

    def _keep_end(self) -> None:
        """Save a checkpoint of the end of training unless there is one, so that a run killed later resumes there.

        The first process saves it alone. It has no optimizer state, because no step follows.
        """
        run_dir = Path(self.args.output_dir)
        if (run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}").is_dir():
            return
        if self.made_no_step and (run_dir / TRAINED).is_dir():  # other processes may still be reading it
            return
        try:
            with staging_dir(run_dir, "the end of training") as self._scratch:
                saved = self._scratch / TRAINED
                self.save_model(str(saved), _internal_call=True)
                self._save_rng_state(str(saved))
                self._save_beside_optimizer(saved)
                self.state.save_to_json(str(saved / TRAINER_STATE_NAME))
                atomic_replace(saved, run_dir / TRAINED)
        except SavingError as error:
            logger.warning(f"{error}; if this run is killed from now on, it has to train again")
        finally:
            self._scratch = None

    def _save_beside_optimizer(self, checkpoint: Path) -> None:
        """Write the files that a resumed run needs in addition to Trainer's own."""

    def forget_end(self) -> None:
        """Remove the checkpoint of the end of training: the run is over, or trains from the start."""
        self.accelerator.wait_for_everyone()  # all have read it
        if self.args.should_save:
            shutil.rmtree(Path(self.args.output_dir, TRAINED), ignore_errors=True)

    def save_state(self) -> None:
        with self._whole_results():
            super().save_state()

    def save_metrics(self, split, metrics, combined=True) -> None:
        with self._whole_results():
            super().save_metrics(split, metrics, combined)

    @contextlib.contextmanager
    def _whole_results(self) -> Iterator[None]:
        """Write Trainer's files of results atomically."""
        if not self.is_world_process_zero():
            yield
            return
        final = self.args.output_dir
        with atomic_write_dir(Path(final), "the results") as scratch:
            so_far = Path(final, "all_results.json")
            if so_far.is_file():
                shutil.copy(so_far, scratch)
            self.args.output_dir = str(scratch)
            try:
                yield
            finally:
                self.args.output_dir = final

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save or self._scratch is not None:
            super()._save(str(folder), state_dict)
        else:
            with atomic_write_dir(folder, "the model") as scratch:
                super()._save(str(scratch), state_dict)
            if folder == Path(self.args.output_dir):
                self._remove_replaced()
