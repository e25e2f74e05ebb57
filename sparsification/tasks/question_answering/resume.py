"""Folders that a run may write to, and the checkpoint from which it resumes."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sparsification.tasks.question_answering.arguments import Flags
from sparsification.tasks.question_answering.errors import UsageError
from sparsification.trainer.checkpoints import TRAINED, checkpoint_error, checkpoints, is_leftover
from sparsification.trainer.run_lock import RunLock, locked

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def only_run_in(flags: Flags) -> Iterator[RunLock | None]:
    """Lock the output folder and the export folder, so that no second run replaces files of this one.

    Args:
        flags: the run's arguments and recipe.

    Yields:
        The output folder's lock; None on processes that save nothing.

    Raises:
        UsageError: there is a file of the output folder's name.
        RunLockError: another run holds one of the folders.
    """
    if not flags.training.should_save:
        yield None
        return
    output_dir = Path(flags.training.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir}: there is a file of that name")
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(locked(output_dir, _digest(flags)))
        export_dir = Path(flags.sparse.onnx_export_path or output_dir)
        # The first process alone exports. Locking one folder twice would release the lock with the first of the two.
        if flags.training.process_index == 0 and export_dir.resolve() != output_dir.resolve():
            stack.enter_context(locked(export_dir, "", "--onnx_export_path"))
        yield lock


def _digest(flags: Flags) -> str:
    """Hash of all arguments and of the recipe: equal for runs that do the same."""
    recipe = flags.manager.recipe.to_yaml() if flags.manager.recipe is not None else None
    parts = [dataclasses.asdict(part) for part in (flags.model, flags.data, flags.sparse)]
    values = [*parts, flags.training.to_dict(), recipe]
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


def find_checkpoint(flags: Flags, was_interrupted: bool = False) -> str | None:
    """Find the checkpoint from which training resumes.

    Args:
        flags: the run's arguments.
        was_interrupted: see ``refuse_used_folder``.

    Returns:
        Path of the checkpoint; None to train from the start.

    Raises:
        UsageError: there is none where one was named, or the output folder holds other things.
    """
    training_args = flags.training
    if not training_args.do_train:
        return None
    output_dir = Path(training_args.output_dir)
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
    if flags.data.overwrite_output_dir:
        return None
    if found is not None:
        logger.info(
            f"Going on from {found}. To train from the start instead, name another --output_dir "
            "or add --overwrite_output_dir"
        )
    else:
        refuse_used_folder(flags, was_interrupted)
    return found


def refuse_used_folder(flags: Flags, was_interrupted: bool = False) -> None:
    """Refuse an output folder in which files of another run would be overwritten.

    Args:
        flags: the run's arguments.
        was_interrupted: whether the files there are of a run with the same arguments that did not end.

    Raises:
        UsageError: the output folder is not empty, and --overwrite_output_dir does not allow that.
    """
    output_dir = Path(flags.training.output_dir)
    used = output_dir.is_dir() and not all(is_leftover(path) for path in output_dir.iterdir())
    if used and not was_interrupted and not flags.data.overwrite_output_dir:
        raise UsageError(
            f"--output_dir {output_dir} is not empty and has no complete checkpoint to go on from: "
            "name another one, or add --overwrite_output_dir"
        )


def last_complete_checkpoint(output_dir: Path) -> str | None:
    """Find the newest checkpoint that is whole."""
    for path in (output_dir / TRAINED, *reversed(checkpoints(output_dir).values())):
        if path.name == TRAINED and not path.is_dir():
            continue
        flaw = checkpoint_error(path)
        if flaw is None:
            return os.fspath(path)
        logger.warning(f"{path} was not saved to its end: passed over ({flaw})")
    return None
