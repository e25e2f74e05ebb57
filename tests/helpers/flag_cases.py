"""One case for every flag of run_qa.py: what to give it, and what becomes of that. docs/flags.md is made of it.

``tasks/question_answering/test_flag_checks.py`` runs each of them on a tiny model.
"""

from dataclasses import dataclass
from typing import Literal

STEPS = "--eval_strategy steps --eval_steps 1 --save_strategy steps --save_steps 1 "
BEST = STEPS + "--load_best_model_at_end "
RECIPE = "--recipe {recipe} "  # quantizes from the start
DISTILL = "--recipe {distills} --distill_teacher self --distill_file {text} "


@dataclass(frozen=True)
class Case:
    """What to give a flag; {recipe}, {distills}, {model}, {file} and {text} stand for files of the test."""

    argv: str
    outcome: Literal["works", "refused", "corrected", "no effect"] = "works"
    words: str = ""  # in the message, where there is one


def refused(argv: str, words: str) -> Case:
    return Case(argv, "refused", words)


TRAINING: dict[str, Case | tuple[Case, ...]] = {
    "output_dir": refused("--output_dir {file}", "a file; a folder is expected"),
    "per_device_train_batch_size": (
        Case("--per_device_train_batch_size 4"),
        refused("--per_device_train_batch_size 0", "expected 1 or more"),
    ),
    "num_train_epochs": (
        Case("--max_steps -1 --num_train_epochs 1"),
        refused("--num_train_epochs -1", "expected 0 or more"),
    ),
    "max_steps": Case("--max_steps 1"),
    "learning_rate": (Case("--learning_rate 1e-3"), refused("--learning_rate -1", "Invalid learning rate")),
    "lr_scheduler_type": (
        *(Case(f"--lr_scheduler_type {name}") for name in ("cosine", "polynomial", "constant_with_warmup")),
        *(Case(STEPS + f"--lr_scheduler_type {name}") for name in ("reduce_lr_on_plateau", "greedy")),
        refused("--lr_scheduler_type warmup_stable_decay", "num_decay_steps"),
        refused("--lr_scheduler_type cosine_with_min_lr", "min_lr"),
        refused("--lr_scheduler_type reduce_lr_on_plateau", "requires an eval strategy"),
    ),
    "lr_scheduler_kwargs": (
        Case("""--lr_scheduler_type cosine_with_restarts --lr_scheduler_kwargs={{"num_cycles":2}}"""),
        refused("""--lr_scheduler_kwargs={{"cycles":2}}""", "unexpected keyword argument 'cycles'"),
    ),
    "warmup_steps": Case("--warmup_steps 0.5"),
    "optim": (
        *(Case(f"--optim {name}") for name in ("adamw_torch", "adafactor", "sgd")),
        refused("--optim adamw_anyprecision", "Please install"),
    ),
    "optim_args": refused("--optim_args fast", "not enough values"),
    "weight_decay": (Case("--weight_decay 0.01"), refused("--weight_decay -1", "expected 0 or more")),
    "adam_beta1": (Case("--adam_beta1 0.8"), refused("--adam_beta1 2", "Invalid beta")),
    "adam_beta2": Case("--adam_beta2 0.99"),
    "adam_epsilon": Case("--adam_epsilon 1e-6"),
    "optim_target_modules": Case("--optim_target_modules query"),
    "gradient_accumulation_steps": (
        Case("--gradient_accumulation_steps 2"),
        refused("--gradient_accumulation_steps 0", "expected 1 or more"),
    ),
    "average_tokens_across_devices": Case("--average_tokens_across_devices False"),
    "max_grad_norm": Case("--max_grad_norm 0.5"),
    "label_smoothing_factor": refused("--label_smoothing_factor 0.1", "which does not smooth labels"),
    "bf16": Case("--bf16"),
    "fp16": Case("--fp16", "no effect", "without an accelerator the run uses fp32"),
    "bf16_full_eval": Case("--bf16_full_eval"),
    "fp16_full_eval": Case("--fp16_full_eval", "no effect", "without an accelerator the run uses fp32"),
    "tf32": refused("--tf32 True", "--tf32 requires"),
    "activation_checkpointing": (
        Case("--activation_checkpointing"),
        refused(RECIPE + "--activation_checkpointing", "would update the recipe's int8 ranges twice"),
    ),
    "activation_checkpointing_kwargs": Case("""--activation_checkpointing_kwargs={{"use_reentrant":false}}"""),
    "gradient_checkpointing": (
        Case("--gradient_checkpointing"),
        refused(RECIPE + "--gradient_checkpointing", "would update the recipe's int8 ranges twice"),
    ),
    "gradient_checkpointing_kwargs": Case("""--gradient_checkpointing_kwargs={{"use_reentrant":false}}"""),
    "torch_compile": Case("--torch_compile --torch_compile_backend eager"),
    "torch_compile_backend": Case("--torch_compile_backend eager"),
    "torch_compile_mode": Case("--torch_compile_backend eager --torch_compile_mode default"),
    "use_liger_kernel": refused("--use_liger_kernel", "its kernels are for decoders"),
    "liger_kernel_config": refused("""--liger_kernel_config={{"rope":true}}""", "invalid dict value"),
    "use_cache": Case("--use_cache", "no effect", "encoders have no cache"),
    "neftune_noise_alpha": Case("--neftune_noise_alpha 5"),
    "torch_empty_cache_steps": Case("--torch_empty_cache_steps 1"),
    "auto_find_batch_size": (
        Case("--auto_find_batch_size"),
        refused(RECIPE + "--auto_find_batch_size", "would change the recipe's schedule during the run"),
    ),
    "logging_strategy": Case("--logging_strategy epoch"),
    "logging_steps": (Case("--logging_steps 1"), refused("--logging_steps 0", "non-zero --logging_steps")),
    "logging_first_step": Case("--logging_first_step"),
    "log_on_each_node": Case("--log_on_each_node False"),
    "logging_nan_inf_filter": Case("--logging_nan_inf_filter False"),
    "include_num_input_tokens_seen": (
        Case("--include_num_input_tokens_seen non_padding"),
        Case("--include_num_input_tokens_seen True"),
    ),
    "log_level": Case("--log_level warning"),
    "log_level_replica": Case("--log_level_replica error"),
    "disable_tqdm": Case("--disable_tqdm False"),
    "report_to": Case("--report_to none --report_to tensorboard"),
    "run_name": Case("--run_name one"),
    "project": Case("--project one"),
    "trackio_space_id": Case("--trackio_space_id me/space"),
    "trackio_bucket_id": Case("--trackio_bucket_id me/bucket"),
    "trackio_static_space_id": Case("--trackio_static_space_id me/static"),
    "eval_strategy": Case(STEPS),
    "eval_steps": (Case(STEPS), Case("--eval_steps 1", "no effect", "it is for --eval_strategy steps")),
    "eval_delay": (
        Case(STEPS + "--eval_delay 2"),
        Case("--eval_delay 2", "no effect", "it is for --eval_strategy steps or epoch"),
    ),
    "per_device_eval_batch_size": (
        Case("--per_device_eval_batch_size 3"),
        refused("--per_device_eval_batch_size 0", "expected 1 or more"),
    ),
    "prediction_loss_only": Case("--prediction_loss_only", "corrected", "answers are computed from logits"),
    "eval_on_start": (
        Case(STEPS + "--eval_on_start"),
        refused("--eval_on_start --do_eval False", "it needs --do_eval and validation data"),
    ),
    "eval_do_concat_batches": Case("--eval_do_concat_batches False", "no effect", "always joined"),
    "eval_use_gather_object": Case("--eval_use_gather_object"),
    "eval_accumulation_steps": Case("--eval_accumulation_steps 1"),
    "include_for_metrics": Case("--include_for_metrics inputs loss", "corrected", "compare texts of answers"),
    "batch_eval_metrics": Case("--batch_eval_metrics", "corrected", "may be in several batches"),
    "save_only_model": Case("--save_steps 1 --save_only_model"),
    "save_strategy": (Case("--save_strategy epoch"), Case("--eval_strategy steps --eval_steps 1 --save_strategy best")),
    "save_steps": Case("--save_steps 1"),
    "save_on_each_node": Case("--save_on_each_node"),
    "save_total_limit": Case("--save_steps 1 --save_total_limit 1"),
    "enable_jit_checkpoint": Case("--enable_jit_checkpoint"),
    "push_to_hub": refused("--push_to_hub --hub_token no", "--push_to_hub: "),
    "hub_token": refused("--push_to_hub --hub_token no", "--push_to_hub: "),
    "hub_private_repo": Case("--hub_private_repo True"),
    "hub_model_id": Case("--hub_model_id me/model"),
    "hub_strategy": Case("--hub_strategy end"),
    "hub_always_push": Case("--hub_always_push"),
    "hub_revision": Case("--hub_revision dev"),
    "load_best_model_at_end": (
        Case(BEST),
        refused("--load_best_model_at_end", "requires the save and eval strategy to match"),
    ),
    "metric_for_best_model": (
        Case(BEST + "--metric_for_best_model exact_match"),
        Case(BEST + "--metric_for_best_model loss", "corrected", "computes no loss"),
        refused(BEST + "--metric_for_best_model accuracy", "no such metric: there are exact_match, f1"),
    ),
    "greater_is_better": Case(BEST + "--metric_for_best_model f1 --greater_is_better False"),
    "ignore_data_skip": Case("--ignore_data_skip"),
    "restore_callback_states_from_checkpoint": Case("--restore_callback_states_from_checkpoint"),
    "full_determinism": Case("--full_determinism"),
    "seed": (Case("--seed 3"), refused("--seed -1", "expected 0 or more")),
    "data_seed": Case("--data_seed 3"),
    "use_cpu": Case("--use_cpu"),
    "accelerator_config": (
        Case("""--accelerator_config={{"split_batches":true}}"""),
        refused("""--accelerator_config={{"split":true}}""", "unexpected keyword argument 'split'"),
        refused(
            "--gradient_accumulation_steps 2 "
            """--accelerator_config={{"gradient_accumulation_kwargs":{{"num_steps":2}}}}""",
            "set the same number",
        ),
    ),
    "parallelism_config": refused("--parallelism_config x", "invalid ParallelismConfig value"),
    "dataloader_drop_last": (
        Case("--dataloader_drop_last"),
        refused("--dataloader_drop_last --per_device_train_batch_size 100", "leaves nothing to train on"),
    ),
    "dataloader_num_workers": Case("--dataloader_num_workers 1"),
    "dataloader_pin_memory": Case("--dataloader_pin_memory False"),
    "dataloader_persistent_workers": (
        Case(STEPS + "--dataloader_num_workers 1 --dataloader_persistent_workers"),
        Case("--dataloader_persistent_workers", "corrected", "there are none"),
    ),
    "dataloader_prefetch_factor": (
        Case("--dataloader_num_workers 1 --dataloader_prefetch_factor 2"),
        refused("--dataloader_prefetch_factor 2", "can only be set when"),
    ),
    "dataloader_multiprocessing_context": (
        Case("--dataloader_num_workers 1 --dataloader_multiprocessing_context fork"),
        Case("--dataloader_multiprocessing_context fork", "corrected", "there are none"),
    ),
    "dataloader_in_order": Case("--dataloader_num_workers 2 --dataloader_in_order False"),
    "remove_unused_columns": Case("--remove_unused_columns False", "corrected", "which no model takes"),
    "label_names": Case("--label_names labels", "corrected", "start_positions and end_positions"),
    "train_sampling_strategy": (
        *(Case(f"--train_sampling_strategy {name}") for name in ("sequential", "group_by_length", "batch_rebalance")),
    ),
    "length_column_name": (
        Case("--train_sampling_strategy group_by_length --length_column_name tokens"),
        refused("--train_sampling_strategy group_by_length --length_column_name input_ids", "a column of this name"),
    ),
    "ddp_find_unused_parameters": Case("--ddp_find_unused_parameters True"),
    "ddp_bucket_cap_mb": Case("--ddp_bucket_cap_mb 10"),
    "ddp_broadcast_buffers": Case("--ddp_broadcast_buffers False"),
    "ddp_static_graph": Case("--ddp_static_graph False"),
    "ddp_backend": refused("--ddp_backend gloo", "launch with torchrun"),
    "ddp_timeout": Case("--ddp_timeout 100"),
    "fsdp": refused("--fsdp full_shard", "there is one process only"),
    "fsdp_config": Case("""--fsdp_config={{"version":1}}""", "no effect", "it is for --fsdp"),
    "deepspeed": refused("--deepspeed {file}", "deepspeed"),
    "debug": refused("--debug underflow_overflow", "fails on the boolean masks"),
    "skip_memory_metrics": Case("--skip_memory_metrics False"),
    "do_train": Case("--do_train"),
    "do_eval": Case("--do_eval"),
    "do_predict": refused("--do_predict", "needs test data"),
    "resume_from_checkpoint": refused("--resume_from_checkpoint nowhere", "no such folder"),
    "local_rank": Case("--local_rank 0"),
}

