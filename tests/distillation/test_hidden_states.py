"""Distillation of hidden states, against Transformers' own hidden states."""

import datasets
import pytest
import torch
from transformers.utils import ModelOutput

from helpers.plain_and_empty import without_dropout
from helpers.recipes import DISTILL_LAYERS, DROP
from helpers.trainers import SparseTrainer, arguments, make_data, make_model, make_trainer
from sparsification.distillation.hidden_states import feature_loss
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.quantization.modules import fake_quant_enabled, insert_fake_quantizers
from sparsification.quantization.scheme import Scheme
from sparsification.recipe.document import RecipeError
from sparsification.targets import Targets

LAYERS = r"""
modifiers:
  - !PerLayerDistillationModifier
    student_layer_names: ['re:bert\.encoder\.layer\.[02]$']
"""


def batch() -> dict[str, torch.Tensor]:
    return {key: torch.stack([row[key] for row in make_data(4)]) for key in make_data(1)[0]}


def trainer_of(tmp_path, recipe: str, teacher_width: int = 16, **settings) -> SparseTrainer:
    return SparseTrainer(
        model=make_model(),
        args=arguments(tmp_path),
        train_dataset=make_data(),
        manager=ScheduledModifierManager.from_yaml(recipe),
        teacher=make_model(seed=9, hidden=teacher_width),
        **settings,
    )


def loss_and_outputs(trainer: SparseTrainer) -> tuple[torch.Tensor, ModelOutput, ModelOutput]:
    """The loss of one batch, and the student's and the teacher's outputs for it."""
    student = without_dropout(trainer.model).train()
    total = trainer.compute_loss(student, batch())
    with torch.no_grad():
        taught = trainer.teacher(**batch(), output_hidden_states=True)
    return total, student(**batch(), output_hidden_states=True), taught


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_is_the_mean_squared_difference_of_transformers_hidden_states(tmp_path, normalize):
    trainer = trainer_of(tmp_path, LAYERS + f"    gain: 0.5\n    normalize: {normalize}\n")
    total, student, teacher = loss_and_outputs(trainer)
    expected = student.loss
    for layer in (0, 2):
        own, target = student.hidden_states[layer + 1], teacher.hidden_states[layer + 1]
        loss = torch.nn.functional.mse_loss(own, target)
        expected = expected + 0.5 * (loss / ((target**2).mean() + 1e-6) if normalize else loss)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ends", [("", ""), ("", "    end_epoch: 1.0\n"), ("    end_epoch: 1.0\n", "")])
@pytest.mark.parametrize("hardness", [0.0, 0.25, 1.0])
def test_terms_are_added_to_the_task_loss_whichever_distillation_ends_first(tmp_path, hardness, ends):
    recipe = LAYERS + f"    gain: 0.5\n{ends[0]}  - !DistillationModifier\n    hardness: {hardness}\n"
    recipe += f"    temperature: 1.0\n{ends[1]}"
    trainer = trainer_of(tmp_path, recipe)
    total, student, teacher = loss_and_outputs(trainer)
    expected = (1 - hardness) * student.loss
    for key in ("start_logits", "end_logits"):
        own, target = (torch.log_softmax(outputs[key], dim=-1) for outputs in (student, teacher))
        expected = expected + hardness / 2 * (target.exp() * (target - own)).sum(dim=-1).mean()
    for layer in (0, 2):
        own, target = student.hidden_states[layer + 1], teacher.hidden_states[layer + 1]
        expected = expected + 0.5 * torch.nn.functional.mse_loss(own, target) / (target**2).mean()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_two_distillations_of_logits_multiply_the_share_of_the_task_and_not_each_other(tmp_path):
    one, other = (
        "  - !DistillationModifier {hardness: 0.5",
        "  - !DistillationModifier {hardness: 0.25, temperature: 1.0",
    )
    losses = {}
    for name, lines in {"one": [one], "other": [other], "both": [one, other + ", end_epoch: 1.0"]}.items():
        trainer = trainer_of(tmp_path, "modifiers:\n" + "}\n".join(lines) + "}\n")
        trainer.model.train()
        torch.manual_seed(0)
        losses[name] = trainer.compute_loss(trainer.model, batch()).item()
        torch.manual_seed(0)
        task = trainer.model(**batch()).loss.item()
    terms = losses["one"] - 0.5 * task + losses["other"] - 0.75 * task
    assert losses["both"] == pytest.approx(0.5 * 0.75 * task + terms, rel=1e-5)


