"""Which errors can a user do something about? Those of this base: they say where, what, and what was meant."""


class SparsificationError(Exception):
    """A recipe, a flag, a model or a file that is not what it has to be."""
