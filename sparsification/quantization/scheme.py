"""What does a recipe mean by a quantization scheme: a name, or a mapping of tensors to grids?"""

from dataclasses import replace

from sparsification.quantization.fake_quantize import QuantizationArgs
from sparsification.quantization.modules import Scheme

ACTIVATIONS = QuantizationArgs(symmetric=False)
WEIGHTS = QuantizationArgs(symmetric=True)
SCHEMES = {
    "default": Scheme(ACTIVATIONS, WEIGHTS),
    "deepsparse": Scheme(ACTIVATIONS, WEIGHTS),
    "tensorrt": Scheme(replace(ACTIVATIONS, symmetric=True), WEIGHTS),
}
# What a mapping calls the tensors of a scheme, and its name here.
_TENSORS = {"input_activations": "inputs", "weights": "weights", "output_activations": "outputs"}


def check_bits(key: str, bits: int, runnable: tuple | range) -> None:
    """Raise ValueError for a number of bits that no engine runs."""
    if bits not in runnable:
        what = f"{runnable[0]}" if len(runnable) == 1 else f"{runnable[0]} to {runnable[-1]}"
        raise ValueError(f"{key} {bits}: no engine that this project exports to runs it, only {what}")


def read_scheme(value: object, where: str) -> Scheme:
    """Read a scheme.

    Args:
        value: a name of ``SCHEMES``, a mapping such as ``{weights: {num_bits: 8, symmetric: true}}``, or None for the
            default scheme, as in SparseML.
        where: what the recipe calls it, for the error.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        return SCHEMES["default"]
    if isinstance(value, str):
        if value not in SCHEMES:
            raise ValueError(f"{where}: there is no scheme '{value}', only {', '.join(SCHEMES)} and mappings")
        return SCHEMES[value]
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a scheme is a name or a mapping of {', '.join(_TENSORS)}, not {value!r}")
    unknown = [key for key in value if key not in (*_TENSORS, "target_hardware")]
    if unknown:
        raise ValueError(f"{where} has no key '{unknown[0]}'; it has {', '.join(_TENSORS)}")
    return Scheme(**{field: _read_qargs(value.get(key), f"{where}: {key}", field) for key, field in _TENSORS.items()})


def _read_qargs(value: object, where: str, tensor: str) -> QuantizationArgs | None:
    """Read ``{num_bits: 8, symmetric: true, strategy: tensor}``."""
    if value in (None, "null", "None"):  # SparseML writes the words into its own recipes
        return None
    known = {"num_bits": 8, "symmetric": tensor == "weights", "strategy": "tensor", "kwargs": {}}
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise ValueError(f"{where} is a mapping of num_bits, symmetric and strategy, not {value!r}")
    args = known | value
    if type(args["num_bits"]) is not int:
        raise ValueError(f"{where}: num_bits must be a whole number, not {args['num_bits']!r}")
    check_bits(f"{where}: num_bits", args["num_bits"], range(2, 9) if tensor == "weights" else (8,))
    if args["strategy"] not in ("tensor", "channel"):
        raise ValueError(f"{where}: strategy must be tensor or channel, not {args['strategy']!r}")
    per_channel = args["strategy"] == "channel"
    if per_channel and tensor != "weights":
        raise ValueError(f"{where}: activations have one scale, strategy must be tensor")
    return QuantizationArgs(bits=args["num_bits"], symmetric=bool(args["symmetric"]), per_channel=per_channel)
