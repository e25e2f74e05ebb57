"""Second-order pruning against dense linear algebra, and where its gradients come from."""

import pytest
import torch

from helpers import ROOT
from helpers.recipes import LINEAR, PRUNE
from helpers.trainers import make_model, make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.loader import RecipeError

OBS = PRUNE.replace("GMPruning", "OBSPruning") + "    num_grads: 3\n"


# In a run


@pytest.mark.parametrize("pattern", ["unstructured", "block4", "[1, 8]"])
@pytest.mark.parametrize("ranking", [True, False])
def test_final_sparsity_is_reached_in_whole_blocks(tmp_path, pattern, ranking):
    recipe = OBS + f"    mask_type: {pattern}\n    fisher_block_size: 8\n    global_sparsity: {ranking}\n"
    trainer = make_trainer(tmp_path, recipe)
    trainer.train()
    (pruning,) = trainer.manager.modifiers
    assert pruning.masked.sparsity() == pytest.approx(0.8, abs=0.001 if ranking else 0.01)
    group = {"unstructured": 1, "block4": 4, "[1, 8]": 8}[pattern]
    for weight in pruning.masked.weights.values():
        zeros = (weight.view(-1, group) == 0).sum(dim=1)
        assert set(zeros.tolist()) <= {0, group}
    assert (len(set(pruning.masked.sparsities().values())) > 4) == ranking


def test_a_pruned_weight_does_not_come_back(tmp_path):
    trainer = make_trainer(tmp_path, OBS + "    fisher_block_size: 8\n", weight_decay=0.1)
    (pruning,) = trainer.manager.modifiers
    gone = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in pruning.masked.weights.items()}
    step = trainer.training_step

    def watch(*args, **kwargs):
        for name, weight in pruning.masked.weights.items():
            assert (weight[gone[name]] == 0).all()
            gone[name] |= weight == 0
        return step(*args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert sum(int(zeros.sum()) for zeros in gone.values()) > 0


def test_one_shot_prunes_by_curvature_too(tmp_path):
    trainer = make_trainer(tmp_path, OBS + "    num_recomputations: 2\n")
    trainer.apply_one_shot()
    assert trainer.manager.modifiers[0].masked.sparsity() == pytest.approx(0.8, abs=0.001)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_grads: 0", "num_grads must be at least 1, got 0"),
        ("damp: 0.0", "damp must be greater than 0 .*, got 0"),
        ("mask_type: block4", "fisher_block_size must be a multiple of 4 with mask_type block4, e.g. 32, got 1"),
        ("mask_type: [4, 1]", r"must have blocks within one row, \[1, n\]"),
        ("mask_type: '2:4'", "needs global_sparsity False"),
        ("grad_sampler_kwargs: {batchsize: 8}", "must have no key but batch_size, got 'batchsize'"),
        ("grad_sampler_kwargs: {batch_size: 0}", "batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said(line, message):
    recipe = PRUNE.replace("GMPruning", "OBSPruning") + f"    {line}\n"
    with pytest.raises(RecipeError, match=message):
        ScheduledModifierManager.from_yaml(recipe)


def test_blocks_that_do_not_fill_the_rows_are_refused():
    recipe = OBS.replace(LINEAR, "re:.*dense.weight") + "    mask_type: [1, 12]\n    fisher_block_size: 12\n"
    with pytest.raises(ManagerError, match="blocks of 1x12 do not tile|blocks of 12 do not tile rows of 16"):
        ScheduledModifierManager.from_yaml(recipe).initialize(make_model())


def test_a_loop_that_gives_no_gradients_is_told_so():
    manager = ScheduledModifierManager.from_yaml(OBS)
    manager.initialize(make_model())
    with pytest.raises(ValueError, match=r"call ScheduledModifierManager.set_gradient_sampler"):
        manager.update(TrainingStep(4, 8), None)


def test_gradients_that_are_not_finite_end_the_run_with_a_reason(tmp_path):
    trainer = make_trainer(tmp_path, OBS)
    with torch.no_grad():
        trainer.model.qa_outputs.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="is the loss nan"):
        trainer.apply_one_shot()


def test_plan_shows_the_sparsity_of_the_last_mask():
    manager = ScheduledModifierManager.from_yaml(ROOT / "recipes" / "bert-base-12layers_obert90.md")
    (pruning,) = (modifier for modifier in manager.modifiers if modifier.changes_weights)
    assert pruning.target_sparsity(0.9, 5.9) == 0.7
    assert pruning.target_sparsity(0.9, 6.0) == pytest.approx(0.7 + 0.2 * (1 - (5 / 6) ** 3))
