"""Which modifiers, fields and flags does SparseML 1.8.0 have?

Runs inside ``.venv-sparseml`` (``make parity``) and prints what tests/golden/sparseml.json holds:
each modifier's fields with their defaults (null: required), and the flags of its question-answering script and of its
export command, those of Transformers' own TrainingArguments left out.
"""

import dataclasses
import inspect
import json
import re

import sparseml.pytorch.sparsification  # noqa: F401
from sparseml.pytorch.sparsification.modifier import Modifier
from sparseml.transformers import export, question_answering
from sparseml.transformers.sparsification.training_args import TrainingArguments
from transformers import TrainingArguments as PlainTrainingArguments


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def modifiers():
    found = {}
    for kind in subclasses(Modifier):
        if inspect.isabstract(kind) or kind.__name__ in ("ScheduledModifier", "ScheduledUpdateModifier"):
            continue
        if kind.__name__.startswith("Base") or kind.__name__ == "ScheduledModifierManager":
            continue
        fields = found.setdefault(kind.__name__, {})  # QuantizationModifier is two classes, told apart by their keys
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                default = None if parameter.default is parameter.empty else repr(parameter.default)
                fields.setdefault(name, default)
    return found


def names(kind, without=None):
    left_out = {field.name for field in dataclasses.fields(without)} if without else set()
    return sorted({field.name for field in dataclasses.fields(kind)} - left_out)


def export_flags():
    source = inspect.getsource(export._parse_args)
    return sorted(set(re.findall(r'"--(\w+)"', source)))


print(
    json.dumps(
        {
            "modifiers": modifiers(),
            "flags": sorted(
                names(question_answering.ModelArguments)
                + names(question_answering.DataTrainingArguments)
                + names(TrainingArguments, without=PlainTrainingArguments)
            ),
            "export_flags": export_flags(),
        },
        indent=1,
    )
)
