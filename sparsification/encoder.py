"""Search for the repeated layers of an encoder, in any architecture."""

import torch.nn as nn


def encoder_layer_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Find the repeated layers of an encoder, whatever the architecture calls them.

    These are the outermost ``nn.ModuleList`` modules whose members all contain ``nn.Linear`` modules. In a model of
    Transformers with a head, only the body is searched (``base_model_prefix``). Where there are both an encoder and a
    decoder, the decoder's layers are left out.

    Args:
        model: any module, without wrappers such as DistributedDataParallel.

    Returns:
        The lists by name, e.g. ``bert.encoder.layer``; usually one.
    """
    body = getattr(model, "base_model_prefix", "")
    start = f"{body}." if any(name == body for name, _ in model.named_children()) else ""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and name.startswith(start) and not nested and _all_contain_linear(module):
            found[name] = module
    encoders = {name: layers for name, layers in found.items() if "decoder" not in name.split(".")}
    return encoders or found


def _all_contain_linear(layers: nn.ModuleList) -> bool:
    """Whether there are layers and each has an ``nn.Linear`` below it; a list of bare Linear modules is no encoder."""
    return len(layers) > 0 and all(
        any(isinstance(module, nn.Linear) for module in layer.modules() if module is not layer) for layer in layers
    )
