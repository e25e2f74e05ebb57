"""Errors of question answering that a user can correct."""

from sparsification.errors import SparsificationError


class QAError(SparsificationError):
    """A question-answering run that cannot do what its arguments say; the message alone explains it."""


class UsageError(QAError):
    """Arguments that contradict each other, or name files that are not on this machine."""


class DataError(QAError):
    """A data file or data set that cannot be used."""
