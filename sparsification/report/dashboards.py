"""Callbacks and files for the dashboards of a run: Weights & Biases, Trackio and TensorBoard.

Trainer opens a run on each dashboard that ``--report_to`` names and logs its curves there. The callbacks here add the
recipe to the configuration of that run, on the main process, and never open a run of their own. Weights & Biases and
Trackio draw every logged value as a plot, and a value that is logged once as a bar. Results that a run has once, such
as latency or the teacher's F1, therefore go into the run's summary (Weights & Biases) or configuration (Trackio, which
has no summary), under the same names.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import rewrite_logs

from sparsification.recipe.model import Recipe
from sparsification.report.tables import Table

# Results of the teacher, of exported models and of the last measurements: one value for each run.
_RESULT = re.compile(r"eval_((teacher|onnx)_.*|parameters|megabytes|gzipped_megabytes|latency_ms|throughput)")
# Speed of each evaluation. Weights & Biases keeps these series, but gives them no plot unless one is added.
_EVALUATION_SPEED = ("eval/runtime", "eval/samples_per_second", "eval/steps_per_second")


def split_logs(logs: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Separate an entry of Trainer's log.

    Args:
        logs: the entry, by Trainer's names, e.g. ``eval_onnx_f1``.

    Returns:
        The values of series, empty where the epoch alone would be left; and the results that a run has once, by the
        dashboards' names, e.g. ``eval/onnx_f1``.
    """
    results = {name: value for name, value in logs.items() if _RESULT.fullmatch(name)}
    series = {name: value for name, value in logs.items() if name not in results}
    return series if not results or series.keys() - {"epoch"} else {}, rewrite_logs(results)


def add_dashboards(trainer: Trainer, recipe: Recipe) -> None:
    """Replace a Trainer's callbacks for dashboards by those that know a recipe.

    Args:
        trainer: with the callbacks that ``report_to`` asks for; callbacks of other classes stay as they are.
        recipe: written into the configuration of the run.
    """
    replacements = {WandbCallback: RecipeWandbCallback, TrackioCallback: RecipeTrackioCallback}
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback) in replacements:
            trainer.remove_callback(callback)
            trainer.add_callback(replacements[type(callback)](recipe))
        elif isinstance(callback, TensorBoardCallback):
            trainer.add_callback(_RecipeText(recipe, callback))


class RecipeWandbCallback(WandbCallback):
    """Trainer's callback for Weights & Biases, with the recipe in the configuration and results in the summary."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self._recipe = recipe

    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero and self._wandb.run is not None:
            self._wandb.run.config.update(_config(self._recipe), allow_val_change=True)
            for name in _EVALUATION_SPEED:
                self._wandb.define_metric(name, step_metric="train/global_step", hidden=True)

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        if not self._initialized:
            self.setup(args, state, model)
        series, results = split_logs(logs)
        if series:
            super().on_log(args, state, control, model=model, logs=series, **kwargs)
        if results and state.is_world_process_zero and self._wandb.run is not None:
            self._wandb.run.summary.update(results)


class RecipeTrackioCallback(TrackioCallback):
    """Trainer's callback for Trackio, with the recipe and the results in the configuration of the run.

    Trainer closes the run when training ends and opens it again for each later evaluation. Trackio then stores the
    configuration anew, with the first entry that is logged.
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        self._recipe = recipe
        self._results: dict[str, float] = {}

    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            results = {"results": self._results} if self._results else {}
            self._trackio.config.update(_config(self._recipe) | results, allow_val_change=True)
            # The run is opened again by this name.
            args.run_name = args.run_name or self._trackio.context_vars.current_run.get().name

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        series, results = split_logs(logs)
        if series:
            super().on_log(args, state, control, model=model, logs=series, **kwargs)
        self._results |= results

    def write_results(self, args, state, model, table: Table) -> None:
        """Store the results in the configuration of the run, and a table of them among its tables.

        Args:
            args: of the Trainer.
            state: of the Trainer.
            model: of the Trainer.
            table: the models of the run.
        """
        if not state.is_world_process_zero:
            return
        if self._initialized:
            self._trackio.finish()
        self.setup(args, state, model)
        columns, rows = table
        models = self._trackio.Table(columns=["model", *columns[1:]], data=rows)
        self._trackio.log({"results/models": models, "train/global_step": state.global_step})
        self._trackio.finish()
        self._initialized = False


class _RecipeText(TrainerCallback):
    """Writes the recipe as a text of TensorBoard."""

    def __init__(self, recipe: Recipe, board: TensorBoardCallback):
        self._recipe = recipe
        self._board = board

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self._board.tb_writer is not None:
            self._board.tb_writer.add_text("recipe", f"```yaml\n{self._recipe.to_yaml()}```")


def _config(recipe: Recipe) -> dict[str, object]:
    return {"recipe": recipe.to_yaml(), "recipe_variables": dict(recipe.variables)}


def log_results(trainer: Trainer, table: Table) -> None:
    """Store the results of a run where a dashboard has no summary: Trackio.

    Args:
        trainer: with the callbacks of ``add_dashboards``.
        table: the models of the run.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, RecipeTrackioCallback):
            callback.write_results(trainer.args, trainer.state, trainer.model, table)


def log_files(report_to: Sequence[str], files: Mapping[str, Path]) -> None:
    """Add the files of a run to Weights & Biases as artifacts, each named ``<kind>-<id of the run>``.

    Args:
        report_to: the dashboards of the run.
        files: by kind of artifact, e.g. ``{"recipe": ...}``; files that do not exist are left out.
    """
    if "wandb" not in report_to:
        return
    import wandb

    if wandb.run is None:  # nothing was logged
        return
    for kind, path in files.items():
        if path.is_file():
            artifact = wandb.Artifact(f"{kind}-{wandb.run.id}", type=kind)
            artifact.add_file(str(path))
            wandb.run.log_artifact(artifact)
