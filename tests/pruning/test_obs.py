"""Second-order pruning against dense linear algebra, and where its gradients come from."""

import datasets
import pytest
import torch

from helpers import ROOT
from helpers.recipes import LINEAR, PRUNE
from helpers.trainers import SparseTrainer, arguments, make_data, make_model, make_trainer
from sparsification.distillation.teacher_cache import SAMPLE_INDEX
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.pruning import fisher
from sparsification.recipe.document import RecipeError

OBS = PRUNE.replace("GMPruning", "OBSPruning") + "    num_grads: 3\n"


def problem(num_weights: int, block: int, count: int = 40, damp: float = 0.01, seed: int = 0):
    """Gradients, weights, the inverse built gradient by gradient, and the dense Fisher matrix cut to its blocks."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(count, num_weights, generator=generator)
    weight = torch.randn(num_weights, generator=generator)
    inverse = fisher.damped_inverse(num_weights, block, damp)
    for gradient in gradients:
        fisher.add_gradient_(inverse, gradient, count)
    dense = gradients.double().T @ gradients.double() / count + damp * torch.eye(num_weights)
    number = torch.arange(num_weights) // block
    return weight, inverse, dense * (number[:, None] == number[None, :])


def blocks_of(matrix: torch.Tensor) -> torch.Tensor:
    return torch.block_diag(*matrix)


@pytest.mark.parametrize(("num_weights", "block"), [(12, 1), (12, 4), (12, 12), (13, 5)])
def test_inverse_is_the_dense_blocks_inverse(num_weights, block):
    _, inverse, dense = problem(num_weights, block)
    ours = blocks_of(inverse)[:num_weights, :num_weights].double()
    torch.testing.assert_close(ours, torch.linalg.inv(dense), rtol=1e-4, atol=1e-4)


def pruned_at_least_cost(weight: torch.Tensor, hessian: torch.Tensor, group: list[int]) -> torch.Tensor:
    """The move that minimizes 1/2 d' H d where w + d is zero in the group: the KKT system, solved."""
    n, q = len(weight), len(group)
    select = torch.eye(n, dtype=torch.float64)[group]
    system = torch.cat([torch.cat([hessian, select.T], 1), torch.cat([select, torch.zeros(q, q)], 1)])
    return torch.linalg.solve(system, torch.cat([torch.zeros(n), -weight[group].double()]).double())[:n]


@pytest.mark.parametrize("group", [1, 4])
def test_saliency_and_surgery_are_the_constrained_optimum(group):
    weight, inverse, dense = problem(16, 8)
    scores = fisher.saliency(weight, inverse, group)
    for first in range(0, 16, group):
        members = list(range(first, first + group))
        move = pruned_at_least_cost(weight, dense, members)
        cost = 0.5 * move @ dense @ move
        torch.testing.assert_close(scores[members].double(), cost.expand(group), rtol=1e-3, atol=1e-5)
        keep = torch.ones(16, dtype=torch.bool)
        keep[members] = False
        ours = fisher.obs_update(weight, inverse, keep, group).double()
        torch.testing.assert_close(ours, move, rtol=1e-3, atol=1e-4)


def test_moves_for_several_groups_are_added_up_as_in_obert():
    weight, inverse, _ = problem(16, 8)
    keep = torch.ones(16, dtype=torch.bool)
    single = []
    for index in (1, 2, 9):
        alone = torch.ones(16, dtype=torch.bool)
        alone[index] = keep[index] = False
        single.append(fisher.obs_update(weight, inverse, alone))
    torch.testing.assert_close(fisher.obs_update(weight, inverse, keep), sum(single))


@pytest.mark.parametrize("group", [1, 4])
def test_where_rounding_spoils_the_inverse_weights_are_important(group):
    inverse = torch.diag(torch.tensor([5.0, 5.0, 5.0, -1.0, 5.0, 5.0, 5.0, 5.0]))[None]
    scores = fisher.saliency(torch.ones(8), inverse, group)
    assert (scores >= 0).all()
    assert scores[3] == scores.max() > 1e6


def test_correlated_features_are_pruned_at_a_lower_loss_than_by_magnitude():
    """Least squares, where the Fisher matrix of unit noise is the Hessian: half of the weights go."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    weight = torch.randn(8, generator=generator)
    target = features @ weight
    inverse = fisher.damped_inverse(8, 8, 1e-6)
    for row in features:
        fisher.add_gradient_(inverse, row, len(features))

    def loss_of(scores: torch.Tensor, surgeon: bool) -> float:
        keep = scores >= scores.sort().values[4]
        moved = weight + fisher.obs_update(weight, inverse, keep) if surgeon else weight
        return ((features @ (moved * keep) - target) ** 2).mean().item()

    assert loss_of(fisher.saliency(weight, inverse), True) < loss_of(weight.abs(), False)


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


def test_samples_are_the_task_losss_gradients_and_leave_the_training_step_alone(tmp_path):
    trainer = make_trainer(tmp_path, OBS)
    model, data = trainer.model.train(), make_data()
    parameters = list(trainer.manager.modifiers[0].masked.weights.values())
    for param in parameters:
        param.grad = torch.ones_like(param)
    random_state = torch.get_rng_state()
    samples = list(trainer._sample_gradients(parameters, 20, 2, (4, 1)))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert all((param.grad == 1).all() for param in parameters)
    assert len(samples) == 20  # 40 features, of 32: the order begins anew
    model.eval()
    singles = [torch.autograd.grad(model(**{k: v[None] for k, v in row.items()}).loss, parameters) for row in data]
    mean = [sum(parts) / len(data) for parts in zip(*singles, strict=True)]
    sampled = [sum(parts) / 16 for parts in zip(*samples[:16], strict=True)]  # each of the 32 features once
    for ours, expected in zip(sampled, mean, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)


def test_samples_are_a_function_of_seed_and_moment(tmp_path):
    def first(trainer, moment):
        parameters = [trainer.model.qa_outputs.weight]
        return next(iter(trainer._sample_gradients(parameters, 1, 4, moment)))[0]

    one, again = make_trainer(tmp_path, OBS), make_trainer(tmp_path, OBS)
    assert torch.equal(first(one, (4, 1)), first(again, (4, 1)))
    assert not torch.equal(first(one, (4, 1)), first(one, (4, 2)))
    assert not torch.equal(first(one, (4, 1)), first(make_trainer(tmp_path, OBS, seed=4), (4, 1)))


def test_samples_are_taken_from_a_dataset_with_other_columns_and_a_cached_teacher(tmp_path):
    data = datasets.Dataset.from_list([{k: v.tolist() for k, v in row.items()} | {"id": "x"} for row in make_data()])
    distill = "  - !DistillationModifier\n    hardness: 1.0\n"
    trainer = SparseTrainer(
        model=make_model(),
        args=arguments(tmp_path),
        train_dataset=data.with_format("torch", output_all_columns=True),
        manager=ScheduledModifierManager.from_yaml(OBS + distill),
        teacher=make_model(seed=9),
        teacher_cache=tmp_path / "cache",
    )
    trainer.train()
    assert SAMPLE_INDEX in trainer.train_dataset.column_names
    assert trainer.manager.modifiers[0].masked.sparsity() == pytest.approx(0.8, abs=0.001)


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
