"""Every key of SparseML 1.8.0 loads, in recipes as its users wrote them."""

import pytest
import yaml

from sparsification.modifiers import MODIFIERS
from sparsification.recipe.document import RecipeError
from sparsification.recipe.loader import load_recipe

# The arguments of each modifier's constructor in SparseML 1.8.0; RigL took global_sparsity, which had to be false.
GRADUAL = (
    "init_sparsity final_sparsity start_epoch end_epoch update_frequency params leave_enabled inter_func mask_type"
)
KEYS = {
    "EpochRangeModifier": "start_epoch end_epoch",
    "SetLearningRateModifier": "learning_rate param_groups start_epoch end_epoch constant_logging",
    "LearningRateFunctionModifier": "lr_func init_lr final_lr start_epoch end_epoch cycle_epochs param_groups "
    "update_frequency",
    "LearningRateModifier": "lr_class lr_kwargs init_lr start_epoch end_epoch update_frequency constant_logging",
    "SetWeightDecayModifier": "weight_decay start_epoch param_groups end_epoch constant_logging",
    "TrainableParamsModifier": "params trainable params_strict start_epoch end_epoch",
    "SetParamModifier": "params val params_strict start_epoch end_epoch",
    "GradualParamModifier": "params init_val final_val start_epoch end_epoch update_frequency inter_func params_strict",
    "GMPruningModifier": f"{GRADUAL} global_sparsity phased score_type",
    "MagnitudePruningModifier": GRADUAL,
    "GlobalMagnitudePruningModifier": GRADUAL,
    "MovementPruningModifier": GRADUAL,
    "OBSPruningModifier": f"{GRADUAL} global_sparsity num_grads damp fisher_block_size grad_sampler_kwargs "
    "num_recomputations",
    "MFACPruningModifier": f"{GRADUAL} global_sparsity use_gradient_buffering num_grads damp grads_device "
    "fisher_block_size num_pages available_devices grad_sampler_kwargs",
    "ACDCPruningModifier": "compression_sparsity start_epoch end_epoch update_frequency params global_sparsity "
    "leave_enabled momentum_buffer_reset mask_type",
    "RigLPruningModifier": "final_sparsity start_epoch end_epoch update_frequency params num_grads leave_enabled "
    "global_sparsity momentum_buffer_reset mask_type sparsity_strategy init_update_fraction grad_sampler_kwargs",
    "TopKASTPruningModifier": "forward_sparsity backward_sparsity start_epoch end_epoch update_frequency params "
    "global_sparsity leave_enabled mask_type active_weight_decay",
    "StructuredPruningModifier": f"{GRADUAL} param_groups",
    "LayerThinningModifier": "param_group_dependency_map structure_type start_epoch update_epochs strict end_epoch",
    "PowerpropagationModifier": "start_epoch end_epoch params alpha strict",
    "ConstantPruningModifier": "params start_epoch end_epoch update_frequency",
    "LayerPruningModifier": "layers start_epoch end_epoch update_frequency",
    "DistillationModifier": "start_epoch end_epoch distill_output_keys teacher_input_keys update_frequency hardness "
    "temperature",
    "PerLayerDistillationModifier": "gain start_epoch end_epoch update_frequency normalize student_layer_names "
    "teacher_layer_names project_features epsilon",
    "QuantizationModifier": "start_epoch submodules model_fuse_fn_name disable_quantization_observer_epoch "
    "freeze_bn_stats_epoch end_epoch model_fuse_fn_kwargs quantize_embeddings reduce_range "
    "quantize_linear_activations quantize_conv_activations quantize_embedding_activations activation_bits weight_bits "
    "num_calibration_steps exclude_batchnorm exclude_module_types custom_quantizable_module_types "
    "activation_qconfig_kwargs weight_qconfig_kwargs tensorrt",
    "QuantizationModifier, later": "start_epoch scheme scheme_overrides ignore disable_quantization_observer_epoch "
    "freeze_bn_stats_epoch model_fuse_fn_name model_fuse_fn_kwargs num_calibration_steps strict end_epoch",
    "SparsificationLoggingModifier": "start_epoch end_epoch update_frequency",
}

