"""Do the methods of Trainer that ours override still have the parameters that ours were written for?

Transformers promises nothing about methods that begin with an underscore. A release that changes one of them fails
here, with the method's name, and not in the middle of a training.
"""

import inspect
import re
import types

import pytest
from transformers import Trainer

from sparsification.tasks.question_answering.sparse_trainer import SparseQuestionAnsweringTrainer
from sparsification.tasks.question_answering.trainer import QuestionAnsweringTrainer
from sparsification.trainer.sparse_trainer import SparseTrainer

# Trainer's parameters in Transformers 5.23 and 5.24, for each method that a class of this package overrides.
UPSTREAM: dict[str, list[str]] = {
    "_determine_best_metric": ["metrics", "trial"],
    "_finalize_training": ["trial", "num_train_samples", "start_time"],
    "_get_dataloader": ["dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"],
    "_get_eval_sampler": ["eval_dataset"],
    "_get_output_dir": ["trial"],
    "_init_training_state": [
        *("max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial")
    ],
    "_issue_warnings_after_load": ["load_result"],
    "_load_best_model": [],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_load_rng_state": ["checkpoint"],
    "_run_epoch": [
        *("model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial"),
        *("ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained"),
        "steps_trained_in_current_epoch",
    ],
    "_save": ["output_dir", "state_dict"],
    "_save_checkpoint": ["model", "trial"],
    "_save_optimizer_and_scheduler": ["output_dir"],
    "_set_signature_columns_if_needed": [],
    "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
    "create_model_card": [
        *("language", "license", "tags", "model_name", "finetuned_from", "tasks"),
        *("dataset_tags", "dataset", "dataset_args"),
    ],
    "create_scheduler": ["num_training_steps", "optimizer"],
    "evaluate": ["eval_dataset", "ignore_keys", "metric_key_prefix"],
    "evaluation_loop": ["dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"],
    "log": ["logs", "start_time"],
    "predict": ["test_dataset", "ignore_keys", "metric_key_prefix"],
    "prediction_step": ["model", "inputs", "prediction_loss_only", "ignore_keys"],
    "save_metrics": ["split", "metrics", "combined"],
    "save_state": [],
    "set_initial_training_values": ["args", "dataloader"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
}
# Methods without a promise that ours call, and their parameters.
CALLED = {
    "_prepare_inputs": ["inputs"],
    "_remove_unused_columns": ["dataset", "description"],
    "_save_rng_state": ["output_dir"],
}
# Attributes that ours read or set and Trainer does not document.
ATTRIBUTES = [
    *("_created_lr_scheduler", "_initial_global_step", "_loss_shifts_labels", "_signature_columns"),
    *("_train_batch_size", "current_gradient_accumulation_steps", "is_deepspeed_enabled", "is_fsdp_enabled"),
    *("loss_is_scaled_for_ga", "model_accepts_loss_kwargs"),
]
# What the well-known script's Trainer has by intention: the questions beside the features.
ADDED = {"evaluate": {"eval_examples"}, "predict": {"predict_dataset", "predict_examples"}}
# Values that set_initial_training_values gives in this order, and that the mixin reads by their place.
TRAINING_VALUES = "tuple[int, int, int, int, int, int | None, int]"


def overridden() -> dict[str, list[types.FunctionType]]:
    """Methods of Trainer that the package overrides: name -> each class's own function."""
    found: dict[str, list[types.FunctionType]] = {}
    kinds = {*SparseTrainer.__mro__, *SparseQuestionAnsweringTrainer.__mro__, QuestionAnsweringTrainer}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        if kind.__module__.startswith("sparsification."):
            for name, member in vars(kind).items():
                if inspect.isfunction(member) and not name.startswith("__") and name in vars(Trainer):
                    found.setdefault(name, []).append(member)
    return found


def parameters(function: types.FunctionType) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


OVERRIDDEN = overridden()


def test_every_overridden_method_is_in_the_table_and_no_other():
    assert sorted(OVERRIDDEN) == sorted(UPSTREAM)


@pytest.mark.parametrize("name", [*UPSTREAM, *CALLED])
def test_trainer_has_the_parameters_that_our_code_was_written_for(name):
    found = [parameter.name for parameter in parameters(getattr(Trainer, name))]
    expected = (UPSTREAM | CALLED)[name]
    assert found == expected, f"Transformers has changed Trainer.{name}: read its new code, then change ours"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_trainer_has_the_attributes_that_our_code_uses(name):
    assert re.search(rf"self\.{name}\b", inspect.getsource(Trainer)), f"Transformers has no Trainer.{name} any more"


@pytest.mark.parametrize("name", UPSTREAM)
def test_override_takes_what_trainer_takes(name):
    upstream = parameters(getattr(Trainer, name))
    for own in OVERRIDDEN[name]:
        given = {parameter.name: parameter for parameter in parameters(own)}
        kinds = {parameter.kind for parameter in given.values()}
        passes_all = inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.VAR_KEYWORD in kinds
        if name in ADDED:
            assert set(given) - {parameter.name for parameter in upstream} == ADDED[name], own.__qualname__
        elif not passes_all:
            assert list(given) == UPSTREAM[name], own.__qualname__
            for parameter in upstream:
                assert given[parameter.name].default == parameter.default, f"{own.__qualname__}: {parameter.name}"


def test_training_values_are_those_that_the_mixin_reads_by_their_place():
    annotation = inspect.signature(Trainer.set_initial_training_values).return_annotation
    assert str(annotation) == TRAINING_VALUES