def test_without_padding_layers_are_compared_at_real_tokens_only(tmp_path):
    trainer = trainer_of(tmp_path, LAYERS + "    gain: 1.0\n    normalize: False\n    ignore_padding: True\n")
    trainer.model.train()
    modifier = trainer.manager.modifiers[0]
    own, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    for position in range(2):
        modifier._features |= {("student", position): own, ("teacher", position): target}
    expected = torch.cat([own[0] - target[0], own[1, :2] - target[1, :2]]).square().mean()
    assert modifier.loss_term(torch.zeros(()), {}, {}, mask).item() == pytest.approx(2 * expected.item(), rel=1e-6)


@pytest.mark.parametrize("hardness", [0.5, 1.0])
@pytest.mark.parametrize("end", ["", ", end_epoch: 1.0"])
def test_padding_changes_neither_distillation_where_both_ignore_it(hardness, end):
    student, teacher = without_dropout(make_model()).train(), make_model(seed=9).eval()
    inputs = {key: value for key, value in batch().items() if "positions" not in key}
    padded = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in inputs.items()}

    def loss(recipe: str, given: dict[str, torch.Tensor]) -> float:
        manager = ScheduledModifierManager.from_yaml(recipe)
        manager.initialize(student)
        manager.attach_teacher(teacher)
        outputs, taught = student(**given), teacher(**given)
        total = manager.update_loss(torch.zeros(()), outputs, taught, TrainingStep(0, 10), given["attention_mask"])
        manager.finalize()
        return total.item()

    layers = LAYERS + "    ignore_padding: True\n"
    logits = f"  - !DistillationModifier {{hardness: {hardness}, ignore_padding: True{end}}}\n"
    assert loss(layers + logits, padded) == pytest.approx(loss(layers + logits, inputs), rel=1e-5)
    alone = loss(layers, inputs), loss("modifiers:\n" + logits, inputs)
    assert loss(layers + logits, padded) == pytest.approx(sum(alone), rel=1e-5)
    assert loss(LAYERS, padded) != pytest.approx(loss(LAYERS, inputs), rel=1e-3)  # the default: padding counts


def test_a_term_of_nothing_asks_no_teacher():
    manager = ScheduledModifierManager.from_yaml(LAYERS + "    gain: 0.0\n")
    assert not manager.distills and manager.cached_layers == {} and not manager.distills_at(TrainingStep(0, 10))


def test_student_comes_closer_to_a_wider_teacher_and_the_model_is_saved_without_the_projections(tmp_path):
    trainer = make_trainer(tmp_path, "modifiers:" + DISTILL_LAYERS.replace("    end_epoch: 1.75\n", ""))
    assert trainer.teacher.config.hidden_size == 24
    keys = set(trainer.model.state_dict())
    trainer.train()
    log = [entry["PerLayerDistillationModifier/distillation_loss"] for entry in trainer.state.log_history[:-1]]
    assert sum(log[-4:]) < 0.9 * sum(log[:4])
    assert set(trainer.model.state_dict()) == keys
    assert sum(name.endswith(".weight") for name in trainer.manager.state_dict()) == 3


