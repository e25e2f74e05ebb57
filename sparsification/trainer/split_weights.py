"""Error text for launchers that split each weight between processes (FSDP, DeepSpeed)."""


def split_weights_error(launcher: str) -> str:
    """Explain why a recipe cannot be applied under a launcher.

    Args:
        launcher: its name, "FSDP" or "DeepSpeed".
    """
    return (
        f"{launcher} splits the weights between processes, but a recipe needs whole weights: launch with torchrun or "
        f"accelerate, without {launcher}"
    )
