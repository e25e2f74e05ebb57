"""Errors of the tasks that a user can correct."""

from sparsification.errors import SparsificationError


class TaskError(SparsificationError):
    """A run of a task that cannot do what its arguments say; the message alone explains it."""


class UsageError(TaskError):
    """Arguments that contradict each other, or name files that are not on this machine."""


class DataError(TaskError):
    """A data file or data set that cannot be used."""
