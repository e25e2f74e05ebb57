"""Pruning, quantization and distillation of Transformers models while they train.

A recipe says what to do and when; a manager applies it to a model:

>>> import sparsification
>>> recipe = sparsification.load_recipe('''
... modifiers:
...   - !GMPruningModifier {params: ['re:.*dense.weight'], final_sparsity: 0.8, start_epoch: 0.0, end_epoch: 2.0}
... ''')
>>> [modifier.final_sparsity for modifier in recipe.modifiers]
[0.8]
>>> sparsification.ScheduledModifierManager(recipe).sets_learning_rate
False

Importing the package is cheap: each name below is imported from its module when it is first used, and torch and
Transformers with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsification.arguments import SparsificationArguments as SparsificationArguments
    from sparsification.base import Modifier as Modifier
    from sparsification.distillation.teacher import load_teacher as load_teacher
    from sparsification.errors import SparsificationError as SparsificationError
    from sparsification.export.onnx import export_onnx as export_onnx
    from sparsification.manager import ScheduledModifierManager as ScheduledModifierManager
    from sparsification.quantization.checkpoint import load_quantization as load_quantization
    from sparsification.recipe.loader import load_recipe as load_recipe
    from sparsification.recipe.model import Recipe as Recipe
    from sparsification.runtime import load_session as load_session
    from sparsification.trainer.mixin import SparseTrainerMixin as SparseTrainerMixin
    from sparsification.trainer.sparse_trainer import SparseTrainer as SparseTrainer

__version__ = "0.1.0"

# Public name: the module that defines it, and its name there.
_HOMES = {
    "SparseTrainer": ("sparsification.trainer.sparse_trainer", "SparseTrainer"),
    "SparseTrainerMixin": ("sparsification.trainer.mixin", "SparseTrainerMixin"),
    "SparsificationArguments": ("sparsification.arguments", "SparsificationArguments"),
    "ScheduledModifierManager": ("sparsification.manager", "ScheduledModifierManager"),
    "Recipe": ("sparsification.recipe.model", "Recipe"),
    "load_recipe": ("sparsification.recipe.loader", "load_recipe"),
    "Modifier": ("sparsification.base", "Modifier"),
    "load_teacher": ("sparsification.distillation.teacher", "load_teacher"),
    "export_onnx": ("sparsification.export.onnx", "export_onnx"),
    "load_quantization": ("sparsification.quantization.checkpoint", "load_quantization"),
    "load_session": ("sparsification.runtime", "load_session"),
    "SparsificationError": ("sparsification.errors", "SparsificationError"),
}
__all__ = [
    "Modifier",
    "Recipe",
    "ScheduledModifierManager",
    "SparseTrainer",
    "SparseTrainerMixin",
    "SparsificationArguments",
    "SparsificationError",
    "__version__",
    "export_onnx",
    "load_quantization",
    "load_recipe",
    "load_session",
    "load_teacher",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own_name = _HOMES[name]
    return getattr(import_module(module), own_name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
