"""Our modifiers against what SparseML 1.8.0 did, step by step (tests/golden).

Where ours deviate on purpose, the test says so and why.
"""

import numpy as np
import pytest
import torch
from golden_run import GOLDEN, STEPS_PER_EPOCH, Replay, load_case, load_masks, load_model
from safetensors.torch import load_file

from sparsification.logits import distillation_loss
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.document import RecipeError

# fp32, another version of torch, another CPU: at most 5e-6 was seen.
LOSS = {"rel": 1e-4, "abs": 1e-5}
# With 90 % of two LayerNorms' weights gone, each of this run's last steps doubles a difference in the last bit: on one
# thread and on two, our own losses differ by 3e-3 in the end. They are compared up to here, the masks always.
LAST_STABLE_STEP = {"variants/final_dict": 65}


def zeros_in_encoder(model) -> int:
    return sum(
        int((p == 0).sum()) for n, p in model.named_parameters() if n.startswith("bert.encoder") and p.dim() == 2
    )


def assert_same_weights(model, name: str) -> None:
    # A second-order move divides by curvatures that are nearly 0: with another number of threads, 1e-4 was seen.
    tolerance = {"rtol": 1e-2, "atol": 2e-3} if name.startswith("variants/obs") else {"rtol": 1e-3, "atol": 2e-5}
    golden = load_file(GOLDEN / f"{name}.final.safetensors")
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(weight, golden[key], **tolerance, msg=lambda text, key=key: f"{key}: {text}")


# SparseML compares epochs in float arithmetic and so skips updates (2.2 + 0.1 > 2.3 at frequency 0.1: 37 of 41). Ours
# counts optimizer steps and skips none. To compare everything else, the test leaves out the updates that it left out.
SKIPPING = {"gmp/gmp_cubic_f0.1", "gmp/gmp_block14", "gmp/gmp_block4"}
# SparseML's sampler of gradients clears those of the training step that it interrupts: the optimizer moves nothing in a
# step with new masks. Ours leaves them alone. To compare everything else, the test loses them too.
LOSING = {"variants/obs", "variants/obs_local_b50", "variants/mfac"}
PRUNING = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in [*GOLDEN.glob("gmp/*.json"), *GOLDEN.glob("variants/*.json")]
    if "steps" in (case := load_case(f"{path.parent.name}/{path.stem}"))
    and "mask_param_order" in case
    and not any("error" in step for step in case["steps"])
    and path.stem not in ("constant_from_sparse", "end_epoch_minus1")
)


def test_the_golden_pruning_cases_are_there():
    assert len(PRUNING) == 20


@pytest.mark.parametrize("name", PRUNING)
def test_pruning_follows_sparseml_step_by_step(name):
    case, masks = load_case(name), load_masks(name)
    updates = {step["step"] for step in case["steps"] if "target" in step}
    skip = (lambda step: step not in updates) if name in SKIPPING else (lambda step: False)
    weights = "gmp/gmp_cubic_f0.5.final" if "from_sparse" in name else "model_student"
    lose = (lambda step: step in updates) if name in LOSING else (lambda step: False)
    replay = Replay(case, weights, skip_update=skip, lose_gradients=lose)
    (pruning,) = [modifier for modifier in replay.manager.modifiers if modifier.changes_weights]
    order = case["mask_param_order"]
    assert list(pruning.masked.weights) == order
    for record, task_loss, _ in replay.steps():
        assert [group["lr"] for group in replay.optimizer.param_groups] == pytest.approx(record["lr"], rel=1e-9)
        if record["step"] <= LAST_STABLE_STEP.get(name, record["step"]):
            assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        assert zeros_in_encoder(replay.model) == record["weight_zero_total"], f"step {record['step']}"
        ours = pruning.masked.state_dict()
        if record["step"] in masks and ours:
            packed = np.concatenate([ours[name].numpy() for name in order])
            assert (packed == masks[record["step"]]).all(), f"masks of step {record['step']}"
            targets = record["target"] if isinstance(record["target"], list) else [record["target"]] * len(order)
            sizes = [pruning.masked.weights[name].numel() for name in order]
            mean = sum(target * size for target, size in zip(targets, sizes, strict=True)) / sum(sizes)
            assert pruning.metrics(TrainingStep(record["step"], STEPS_PER_EPOCH))["target_sparsity"] == pytest.approx(
                mean
            )
    if (GOLDEN / f"{name}.final.safetensors").exists():
        assert_same_weights(replay.model, name)


