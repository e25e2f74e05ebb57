"""Costs of options add up to those of the models that were timed."""

import pytest
import torch

from helpers.exports import needs_compiler
from helpers.plans import SHAPE, UNITS, make_costs
from sparsification.plan import costs as module
from sparsification.plan import layer_files
from sparsification.plan.costs import Cost, Costs, Setting
from sparsification.plan.engines import OPERATORS
from sparsification.plan.units import BLOCKS, DENSE, UNSTRUCTURED, Option, Unit


def test_dense_unit_costs_what_it_adds_to_a_sparse_model():
    units = [Unit(("a",), 10, 30), Unit(("b",), 10, 10), Unit(("c",), 10, 10)]
    dense, low, high = Option("int8"), Option("int8", BLOCKS, 0.7), Option("int8", BLOCKS, 0.95)
    layers = {
        (10, 30): {dense: Cost(3.0, 0), low: Cost(1.0, 0), high: Cost(0.5, 0)},
        (10, 10): {dense: Cost(1.0, 0), low: Cost(0.4, 0), high: Cost(0.2, 0)},
    }
    # Sparse: 2 + 1.5 x layers. A dense unit adds 3.1, or each of the two others 1.2.
    models = {dense: Cost(10.0, 0), low: Cost(2 + 1.5 * 1.8, 0), high: Cost(2 + 1.5 * 0.9, 0)}
    mixed = {"int8": {(10, 30): Cost(3.35 + 3.1, 0), (10, 10): Cost(3.35 + 2.4, 0)}}
    rest, (wide, narrow, _) = Costs(layers, models, mixed).of_units(units, "int8", "milliseconds")
    assert rest == pytest.approx(2.0)
    assert [wide[low], narrow[high]] == pytest.approx([1.5, 0.3])
    assert [wide[dense], narrow[dense]] == pytest.approx([0.75 + 3.1, 0.3 + 1.2])


def test_files_of_one_size_whatever_the_sparsity():
    costs = make_costs()
    layers = {SHAPE: {option: Cost(cost.milliseconds, 5.0) for option, cost in costs.layers[SHAPE].items()}}
    models = {option: Cost(cost.milliseconds, 12.0) for option, cost in costs.models.items()}
    mixed = {precision: {SHAPE: Cost(1.0, 12.0)} for precision in costs.mixed}
    rest, tables = Costs(layers, models, mixed).of_units(UNITS, "int8", "bytes")
    assert rest == 2.0
    assert all(value == 5.0 for table in tables for value in table.values())


def test_only_the_dense_option_is_left_where_sparse_models_were_not_timed():
    costs = make_costs()
    models = {option: cost for option, cost in costs.models.items() if option.pattern == DENSE}
    rest, tables = Costs(costs.layers, models, {}).of_units(UNITS, "int8", "milliseconds")
    assert [list(table) for table in tables] == [[Option("int8")]] * 2
    assert rest + sum(table[Option("int8")] for table in tables) == models[Option("int8")].milliseconds


def test_file_of_results_is_read_as_it_was_written():
    costs = make_costs()
    assert module._from_json(module._to_json(costs)) == costs


def test_machine_whose_speed_changes_is_told(tmp_path):
    said = []
    for change in (0.1, 0.4):
        module._tell(change, tmp_path / "costs.json", said.append)
    (line,) = said
    assert line.startswith("Costs: this machine's speed changed by 40% meanwhile") and "costs.json" in line


@needs_compiler
def test_layer_that_the_operators_do_not_make_faster_has_no_file(tmp_path):
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    assert layer_files.write_option(weight, Option("fp32", UNSTRUCTURED, 0.2), tmp_path, OPERATORS) is None
    assert layer_files.write_option(weight, Option("fp32", UNSTRUCTURED, 0.8), tmp_path, OPERATORS) is not None
    assert module._inputs(Option("int8"), 64, Setting(2, 3)).shape == (2, 3, 64)
