"""Reconstruction in a run and in one shot: exact zeros, batches, resuming, allocation, and llm-compressor's keys."""

import datasets
import pytest
import torch

from helpers.recipes import LINEAR
from helpers.trainers import SparseTrainer, arguments, assert_same_model, make_data, make_model
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.pruning import reconstruction
from sparsification.pruning.layer_walk import input_norms, walk
from sparsification.pruning.masks import compute_mask, num_pruned
from sparsification.recipe.document import RecipeError
from sparsification.recipe.loader import load_recipe

ENCODER = r"re:bert\.encoder\.layer\.\d+$"
CALIBRATION = "num_samples: 8, batch_size: 4"


def recipe(keys: str = "", name: str = "ReconstructionPruningModifier") -> str:
    """One modifier; the general one with its times and weights."""
    if name == "ReconstructionPruningModifier":
        keys = f"params: ['{LINEAR}'], final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 1.0, {CALIBRATION}, {keys}"
    return f"modifiers:\n  - !{name} {{{keys}}}\n"


def trainer_of(folder, text: str, teacher=None, **settings) -> SparseTrainer:
    return SparseTrainer(
        model=make_model(),
        args=arguments(folder, **{"num_train_epochs": 2} | settings),
        train_dataset=make_data(),
        manager=ScheduledModifierManager.from_yaml(text),
        teacher=teacher,
    )


def one_shot(folder, text: str, teacher=None) -> SparseTrainer:
    trainer = trainer_of(folder, text, teacher)
    trainer.apply_one_shot()
    return trainer


def linear_names(model) -> list[str]:
    """Of the encoder."""
    modules = model.named_modules()
    return [name for name, module in modules if isinstance(module, torch.nn.Linear) and ".layer." in name]


def solved(trainer: SparseTrainer, solve, dampening: float = 0.01, names=None):
    """The same walk over a new model with the batches of the run, each layer solved by ``solve(problem)``."""
    model = make_model().eval()
    batches = trainer._sample_inputs(8, 4, (0, 1))
    for group in walk(model, names or linear_names(model), batches):
        for index, name in enumerate(group.names):
            weight = model.get_submodule(name).weight.detach()
            new, keep = solve(group.moments.problem(index, weight, dampening))
            weight.copy_(new * keep)
    return model


def assert_same_encoder(one, other):
    for name in linear_names(one):
        theirs = other.get_submodule(name).weight
        torch.testing.assert_close(
            one.get_submodule(name).weight, theirs, msg=lambda text, name=name: f"{name}: {text}"
        )


# The general modifier


@pytest.mark.parametrize("mask_type", ["unstructured", "block4", [1, 4], [4, 4], "2:4", "channel"])
@pytest.mark.parametrize("method", ["alps", "sparsegpt", "wanda", "magnitude"])
def test_one_shot_prunes_every_layer_to_the_pattern(method, mask_type, tmp_path):
    trainer = one_shot(tmp_path, recipe(f"mask_method: {method}, mask_type: {mask_type!r}, block_size: 8"))
    for name in linear_names(trainer.model):
        weight = trainer.model.get_submodule(name).weight
        assert int((weight == 0).sum()) == num_pruned(weight.shape, 0.5, mask_type), name


def mixed(blocks: str = r"re:.*\d\.output.dense.weight", single: str = "re:.*intermediate.dense.weight") -> str:
    """A sparsity and a pattern for each of two kinds of layers; the arguments are those that get a pattern."""
    groups = r"{0.5: 're:.*intermediate.dense.weight', 0.75: 're:.*\d\.output.dense.weight'}"
    patterns = f"{{block4: '{blocks}', unstructured: ['{single}']}}"
    text = recipe(f"mask_type: {patterns}")
    return text.replace(f"['{LINEAR}'], final_sparsity: 0.5", f"[], final_sparsity: {groups}")