@pytest.mark.parametrize("name", sorted(SKIPPING))
def test_no_update_is_skipped_by_rounding(name):
    replay = Replay(load_case(name))
    (pruning,) = [modifier for modifier in replay.manager.modifiers if modifier.changes_weights]
    seen = []
    for _record, _, _ in replay.steps():
        seen.append(pruning.metrics(TrainingStep(0, STEPS_PER_EPOCH))["target_sparsity"])
    assert len(set(seen[20:61])) == 41  # a new target in each of the steps from epoch 2 to 6
    assert seen[60] == seen[79] == 0.8


def test_n_of_m_is_reached_step_by_step_where_sparseml_raised():
    case = load_case("gmp/gmp_nm24")
    assert "Sparsity must match N:M" in case["steps"][-1]["error"]
    replay = Replay(case | {"steps": [{"step": step} for step in range(62)]})
    (pruning,) = [modifier for modifier in replay.manager.modifiers if modifier.changes_weights]
    for _ in replay.steps():
        pass
    for weight in pruning.masked.weights.values():
        assert (weight.view(-1, 4) == 0).sum(dim=1).eq(2).all()


def test_pruning_without_an_end_is_an_error_where_sparseml_silently_pruned_nothing():
    case = load_case("variants/end_epoch_minus1")
    assert case["steps"][-1]["weight_zero_total"] == 0
    with pytest.raises(RecipeError, match="needs an end_epoch"):
        ScheduledModifierManager.from_yaml(case["recipe"])


def test_a_list_of_final_sparsities_is_one_for_each_pattern_where_sparseml_raised():
    case = load_case("variants/final_list")
    assert "setup_error" in case
    replay = Replay(case | {"optimizer": {"type": "sgd", "lr": 0.05, "momentum": 0, "weight_decay": 0}, "steps": []})
    (pruning,) = [modifier for modifier in replay.manager.modifiers if modifier.changes_weights]
    pruning.apply_one_shot()
    assert pruning.masked.sparsities() == pytest.approx(
        {
            "bert.encoder.layer.0.attention.self.query.weight": 0.7,
            "bert.encoder.layer.1.attention.self.query.weight": 0.9,
        },
        abs=1e-3,
    )


@pytest.mark.parametrize("name", ["variants/params_no_match", "variants/params_partial_no_match"])
def test_a_pattern_without_a_match_is_an_error_here_too(name):
    case = load_case(name)
    assert "not found" in case["setup_error"]
    manager = ScheduledModifierManager.from_yaml(case["recipe"])
    with pytest.raises(ManagerError, match="no parameter matches '(re:)?nothing"):
        manager.initialize(load_model("model_student"))


def test_constant_pruning_holds_what_is_zero_at_its_start():
    case = load_case("variants/constant_from_sparse")
    replay = Replay(case, "gmp/gmp_cubic_f0.5.final")
    (constant,) = [modifier for modifier in replay.manager.modifiers if modifier.pruned_names()]
    assert list(constant.masked.weights) == case["mask_param_order"]  # __ALL_PRUNABLE__
    for record, task_loss, _ in replay.steps():
        assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        assert zeros_in_encoder(replay.model) == record["weight_zero_total"]


def test_constant_pruning_from_the_start_keeps_every_zero():
    case = load_case("variants/constant_from_sparse")
    recipe = case["recipe"].replace("start_epoch: 1.0", "start_epoch: 0.0")
    replay = Replay(case | {"recipe": recipe}, "gmp/gmp_cubic_f0.5.final")
    before = zeros_in_encoder(replay.model)
    assert before > 26000
    for _ in replay.steps():
        assert zeros_in_encoder(replay.model) == before


TRAINING = sorted(f"lr/{path.stem}" for path in GOLDEN.glob("lr/*.json") if path.stem != "lrfunc_ends_between_steps")


@pytest.mark.parametrize("name", TRAINING)
def test_training_settings_follow_sparseml_step_by_step(name):
    case = load_case(name)
    replay = Replay(case)
    assert replay.manager.max_epochs == case["max_epochs"]
    for record, task_loss, _ in replay.steps():
        assert [group["lr"] for group in replay.optimizer.param_groups] == pytest.approx(record["lr"], rel=1e-9)
        assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        if "weight_decay" in record:
            assert [group["weight_decay"] for group in replay.optimizer.param_groups] == record["weight_decay"]
        if "n_trainable" in record:
            assert sum(param.requires_grad for param in replay.model.parameters()) == record["n_trainable"]


