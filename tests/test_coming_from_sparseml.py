"""Does docs/coming-from-sparseml.md leave out nothing that SparseML 1.8.0 has, and say of nothing what is not so?

``golden/sparseml.json`` is what SparseML itself says of its modifiers, fields and flags.
"""

import ast
import dataclasses
import json
import re

from golden_run import GOLDEN

from helpers import ROOT
from sparsification.arguments import SparsificationArguments
from sparsification.modifiers import MODIFIERS, Modifier
from sparsification.tasks.question_answering.arguments import DataTrainingArguments, ModelArguments

PAGE = (ROOT / "docs" / "coming-from-sparseml.md").read_text()
SPARSEML = json.loads((GOLDEN / "sparseml.json").read_text())
SHARED = {field.name for field in dataclasses.fields(Modifier)}
FLAGS_OF_2021 = ["onnx_export_path", "do_onnx_export", "nm_prune_config", "distill_temperature", "distill_hardness"]
FLAGS_OF_2021 += ["layers_to_keep"]
SCALARS = (
    """
    ParamPruning/PARAM LearningRateFunctionModifier/ParamGroup{i} SetLearningRateModifier/ParamGroup{i}
    LearningRateModifier/ParamGroup{i} DistillationModifier/task_loss DistillationModifier/distillation_loss
    DistillationModifier/total_loss QuantizationModifier/MODULE/num_bits QuantizationModifier/num_fake_quantize_global
    QuantizationModifier/bn_stats_frozen QuantizationModifier/qat_observers_disabled LayerPruning/PATH
    PowerpropagationModifier/alpha SparsificationSummaries/... SparsificationPruning/... SparsificationQuantization/...
""".split()
    + ["Modifier Weight Decay"]
)


def rows(heading: str) -> list[list[str]]:
    """The cells of all tables under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ROWS = {code(row[0])[0]: row for row in rows("Modifiers") if len(row) == 4 and code(row[0])}
FIELD_ROWS = {
    name: row[1] for row in rows("Modifiers") if len(row) == 2 for name in code(row[0]) if name.count(".") == 1
}


def fields(name: str) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(MODIFIERS[name]) if field.init}


def test_there_is_a_row_for_each_modifier_of_sparseml_and_each_of_ours():
    assert set(ROWS) == {*SPARSEML["modifiers"], *MODIFIERS}


def test_a_modifier_is_not_here_where_it_is_not_and_nowhere_else(subtests):
    for name in SPARSEML["modifiers"]:
        with subtests.test(name):
            verdict = ROWS[name][1]
            if name in MODIFIERS:
                assert verdict.startswith(("same", "different: ")), f"{name} is in MODIFIERS now: make its row 'same'"
            else:
                assert verdict.startswith("not here: "), f"{name} is not in MODIFIERS"


def test_a_row_has_every_field_of_sparseml_and_every_one_of_ours(subtests):
    for name in SPARSEML["modifiers"]:
        with subtests.test(name):
            theirs = SPARSEML["modifiers"][name]
            assert code(ROWS[name][2]) == list(theirs)
            new = set(fields(name)) - set(theirs) - SHARED if name in MODIFIERS else set()
            assert sorted(code(ROWS[name][3])) == sorted(new), (
                f"{name}: the last column is for what SparseML does not have"
            )


def test_fields_that_are_missing_here_or_have_another_default_are_told_of(subtests):
    for name in [name for name in SPARSEML["modifiers"] if name in MODIFIERS]:
        with subtests.test(name):
            ours = fields(name)
            for field, default in SPARSEML["modifiers"][name].items():
                row = FIELD_ROWS.get(f"{name}.{field}", "")
                if field not in ours:
                    assert row.startswith("not here: "), f"{name}.{field} is missing here, and the page does not say so"
                else:
                    assert not row.startswith("not here"), f"{name}.{field} is here"
                    if default is not None and field not in ("start_epoch", "end_epoch"):  # whose -1 and 0 are one
                        own = ours[field].default
                        if own is dataclasses.MISSING:
                            own = ours[field].default_factory() or None
                        theirs = ast.literal_eval(default) if default != "{}" else None
                        assert theirs in (own, None) or row, f"{name}.{field}: another default"


def test_rows_about_fields_are_about_fields():
    for name in FIELD_ROWS:
        modifier, field = name.split(".")
        assert field in SPARSEML["modifiers"][modifier]


def test_flags_have_a_row_each_and_the_same_ones_are_here():
    tables = rows("Command line")
    split = next(index for index, row in enumerate(tables) if row[0] == "flag of the export command")
    kinds = (ModelArguments, DataTrainingArguments, SparsificationArguments)
    here = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    verdicts = {
        flag.removeprefix("--"): row[1] for row in tables[:split] for flag in code(row[0]) if flag.startswith("--")
    }
    assert set(verdicts) == {*SPARSEML["flags"], *FLAGS_OF_2021}
    for flag, verdict in verdicts.items():
        assert verdict.startswith("same") == (flag in here), flag
    export = [flag.removeprefix("--") for row in tables[split:] for flag in code(row[0])]
    assert sorted(export) == SPARSEML["export_flags"]
    new = code(PAGE.split("New here: ")[1].split("\n")[0])
    own = {field.name for field in dataclasses.fields(SparsificationArguments)}
    assert sorted(flag.removeprefix("--") for flag in new) == sorted(own - set(verdicts))


def test_every_logged_scalar_has_a_row():
    there = [name for row in rows("Series on dashboards") for name in code(row[0])]
    assert sorted(there) == sorted(SCALARS)


def test_every_deviation_has_its_reason_and_a_test():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    numbered = rows("Deviations")[1:]
    assert [int(row[0]) for row in numbered] == list(range(1, len(numbered) + 1))
    for row in numbered:
        (name,) = code(row[3])
        assert f"def {name}(" in tests, name
    mentioned = {int(number) for number in re.findall(r"\((\d\d?)\)", PAGE)}
    assert mentioned <= {int(row[0]) for row in numbered}
