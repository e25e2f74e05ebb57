"""Base class of all errors that a user can fix. Messages state where, what, and the probable intention.

docs/errors.md lists the classes. Private exceptions, and those not derived from the base, never leave the package.
"""


class SparsificationError(Exception):
    """A recipe, a flag, a model or a file is not valid."""


class ManagerError(SparsificationError, ValueError):
    """A recipe does not fit the model, its teacher or the run; the message has one line per problem."""


def printable(text: str) -> str:
    """Escape characters that are not printable, so that a message that quotes a recipe stays on one line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
