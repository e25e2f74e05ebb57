"""Warnings about recipes that load and do something else than was meant."""

import pytest

from helpers.checking import AVERAGE, DECAY, PRUNING, QUANTIZATION, RUN, SAMPLED, SOUND, warnings_of
from sparsification.check.report import check


@pytest.mark.parametrize(
    ("modifiers", "line", "words"),
    [
        (PRUNING, None, "no EpochRangeModifier"),
        (SOUND.replace("end_epoch: 6.0", "end_epoch: 10.0").replace(QUANTIZATION, ""), 3, "no training follows"),
        (RUN + DECAY % 6.0 + PRUNING, 4, "has dropped to 0 of 3e-05 and does not rise again"),
        (RUN + DECAY % 6.0, None, "the learning rate is 0 from epoch 6 to 9.99"),
        (SOUND.replace("end_epoch: 6.0", "end_epoch: 7.5"), 9, "pruning ends at epoch 7.5"),
        (SOUND.replace(", disable_quantization_observer_epoch: 8.0", ""), 9, "is not set"),
        (SOUND.replace("observer_epoch: 8.0", "observer_epoch: -1"), 9, "is not set"),
        (SOUND.replace("observer_epoch: 8.0", "observer_epoch: 10.0"), 9, "not before the end of the run at 10"),
        (RUN + "  - !SetWeightDecayModifier {weight_decay: 0.0, start_epoch: 10.0}\n", 3, "no effect"),
        (
            RUN + PRUNING.replace("6.0", "12.0"),
            3,
            "but the run ends at epoch 10; sparsity reaches 79.4% instead of 80.0%",
        ),
        (RUN + PRUNING + "    update_frequency: 4.5\n", 3, "longer than the 4 epochs from start to end"),
        (RUN + PRUNING.replace("6.0", "2.0"), 3, "in one step"),
        (RUN + "  - !DistillationModifier {hardness: 0.0}\n", 3, "hardness is 0"),
        (
            RUN + "  - !PerLayerDistillationModifier {student_layer_names: [a], gain: 0}\n",
            3,
            "gain is 0: the loss of the layers has no effect",
        ),
        (RUN + "  - !DistillationModifier {}\n" * 2, 4, "two distillations overlap"),
        (RUN + "  - !DistillationModifier {}\n" * 2, 4, "the factor of the task loss is 0.25"),
        (RUN + PRUNING.replace("init_sparsity: 0.0", "init_sparsity: 0.9"), 3, "is below init_sparsity 0.9"),
        (RUN + PRUNING.replace("0.8", "1.0"), 3, "prunes all weights"),
        (RUN + PRUNING + "    mask_type: '2:4'\n", 3, "complete at 0.5"),
        (RUN + PRUNING + "    leave_enabled: false\n", 3, "weights regrow from epoch 6 on"),
        (RUN + "  - !LayerPruningModifier {layers: [a.1], end_epoch: 5.0}\n", 3, "are restored at epoch 5"),
        (RUN + PRUNING + AVERAGE % 5.5, 9, "masks or layers change until epoch 6: the average is one of different"),
        (
            RUN + "  - !LayerPruningModifier {layers: [a.1], start_epoch: 9.0}\n" + AVERAGE % 8.5,
            4,
            "it starts at epoch 8.5, but masks or layers change until epoch 9",
        ),
        (
            RUN + PRUNING.replace(r"\.", "."),
            3,
            r"match any character; to match dots, write 're:.*(query|key)\.weight'",
        ),
        (RUN + PRUNING * 2, 9, "is also pruned by another modifier"),
        (
            RUN + PRUNING.replace(r"re:.*(query|key)\.weight", "__ALL_PRUNABLE__"),
            3,
            "includes word embeddings and the head",
        ),
    ],
)
def test_warning_names_its_line(modifiers, line, words, tmp_path):
    warnings = warnings_of(tmp_path, modifiers)
    told = [doubt for doubt in warnings if words in doubt]
    assert len(told) == 1, warnings
    assert told[0].startswith(str(tmp_path / "recipe.yaml") + (f", line {line}: " if line else ": "))
    assert "\n" not in told[0]