def test_projection_alone_finds_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 8, generator=generator)
    target = features @ torch.randn(8, 12, generator=generator)
    module = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(8, 8))
    names = "    student_layer_names: ['0']\n    teacher_layer_names: ['0']\n"
    manager = ScheduledModifierManager.from_yaml("modifiers:\n  - !PerLayerDistillationModifier\n" + names)
    manager.initialize(module)
    teacher = torch.nn.Sequential(torch.nn.Identity())
    manager.attach_teacher(teacher)
    (distillation,) = manager.modifiers
    optimizer = torch.optim.SGD(module.parameters(), lr=0.03)
    for _ in range(400):
        module(features), teacher(target)
        loss = distillation.loss_term(torch.zeros(()), {}, {})
        loss.backward()
        distillation.update(None, optimizer)
    assert loss.item() < 1e-3


@pytest.mark.parametrize("start", [0.0, 1.0])  # before the quantization, in SparseML's order, and after it
def test_linear_layers_that_are_quantized_are_compared_with_the_teachers(tmp_path, start):
    recipe = (
        r"""
modifiers:
  - !PerLayerDistillationModifier
    student_layer_names: ['re:bert\.encoder\.layer\.[02]\.output\.dense$', qa_outputs]
    gain: 2.0
    normalize: False
"""
        + f"    start_epoch: {start}\n  - !QuantizationModifier\n    submodules: [bert.encoder, qa_outputs]\n"
        + "    start_epoch: 0.5\n"
    )
    trainer = trainer_of(tmp_path, recipe)
    first = type(trainer.manager.modifiers[0]).__name__
    assert first == ("PerLayerDistillationModifier" if start == 0 else "QuantizationModifier")
    trainer.train()
    outputs = {}
    for side, model in (("student", trainer.model), ("teacher", trainer.teacher)):
        for name in ("bert.encoder.layer.0.output.dense", "bert.encoder.layer.2.output.dense", "qa_outputs"):
            layer = model.get_submodule(name)
            layer.register_forward_hook(lambda m, args, out, key=(name, side): outputs.update({key: out.detach()}))
    assert type(trainer.model.qa_outputs).__name__ == "FakeQuantizedLinear" and fake_quant_enabled(trainer.model)
    modifier = next(m for m in trainer.manager.modifiers if "PerLayer" in type(m).__name__)
    modifier.initialize(Targets(trainer.model))  # training has removed its hooks
    modifier.attach_teacher(trainer.teacher)
    trainer.model.train()
    trainer.model(**batch()), trainer.teacher(**batch())
    names = {name for name, _ in outputs}
    expected = sum((outputs[name, "student"] - outputs[name, "teacher"]).square().mean() for name in names)
    assert modifier.loss_term(torch.zeros(()), {}, {}).item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_a_model_that_is_quantized_later_is_still_listened_to():
    """As SparseTrainer does where ranges lie beside the weights: modules are swapped after ``initialize``."""
    model = make_model()
    manager = ScheduledModifierManager.from_yaml(
        "modifiers:\n  - !PerLayerDistillationModifier {student_layer_names: [qa_outputs]}\n"
    )
    manager.initialize(model)
    manager.attach_teacher(make_model(seed=9).eval())
    insert_fake_quantizers(model, {"qa_outputs": Scheme()})
    model.train()(**batch())
    (modifier,) = manager.modifiers
    assert list(modifier._features) == [("student", 0)]
    manager.finalize()
    assert not model.qa_outputs._forward_hooks


def test_encoder_stands_for_each_of_its_layers(tmp_path):
    losses = []
    for names in ("[__ENCODER__]", r"['re:bert\.encoder\.layer\.\d+$']"):
        recipe = f"modifiers:\n  - !PerLayerDistillationModifier {{student_layer_names: {names}}}\n"
        losses.append(loss_and_outputs(trainer_of(tmp_path, recipe))[0])
    torch.testing.assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("names", "those_left"),
    [
        ("[__ENCODER__]", "[bert.encoder.layer.0, bert.encoder.layer.2]"),
        (r"['re:.*attention\.output\.dense$']", r"['re:.*layer\.[02]\.attention\.output\.dense$']"),
    ],
)
def test_dropped_layers_are_left_out_of_the_student_and_of_the_teacher(tmp_path, names, those_left):
    losses = []
    for chosen in (names, those_left):
        recipe = f"{DROP}  - !PerLayerDistillationModifier {{student_layer_names: {chosen}}}\n"
        losses.append(loss_and_outputs(trainer_of(tmp_path, recipe))[0])
    torch.testing.assert_close(*losses, rtol=0, atol=0)
    trainer = trainer_of(tmp_path, f"{DROP}  - !PerLayerDistillationModifier\n")
    (modifier,) = [each for each in trainer.manager.modifiers if "PerLayer" in type(each).__name__]
    assert list(modifier._teacher) == list(modifier._student) and len(modifier._student) == 13


