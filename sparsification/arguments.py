"""Command-line arguments of sparsification: the recipe, the teacher and the export."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsification.base import Modifier
from sparsification.export.targets import ALL_TARGETS, AUTO, EXPORTERS, SPARSE_TARGET, TARGETS
from sparsification.manager import ManagerError, ScheduledModifierManager


@dataclass
class SparsificationArguments:
    """The recipe, the teacher that it distills from, and the export."""

    recipe: str | None = field(
        default=None, metadata={"help": "Recipe file: YAML, or Markdown with YAML front matter."}
    )
    recipe_args: str | None = field(
        default=None, metadata={"help": "Recipe variables to override, as JSON or as k=v,k=v."}
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
            "help": "Folder of cached teacher logits, and of hidden states if the recipe caches them, which are "
            "computed once instead of in every epoch; 'off' for data that changes between epochs. Default: "
            "--cache_dir, or the cache of the datasets library."
        },
    )
    onnx_export_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the verified ONNX file of the final model.",
            "aliases": ["--export_onnx_path"],
        },
    )
    onnx_target: str = field(
        default="onnxruntime",
        metadata={
            "help": "Engine that the model is exported for: onnxruntime (and OpenVINO), deepsparse, "
            "onnxruntime-sparse, which adds model.sparse.onnx for this package's sparse operators, or all, which also "
            "writes DeepSparse's file to a folder 'deepsparse'.",
            "choices": [*TARGETS, SPARSE_TARGET, ALL_TARGETS],
        },
    )
    onnx_opset: int | None = field(
        default=None, metadata={"help": "ONNX operator set of the exported file. Default: 18; 14 for DeepSparse."}
    )
    onnx_exporter: str = field(
        default=AUTO,
        metadata={
            "help": "PyTorch's ONNX exporter: dynamo (opsets 18 to 23), torchscript (deprecated by PyTorch), or "
            "auto, which is dynamo, but torchscript for XLNet, mBART, DeepSparse and other opsets.",
            "choices": [*EXPORTERS],
        },
    )
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
            "help": "Skip the trial before training: one step, evaluation and export with copies, which shows errors "
            "of the last steps within a minute."
        },
    )
    one_shot: bool = field(default=False, metadata={"help": "Apply the recipe without training, and save the model."})


def load_manager(
    recipe: str | None,
    recipe_args: str | None,
    one_shot: bool,
    *,
    modifiers: Mapping[str, type[Modifier]] | None = None,
) -> ScheduledModifierManager:
    """Load the recipe that the command line names, if there is one.

    Args:
        recipe: recipe file.
        recipe_args: variables to override.
        one_shot: whether the recipe is applied without training.
        modifiers: the dataclass behind each ``!Name``, e.g. ``MODIFIERS | {"MyModifier": MyModifier}``; ``MODIFIERS``
            unless given.

    Raises:
        RecipeError: the recipe is wrong.
        ManagerError: an argument needs a recipe, and there is none.
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
    """Compile the operators that the export needs, so that a missing compiler shows before training.

    Args:
        path: export folder; None where the run exports nothing.
        target: engine of the export.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    if path is not None and target == SPARSE_TARGET:
        from sparsification.runtime.build import build  # imports ONNX Runtime

        build()
