"""Folders that a run may write to, and the checkpoint from which it resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainingArguments

from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.errors import UsageError
from sparsification.trainer.checkpoints import checkpoint_error, is_leftover, last_complete_checkpoint
from sparsification.trainer.run_lock import RunLock, locked

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

logger = logging.getLogger(__name__)


def output_folder(training_args: TrainingArguments) -> Path:
    """Return ``--output_dir``, for which ``TrainingArguments`` has a default.

    Raises:
        UsageError: the field was set to None afterwards.
    """
    if training_args.output_dir is None:
        raise UsageError("--output_dir must name a folder, got None")
    return Path(training_args.output_dir)


def digest(manager: ScheduledModifierManager, training_args: TrainingArguments, *others: DataclassInstance) -> str:
    """Hash the arguments of a run and its recipe: equal for runs that do the same.

    Args:
        manager: the recipe's manager.
        training_args: the arguments of Transformers.
        *others: further arguments, dataclasses.
    """
    recipe = manager.recipe.to_yaml() if manager.recipe is not None else None
    values = [*(dataclasses.asdict(part) for part in others), training_args.to_dict(), recipe]
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


@contextlib.contextmanager
def only_run_in(
    training_args: TrainingArguments, onnx_export_path: str | None, command: str
) -> Iterator[RunLock | None]:
    """Lock the output folder and the export folder, so that no second run replaces files of this one.

    Args:
        training_args: name the output folder.
        onnx_export_path: the export folder; None where the run exports nothing.
        command: identifies what the run does, see ``digest``.

    Yields:
        The output folder's lock; None on processes that save nothing.

    Raises:
        UsageError: there is a file of the output folder's name.
        RunLockError: another run holds one of the folders.
    """
    if not training_args.should_save:
        yield None
        return
    output_dir = output_folder(training_args)
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir}: there is a file of that name")
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(locked(output_dir, command))
        export_dir = Path(onnx_export_path or output_dir)
        # The first process alone exports. Locking one folder twice would release the lock with the first of the two.
        if training_args.process_index == 0 and export_dir.resolve() != output_dir.resolve():
            stack.enter_context(locked(export_dir, "", "--onnx_export_path"))
        yield lock


def find_checkpoint(training_args: TrainingArguments, overwrite: bool, was_interrupted: bool = False) -> str | None:
    """Find the checkpoint from which training resumes.

    Args:
        training_args: name the output folder, and perhaps the checkpoint.
        overwrite: whether to train from the start, ``--overwrite_output_dir``.
        was_interrupted: see ``refuse_used_folder``.

    Returns:
        Path of the checkpoint; None to train from the start.
    Raises:
        UsageError: the named checkpoint does not exist, or the output folder holds other files.
    """
    if not training_args.do_train:
        return None
    output_dir = output_folder(training_args)
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir}: there is a file of that name")
    named = training_args.resume_from_checkpoint
    found = last_complete_checkpoint(output_dir)
    if str(named).lower() == "false":
        named = None
    if str(named).lower() == "true":
        if found is None:
            raise UsageError(f"--resume_from_checkpoint {named}: no complete checkpoint in {output_dir}")
        return found
    if named is not None:
        if flaw := checkpoint_error(Path(named)):
            raise UsageError(f"--resume_from_checkpoint {named}: {flaw}")
        return named
    if overwrite:
        return None
    if found is not None:
        logger.info(
            f"Going on from {found}. To train from the start instead, name another --output_dir "
            "or add --overwrite_output_dir"
        )
    else:
        refuse_used_folder(training_args, overwrite, was_interrupted)
    return found


def refuse_used_folder(training_args: TrainingArguments, overwrite: bool, was_interrupted: bool = False) -> None:
    """Refuse an output folder in which files of another run would be overwritten.

    Args:
        training_args: name the output folder.
        overwrite: whether ``--overwrite_output_dir`` allows it.
        was_interrupted: whether the files there are of a run with the same arguments that did not end.

    Raises:
        UsageError: the output folder is not empty, and --overwrite_output_dir does not allow that.
    """
    output_dir = output_folder(training_args)
    used = output_dir.is_dir() and not all(is_leftover(path) for path in output_dir.iterdir())
    if used and not was_interrupted and not overwrite:
        raise UsageError(
            f"--output_dir {output_dir} is not empty and has no complete checkpoint to go on from: "
            "name another one, or add --overwrite_output_dir"
        )