# A value for each key, as it stands in recipes; what depends on the modifier is in OTHERWISE.
VALUES = {
    "start_epoch": "eval(warm_up)",
    "end_epoch": "eval(num_epochs - 2)",
    "update_frequency": "0.5",
    "params": "['re:.*layer.*.query.weight', qa_outputs.weight]",
    "leave_enabled": "True",
    "inter_func": "cubic",
    "mask_type": "unstructured",
    "init_sparsity": "0.05",
    "final_sparsity": "eval(sparsity)",
    "global_sparsity": "False",
    "phased": "False",
    "score_type": "magnitude",
    "num_grads": "64",
    "damp": "0.00001",
    "fisher_block_size": "4",
    "grad_sampler_kwargs": "{batch_size: 8}",
    "num_recomputations": "2",
    "use_gradient_buffering": "null",
    "grads_device": "cpu",
    "num_pages": "1",
    "available_devices": "['cuda:0']",
    "compression_sparsity": "0.9",
    "momentum_buffer_reset": "True",
    "sparsity_strategy": "erdos_renyi",
    "init_update_fraction": "0.3",
    "forward_sparsity": "0.9",
    "backward_sparsity": "0.5",
    "active_weight_decay": "0.0001",
    "param_groups": "[0, 1]",
    "param_group_dependency_map": "{'a.weight,b.weight': [a.bias, c.weight]}",
    "structure_type": "filter",
    "update_epochs": "[4.0, 6.0]",
    "strict": "True",
    "alpha": "2.0",
    "learning_rate": "0.0001",
    "constant_logging": "False",
    "lr_func": "cyclic_linear",
    "init_lr": "1e-4",
    "final_lr": "1e-6",
    "cycle_epochs": "2.0",
    "lr_class": "ExponentialLR",
    "lr_kwargs": "{gamma: 0.9}",
    "weight_decay": "0.0",
    "trainable": "False",
    "params_strict": "True",
    "val": "0.0",
    "init_val": "0.0",
    "final_val": "1.0",
    "layers": "['bert.encoder.layer.1', 'bert.encoder.layer.3']",
    "distill_output_keys": "[start_logits, end_logits]",
    "teacher_input_keys": "[input_ids]",
    "hardness": "1.0",
    "temperature": "2.0",
    "gain": "1.5",
    "normalize": "True",
    "student_layer_names": "[bert.encoder.layer.0]",
    "teacher_layer_names": "[bert.encoder.layer.2]",
    "project_features": "True",
    "epsilon": "1.0e-6",
    "submodules": "[bert.embeddings, bert.encoder, qa_outputs]",
    "model_fuse_fn_name": "no_fuse",
    "model_fuse_fn_kwargs": "{inplace: True}",
    "disable_quantization_observer_epoch": "5.0",
    "freeze_bn_stats_epoch": "6.0",
    "quantize_embeddings": "1",
    "reduce_range": "False",
    "quantize_linear_activations": "0",
    "quantize_conv_activations": "True",
    "quantize_embedding_activations": "False",
    "activation_bits": "8",
    "weight_bits": "8",
    "num_calibration_steps": "null",
    "exclude_batchnorm": "True",
    "exclude_module_types": "[LayerNorm, Tanh]",
    "custom_quantizable_module_types": "[SiLU]",
    "activation_qconfig_kwargs": "null",
    "weight_qconfig_kwargs": "{}",
    "tensorrt": "False",
    "scheme": "{input_activations: {num_bits: 8, symmetric: False}, weights: {num_bits: 8, symmetric: True}}",
    "scheme_overrides": "{Embedding: {input_activations: null}}",
    "ignore": "[classifier, Tanh]",
}
OTHERWISE = {
    ("GradualParamModifier", "inter_func"): "linear",
    ("LearningRateModifier", "start_epoch"): "0.0",
    ("ACDCPruningModifier", "update_frequency"): "2.0",
    ("StructuredPruningModifier", "mask_type"): "channel",
    ("StructuredPruningModifier", "param_groups"): "[[a.weight, b.weight]]",
    ("OBSPruningModifier", "mask_type"): "block4",
    ("MFACPruningModifier", "num_grads"): "{0.0: 64, 0.5: 128, 0.85: 512}",
    ("GMPruningModifier", "params"): "__ALL_PRUNABLE__",
    ("MagnitudePruningModifier", "params"): "[]",
    ("MagnitudePruningModifier", "final_sparsity"): "{0.7: [a.weight], 0.9: ['re:b.*']}",
    **{(name, "end_epoch"): "-1" for name in (
        "SetLearningRateModifier", "SetWeightDecayModifier", "LayerThinningModifier", "QuantizationModifier",
        "QuantizationModifier, later", "SetParamModifier")},
}  # fmt: skip
HEAD = "num_epochs: &epochs 10.0\nwarm_up: 2\nsparsity: 0.8\n\nmodifiers:\n"