def test_each_group_of_weights_has_its_pattern_in_one_walk(tmp_path):
    def solve(problem):
        rows, columns = problem.weight.shape
        keep = reconstruction.alps_mask(problem, *((0.75, "block4") if columns > rows else (0.5, "unstructured")))
        return reconstruction.refit(problem, keep), keep

    trainer = one_shot(tmp_path, mixed())
    names = [name for name in linear_names(trainer.model) if "attention" not in name]
    assert_same_encoder(trainer.model, solved(trainer, solve, names=names))
    zeros = trainer.manager.modifiers[0].zero_counts_at(1.0, {})
    assert zeros == {f"{name}.weight": int((trainer.model.get_submodule(name).weight == 0).sum()) for name in names}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (mixed(blocks=r"re:.*0\.output.dense.weight"), "layer.1.output.dense.weight: no group of mask_type has it"),
        (mixed(single="re:.*dense.weight"), "output.dense.weight is in two groups of mask_type"),
        (
            mixed(single=r"re:.*(query|intermediate.dense)\.weight"),
            "query.weight has a mask_type, but no final_sparsity",
        ),
    ],
)
def test_pattern_of_each_weight_must_be_clear(text, message):
    with pytest.raises(ManagerError) as error:
        ScheduledModifierManager.from_yaml(text).initialize(make_model())
    assert message in str(error.value)


def test_neurons_go_in_one_shot_and_the_rest_of_their_block_is_fitted(tmp_path):
    name = r"re:(bert\.encoder\.layer\.\d+)\.output\.dense\.weight"
    text = recipe("mask_type: channel").replace(LINEAR, name) + (
        "  - !LayerThinningModifier\n    structure_type: channel\n    param_group_dependency_map:\n"
        rf"      '{name}': ['\1.intermediate.dense.weight', '\1.intermediate.dense.bias']" + "\n"
    )
    trainer, dense = one_shot(tmp_path, text), make_model()
    trainer.save_model(str(tmp_path))
    loaded = type(dense).from_pretrained(tmp_path)
    assert loaded.config.intermediate_size == dense.config.intermediate_size // 2
    for layer, before in zip(loaded.bert.encoder.layer, dense.bert.encoder.layer, strict=True):
        rows, own = before.intermediate.dense.weight, layer.intermediate.dense.weight
        kept = [int((rows == row).all(dim=1).nonzero()) for row in own]
        assert kept == sorted(kept)
        assert not torch.equal(layer.output.dense.weight, before.output.dense.weight[:, kept])


def test_each_layer_is_solved_on_what_the_pruned_ones_before_it_give(tmp_path):
    def solve(problem):
        keep = reconstruction.alps_mask(problem, 0.5, "unstructured")
        return reconstruction.refit(problem, keep), keep

    trainer = one_shot(tmp_path, recipe())
    assert_same_encoder(trainer.model, solved(trainer, solve))


def test_magnitude_without_refit_is_magnitude_pruning(tmp_path):
    trainer = one_shot(tmp_path, recipe("mask_method: magnitude, refit: false"))
    dense = make_model()
    for name in linear_names(dense):
        weight = dense.get_submodule(name).weight.detach()
        expected = weight * compute_mask(weight.abs(), 0.5, "unstructured")
        assert torch.equal(trainer.model.get_submodule(name).weight, expected)


def test_refit_brings_the_models_outputs_nearer_to_the_dense_ones(tmp_path):
    inputs = trainer_of(tmp_path, recipe())._sample_inputs(8, 4, (0, 1))

    def error(keys: str) -> float:
        model, dense = one_shot(tmp_path, recipe(keys)).model.eval(), make_model().eval()
        with torch.no_grad():
            return sum(float((model.bert(**b)[0] - dense.bert(**b)[0]).square().sum()) for b in inputs)

    mask, refitted, best = (
        error(keys) for keys in ("mask_method: magnitude, refit: false", "mask_method: magnitude", "")
    )
    assert best < refitted < mask


def test_zeros_stay_through_training_and_masks_follow_the_schedule(tmp_path):
    trainer = trainer_of(tmp_path, recipe("init_sparsity: 0.2, update_frequency: 0.5"))
    sparsities = []
    apply = trainer.manager.after_optimizer_step

    def after_optimizer_step():
        apply()
        sparsities.append(round(trainer.manager.modifiers[0].masked.sparsity(), 3))

    trainer.manager.after_optimizer_step = after_optimizer_step
    trainer.train()
    # Steps 0, 4 and 8 of an epoch of 8 make masks: 0.2, then cubic, then 0.5.
    assert sparsities[0] == pytest.approx(0.2, abs=2e-3)
    assert sparsities[4] == pytest.approx(0.5 - 0.3 * 0.5**3, abs=2e-3)
    assert set(sparsities[8:]) == {0.5}