SCRIPT: dict[str, Case | tuple[Case, ...]] = {
    "model_name_or_path": refused("--model_name_or_path ./nowhere", "no such folder"),
    "config_name": Case("--config_name {model}"),
    "tokenizer_name": Case("--tokenizer_name {model}"),
    "cache_dir": refused("--cache_dir {file}", "a file; a folder is expected"),
    "model_revision": Case("--model_revision dev"),
    "token": Case("--token no"),
    "trust_remote_code": Case("--trust_remote_code"),
    "dataset_name": refused("--dataset_name ./nowhere", "neither a local folder nor"),
    "dataset_config_name": Case("--dataset_config_name plain"),
    "train_file": refused("--train_file nowhere.json", "no such file"),
    "validation_file": refused("--validation_file nowhere.json", "no such file"),
    "test_file": refused("--test_file nowhere.json", "no such file"),
    "distill_file": (
        Case(DISTILL),
        *(
            refused(argv, "it needs --do_train, a --recipe that distills and a --distill_teacher")
            for argv in (
                DISTILL + "--do_train False",
                DISTILL + "--one_shot",
                DISTILL + "--distill_teacher disable",
                RECIPE + "--distill_teacher self --distill_file {text}",
            )
        ),
        refused("--distill_file text.pdf", "expected a file that ends in .txt, .csv"),
    ),
    "distill_questions_per_paragraph": (
        Case(DISTILL + "--distill_questions_per_paragraph 1"),
        Case("--distill_questions_per_paragraph 1", "no effect", "it is for --distill_file"),
        refused(DISTILL + "--distill_questions_per_paragraph 0", "expected 1 or more"),
    ),
    "overwrite_cache": Case("--overwrite_cache"),
    "preprocessing_num_workers": (
        Case("--preprocessing_num_workers 1"),
        refused("--preprocessing_num_workers 0", "expected 1 or more"),
    ),
    "max_seq_length": (Case("--max_seq_length 96"), refused("--max_seq_length 0", "expected 1 or more")),
    "pad_to_max_length": Case("--pad_to_max_length False"),
    "max_train_samples": (Case("--max_train_samples 6"), refused("--max_train_samples 0", "expected 1 or more")),
    "max_eval_samples": (Case("--max_eval_samples 3"), refused("--max_eval_samples -1", "expected 1 or more")),
    "max_predict_samples": (Case("--max_predict_samples 3"), refused("--max_predict_samples 0", "expected 1 or more")),
    "version_2_with_negative": Case("--version_2_with_negative"),
    "null_score_diff_threshold": (
        Case("--version_2_with_negative --null_score_diff_threshold 1"),
        Case("--null_score_diff_threshold 1", "no effect", "it is for --version_2_with_negative"),
    ),
    "doc_stride": (Case("--doc_stride 8"), refused("--doc_stride 64", "has to be less")),
    "n_best_size": (Case("--n_best_size 3"), refused("--n_best_size 0", "expected 1 or more")),
    "max_answer_length": Case("--max_answer_length 5"),
    "overwrite_output_dir": Case("--overwrite_output_dir"),
    "recipe": (Case(RECIPE), refused("--recipe nowhere.yaml", "no such file")),
    "recipe_args": (Case(RECIPE + "--recipe_args length=2"), refused("--recipe_args length=2", "needs a --recipe")),
    "distill_teacher": Case("--distill_teacher self", "no effect", "no recipe that distills was given"),
    "teacher_cache": (
        Case("--teacher_cache here", "no effect", "no recipe that distills was given"),
        refused("--teacher_cache {file}", "a file; a folder is expected"),
    ),
    "onnx_export_path": (
        Case("--onnx_export_path {out}/onnx"),
        refused("--onnx_export_path {file}", "a file; a folder is expected"),
        refused("--onnx_export_path {out}/model.onnx", "it names a folder"),
    ),
    "onnx_target": Case(RECIPE + "--onnx_export_path {out}/onnx --onnx_target deepsparse"),
    "onnx_opset": (
        Case("--onnx_export_path {out}/onnx --onnx_opset 17"),
        refused("--onnx_opset 9", "expected 11 or more"),
        refused(RECIPE + "--onnx_export_path {out}/onnx --onnx_opset 12", "it needs 13 or more"),
    ),
    "onnx_exporter": (
        Case("--onnx_export_path {out}/onnx --onnx_exporter dynamo"),
        Case("--onnx_export_path {out}/onnx --onnx_exporter torchscript"),
        refused("--onnx_export_path {out}/onnx --onnx_opset 17 --onnx_exporter dynamo", "opset must be 18 to 23"),
    ),
    "best_model_after_epoch": (
        Case(BEST + "--best_model_after_epoch 0.1"),
        Case("--best_model_after_epoch 0.1", "no effect", "it is for --load_best_model_at_end"),
    ),
    "skip_trial": Case("--skip_trial"),
    "one_shot": refused("--one_shot", "needs a --recipe"),
}

CASES = SCRIPT | TRAINING


def cases_of(flag: str) -> tuple[Case, ...]:
    """A flag's cases; most have one."""
    cases = CASES[flag]
    return cases if isinstance(cases, tuple) else (cases,)
