"""Problems of a recipe, collected with their lines and raised as one error."""

from typing import NoReturn

from yaml import Node

from sparsification.errors import printable
from sparsification.recipe.document import RecipeError

MAX_PROBLEMS = 50  # in one error
ARGUMENTS = "recipe_args"  # name of the overrides in messages


class Problems:
    """The problems found so far.

    Args:
        name: of the recipe, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: list[tuple[int, str]] = []  # line, message

    def add(self, node: Node, message: str) -> None:
        """Add a one-line problem at a node. A problem that is there already is not added again.

        Raises:
            RecipeError: there are more than ``MAX_PROBLEMS``.
        """
        mark = node.start_mark
        line = 0 if mark.name == ARGUMENTS else mark.line + 1
        message = printable(message)
        entry = (line, f"{mark.name}, line {line}: {message}" if line else f"{mark.name}: {message}")
        if entry not in self._entries:  # aliases lead to the same node several times
            self._entries.append(entry)
        if len(self._entries) > MAX_PROBLEMS:
            raise RecipeError(*self._sorted()[:MAX_PROBLEMS], f"{self.name}: there are more problems")

    def stop(self, node: Node, message: str) -> NoReturn:
        """Add a problem after which reading cannot go on, and raise all.

        Raises:
            RecipeError: always.
        """
        self.add(node, message)
        raise RecipeError(*self._sorted())

    def raise_if_any(self) -> None:
        """Raise RecipeError with all problems, by line, if there are any."""
        if self._entries:
            raise RecipeError(*self._sorted())

    def _sorted(self) -> list[str]:
        return [message for _, message in sorted(self._entries, key=lambda entry: entry[0])]
