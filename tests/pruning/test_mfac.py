"""M-FAC's wide blocks against dense linear algebra; tests/parity/test_golden.py has them against SparseML."""

import pytest
import torch

from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.pruning.mfac import inverse_diagonal, inverse_times, whitened
from sparsification.recipe.document import RecipeError

MFAC = PRUNE.replace("GMPruning", "MFACPruning") + "    num_grads: 3\n"


def dense_inverse(gradients: torch.Tensor, damp: float) -> torch.Tensor:
    """Of one block's (m, B) gradients."""
    count, size = gradients.shape
    return torch.linalg.inv(gradients.double().T @ gradients.double() / count + damp * torch.eye(size))


@pytest.mark.parametrize(("count", "size"), [(4, 10), (10, 4), (1, 1)])
def test_inverse_is_the_dense_blocks_inverse(count, size):
    generator = torch.Generator().manual_seed(0)
    gradients, values = torch.randn(3, count, size, generator=generator), torch.randn(3, size, generator=generator)
    factor = whitened(gradients, 0.1)
    for block in range(3):
        inverse = dense_inverse(gradients[block], 0.1)
        torch.testing.assert_close(inverse_diagonal(factor, 0.1)[block].double(), inverse.diag(), rtol=1e-4, atol=1e-4)
        product = inverse_times(factor, values, 0.1)[block].double()
        torch.testing.assert_close(product, inverse @ values[block].double(), rtol=1e-4, atol=1e-4)


def test_blocks_are_made_of_live_weights_and_reach_over_matrices():
    """One mask and then a second one, done by hand with dense blocks of all weights that are left."""
    recipe = """
modifiers:
  - !MFACPruningModifier
    params: ['re:.*weight']
    init_sparsity: 0.25
    final_sparsity: 0.5
    start_epoch: 0.0
    end_epoch: 1.0
    fisher_block_size: 5
    num_grads: 4
    damp: 0.01
    global_sparsity: True
"""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 4))
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(module)
    weights = [module[0].weight, module[1].weight]
    drawn: list[torch.Tensor] = []

    def sampler(parameters, count, batch_size, moment, labels):
        for _ in range(count):
            gradients = [torch.randn_like(param) for param in parameters]
            drawn.append(torch.cat([gradient.flatten() for gradient in gradients]))
            yield gradients

    manager.set_gradient_sampler(sampler)
    for step, share in ((0, 0.25), (1, 0.5)):
        vector = torch.cat([weight.detach().flatten() for weight in weights]).double()
        drawn.clear()
        manager.update(TrainingStep(step, 1), None)
        places = vector.nonzero().flatten()
        scores, inverses = torch.zeros(24, dtype=torch.float64), {}
        for block in places.split(5):
            inverses[block] = dense_inverse(torch.stack(drawn)[:, block], 0.01)
            scores[block] = vector[block] ** 2 / (2 * inverses[block].diag())
        gone = scores.argsort()[: round(24 * share)]
        pull = torch.zeros(24, dtype=torch.float64)
        expected = vector.clone()
        for block, inverse in inverses.items():
            pull[block] = vector[block] / inverse.diag()
            pull[[index for index in block.tolist() if index not in gone]] = 0
            expected[block] -= inverse @ pull[block]
        expected[gone] = 0
        ours = torch.cat([weight.detach().flatten() for weight in weights]).double()
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_number_of_gradients_grows_with_sparsity(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE.replace("GMPruning", "MFACPruning") + "    num_grads: {0.0: 2, 0.5: 5}\n")
    (pruning,) = trainer.manager.modifiers
    counts, sample = [], pruning.sampler
    pruning.sampler = lambda parameters, count, *rest: counts.append(count) or sample(parameters, count, *rest)
    trainer.train()
    assert counts == sorted(counts)
    assert set(counts) == {2, 5}
    for sparsity in pruning.masked.sparsities().values():
        assert sparsity == pytest.approx(0.8, abs=0.005)


def test_what_goes_wrong_is_said(tmp_path):
    for line, message in (
        ("damp: 0.0", "damp must be greater than 0"),
        ("fisher_block_size: 0", "must be at least 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            ScheduledModifierManager.from_yaml(MFAC + f"    {line}\n")
    trainer = make_trainer(tmp_path, MFAC)
    with torch.no_grad():
        trainer.model.qa_outputs.weight.fill_(torch.nan)
    with pytest.raises(ManagerError, match="MFACPruningModifier: a gradient is not finite"):
        trainer.apply_one_shot()