def block(label: str) -> str:
    name = label.partition(",")[0]
    lines = [f"    {key}: {OTHERWISE.get((label, key), VALUES[key])}" for key in KEYS[label].split()]
    return "\n".join([f"  - !{name}", *lines]) + "\n"


# Not SparseML's, or not of its recipes for training.
OURS = {"ReconstructionPruningModifier", "SparseGPTModifier", "WandaPruningModifier", "WeightAveragingModifier"}


def test_every_modifier_is_here():
    assert {label.partition(",")[0] for label in KEYS} == set(MODIFIERS) - OURS


@pytest.mark.parametrize("label", KEYS)
def test_every_key_of_a_modifier_loads_and_is_what_was_written(label):
    recipe = load_recipe(HEAD + block(label))
    (modifier,) = recipe.modifiers
    assert type(modifier).__name__ == label.partition(",")[0]
    assert recipe.explicit_keys == [KEYS[label].split()]
    for key in KEYS[label].split():
        text = OTHERWISE.get((label, key), VALUES[key])
        expected = {"eval(warm_up)": 2, "eval(num_epochs - 2)": 8, "eval(sparsity)": 0.8}.get(text)
        written = yaml.safe_load(text) if expected is None else expected
        if isinstance(written, str) and isinstance(getattr(modifier, key), float):
            written = float(written)  # 1e-4 is a text to YAML 1.1
        assert getattr(modifier, key) == written, key
    assert load_recipe(recipe.to_yaml()).modifiers == recipe.modifiers


STAGED = """<!--
Copyright (c) somebody
-->

---
version: 1.1.0

# General hyperparameters
num_epochs: 12
init_lr: 0.0001
pruning_epochs: &pruning_epochs 8
prunable: &prunable
  - re:.*layer.*.weight

sparse_stage:
  sparse_num_epochs: 9
  sparse_training_modifiers:
    - !EpochRangeModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
    - !LearningRateFunctionModifier
      start_epoch: 0.0
      end_epoch: eval(sparse_num_epochs)
      lr_func: cosine
      init_lr: eval(init_lr)
      final_lr: eval(init_lr * 0.01)
  sparse_pruning_modifiers:
    - !pytorch.PowerpropagationModifier
      start_epoch: 0
      end_epoch: *pruning_epochs
      alpha: 2.0
      params: __ALL_PRUNABLE__
      strict: True
    - !RigLPruningModifier
      final_sparsity: 0.9
      start_epoch: 1
      end_epoch: *pruning_epochs
      update_frequency: 0.5
      params: *prunable
      grad_sampler_kwargs:
        batch_size: 4

quantized_stage:
  quantized_modifiers:
    - !QuantizationModifier
      start_epoch: eval(num_epochs - 3)
      submodules: [bert.embeddings, bert.encoder, qa_outputs]
      quantize_linear_activations: 0
      exclude_module_types: ['LayerNorm']
---

# A model

Text.
"""


def test_a_staged_recipe_with_anchors_prefixes_and_numbers_for_switches_loads(tmp_path):
    path = tmp_path / "recipe.md"
    path.write_text(STAGED)
    recipe = load_recipe(path, "num_epochs=20,pruning_epochs=6")
    kinds = ["EpochRange", "LearningRateFunction", "Powerpropagation", "RigLPruning", "Quantization"]
    assert [type(modifier).__name__ for modifier in recipe.modifiers] == [f"{kind}Modifier" for kind in kinds]
    *_, power, rigl, quantization = recipe.modifiers
    assert (power.end_epoch, rigl.end_epoch, rigl.params) == (6.0, 6.0, ["re:.*layer.*.weight"])
    assert (quantization.start_epoch, quantization.quantize_linear_activations) == (17.0, False)


@pytest.mark.parametrize(
    ("label", "old", "new", "message"),
    [
        ("GMPruningModifier", "phased: False", "phased: True", "phased must be false: use ACDCPruningModifier"),
        (
            "GMPruningModifier",
            "score_type: magnitude",
            "score_type: movement",
            "score_type must be 'magnitude', got 'movement'",
        ),
        ("QuantizationModifier", "weight_qconfig_kwargs: {}", "weight_qconfig_kwargs: {observer: x}", "observers"),
    ],
)
def test_recipes_that_sparseml_or_this_package_does_not_support_are_refused(label, old, new, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(HEAD + block(label).replace(old, new))
