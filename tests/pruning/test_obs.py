"""Second-order pruning against dense linear algebra, and where its gradients come from."""

import pytest
import torch

from helpers import ROOT
from helpers.recipes import LINEAR, PRUNE
from helpers.resuming import assert_resumes_exactly
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
        ("damp: [1.0e-5, -1.0]", "damp must be greater than 0 .*, got -1"),
        ("damp: []", r"damp must have at least one value, got \[\]"),
        ("damp: best", "a number or a list .a number each. or 'auto'"),
        ("fisher_labels: labels", "'data' or 'model' or 'teacher', got 'labels'"),
        ("mask_type: block4", "fisher_block_size must be a multiple of 4 with mask_type block4, e.g. 32, got 1"),
        ("mask_type: [4, 1]", r"must have blocks within one row, \[1, n\]"),
        ("mask_type: channel", r"must have blocks within one row, \[1, n\]"),
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


# The damp that is found

SEARCH = OBS.replace("num_grads: 3", "num_grads: 8\n    fisher_block_size: 8\n    fisher_labels: model")


def make_sharp(tmp_path, damp: object):
    """A trainer whose model is far from the uniform distribution, so that pruning changes its outputs."""
    trainer = make_trainer(tmp_path, SEARCH + f"    damp: {damp}\n")
    for weight in trainer.model.parameters():
        weight.detach().mul_(8.0 if weight.dim() == 2 else 1.0)
    return trainer


def divergence(trainer, dense: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> float:
    """Mean Kullback-Leibler divergence from the dense model's answers."""
    with torch.no_grad():
        pruned = trainer.model.eval()(**batch)
    names = ("start_logits", "end_logits")
    pairs = [[torch.distributions.Categorical(logits=outputs[name]) for outputs in (dense, pruned)] for name in names]
    return sum(torch.distributions.kl_divergence(*pair).mean().item() for pair in pairs) / 2


@pytest.mark.parametrize("damps", [[1e-9, 1e-3, 100.0], [100.0, 1e-3]])
def test_damp_found_is_the_one_that_changes_the_outputs_least(tmp_path, damps):
    found = make_sharp(tmp_path, damps)
    rows = found.train_dataset  # all 32 are compared
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        dense = found.model.eval()(**batch)
    fixed = {damp: make_sharp(tmp_path, damp) for damp in damps}
    for trainer in fixed.values():
        trainer.apply_one_shot()
    best = min(damps, key=lambda damp: divergence(fixed[damp], dense, batch))
    found.apply_one_shot()
    (pruning,) = found.manager.modifiers
    assert pruning.metrics(TrainingStep(0, 8))["damp"] == best
    assert divergence(found, dense, batch) == pytest.approx(divergence(fixed[best], dense, batch), rel=0.05)


def test_automatic_damps_are_relative_to_the_gradients(tmp_path):
    found = []
    for scale in (1.0, 1e-3):
        trainer = make_trainer(tmp_path, SEARCH + "    damp: auto\n")
        (pruning,) = trainer.manager.modifiers
        sample = pruning.sampler
        pruning.sampler = lambda *args, sample=sample, scale=scale: (
            [gradient * scale for gradient in gradients] for gradients in sample(*args)
        )
        trainer.apply_one_shot()
        found.append(pruning.metrics(TrainingStep(0, 8))["damp"])
    assert found[1] == pytest.approx(1e-6 * found[0], rel=1e-4)


def test_damp_is_found_at_the_first_mask_and_kept(tmp_path, caplog):
    with caplog.at_level("INFO"):
        trainer = make_trainer(tmp_path, SEARCH + "    damp: auto\n")
        trainer.train()
    assert sum("divergence of the outputs for each damp" in record.message for record in caplog.records) == 1
    logged = [log["OBSPruningModifier/damp"] for log in trainer.state.log_history if "OBSPruningModifier/damp" in log]
    assert len(logged) > 10 and len(set(logged)) == 1


def test_run_that_finds_its_damp_resumes_exactly(tmp_path):
    assert_resumes_exactly(tmp_path, SEARCH + "    damp: auto\n", {}, 0.5, 1)  # between two masks


def test_search_for_a_damp_without_data_or_gradients_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, SEARCH + "    damp: auto\n")
    (pruning,) = trainer.manager.modifiers
    pruning.sampler = lambda parameters, *_: [[torch.zeros_like(param) for param in parameters]] * 8
    with pytest.raises(ManagerError, match="needs gradients that are finite and not all 0, got a mean square of 0"):
        trainer.apply_one_shot()
    pruning.set_calibration_sampler(None)
    with pytest.raises(ManagerError, match=r"call ScheduledModifierManager.set_calibration_sampler first"):
        trainer.apply_one_shot()