def test_gradual_magnitude_pruning_goes_on_from_a_reconstructed_mask(tmp_path):
    text = recipe().replace("end_epoch: 1.0", "end_epoch: 0.0") + (
        f"  - !GMPruningModifier {{params: ['{LINEAR}'], init_sparsity: 0.5, final_sparsity: 0.75, start_epoch: 0.0, "
        "end_epoch: 1.0, update_frequency: 0.5}\n"
    )
    trainer = trainer_of(tmp_path, text, num_train_epochs=1)
    first, seen = {}, []
    update = trainer.manager.update

    def after_update(now, optimizer):
        update(now, optimizer)
        weights = {name: trainer.model.get_submodule(name).weight for name in linear_names(trainer.model)}
        if not first:
            first.update({name: weight.detach().clone() for name, weight in weights.items()})
        seen.append(sum(float((weight == 0).double().mean()) for weight in weights.values()) / len(weights))

    trainer.manager.update = after_update
    trainer.train()
    assert seen[0] == pytest.approx(0.5, abs=1e-3)
    assert seen[4] == pytest.approx(0.75 - 0.25 * 0.5**3, abs=1e-3)
    one_shot_model = one_shot(tmp_path / "one_shot", recipe()).model
    for name, weight in first.items():
        torch.testing.assert_close(weight, one_shot_model.get_submodule(name).weight.detach())


def test_batches_are_a_function_of_seed_and_moment_and_have_no_labels(tmp_path):
    trainer = trainer_of(tmp_path, recipe())
    one, same, other = (trainer._sample_inputs(6, 4, moment) for moment in ((4, 1), (4, 1), (5, 1)))
    assert [len(batch["input_ids"]) for batch in one] == [4, 2]
    assert not any("positions" in name for batch in one for name in batch)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0]["input_ids"], other[0]["input_ids"])
    trainer.args.seed += 1
    assert not torch.equal(one[0]["input_ids"], trainer._sample_inputs(6, 4, (4, 1))[0]["input_ids"])
    everything = trainer._sample_inputs(10_000, 4, (0, 1))
    assert sum(len(batch["input_ids"]) for batch in everything) == len(trainer.train_dataset)


