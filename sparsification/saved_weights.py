"""Shapes of a saved model's weights, compared with its configuration before memory is allocated.

``from_pretrained`` allocates a weight whose saved shape differs from the configuration before it raises: a config.json
with a vocabulary of 10**9 words needs as much memory as such a model.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def has_weights(folder: str | Path) -> bool:
    """Tell whether a folder contains the weights of a model, in one file or sharded."""
    return any((Path(folder) / f"{name}{suffix}").is_file() for name in WEIGHT_FILES for suffix in ("", ".index.json"))


def saved_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of all saved weights by name, without the weights.

    Args:
        folder: of a saved model.

    Returns:
        Empty if the folder contains no weights.

    Raises:
        OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError: a file is damaged.
    """
    folder = Path(folder)
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files = {name}
        elif index.is_file():
            files = _shards(index)
        else:
            continue
        return {tensor: shape for file in sorted(files) for tensor, shape in _shapes_in(folder / file).items()}
    return {}


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} has no weight_map") from error


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    tensors = torch.load(path, map_location="meta", weights_only=True)
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} must contain tensors by name")
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_saved_shapes(
    folder: str | Path, config: PreTrainedConfig, build: Callable[[PreTrainedConfig], PreTrainedModel]
) -> None:
    """Compare the weights that a configuration describes with the saved ones, without allocating either.

    Args:
        folder: of a saved model. Anything else, such as a hub name, is not checked.
        config: its configuration.
        build: makes the model, e.g. ``AutoModelForQuestionAnswering.from_config``.

    Raises:
        ValueError: a weight has another shape in the file, or most weights are missing there.
        OSError, RuntimeError, SafetensorError, UnpicklingError: a file is damaged.
    """
    # Quantized weights are stored in other shapes than they are used in.
    if not has_weights(folder) or vars(config).get("quantization_config") is not None:
        return
    saved = saved_shapes(folder)
    layers = vars(config).get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(saved):
        raise ValueError(f"config.json does not fit the weights: it has {layers} layers, the file {len(saved)} tensors")
    with torch.device("meta"):
        model = build(config)
    prefix = f"{model.base_model_prefix}."
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        # A head can be on top of weights that were saved without one, and the reverse.
        found = next((key for key in (name, name.removeprefix(prefix), prefix + name) if key in saved), None)
        if found is not None and saved[found] != tuple(parameter.shape):
            raise ValueError(
                f"config.json does not fit the weights: {name} must have shape {tuple(parameter.shape)}, "
                f"got {saved[found]}"
            )
    # Weights that are not in the file are initialized: those of a new head, never most of a model.
    described = sum(parameter.numel() for parameter in parameters.values())
    present = sum(torch.Size(shape).numel() for shape in saved.values())
    if described > 2 * present:
        raise ValueError(
            f"config.json does not fit the weights: it describes {described:,} parameters, the file has {present:,}"
        )
