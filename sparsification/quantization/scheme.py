"""Quantization schemes: the integers that a module's tensors are rounded to, and how a recipe writes them."""

from dataclasses import dataclass, replace

from sparsification.quantization.fake_quantize import QuantizationArgs


@dataclass(frozen=True)
class Scheme:
    """Quantization of one module's tensors; None: the tensor is not quantized."""

    inputs: QuantizationArgs | None = None
    weights: QuantizationArgs | None = None
    outputs: QuantizationArgs | None = None


ACTIVATIONS = QuantizationArgs(symmetric=False)
WEIGHTS = QuantizationArgs(symmetric=True)
SCHEMES = {
    "default": Scheme(ACTIVATIONS, WEIGHTS),
    "deepsparse": Scheme(ACTIVATIONS, WEIGHTS),
    "tensorrt": Scheme(replace(ACTIVATIONS, symmetric=True), WEIGHTS),
}
# Keys of a scheme in a recipe, and the fields of Scheme.
_TENSORS = {"input_activations": "inputs", "weights": "weights", "output_activations": "outputs"}


def check_bits(key: str, bits: int, supported: tuple | range) -> None:
    """Raise ValueError for a number of bits that no inference engine supports."""
    if bits not in supported:
        rule = f"{supported[0]}" if len(supported) == 1 else f"{supported[0]} to {supported[-1]}"
        raise ValueError(f"{key} must be {rule}, got {bits}: inference engines support no other number of bits")


def read_scheme(value: object, where: str) -> Scheme:
    """Read a scheme of a recipe.

    Args:
        value: a name of ``SCHEMES``, a mapping such as ``{weights: {num_bits: 8, symmetric: true}}``, or None for the
            default scheme, as in SparseML.
        where: its key in the recipe, for error messages.

    Raises:
        ValueError: the value is not a scheme.
    """
    if value is None:
        return SCHEMES["default"]
    if isinstance(value, str):
        if value not in SCHEMES:
            raise ValueError(f"{where} must be {', '.join(SCHEMES)} or a mapping, got '{value}'")
        return SCHEMES[value]
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be the name of a scheme or a mapping of {', '.join(_TENSORS)}, got {value!r}")
    unknown = [key for key in value if key not in (*_TENSORS, "target_hardware")]
    if unknown:
        raise ValueError(f"{where} has no key '{unknown[0]}'; its keys are {', '.join(_TENSORS)}")
    return Scheme(**{field: _read_qargs(value.get(key), f"{where}: {key}", field) for key, field in _TENSORS.items()})


def _read_qargs(value: object, where: str, tensor: str) -> QuantizationArgs | None:
    """Read ``{num_bits: 8, symmetric: true, strategy: tensor}``."""
    if value in (None, "null", "None"):  # SparseML writes these strings into its own recipes
        return None
    known = {"num_bits": 8, "symmetric": tensor == "weights", "strategy": "tensor", "kwargs": {}}
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise ValueError(f"{where} must be a mapping of num_bits, symmetric and strategy, got {value!r}")
    args = known | value
    if type(args["num_bits"]) is not int:
        raise ValueError(f"{where}: num_bits must be an integer, got {args['num_bits']!r}")
    check_bits(f"{where}: num_bits", args["num_bits"], range(2, 9) if tensor == "weights" else (8,))
    if args["strategy"] not in ("tensor", "channel"):
        raise ValueError(f"{where}: strategy must be tensor or channel, got {args['strategy']!r}")
    per_channel = args["strategy"] == "channel"
    if per_channel and tensor != "weights":
        raise ValueError(f"{where}: strategy must be tensor for activations, got channel")
    return QuantizationArgs(bits=args["num_bits"], symmetric=bool(args["symmetric"]), per_channel=per_channel)