def test_pruning_before_a_rise_of_the_learning_rate_has_no_warning(tmp_path):
    twice = DECAY % 6.0 + (DECAY % 10.0).replace("start_epoch: 0.0", "start_epoch: 6.0")
    assert warnings_of(tmp_path, RUN + PRUNING + twice) == []


def test_average_from_the_last_mask_on_has_no_warning(tmp_path):
    assert warnings_of(tmp_path, SOUND + AVERAGE % 6.0) == []


def test_zeros_that_another_modifier_keeps_have_no_warning(tmp_path):
    holds = r"  - !ConstantPruningModifier {params: ['re:.*(query|key)\.weight'], start_epoch: 6.0}" + "\n"
    assert warnings_of(tmp_path, RUN + PRUNING + "    leave_enabled: false\n" + holds) == []


def test_unused_variable_has_a_warning(tmp_path):
    head = "used: 10.0\nfirst: 1.0\nanchor: &a 2.0\nthrough: eval(first)\nidle: 3\ncopy: *a\n"
    modifiers = "  - !EpochRangeModifier {end_epoch: eval(used)}\n  - !SetWeightDecayModifier {weight_decay: *a}\n"
    warnings = warnings_of(tmp_path, modifiers, head)
    assert len(warnings) == 1
    assert "unused variables through, idle" in warnings[0]
    assert warnings_of(tmp_path, modifiers, head, recipe_args="anchor=0.1,idle=7") == warnings


def test_unused_variable_of_a_stage_has_a_warning(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage:\n  a: 1.0\n  b: 2.0\n  modifiers:\n    - !EpochRangeModifier {end_epoch: eval(a)}\n")
    assert [doubt.split(": ")[1] for doubt in check(str(path))[1]] == ["unused variable b"]


@pytest.mark.parametrize(
    ("modifiers", "words"),
    [
        (
            RUN
            + PRUNING.replace("['re:.*(query|key)\\.weight']", r"['re:.*query\.weight', 're:.*0\..*query\.weight']"),
            "both match bert.encoder.layer.0.attention.self.query.weight",
        ),
        (
            RUN + PRUNING.replace("(query|key)", "word.embeddings"),
            "it also matches bert.embeddings.word_embeddings.weight",
        ),
        (RUN + PRUNING.replace(r"\.", "."), "in this model they match only dots"),
        (
            RUN + PRUNING.replace(r"re:.*(query|key)\.weight", "__ALL_PRUNABLE__"),
            "prunes embeddings (bert.embeddings.word_embeddings.weight and 2 more) and the head (qa_outputs.weight)",
        ),
        (RUN + PRUNING.replace("(query|key)", "outputs"), "it also prunes the head (qa_outputs.weight)"),
        (RUN + PRUNING.replace(r"(query|key)\.weight", r"Norm\.weight"), "it prunes bert.embeddings.LayerNorm.weight"),
        (
            RUN
            + "  - !TrainableParamsModifier {params: __ALL__, trainable: false, end_epoch: 5.0}\n"
            + "  - !TrainableParamsModifier {params: [qa_outputs.bias], trainable: true}\n",
            "another modifier sets requires_grad of qa_outputs.bias",
        ),
    ],
)
def test_warning_that_needs_a_model_is_reported(modifiers, words, tmp_path, model_dir):
    warnings = warnings_of(tmp_path, modifiers, model_name=model_dir)
    assert any(words in doubt for doubt in warnings), warnings


def test_gradients_that_cost_more_than_an_epoch_are_reported(tmp_path):
    assert warnings_of(tmp_path, SAMPLED) == []  # the number of examples is not known
    assert warnings_of(tmp_path, SAMPLED, num_examples=5120, batch_size=16) == []
    (warning,) = warnings_of(tmp_path, SAMPLED, num_examples=2560, batch_size=16)
    assert "line 3: OBSPruningModifier: the gradients for all masks cost as much as 2 epochs of training" in warning
