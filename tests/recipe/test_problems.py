"""Problems of a recipe, reported at once with their lines."""

import pickle

import pytest

from helpers.loading import load, problem_of, problems_of
from sparsification.recipe.loader import RecipeError


def test_all_problems_are_reported_at_once_in_the_order_of_lines():
    text = """a: eval(b)
training_modifiers:
  - !EpochRangeModifier
    end_epoch: abc
  - !GMPrunningModifier
    start_epoch: 0
  - !LayerThinningModifier {}
  - !!python/object/apply:os.system ["true"]
  - SetLearningRateModifier
pruning_modifiers:
  - !GMPruningModifier
    params: __ALL__
    final_sparcity: 0.8
    end_epoch: 2.0
  - !TrainableParamsModifier
    end_epoch: 2.0
  - !EpochRangeModifier
    start_epoch: 5
    end_epoch: 2
  - !AnyModifier 3
more_modifiers: {EpochRangeModifier: {end_epoch: -2.0}}
"""
    problems = [problem.removeprefix("<recipe>, line ") for problem in problems_of(text, "c=1")]
    expected = [
        "recipe_args: the recipe has no variable 'c'; its variables are 'a'",
        "1: 'eval(b)': unknown variable 'b'; its variables are 'a'",
        "4: EpochRangeModifier: end_epoch must be a number, got 'abc'",
        "5: unknown modifier 'GMPrunningModifier'; did you mean 'GMPruningModifier'?",
        "7: LayerThinningModifier requires param_group_dependency_map",
        "8: modifiers must be a list of entries",
        "9: modifiers must be a list of entries",
        "13: GMPruningModifier has no key 'final_sparcity'; did you mean 'final_sparsity'?",
        "15: TrainableParamsModifier requires params and trainable",
        "17: EpochRangeModifier: end_epoch must be at least start_epoch, got 2 and 5",
        "20: AnyModifier must be followed by its keys",
        "21: EpochRangeModifier: end_epoch must be at least -1",
    ]
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)


def test_problem_of_a_node_behind_an_alias_is_reported_once():
    assert "line 1" in problem_of("a: &a eval(x)\nmodifiers:\n  - &m !AnyModifier {free: [*a, *a]}\n  - *m\n")


def test_more_problems_than_anyone_reads_are_cut():
    problems = problems_of("modifiers:\n" + "".join(f"  - !X{i} {{}}\n" for i in range(200)))
    assert len(problems) == 51
    assert problems[-1].endswith("there are more problems")


def test_problem_stays_one_line_of_printable_characters():
    for name in ('"a\\nb"', '"\\e[31m"', '"\\ud800"'):
        problem = problem_of(f"modifiers:\n  - !AnyModifier\n    {name}: 1\n")
        assert problem.isprintable()


def test_error_survives_pickling():
    with pytest.raises(RecipeError) as caught:
        load("a: eval(b)\nc: eval(d)\nmodifiers: []")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems
