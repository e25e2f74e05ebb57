"""Does a run that was stopped anywhere end, bit by bit, as if it had not been? Recipes, stops and settings are drawn.

    make resume-study RESUME=50    # that many draws for each modifier

A modifier of ``MODIFIERS`` is drawn once ``KEYS`` knows some of its keys; one that is missing there fails a test.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from helpers.recipes import LINEAR
from helpers.resuming import EPOCHS, assert_resumes_exactly, write
from sparsification.modifiers import MODIFIERS, LearningRateBase
from sparsification.pruning.masked_weights import PruningBase

ASKED = os.environ.get("RESUME")
ROWS = r"re:.*\d\.intermediate\.dense\.weight"
LAYER_1 = "bert.encoder.layer.1"

starts = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.375])
ends = st.sampled_from([1.5, 2.0, 2.125, 2.625, 3.0])
maybe_ends = ends | st.just(-1.0)
frequencies = st.sampled_from([0.125, 0.25, 0.4, 1.0])
rates = st.sampled_from([0.0, 1e-3, 5e-3, 1e-2])
sparsities = st.sampled_from([0.3, 0.5, 0.8])


def keys(**own: st.SearchStrategy | object) -> st.SearchStrategy:
    """A modifier's keys, each a strategy or a value; times are drawn unless they are given."""
    drawn = {"start_epoch": starts, "end_epoch": ends} | own
    return st.fixed_dictionaries(
        {key: value if isinstance(value, st.SearchStrategy) else st.just(value) for key, value in drawn.items()}
    )


pruning = {
    "params": [LINEAR],
    "init_sparsity": st.sampled_from([0.0, 0.2, "__FROM_PARAM__"]),
    "final_sparsity": sparsities,
    "update_frequency": frequencies,
    "inter_func": st.sampled_from(["linear", "cubic", "inverse_cubic"]),
    "leave_enabled": st.booleans(),
}
sampled = {"num_grads": 2, "update_frequency": st.sampled_from([0.5, 1.0]), "grad_sampler_kwargs": {"batch_size": 2}}
labels = st.sampled_from(["data", "model"])
until_the_end = {"end_epoch": -1.0}
calibration = {"num_samples": 6, "batch_size": 4}
KEYS = {
    "EpochRangeModifier": keys(start_epoch=0.0, end_epoch=float(EPOCHS)),
    "SetLearningRateModifier": keys(learning_rate=rates) | keys(learning_rate=rates, **until_the_end),
    "LearningRateFunctionModifier": keys(
        lr_func=st.sampled_from(["linear", "cosine", "cyclic_linear"]),
        init_lr=rates,
        final_lr=rates,
        cycle_epochs=st.sampled_from([0.25, 0.5, 1.0]),
    ),
    "LearningRateModifier": st.sampled_from(
        [
            {"lr_class": "StepLR", "lr_kwargs": {"step_size": 1, "gamma": 0.5}},
            {"lr_class": "MultiStepLR", "lr_kwargs": {"milestones": [1, 2], "gamma": 0.5}},
            {"lr_class": "ExponentialLR", "lr_kwargs": {"gamma": 0.7}},
            {"lr_class": "CosineAnnealingLR", "lr_kwargs": {"T_max": 3}},
            {"lr_class": "CosineAnnealingWarmRestarts", "lr_kwargs": {"T_0": 2}},
        ]
    ).map(lambda own: {"init_lr": 5e-3, "start_epoch": 0.0, "end_epoch": -1.0} | own),
    "SetWeightDecayModifier": keys(weight_decay=st.sampled_from([0.0, 0.1]), **until_the_end),
    "TrainableParamsModifier": keys(
        params=st.sampled_from([["re:bert.embeddings.*"], ["re:.*LayerNorm.*", "re:.*layer.2.*"]]),
        trainable=False,
        end_epoch=maybe_ends,
    ),
    "SetParamModifier": keys(params=["re:.*LayerNorm.bias"], val=0.0, **until_the_end),
    "GradualParamModifier": keys(
        params=["qa_outputs.bias"], init_val=0.0, final_val=[0.5, -0.5], update_frequency=frequencies
    ),
    "WeightAveragingModifier": keys(
        method=st.sampled_from(["ema", "swa"]),
        decay=st.sampled_from([0.5, 0.9]),
        update_frequency=st.sampled_from([-1.0, 0.125]),
        end_epoch=maybe_ends,
    ),
    "GMPruningModifier": keys(**pruning, mask_type=st.sampled_from(["unstructured", "block4"])),
    "MagnitudePruningModifier": keys(**pruning),
    "GlobalMagnitudePruningModifier": keys(**pruning),
    "ACDCPruningModifier": keys(
        params=[LINEAR],
        compression_sparsity=sparsities,
        update_frequency=st.sampled_from([0.25, 0.5]),
        momentum_buffer_reset=st.booleans(),
    ),
    "MovementPruningModifier": keys(**pruning),
    "OBSPruningModifier": keys(
        **pruning | sampled,
        fisher_block_size=8,
        num_recomputations=st.sampled_from([1, 2]),
        fisher_labels=labels,
        damp=st.sampled_from([1e-7, "auto", [1e-7, 1e-5]]),
    ),
    "MFACPruningModifier": keys(**pruning | sampled, fisher_block_size=64, fisher_labels=labels),
    "ReconstructionPruningModifier": keys(
        **pruning | calibration | {"update_frequency": st.sampled_from([0.5, 1.0])},
        mask_method=st.sampled_from(["alps", "sparsegpt", "wanda", "magnitude"]),
        allocation=st.sampled_from(["uniform", "owl", "error"]),
    ),
    "SparseGPTModifier": keys(**until_the_end | calibration, sparsity=sparsities, ignore=["qa_outputs"]),
    "WandaPruningModifier": keys(**until_the_end | calibration, sparsity=sparsities, ignore=["qa_outputs"]),
    "RigLPruningModifier": keys(params=[LINEAR], final_sparsity=sparsities, **sampled),
    "TopKASTPruningModifier": keys(
        params=[LINEAR],
        forward_sparsity=0.8,
        backward_sparsity=st.sampled_from([0.5, 0.8]),
        active_weight_decay=0.1,
        update_frequency=st.sampled_from([-1.0, 0.25]),
    ),
    "PowerpropagationModifier": keys(params=[LINEAR], alpha=2.0, end_epoch=maybe_ends),
    "StructuredPruningModifier": keys(**pruning | {"params": [ROWS], "init_sparsity": 0.0}),
    "LayerThinningModifier": keys(
        param_group_dependency_map={
            r"re:(.*\.\d+)\.intermediate\.dense\.weight": [r"\1.intermediate.dense.bias", r"\1.output.dense.weight"]
        },
        **until_the_end,
    ),
    "ConstantPruningModifier": keys(params=[LINEAR], end_epoch=maybe_ends),
    "LayerPruningModifier": keys(layers=[LAYER_1], end_epoch=maybe_ends),
    "QuantizationModifier": keys(
        disable_quantization_observer_epoch=st.sampled_from([None, 1.5, 2.25]),
        quantize_outputs=st.booleans(),
        **until_the_end,
    ),
    "DistillationModifier": keys(hardness=st.sampled_from([0.3, 1.0]), end_epoch=maybe_ends),
    "PerLayerDistillationModifier": keys(
        student_layer_names=["bert.encoder.layer.0", "bert.embeddings"], end_epoch=maybe_ends
    ),
    "SparsificationLoggingModifier": keys(),
}


def draw_one(name: str) -> st.SearchStrategy:
    return KEYS[name].map(lambda values: (name, values))


@st.composite
def recipes(draw: st.DrawFn, name: str) -> list[tuple[str, dict]]:
    """Modifiers and their keys: ``name``, and what may go with it; no two of them prune, or set the learning rate."""

    def kind_of(other: str) -> str:
        kinds = {"prunes": PruningBase, "sets the rate": LearningRateBase}
        return next((kind for kind, base in kinds.items() if issubclass(MODIFIERS[other], base)), other)

    chosen = {kind_of(name): name}
    for other in draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=3)):
        chosen.setdefault(kind_of(other), other)
    return [draw(draw_one(other)) for other in chosen.values()]


conditions = st.fixed_dictionaries(
    {
        "gradient_accumulation_steps": st.sampled_from([1, 1, 2, 3]),
        "max_grad_norm": st.sampled_from([0.0, 0.5, 1.0]),
        "optim": st.sampled_from(["adamw_torch", "adamw_torch", "sgd"]),
        "lr_scheduler_type": st.sampled_from(["linear", "cosine", "constant_with_warmup"]),
        "warmup_steps": st.sampled_from([0, 3]),
        "seed": st.integers(0, 3),
    }
)


@pytest.mark.parametrize("name", MODIFIERS)
def test_run_stopped_anywhere_ends_as_if_it_had_not_been(name, tmp_path_factory):
    @settings(
        max_examples=int(ASKED or 1),
        derandomize=ASKED is None,
        database=None,
        phases=[Phase.generate],  # to shrink a failure takes minutes; what it drew is printed anyway
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes(name), conditions, st.floats(0.1, 0.95), st.sampled_from([1, 1, 2, 3]))
    def run(recipe, changes, share, saves):
        assert_resumes_exactly(tmp_path_factory.mktemp("resume"), write(recipe), changes, share, saves)

    run()


FREEZE = ("TrainableParamsModifier", {"params": ["re:bert.embeddings.*"], "trainable": False})
DROP = ("LayerPruningModifier", {"layers": [LAYER_1]})


@pytest.mark.parametrize("modifier", [FREEZE, DROP], ids=["freeze", "drop"])
@pytest.mark.parametrize("stop", [4, 12])
def test_run_stopped_at_an_edge_of_a_window_ends_as_if_it_had_not_been(modifier, stop, tmp_path):
    name, own = modifier
    recipe = write([(name, own | {"start_epoch": 0.5, "end_epoch": 1.5})])  # steps 4 to 12 of 24
    assert_resumes_exactly(tmp_path, recipe, {"max_grad_norm": 0.5}, (stop + 0.01) / 24, 1)


def test_layers_dropped_for_good_still_count_in_one_ranking_with_the_others(tmp_path):
    ranking = {"params": [LINEAR], "start_epoch": 1.0, "end_epoch": 2.5, "update_frequency": 0.25}
    recipe = write(
        [
            ("LayerPruningModifier", {"layers": [LAYER_1], "start_epoch": 0.5}),
            ("GlobalMagnitudePruningModifier", ranking | {"leave_enabled": False}),
        ]
    )
    assert_resumes_exactly(tmp_path, recipe, {"learning_rate": 0.02}, 0.8, 1)


def test_every_modifier_is_drawn():
    assert sorted(KEYS) == sorted(MODIFIERS)
