"""Progress of a run on the terminal and in files.

On a terminal: Trainer's progress bar with epoch, loss and sparsity, and a line for each evaluation. In a file: a line
for each log entry, and no progress bars.
"""

import sys
from collections.abc import Mapping

from transformers import ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

_SPEED = ("runtime", "samples_per_second", "steps_per_second")  # of an evaluation; the files of its results have them


MIN_ENTRIES = 50  # of a run's log, so that its report has curves
_DEFAULT_LOGGING_STEPS = TrainingArguments.__dataclass_fields__["logging_steps"].default


def is_interactive() -> bool:
    """Whether standard error is a terminal, so that a progress bar can be shown."""
    return sys.stderr is not None and sys.stderr.isatty()


def format_log_line(logs: Mapping[str, float]) -> str:
    """One line for an entry of Trainer's log: of training or of an evaluation; an empty text for other entries."""
    words = {}
    if "loss" in logs:
        words = {"loss": f"{logs['loss']:.4g}", "rate": f"{logs.get('learning_rate', 0.0):.3g}"}
        if "sparsity/encoder" in logs:
            words["sparsity"] = f"{logs['sparsity/encoder']:.1%}"
    if any(name.startswith("eval_") and name.endswith("_runtime") for name in logs):
        words = {n: f"{value:.4g}" for n, value in logs.items() if n.startswith("eval_") and not n.endswith(_SPEED)}
    if not words:
        return ""
    return ", ".join([f"epoch {logs.get('epoch', 0.0):.2f}", *(f"{name} {text}" for name, text in words.items())])


class TerminalCallback(ProgressCallback):
    """Replaces Trainer's ProgressCallback, which prints each log entry in full through its progress bar."""

    def on_train_begin(self, args, state, control, **kwargs):
        if is_interactive():
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if is_interactive():
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = format_log_line(logs)
        if not state.is_world_process_zero or not line:
            return
        if self.training_bar is None:
            print(f"step {state.global_step}, {line}", flush=True)
        elif "loss" in logs:
            self.training_bar.set_postfix_str(line)
        else:
            self.training_bar.write(line)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)


class LogIntervalCallback(TrainerCallback):
    """Logs at least 50 times in a run whose ``--logging_steps`` has Trainer's default, 500.

    A run of fewer than 25,000 steps would otherwise log so rarely that its report has no curves, or none at all.
    Logging changes no weight. Any other value of ``--logging_steps`` is used as it is.
    """

    def on_step_end(self, args, state, control, **kwargs):
        if args.logging_strategy == IntervalStrategy.STEPS and args.logging_steps == _DEFAULT_LOGGING_STEPS:
            interval = min(_DEFAULT_LOGGING_STEPS, max(1, state.max_steps // MIN_ENTRIES))
            control.should_log |= state.global_step % interval == 0
