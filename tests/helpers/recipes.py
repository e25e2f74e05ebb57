"""Short recipes for the model of helpers.trainers: each has three epochs or fewer."""

LINEAR = "re:.*layer.[0-9]+.*(query|key|value|dense).weight"
PRUNE = f"""
pruning_modifiers:
  - !GMPruningModifier
    params: ['{LINEAR}']
    init_sparsity: 0.1
    final_sparsity: 0.8
    start_epoch: 0.5
    end_epoch: 2.0
    update_frequency: 0.25
"""
DISTILL = """
distillation_modifiers:
  - !DistillationModifier
    hardness: 0.7
    distill_output_keys: [start_logits, end_logits]
"""
LEARNING_RATE = """
training_modifiers:
  - !EpochRangeModifier
    end_epoch: 3.0
  - !LearningRateFunctionModifier
    lr_func: cyclic_linear
    init_lr: 0.01
    final_lr: 0.001
    cycle_epochs: 0.5
    start_epoch: 0.5
    end_epoch: 3.0
"""
DROP = """
layer_modifiers:
  - !LayerPruningModifier
    layers: [bert.encoder.layer.1]
"""
DROP_LATE = DROP + "    start_epoch: 1.25\n"
DROP_FOR_A_WHILE = DROP + "    start_epoch: 0.5\n    end_epoch: 1.75\n"
FREEZE = """
freezing_modifiers:
  - !TrainableParamsModifier
    params: ['re:bert.embeddings.*']
    trainable: False
    start_epoch: 0.0
    end_epoch: 1.5
  - !SetWeightDecayModifier
    weight_decay: 0.1
    start_epoch: 1.0
"""
QUANTIZE = """
quantization_modifiers:
  - !QuantizationModifier
    submodules: [bert.embeddings, bert.encoder, qa_outputs]
    start_epoch: 0.5
    disable_quantization_observer_epoch: 1.75
"""
PRUNE_BY_CURVATURE = (
    PRUNE.replace("GMPruning", "OBSPruning")
    + """
    num_grads: 3
    fisher_block_size: 8
    mask_type: block4
    num_recomputations: 2
    grad_sampler_kwargs: {batch_size: 2}
"""
)
COMPRESS_NOW_AND_THEN = f"""
pruning_modifiers:
  - !ACDCPruningModifier
    params: ['{LINEAR}']
    compression_sparsity: 0.8
    start_epoch: 0.25
    end_epoch: 2.5
    update_frequency: 0.5
"""
SET = """
modifiers:
  - !SetParamModifier
    params: ['re:.*LayerNorm.bias']
    val: 0.0
    start_epoch: 1.0
  - !GradualParamModifier
    params: [qa_outputs.bias]
    init_val: 0.0
    final_val: [0.5, -0.5]
    start_epoch: 0.5
    end_epoch: 2.0
    update_frequency: 0.25
  - !SparsificationLoggingModifier
    update_frequency: 0.1
"""
DISTILL_LAYERS = """
  - !PerLayerDistillationModifier
    student_layer_names: [bert.encoder.layer.0, bert.encoder.layer.2, bert.embeddings]
    end_epoch: 1.75
"""
PRUNE_BY_WIDE_CURVATURE = (
    PRUNE.replace("GMPruning", "MFACPruning")
    + """
    num_grads: {0.0: 2, 0.5: 3}
    fisher_block_size: 100
"""
)
REGROW = f"""
pruning_modifiers:
  - !RigLPruningModifier
    params: ['{LINEAR}']
    final_sparsity: 0.8
    start_epoch: 0.5
    end_epoch: 2.0
    update_frequency: 0.25
    num_grads: 2
    grad_sampler_kwargs: {{batch_size: 2}}
"""
EXPLORE = f"""
pruning_modifiers:
  - !TopKASTPruningModifier
    params: ['{LINEAR}']
    forward_sparsity: 0.8
    backward_sparsity: 0.5
    start_epoch: 0.5
    end_epoch: 2.0
    active_weight_decay: 0.1
"""
POWER = f"""
modifiers:
  - !PowerpropagationModifier
    params: ['{LINEAR}']
    alpha: 2.0
    start_epoch: 0.25
    end_epoch: 1.75
"""
PRUNE_ROWS = PRUNE.replace("GMPruning", "StructuredPruning").replace(LINEAR, r"re:.*\d\.intermediate\.dense\.weight")
THIN = r"""
  - !LayerThinningModifier
    param_group_dependency_map:
      're:(.*\.\d+)\.intermediate\.dense\.weight':
        ['\1.intermediate.dense.bias', '\1.output.dense.weight']
"""
EVERYTHING = {
    "prune": PRUNE,
    "prune, distill, learning rate": PRUNE + DISTILL + LEARNING_RATE,
    "prune without keeping masks": PRUNE + "    leave_enabled: False\n",
    "prune globally from what is there": PRUNE.replace("init_sparsity: 0.1", "init_sparsity: __FROM_PARAM__")
    + "    global_sparsity: True\n",
    "prune by curvature": PRUNE_BY_CURVATURE,
    "prune by movement": PRUNE.replace("GMPruning", "MovementPruning"),
    "prune now and then": COMPRESS_NOW_AND_THEN,
    "set parameters": SET,
    "distill layers": DROP + DISTILL + DISTILL_LAYERS,
    "prune by wide curvature": PRUNE_BY_WIDE_CURVATURE,
    "regrow": REGROW,
    "powers, prune": POWER + PRUNE,
    "explore": EXPLORE,
    "drop, prune rows, thin": DROP + PRUNE_ROWS + THIN,
    "drop, prune": DROP + PRUNE,
    "drop late, prune": DROP_LATE + PRUNE,
    "drop for a while, prune": DROP_FOR_A_WHILE + PRUNE,
    "freeze, weight decay": FREEZE,
    "drop, prune, quantize, distill": DROP + PRUNE + QUANTIZE + DISTILL,
}


PRUNE_BLOCKS_QUANTIZE = """
training_modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: 1.0

pruning_modifiers:
  - !GMPruningModifier
    params: ['re:.*encoder\\.layer\\.\\d+\\..*(query|key|value|dense)\\.weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 0.0
    end_epoch: 1.0
    mask_type: [1, 4]

quantization_modifiers:
  - !QuantizationModifier
    start_epoch: 0.0
"""
