"""Who can teach whom?"""

import pytest
from transformers import AutoModelForQuestionAnswering, BertForSequenceClassification

from helpers.recipes import DISTILL, PRUNE
from helpers.trainers import assert_same_model, make_model
from sparsification.distillation.teacher import load_teacher
from sparsification.manager import ManagerError, ScheduledModifierManager


@pytest.fixture
def manager():
    return ScheduledModifierManager.from_yaml(DISTILL)


def load(name, manager, student=None, tokenizer=None):
    recipe = manager.recipe.source if manager.distills else None
    return load_teacher(name, AutoModelForQuestionAnswering, student or make_model(), tokenizer, recipe)


LAYERS = "modifiers:\n  - !PerLayerDistillationModifier {student_layer_names: [bert.encoder.layer.0]}\n"


@pytest.mark.parametrize("recipe", [DISTILL, LAYERS])
def test_missing_teacher_is_named(recipe):
    manager = ScheduledModifierManager.from_yaml(recipe)
    with pytest.raises(ManagerError, match="<recipe> distills: name its teacher with --distill_teacher"):
        load(None, manager)
    assert load("disable", manager) is None


def test_teacher_without_a_use_is_not_loaded(caplog):
    assert load("nowhere", ScheduledModifierManager.from_yaml(PRUNE)) is None
    assert "has no effect" in caplog.text


def test_self_is_a_copy_of_the_student(manager):
    student = make_model()
    teacher = load("self", manager, student)
    assert teacher is not student
    assert_same_model(teacher, student)


def test_other_vocabulary_is_refused(manager, tmp_path):
    make_model(vocab_size=60).save_pretrained(tmp_path)
    with pytest.raises(ManagerError, match="another vocabulary: 60 tokens"):
        load(str(tmp_path), manager)


def test_other_head_is_refused(manager, tmp_path):
    BertForSequenceClassification(make_model().config).save_pretrained(tmp_path)
    with pytest.raises(
        ManagerError, match="another head than BertForQuestionAnswering: its checkpoint lacks qa_outputs"
    ):
        load(str(tmp_path), manager)
