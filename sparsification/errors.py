"""The base of all errors that a user can do something about: they say where, what, and what was meant.

docs/errors.md has the tree of them. A class that is private, or no subclass of the base, never leaves the package.
"""


class SparsificationError(Exception):
    """A recipe, a flag, a model or a file that is not what it has to be."""


class ManagerError(SparsificationError, ValueError):
    """A recipe does not fit the model, its teacher or the run; the message has one line per problem."""


def printable(text: str) -> str:
    """A message on one line, whatever a recipe's own words in it contain."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