def test_batches_are_made_of_examples_of_one_length(tmp_path):
    trainer = trainer_of(tmp_path, recipe())
    rows = [{"input_ids": [1] * length, "attention_mask": [1] * length} for length in (5, 9, 5, 9)]
    trainer.train_dataset = datasets.Dataset.from_list(rows)
    trainer.data_collator = lambda rows: {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
    assert [batch["input_ids"].shape[1] for batch in trainer._sample_inputs(4, 2, (0, 1))] == [5, 9]


def test_masks_are_made_in_evaluation_mode_and_modes_come_back(tmp_path):
    trainer = trainer_of(tmp_path, recipe())
    model = trainer.model.train()
    model.bert.encoder.layer[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    seen = []
    model.bert.encoder.layer[0].attention.register_forward_hook(lambda module, *_: seen.append(module.training))
    trainer.manager.modifiers[0].apply_one_shot()
    assert set(seen) == {False}
    assert {name: module.training for name, module in model.named_modules()} == modes


@pytest.mark.parametrize("allocation", ["owl", "error"])
def test_allocation_keeps_the_sparsity_of_all_layers_together(allocation, tmp_path):
    trainer = one_shot(tmp_path, recipe(f"allocation: {allocation}, block_size: 8"))
    found = trainer.manager.modifiers[0].masked.sparsities()
    assert len(set(found.values())) > 1
    assert trainer.manager.modifiers[0].masked.sparsity() == pytest.approx(0.5, abs=2e-3)


def test_allocation_by_error_prunes_most_where_the_outputs_change_least(tmp_path):
    trainer = trainer_of(tmp_path, recipe("allocation: error, block_size: 8"))
    quiet = trainer.model.bert.encoder.layer[1].output.dense.weight
    with torch.no_grad():
        quiet.mul_(1e-4)  # the relative errors of its layer are as before
    trainer.apply_one_shot()
    found = trainer.manager.modifiers[0].masked.sparsities()
    assert found["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(0.65, abs=2e-3)
    assert trainer.manager.modifiers[0].masked.sparsity() == pytest.approx(0.5, abs=2e-3)


def test_owl_counts_outliers_of_weight_times_input_norm(tmp_path):
    keys = "allocation: owl, mask_method: magnitude, refit: false, owl_m: 2.0, owl_lmbda: 0.1"
    trainer = one_shot(tmp_path, recipe(keys))
    model = make_model().eval()
    norms = input_norms(model, linear_names(model), trainer._sample_inputs(8, 4, (0, 1)))
    shares = []
    for layer in range(3):
        names = [name for name in norms if f"layer.{layer}." in name]
        scores = torch.cat([(model.get_submodule(n).weight.detach().abs() * norms[n]).flatten() for n in names])
        shares.append(float((scores > 2 * scores.mean()).double().mean()))
    found = trainer.manager.modifiers[0].masked.sparsities()
    by_layer = [found[f"bert.encoder.layer.{layer}.intermediate.dense.weight"] for layer in range(3)]
    scaled = [(share - min(shares)) / (max(shares) - min(shares)) * 0.2 for share in shares]
    expected = [0.5 - value + sum(scaled) / 3 for value in scaled]
    assert by_layer == pytest.approx(expected, abs=2e-3)


def test_allocated_run_resumes_exactly(tmp_path):
    text = recipe("allocation: owl, init_sparsity: 0.2, update_frequency: 0.5")
    whole = trainer_of(tmp_path / "whole", text, save_strategy="steps", save_steps=6)
    whole.train()
    rest = trainer_of(tmp_path / "rest", text)
    rest.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert_same_model(whole.model, rest.model)
    assert len(set(rest.manager.modifiers[0].masked.sparsities().values())) > 1


def test_finished_mask_is_refitted_to_a_teacher(tmp_path):
    teacher = make_model(seed=5).eval()
    trainer = trainer_of(tmp_path, recipe("mask_method: present, reference: teacher"), teacher=teacher)
    masks = {}
    with torch.no_grad():
        for name in linear_names(trainer.model):
            weight = trainer.model.get_submodule(name).weight
            masks[name] = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.6
            weight.mul_(masks[name])
    trainer.apply_one_shot()
    for name, keep in masks.items():
        assert torch.equal(trainer.model.get_submodule(name).weight != 0, keep), name
    # The first layer's weights are the least squares' of the teacher's outputs.
    [group] = walk(make_model().eval(), linear_names(teacher)[:1], trainer._sample_inputs(8, 4, (0, 1)), dense=teacher)
    name = group.names[0]
    former = make_model().get_submodule(name).weight.detach() * masks[name]
    problem = group.moments.problem(0, former, 0.01)
    expected = reconstruction.refit(problem, masks[name]).float()
    torch.testing.assert_close(trainer.model.get_submodule(name).weight.detach(), expected)


def test_recipe_that_reconstructs_a_teacher_needs_one(tmp_path):
    with pytest.raises(ManagerError, match="reference: teacher needs a teacher"):
        one_shot(tmp_path, recipe("reference: teacher"))


def test_teacher_of_another_width_is_refused(tmp_path):
    with pytest.raises(ManagerError, match=r"the teacher's bert.encoder.* is \(24, 24\), the student's \(16, 16\)"):
        trainer_of(tmp_path, recipe("reference: teacher"), teacher=make_model(hidden=24))


def test_without_calibration_data_it_says_so():
    manager = ScheduledModifierManager.from_yaml(recipe())
    manager.initialize(make_model())
    with pytest.raises(ManagerError, match="calibration data is needed"):
        manager.apply_one_shot()


def test_weight_of_another_kind_of_module_is_refused():
    manager = ScheduledModifierManager.from_yaml(recipe().replace(LINEAR, "re:.*word_embeddings.weight"))
    with pytest.raises(ManagerError, match="word_embeddings.weight is not the weight of a Linear layer"):
        manager.initialize(make_model())


def test_inputs_that_are_not_finite_are_refused(tmp_path):
    trainer = trainer_of(tmp_path, recipe())
    with torch.no_grad():
        trainer.model.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(ManagerError, match="not finite on the calibration data"):
        trainer.apply_one_shot()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("global_sparsity: true", "ReconstructionPruningModifier has no key 'global_sparsity'"),
        ("num_samples: 0", "num_samples must be at least 1, got 0"),
        ("dampening_frac: 0", "dampening_frac must be above 0, got 0"),
        ("mask_type: '2:4', block_size: 6", "block_size must be a multiple of 4 with mask_type 2:4, got 6"),
        ("mask_type: '2:4', allocation: owl", "every layer has the sparsity of mask_type '2:4'"),
        ("mask_type: {block4: 're:.*'}, allocation: owl", "allocation owl is for one mask_type, not one for each"),
        ("mask_type: {block5: 're:.*'}", "or 'N:M' with N < M, got 'block5'"),
        ("mask_method: present", "mask_method present needs refit: true and reference: teacher"),
        ("mask_method: obs", "must be 'alps' or 'sparsegpt' or 'wanda' or 'magnitude' or 'present', got 'obs'"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys, message):
    text = recipe(keys).replace(f"{CALIBRATION}, num", "num")
    with pytest.raises(RecipeError) as error:
        load_recipe(text)
    assert message in str(error.value)


def test_int8_ranges_are_set_on_the_pruned_model_in_the_same_shot(tmp_path):
    text = recipe() + "  - !QuantizationModifier {num_calibration_steps: 2}\n"
    trainer = one_shot(tmp_path, text)
    assert_same_encoder(trainer.model, one_shot(tmp_path, recipe()).model)
    state = trainer.manager.state_dict()
    assert any(name.endswith("high") for name in state)


def test_what_is_to_be_ignored_and_is_not_there_is_told():
    manager = ScheduledModifierManager.from_yaml(recipe("sparsity: 0.5, ignore: ['re:.*lm_head']", "SparseGPTModifier"))
    manager.initialize(make_model())
    [text] = manager.skipped_modules()
    assert "ignore: no module or class matches 're:.*lm_head'" in text


# SparseGPT and Wanda as llm-compressor has them


def test_sparsegpt_starts_from_the_dense_weights_on_the_pruned_models_inputs(tmp_path):
    def solve(problem):
        return reconstruction.sparsegpt(problem, 0.5, "unstructured", 8, target=problem.weight)

    keys = f"sparsity: 0.5, targets: '{ENCODER}', block_size: 8, dampening_frac: 0.02, {CALIBRATION}"
    trainer = one_shot(tmp_path, recipe(keys, "SparseGPTModifier"))
    assert_same_encoder(trainer.model, solved(trainer, solve, 0.02))


def test_recipe_in_llm_compressors_form_loads():
    text = """
test_stage:
  obcq_modifiers:
    SparseGPTModifier:
      sparsity: 0.5
      mask_structure: "2:4"
      dampening_frac: 0.001
      block_size: 128
      targets: ['Linear']
      ignore: ['re:.*lm_head']
  more_modifiers:
    WandaPruningModifier: {sparsity: 0.3, targets: __ALL__}
"""
    first, second = load_recipe(text).modifiers
    assert type(first).__name__ == "SparseGPTModifier" and type(second).__name__ == "WandaPruningModifier"
    assert (first.mask_structure, first.dampening_frac, first.ignore) == ("2:4", 0.001, ["re:.*lm_head"])
    with pytest.raises(RecipeError, match="line 4: unknown modifier 'SparseGTPModifier'; did you mean 'SparseGPT"):
        load_recipe(text.replace("SparseGPTModifier:", "SparseGTPModifier:"))
    with pytest.raises(RecipeError, match="line 5: SparseGPTModifier has no key 'sparcity'"):
        load_recipe(text.replace("sparsity: 0.5", "sparcity: 0.5"))


def test_wanda_changes_no_weight_that_stays(tmp_path):
    trainer = one_shot(tmp_path, recipe(f"sparsity: 0.5, {CALIBRATION}", "WandaPruningModifier"))
    names = [name for name, module in make_model().named_modules() if isinstance(module, torch.nn.Linear)]
    assert "qa_outputs" in names  # as every Linear layer, unless it is ignored
    for name in names:
        weight, dense = trainer.model.get_submodule(name).weight, make_model().get_submodule(name).weight
        keep = weight != 0
        assert (keep.sum(dim=1) == dense.shape[1] // 2).all()
        assert torch.equal(weight[keep], dense[keep])


def test_mask_structure_counts_the_pruned_of_a_group(tmp_path):
    keys = f"sparsity: 0.5, mask_structure: '1:4', ignore: [qa_outputs], {CALIBRATION}"
    trainer = one_shot(tmp_path, recipe(keys, "WandaPruningModifier"))
    for name in linear_names(trainer.model):
        groups = trainer.model.get_submodule(name).weight.unflatten(1, (-1, 4))
        assert ((groups == 0).sum(-1) == 1).all()


def test_a_list_has_a_sparsity_for_each_target(tmp_path):
    keys = f"sparsity: [0.25, 0.5, 0.75], targets: ['{ENCODER}'], {CALIBRATION}"
    trainer = one_shot(tmp_path, recipe(keys, "SparseGPTModifier"))
    found = trainer.manager.modifiers[0].masked.sparsities()
    assert [found[f"bert.encoder.layer.{i}.output.dense.weight"] for i in range(3)] == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("targets: Linear, ignore: [qa_outputs]", 18),
        ("targets: [Linear], ignore: ['re:.*query', 're:.*key', qa_outputs]", 12),
        ("targets: [BertSelfAttention]", 9),
        ("targets: __ALL__", 19),
        ("targets: ['re:.*intermediate', bert.encoder.layer.0.output.dense]", 4),
    ],
)
def test_targets_are_classes_names_or_patterns_of_what_holds_linear_layers(keys, expected):
    manager = ScheduledModifierManager.from_yaml(recipe(f"sparsity: 0.5, {keys}", "WandaPruningModifier"))
    manager.initialize(make_model())
    assert len(list(manager.modifiers[0].pruned_names())) == expected


def test_zeros_that_are_there_stay_and_count(tmp_path):
    keys = f"sparsity: 0.5, targets: '{ENCODER}', preserve_sparsity_mask: true, block_size: 8, {CALIBRATION}"
    trainer = trainer_of(tmp_path, recipe(keys, "SparseGPTModifier"))
    zeros = {}
    with torch.no_grad():
        for name in linear_names(trainer.model):
            weight = trainer.model.get_submodule(name).weight
            zeros[name] = ~compute_mask(weight.abs(), 0.2, "unstructured")
            weight.masked_fill_(zeros[name], 0.0)
    trainer.apply_one_shot()
    for name, before in zeros.items():
        weight = trainer.model.get_submodule(name).weight
        assert (weight[before] == 0).all()
        assert float((weight == 0).double().mean()) == pytest.approx(0.5, abs=1e-3)


def test_more_zeros_than_asked_for_cannot_be_preserved(tmp_path):
    keys = f"sparsity: 0.2, targets: '{ENCODER}', preserve_sparsity_mask: true, {CALIBRATION}"
    trainer = trainer_of(tmp_path, recipe(keys, "SparseGPTModifier"))
    with torch.no_grad():
        trainer.model.bert.encoder.layer[0].output.dense.weight.zero_()
    with pytest.raises(ManagerError, match=r"output.dense.weight has 100.0% zeros, more than sparsity 0.2"):
        trainer.apply_one_shot()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("sparsity: 1.5", "sparsity must be in [0, 1], got 1.5"),
        ("sparsity: 0.5, mask_structure: '4:2'", "mask_structure '4:2' is neither 0:0 nor N:M with N < M"),
        ("sparsity: 0.5, sparsity_profile: owl", "sparsity_profile: owl, owl_m and owl_lmbda must be given together"),
        ("sparsity: 0.5, sparsity_profile: els", "sparsity_profile must be owl or null, got 'els'"),
        ("sparsity: 0.5, end_epoch: 2.0", "it prunes once, at start_epoch"),
        ("sparsity: 0.5, block_size: 10, mask_structure: '2:4'", "block_size must be a multiple of 4"),
    ],
)
def test_wrong_keys_of_llm_compressor_are_refused(keys, message):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe(keys, "SparseGPTModifier"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("sparsity: 0.5, targets: [Conv2d]", "targets: no module or class matches 'Conv2d'"),
        ("sparsity: [0.5, 0.6], targets: [Linear]", "2 values of sparsity for 19 modules that targets matches"),
    ],
)
def test_what_the_model_does_not_have_is_refused(keys, message):
    manager = ScheduledModifierManager.from_yaml(recipe(keys, "SparseGPTModifier"))
    with pytest.raises(ManagerError) as error:
        manager.initialize(make_model())
    assert message in str(error.value)
