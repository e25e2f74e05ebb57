"""What can be said about sparsification on a command line?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsification.base import Modifier
from sparsification.export.targets import ALL_TARGETS, SPARSE_TARGET, TARGETS
from sparsification.manager import ManagerError, ScheduledModifierManager


@dataclass
class SparsificationArguments:
    """What to prune, quantize, drop and distill, and where to export."""

    recipe: str | None = field(
        default=None, metadata={"help": "Recipe file (YAML, or Markdown with YAML front matter) to train by."}
    )
    recipe_args: str | None = field(
        default=None, metadata={"help": "Variables of the recipe to override, as JSON or as k=v,k=v."}
    )
    distill_teacher: str | None = field(
        default=None,
        metadata={
            "help": "Teacher for the recipe's distillation: a path, a hub name, 'self' for the model as it is before "
            "training, or 'disable'."
        },
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which the teacher's logits are kept, so that it is asked once and not in every epoch; "
            "'off' for data that changes between epochs. Default: in --cache_dir, or beside the cached data sets."
        },
    )
    onnx_export_path: str | None = field(
        default=None,
        metadata={
            "help": "Directory for the checked ONNX file of the model as it is at the end.",
            "aliases": ["--export_onnx_path"],
        },
    )
    onnx_target: str = field(
        default="onnxruntime",
        metadata={
            "help": "Engine that a quantized model is exported for: onnxruntime (and OpenVINO), deepsparse, "
            "onnxruntime-sparse, which adds model.sparse.onnx for sparse operators of our own, or all, which puts "
            "DeepSparse's file into a folder 'deepsparse' beside the others.",
            "choices": [*TARGETS, SPARSE_TARGET, ALL_TARGETS],
        },
    )
    onnx_opset: int = field(default=14, metadata={"help": "ONNX operator set of the exported file."})
    best_model_after_epoch: float | None = field(
        default=None,
        metadata={
            "help": "Only checkpoints after this epoch can be the best one. Default: after the recipe's last change "
            "of masks or layers."
        },
    )
    skip_trial: bool = field(
        default=False,
        metadata={
            "help": "Leave out the trial before training: one step, evaluation and export on copies, which finds "
            "within a minute what would fail at the end."
        },
    )
    one_shot: bool = field(
        default=False, metadata={"help": "Apply the recipe at one stroke, without training, and save the model."}
    )


def load_manager(
    recipe: str | None,
    recipe_args: str | None,
    one_shot: bool,
    *,
    modifiers: Mapping[str, type[Modifier]] | None = None,
) -> ScheduledModifierManager:
    """Read the recipe that the command line names, if it does.

    Args:
        recipe: its file.
        recipe_args: its overrides.
        one_shot: whether it is applied without training.
        modifiers: the dataclass behind each ``!Name``, e.g. ``MODIFIERS | {"MyModifier": MyModifier}``; ``MODIFIERS``
            unless given.

    Raises:
        RecipeError: the recipe is wrong.
        ManagerError: arguments that mean nothing without a recipe.
    """
    if recipe is not None:
        return ScheduledModifierManager.from_yaml(Path(recipe), recipe_args, modifiers=modifiers)
    for name, given in (("recipe_args", recipe_args), ("one_shot", one_shot)):
        if given:
            raise ManagerError(f"--{name} needs a --recipe to apply")
    return ScheduledModifierManager()


def teacher_cache_dir(args: SparsificationArguments, cache_dir: str | None) -> str | None:
    """Folder of the cached teacher logits; None if they are not cached.

    Args:
        args: may name it, or turn the cache off.
        cache_dir: folder of downloads and data sets; None: the one of the datasets library.
    """
    if args.teacher_cache == "off":
        return None
    if args.teacher_cache is not None or cache_dir is not None:
        return args.teacher_cache or cache_dir
    from datasets import config  # imported here: a wrong recipe is refused before slow imports

    return str(config.HF_DATASETS_CACHE)


def prepare_export(path: str | None, target: str) -> None:
    """Compile what the export will need, so that a missing compiler costs no training.

    Raises:
        BuildError: there is none, or it failed.
    """
    if path is not None and target == SPARSE_TARGET:
        from sparsification.runtime.build import build  # ONNX Runtime comes with it

        build()
