#!/usr/bin/env python
r"""Train, evaluate and use a question-answering model: the script of Transformers' example, with its flags and files.

    python run_qa.py --model_name_or_path bert-base-uncased --dataset_name squad --do_train --do_eval \
        --per_device_train_batch_size 16 --learning_rate 3e-5 --num_train_epochs 2 --output_dir out

    python run_qa.py --model_name_or_path out --validation_file my-squad.json --do_eval --output_dir out

    python run_qa.py arguments.yaml --seed 3

The parts between ``# [sparsification]`` and ``# [/sparsification]`` are additions to Transformers' script.
"""

import sys
from typing import TYPE_CHECKING

import transformers
from safetensors import SafetensorError
from tqdm.auto import tqdm

from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering.arguments import parse_arguments

# isort: split
# [sparsification]
from sparsification.arguments import teacher_cache_dir
from sparsification.errors import SparsificationError
from sparsification.trainer.run_lock import RunLock

# [/sparsification]

if TYPE_CHECKING:
    from sparsification.tasks.question_answering.arguments import Flags

USER_ERRORS = (SparsificationError, OSError, SafetensorError)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the steps that the arguments name.

    Args:
        argv: command-line arguments; None: those of this process.

    Returns:
        All metrics, as in all_results.json.
    """
    argv = sys.argv[1:] if argv is None else argv
    flags = parse_arguments(argv)
    # Imported here, because it takes seconds: wrong flags and recipes have been refused before.
    from sparsification.tasks.logs import set_up_logging
    from sparsification.tasks.output_dir import digest, only_run_in
    from sparsification.tasks.question_answering.flag_checks import check_flags

    set_up_logging(flags.training)
    check_flags(flags)
    command = digest(flags.manager, flags.training, flags.model, flags.data, flags.sparse)
    with only_run_in(flags.training, flags.sparse.onnx_export_path, command) as lock:
        return work(argv, flags, lock)


def work(argv: list[str], flags: "Flags", lock: RunLock | None) -> dict[str, float]:
    """Run the steps of parsed arguments in a locked output folder.

    Args:
        argv: command-line arguments, for the report.
        flags: parsed and checked arguments.
        lock: lock of the folder; None on processes that save nothing.

    Returns:
        All metrics.
    """
    from sparsification.tasks import output_dir
    from sparsification.tasks.question_answering import feature_sets, loading, pipeline
    from sparsification.tasks.question_answering.trial import try_out

    model_args, data_args, sparse_args = flags.model, flags.data, flags.sparse
    training_args, manager = flags.training, flags.manager
    was_interrupted = lock is None or lock.was_interrupted
    # [sparsification]
    if sparse_args.one_shot:
        output_dir.refuse_used_folder(training_args, data_args.overwrite_output_dir, was_interrupted)
        if manager.samples_data and data_args.dataset_name is None and data_args.train_file is None:
            raise UsageError(
                f"--one_shot {sparse_args.recipe} prunes, or sets its ranges, on training data: give --train_file"
            )
        training_args.do_train = manager.samples_data
    # [/sparsification]
    checkpoint = output_dir.find_checkpoint(training_args, data_args.overwrite_output_dir, was_interrupted)
    if lock is not None:
        lock.begin()
    transformers.set_seed(training_args.seed)

    raw_datasets = loading.load_data(flags)
    tokenizer, model = loading.load_model(model_args)
    # [sparsification]
    pipeline.check_export(model, sparse_args)
    models = loading.load_teacher_beside(flags, tokenizer, model)
    if training_args.do_train and not sparse_args.one_shot and not sparse_args.skip_trial:
        seconds = try_out(flags, raw_datasets, models)
        pipeline.logger.info(f"The trial before training went through in {seconds:.1f} s (--skip_trial leaves it out)")
    # [/sparsification]
    train_dataset, eval_dataset, predict_dataset, eval_examples, predict_examples = feature_sets.build_features(
        raw_datasets, models, data_args, training_args
    )

    # [sparsification]
    cache = teacher_cache_dir(sparse_args, model_args.cache_dir)
    trainer = pipeline.make_trainer(flags, models, train_dataset, eval_dataset, eval_examples, teacher_cache=cache)
    if sparse_args.one_shot:
        trainer.apply_one_shot()
        training_args.do_train = False
    # [/sparsification]

    metrics: dict[str, float] = {}
    if training_args.do_train:
        metrics |= pipeline.train(trainer, checkpoint, data_args)
    if training_args.do_eval:
        metrics |= pipeline.evaluate(trainer, data_args)
    if training_args.do_predict:
        metrics |= pipeline.predict(trainer, predict_dataset, predict_examples, data_args)
    # [sparsification]
    if training_args.do_eval and trainer.teacher is not None:
        metrics |= pipeline.evaluate_teacher(trainer, data_args, metrics)
    if sparse_args.onnx_export_path is not None:
        exported = trainer.export_onnx(
            *(sparse_args.onnx_export_path, sparse_args.onnx_target, sparse_args.onnx_opset, sparse_args.onnx_exporter)
        )
        if training_args.do_eval:
            metrics |= pipeline.evaluate_exported(trainer, exported, sparse_args.onnx_export_path, data_args)
    if manager.recipe is not None:
        pipeline.report_run(trainer, argv, model_args, data_args, sparse_args, metrics)
    # [/sparsification]
    pipeline.write_model_card(trainer, model_args, data_args)
    trainer.forget_end()
    trainer.accelerator.end_training()  # ends the threads between processes, or one can abort at exit
    return metrics


def format_error(error: BaseException) -> str | None:
    """Message for an error that the user can correct; None for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; saved checkpoints are kept, and the same command resumes from the last one"
    if isinstance(error, USER_ERRORS) or "PytorchStreamWriter" in str(error):
        return str(error)
    from accelerate.utils.memory import should_reduce_batch_size  # imports all of accelerate

    if isinstance(error, MemoryError) or should_reduce_batch_size(error):
        return (
            f"not enough memory: {error}. Try a smaller --per_device_train_batch_size (with more "
            "--gradient_accumulation_steps), a smaller --per_device_eval_batch_size or a shorter --max_seq_length"
        )
    return None


def cli() -> int:
    """Run :func:`main` and return the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    try:
        main()
    except (*USER_ERRORS, MemoryError, RuntimeError, KeyboardInterrupt) as error:
        message = format_error(error)
        if message is None:
            raise
        tqdm.write(f"run_qa.py: error: {message}", file=sys.stderr)  # does not break a progress bar
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    sys.exit(cli())
