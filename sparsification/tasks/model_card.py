"""Model card of a task's run, pushed to the hub with the model where the arguments ask for that."""

from typing import Any

from transformers import Trainer


def write_model_card(
    trainer: Trainer, task: str, model_name: str, dataset_name: str | None, dataset_config_name: str | None
) -> None:
    """Write the model card, or push model and card to the hub.

    Args:
        trainer: of the run.
        task: the hub's name of the task, e.g. "text-classification".
        model_name: folder or name of the model that the run started from.
        dataset_name: name of the data set; None for files.
        dataset_config_name: its configuration, if it has several.
    """
    facts: dict[str, Any] = {"finetuned_from": model_name, "tasks": task}
    if dataset_name is not None:
        facts["dataset_tags"] = facts["dataset"] = dataset_name
        if dataset_config_name is not None:
            facts["dataset_args"] = dataset_config_name
            facts["dataset"] += f" {dataset_config_name}"
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**facts)
    else:
        trainer.create_model_card(**facts)
