"""Dropped by size and grown by gradient, against the paper's rules in numpy."""

import numpy as np
import pytest
import torch

from helpers.recipes import REGROW
from helpers.trainers import make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.pruning.rigl import allocate_sparsity
from sparsification.recipe.document import RecipeError

RIGL = """
modifiers:
  - !RigLPruningModifier
    params: [weight]
    final_sparsity: 0.75
    start_epoch: 1.0
    end_epoch: 5.0
    update_frequency: 1.0
    num_grads: 2
    init_update_fraction: 0.4
"""


def rigl_mask(weight: np.ndarray, gradient: np.ndarray, sparsity: float, fraction: float) -> np.ndarray:
    """Hold the largest weights; of the rest, grow where the gradient is largest."""
    kept = weight.size - round(weight.size * sparsity)
    held = np.argsort(-np.abs(weight))[: round((1 - (sparsity + (1 - sparsity) * fraction)) * weight.size)]
    rest = np.setdiff1d(np.arange(weight.size), held)
    grown = rest[np.argsort(-np.abs(gradient[rest]))[: kept - held.size]]
    mask = np.zeros(weight.size, bool)
    mask[np.concatenate([held, grown])] = True
    return mask


@pytest.mark.parametrize("reset", [True, False])
def test_masks_hold_large_weights_and_grow_large_gradients(reset):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(8, 12, bias=False)
    manager = ScheduledModifierManager.from_yaml(RIGL + f"    momentum_buffer_reset: {reset}\n")
    manager.initialize(module)
    samples = {}

    def sampler(parameters, count, batch_size, moment, labels):
        samples[moment] = [torch.randn(12, 8, generator=generator) for _ in range(count)]
        yield from ([gradient] for gradient in samples[moment])

    manager.set_gradient_sampler(sampler)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    grown_in_all = 0
    for step in range(14):
        module.weight.grad = torch.randn(12, 8, generator=generator)
        manager.after_backward()
        before = module.weight.detach().flatten().numpy().copy()
        moments = optimizer.state[module.weight]["exp_avg"].flatten().clone() if step else None
        manager.update(TrainingStep(step, 2), optimizer)
        after = module.weight.detach().flatten().numpy().copy()
        if step in (2, 4, 6, 8, 10):
            fraction = 0.4 * (1 + np.cos(np.pi * (step / 2 - 1) / 4)) / 2
            gradient = sum(samples.get((step, 1), [torch.zeros(12, 8)])).flatten().numpy()
            mask = rigl_mask(before, gradient, 0.75, fraction)
            np.testing.assert_array_equal(after, np.where(mask, before, 0))
            grown = torch.from_numpy(mask & (before == 0))
            assert (after[grown.numpy()] == 0).all()
            grown_in_all += int(grown.sum())
            expected = moments.masked_fill(grown, 0.0) if reset else moments
            assert torch.equal(optimizer.state[module.weight]["exp_avg"].flatten(), expected)
        else:
            np.testing.assert_array_equal(after, before)
        optimizer.step()
        manager.after_optimizer_step()
        if step > 2 and step % 2:  # what grew a step ago has been moved
            assert int((module.weight == 0).sum()) == 72
    assert grown_in_all > 0
    assert sorted(samples) == [(2, 1), (4, 1), (6, 1), (8, 1)]  # at the end nothing grows: no gradients are asked for


def shared_by_bisection(shapes: dict[str, tuple], sparsity: float, last: int | None) -> dict[str, float]:
    """Densities min(1, e x sides / product), with e found by halving until all together have the sparsity."""
    size = {name: float(np.prod(shape)) for name, shape in shapes.items()}
    raw = {name: sum(shape[:last]) / float(np.prod(shape[:last])) for name, shape in shapes.items()}
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(min(1.0, middle * raw[name]) * size[name] for name in shapes)
        low, high = (middle, high) if kept < (1 - sparsity) * sum(size.values()) else (low, middle)
    return {name: 1 - min(1.0, low * raw[name]) for name in shapes}


@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.97])
@pytest.mark.parametrize(("strategy", "last"), [("erdos_renyi", 2), ("erdos_renyi_kernel", None)])
def test_sparsity_is_shared_out_by_rows_and_columns(sparsity, strategy, last):
    shapes = {"query": (64, 64), "up": (256, 64), "down": (64, 256), "head": (2, 64), "kernel": (16, 8, 3, 3)}
    shares = allocate_sparsity({name: torch.Size(shape) for name, shape in shapes.items()}, sparsity, strategy)
    assert shares == pytest.approx(shared_by_bisection(shapes, sparsity, last), abs=1e-9)
    total = sum(np.prod(shape) for shape in shapes.values())
    assert sum(shares[name] * np.prod(shapes[name]) for name in shapes) / total == pytest.approx(sparsity)
    assert shares["head"] < shares["up"]


