"""Comparison of a fake quantizer with the state of SparseML's."""

import torch

from sparsification.quantization.fake_quantize import FakeQuantize


def assert_same_quantizer(ours: FakeQuantize, theirs: dict, where: str, steps: float) -> None:
    """Compare integers, observer, range and zero point.

    Args:
        ours: at the same moment as ``theirs``.
        theirs: recorded by sparseml_worker.py, or in tests/golden/quant.
        where: for the message.
        steps: how far the ends of the range and the zero point may be apart, in multiples of the scale.
    """
    where = f"{theirs['name']} {where}"
    assert ours.qargs.quant_max - ours.qargs.quant_min == theirs["qmax"] - theirs["qmin"], where
    assert ours.qargs.symmetric == ("symmetric" in theirs["qscheme"]), where
    assert ours.qargs.per_channel == ("channel" in theirs["qscheme"]), where
    if theirs["obs_enabled"] and not ours.observer_enabled:
        assert "qa_outputs" in theirs["name"], where  # deviation 14: SparseML never freezes these
        return
    assert ours.observer_enabled == bool(theirs["obs_enabled"]), where
    for mine, end in ((ours.min_val, "min_val"), (ours.max_val, "max_val")):
        difference = (mine - torch.tensor(theirs[end])).abs()
        assert (difference <= steps * torch.tensor(theirs["scale"])).all(), f"{end} of {where}"
    # Their integers are signed where ours are not: an offset, which changes no number.
    offset = ours.qargs.quant_min - theirs["qmin"]
    assert (ours.zero_point - torch.tensor(theirs["zero_point"]) - offset).abs().max() <= steps, where