def test_without_names_all_linear_layers_are_compared_as_in_sparseml(tmp_path):
    manager = ScheduledModifierManager.from_yaml("modifiers:\n  - !PerLayerDistillationModifier\n")
    student = make_model()
    manager.initialize(student)
    manager.attach_teacher(make_model(seed=9))
    linear = [name for name, module in student.named_modules() if isinstance(module, torch.nn.Linear)]
    assert list(manager.modifiers[0]._student) == linear
    with pytest.raises(ManagerError, match=r"and 7 of the teacher"):
        manager.attach_teacher(make_model(layers=1))


def test_the_teachers_names_alone_are_the_students_too():
    recipe = "modifiers:\n  - !PerLayerDistillationModifier {teacher_layer_names: [bert.encoder.layer.1, qa_outputs]}\n"
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(make_model())
    assert list(manager.modifiers[0]._student) == ["bert.encoder.layer.1", "qa_outputs"]


def test_layers_keep_the_names_of_the_model_as_it_was_loaded(tmp_path):
    trainer = trainer_of(tmp_path, DROP.replace("layer_modifiers", "first_modifiers") + LAYERS)
    (distillation,) = (m for m in trainer.manager.modifiers if "PerLayer" in type(m).__name__)
    assert list(distillation._student) == ["bert.encoder.layer.0", "bert.encoder.layer.2"]
    assert list(distillation._student.values()) == list(trainer.model.bert.encoder.layer)


def test_logits_that_are_kept_are_not_used(tmp_path, caplog):
    data = datasets.Dataset.from_list([{k: v.tolist() for k, v in row.items()} for row in make_data()])
    trainer = SparseTrainer(
        model=make_model(),
        args=arguments(tmp_path, num_train_epochs=1),
        train_dataset=data.with_format("torch"),
        manager=ScheduledModifierManager.from_yaml(LAYERS),
        teacher=make_model(seed=9),
        teacher_cache=tmp_path / "cache",
    )
    assert "The recipe compares layers with the teacher's" in caplog.text and trainer.manager.cached_layers is None
    trainer.train()


def test_feature_loss_of_equal_and_of_zero_features():
    ones = torch.ones(2, 3)
    assert feature_loss(ones, ones).item() == 0.0
    assert feature_loss(torch.zeros(2, 3), ones).item() == pytest.approx(1.0, rel=1e-5)
    assert feature_loss(ones, torch.zeros(2, 3), epsilon=0.5).item() == pytest.approx(2.0)


def test_values_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="epsilon must be at least 0, got -1"):
        ScheduledModifierManager.from_yaml("modifiers:\n  - !PerLayerDistillationModifier\n    epsilon: -1.0\n")
    with pytest.raises(ManagerError, match="no module matches 'bert.encoder.layer.7'; did you mean"):
        trainer_of(tmp_path, LAYERS.replace(r"'re:bert\.encoder\.layer\.[02]$'", "bert.encoder.layer.7"))
    with pytest.raises(
        ManagerError, match=r"same number of layers to compare, got 2 of the student .* and 1 of the teacher"
    ):
        trainer_of(tmp_path, LAYERS + "    teacher_layer_names: [bert.encoder.layer.1]\n")
    narrow = trainer_of(tmp_path, LAYERS + "    project_features: False\n", teacher_width=24)
    with pytest.raises(ManagerError, match="only with project_features true; got"):
        narrow.train()