def test_sparsity_0_and_uniform_shares():
    shapes = {"one": torch.Size((4, 4)), "other": torch.Size((8, 2)), "bias": torch.Size((8,))}
    assert allocate_sparsity(shapes, 0.7, "uniform") == dict.fromkeys(shapes, 0.7)
    del shapes["bias"]
    assert allocate_sparsity(shapes, 0.0, "erdos_renyi") == {"one": 0.0, "other": 0.0}


def test_sparsity_is_the_same_all_the_time_and_zeros_move(tmp_path):
    trainer = make_trainer(tmp_path, REGROW, weight_decay=0.1)
    (pruning,) = trainer.manager.modifiers
    seen, zeros = [], []
    step = trainer.training_step

    def watch(*args, **kwargs):
        seen.append(pruning.masked.sparsity())
        zeros.append(torch.cat([(weight == 0).flatten() for weight in pruning.masked.weights.values()]))
        return step(*args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert seen[:5] == [0.0] * 5
    # Right after every second step there are new masks, and what has grown is still zero.
    assert seen[6::2] == pytest.approx([0.8] * 9, abs=0.005)
    assert min(seen[5:]) > 0.795
    assert int((zeros[6] & ~zeros[20]).sum()) > 20
    sparsities = pruning.masked.sparsities()
    query, up = (next(v for k, v in sparsities.items() if part in k) for part in ("query", "intermediate"))
    assert query < up


def test_one_shot_needs_no_gradients():
    module = torch.nn.Linear(8, 12)
    manager = ScheduledModifierManager.from_yaml(RIGL)
    manager.initialize(module)
    largest = module.weight.detach().abs().flatten().sort().values[72:]
    manager.apply_one_shot()
    assert torch.equal(module.weight.detach().abs().flatten().sort().values[72:], largest)
    assert int((module.weight == 0).sum()) == 72


def test_each_group_of_weights_has_its_own_sparsity():
    module = torch.nn.ModuleDict({name: torch.nn.Linear(size, 16) for name, size in [("a", 16), ("b", 64), ("c", 8)]})
    groups = "final_sparsity: {0.5: ['re:[ab].weight'], 0.9: [c.weight]}"
    recipe = RIGL.replace("final_sparsity: 0.75", groups).replace("[weight]", "[]")
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(module)
    manager.apply_one_shot()
    zeros = {name: int((linear.weight == 0).sum()) for name, linear in module.items()}
    assert zeros["a"] + zeros["b"] == 640 and zeros["a"] / 256 < zeros["b"] / 1024
    assert zeros["c"] == round(0.9 * 128)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("final_sparsity: 0.75", "global_sparsity: True", "requires final_sparsity"),
        ("num_grads: 2", "global_sparsity: True", "global_sparsity must be false"),
        ("num_grads: 2", "mask_type: block4", "mask_type must be 'unstructured'"),
        ("num_grads: 2", "num_grads: 0", "num_grads must be at least 1, got 0"),
        ("fraction: 0.4", "fraction: 1.5", "init_update_fraction must be in .*, got 1.5"),
        ("num_grads: 2", "sparsity_strategy: random", "must be 'uniform' or 'erdos_renyi' or 'erdos_renyi_kernel'"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said(old, new, message):
    with pytest.raises(RecipeError, match=message):
        ScheduledModifierManager.from_yaml(RIGL.replace(old, new))


def test_vectors_are_refused():
    with pytest.raises(ManagerError, match="bias: sparsity_strategy 'erdos_renyi_kernel' needs a matrix"):
        ScheduledModifierManager.from_yaml(RIGL.replace("[weight]", "__ALL__")).initialize(torch.nn.Linear(2, 2))


def test_gradients_that_are_not_finite_are_said():
    module = torch.nn.Linear(8, 12)
    manager = ScheduledModifierManager.from_yaml(RIGL)
    manager.initialize(module)
    manager.set_gradient_sampler(lambda *_: [[torch.full((12, 8), torch.nan)]])
    with pytest.raises(ManagerError, match="weight: a gradient is not finite"):
        manager.update(TrainingStep(1, 1), torch.optim.SGD(module.parameters(), lr=0.1))