def test_a_curve_that_ends_between_two_steps_ends_at_its_final_value_where_sparseml_went_past_it():
    case = load_case("lr/lrfunc_ends_between_steps")
    assert case["steps"][-1]["lr"][0] < 0  # SparseML climbs the loss from here on
    for record, _, _ in (replay := Replay(case)).steps():
        (group,) = replay.optimizer.param_groups
        assert group["lr"] == pytest.approx(max(record["lr"][0], 0.0), rel=1e-9)


@pytest.mark.parametrize("name", ["layers/drop_1_3", "layers/drop_1_3_until_2", "layers/drop_start_1"])
def test_dropped_layers_follow_sparseml_step_by_step(name):
    """The losses agree; the model has fewer layers where SparseML's had Identity, which no plain loader understands."""
    case = load_case(name)
    replay = Replay(case)
    for record, task_loss, _ in replay.steps():
        assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        assert len(replay.model.bert.encoder.layer) == record["types"].count("BertLayer")
        assert replay.model.config.num_hidden_layers == record["types"].count("BertLayer")
    identities = [kind for kind in case["module_list_types"] if kind == "Identity"]
    assert replay.model.config.num_hidden_layers == 4 - len(identities)
    encoder_keys = [key for key in replay.model.state_dict() if key.startswith("bert.encoder")]
    assert len(encoder_keys) == len(case["state_dict_keys"])


def test_layers_can_be_named_by_a_pattern_where_sparseml_raised():
    case = load_case("layers/drop_regex")
    assert "setup_error" in case
    model = load_model("model_student")
    manager = ScheduledModifierManager.from_yaml(case["recipe"])
    manager.initialize(model)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 2


@pytest.mark.parametrize("name", sorted(f"distill/{path.stem}" for path in GOLDEN.glob("distill/kd_h*.json")))
def test_distillation_follows_sparseml_step_by_step(name):
    case = load_case(name)
    replay = Replay(case, with_teacher=True)
    (distillation,) = [modifier for modifier in replay.manager.modifiers if modifier.start_epoch == -1]
    for record, task_loss, total_loss in replay.steps():
        assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        assert total_loss == pytest.approx(record["total_loss"], **LOSS)
        series = distillation.metrics(TrainingStep(record["step"], STEPS_PER_EPOCH))
        if distillation.hardness > 0:  # at 0 SparseML still runs the teacher; here it is not asked
            assert series["distillation_loss"] == pytest.approx(record["distill_loss"], **LOSS)
            assert series["total_loss"] == pytest.approx(record["total_loss"], **LOSS)
        else:
            assert series == {}
    if (GOLDEN / f"{name}.final.safetensors").exists():
        assert_same_weights(replay.model, name)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_formula(temperature):
    check = load_case("distill/formula_check_batch0")
    for which in ("start", "end"):
        student = torch.tensor(check[f"student_{which}_logits"])
        teacher = torch.tensor(check[f"teacher_{which}_logits"])
        loss = distillation_loss(student, teacher, temperature)
        assert loss.item() == pytest.approx(check[f"T{temperature}"][which], rel=1e-5)


def test_a_disabled_teacher_leaves_the_task_loss_alone():
    case = load_case("distill/kd_teacher_disable")
    for record, task_loss, total_loss in Replay(case).steps():
        assert task_loss == total_loss == pytest.approx(record["total_loss"], **LOSS)


@pytest.mark.parametrize("name", ["distill/kd_no_keys", "distill/kd_int_keys", "distill/kd_no_keys_unlabelled_teacher"])
def test_output_keys_can_be_left_out_or_numbered_where_sparseml_raised(name):
    case = load_case(name)
    assert any("error" in step for step in case["steps"])
    named = load_case("distill/kd_h0.5_t2.0")
    replay = Replay(case | {"steps": named["steps"][:1]}, with_teacher=True)
    ((_, _, total_loss),) = list(replay.steps())
    check = load_case("distill/formula_check_batch0")
    distilled = check["T2.0"]["start" if name == "distill/kd_int_keys" else "mean"]
    assert total_loss == pytest.approx(0.5 * named["steps"][0]["task_loss"] + 0.5 * distilled, **LOSS)


def test_self_distillation_does_not_crash_as_it_did_in_sparseml():
    assert "NoneType" in str(load_case("distill/kd_teacher_self"))
    check = load_case("distill/formula_check_batch0")
    logits = torch.tensor(check["student_start_logits"])
    assert distillation_loss(logits, logits, 2.0).item() == pytest.approx(0.0, abs=1e-6)
