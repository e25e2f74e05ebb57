"""What do dashboards know of a run beside its curves? The recipe, and the files that came out of it.

Curves go through Trainer's log, so every dashboard of Trainer has them. What follows uses the run that Trainer has
opened, on the main process, and never opens one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from sparsification.recipe.model import Recipe


class DashboardCallback(TrainerCallback):
    """Writes the resolved recipe into the run's configuration; to be added after the callbacks of the dashboards.

    Args:
        recipe: of the run.
        callbacks: of the Trainer.
    """

    def __init__(self, recipe: Recipe, callbacks: Sequence[TrainerCallback]):
        self._recipe = recipe
        self._callbacks = callbacks

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        config = {"recipe": self._recipe.to_yaml(), "recipe_variables": dict(self._recipe.variables)}
        if "wandb" in args.report_to:
            import wandb

            if wandb.run is not None:
                wandb.run.config.update(config, allow_val_change=True)
        if "trackio" in args.report_to:
            import trackio

            trackio.config.update(config, allow_val_change=True)
            # Trainer closes its run when training ends and opens it again to evaluate: by this name, not another one's.
            args.run_name = args.run_name or trackio.context_vars.current_run.get().name
        for callback in self._callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("recipe", f"```yaml\n{config['recipe']}```")


def log_files(report_to: Sequence[str], files: Mapping[str, Path]) -> None:
    """Give Weights & Biases the files of a run as artifacts, ``<kind>-<id of the run>`` each.

    Args:
        report_to: the dashboards of the run.
        files: by kind of artifact, e.g. ``{"recipe": ...}``; those that are not there are passed over.
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
