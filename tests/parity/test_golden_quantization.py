"""Quantization-aware training against what SparseML 1.8.0 did (tests/golden/quant)."""

import numpy as np
import pytest
import torch
from golden_run import GOLDEN, Replay, load_case, load_masks, load_model
from safetensors.torch import load_file
from same_quantizers import assert_same_quantizer

from sparsification.compat.sparseml_quantization import our_name
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import ConstantPruningModifier
from sparsification.quantization.modules import fake_quant_enabled, quantizers

# Rounding can turn a difference in the last bit into one of a whole integer; runs on one thread and on two differ in
# the same way. Losses and ranges of deep layers are therefore compared loosely, and what is computed before the first
# product of two rounded tensors exactly.
LOSS = {"rel": 2e-2, "abs": 4e-2}
FIRST = ("embeddings", "layer.0.attention.self.query", "layer.0.attention.self.key", "layer.0.attention.self.value")
OUTPUTS = "\n      quantize_outputs: True\n"  # SparseML always quantizes them
CASES = {
    "quant/qat_legacy": OUTPUTS,
    "quant/qat_legacy_obsoff": OUTPUTS,
    "quant/qat_legacy_noact": OUTPUTS,
    "quant/qat_legacy_noemb": OUTPUTS,
    "quant/qat_legacy_nomodify": f"{OUTPUTS}      exclude_module_types: [QATMatMul]\n",  # SparseML without its own BERT
    "quant/qat_bits4": OUTPUTS,
    "quant/qat_new_scheme_channel": OUTPUTS,
}


@pytest.mark.parametrize("name", CASES)
def test_quantizers_follow_sparseml_step_by_step(name):
    case = load_case(name)
    replay = Replay(case | {"recipe": case["recipe"].rstrip() + CASES[name]})
    for record, task_loss, _ in replay.steps():
        assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        snapshot = case["fake_quant_snapshots"].get(str(record["step"]))
        if snapshot is None:
            continue
        ours = quantizers(replay.model)
        assert set(ours) == {our_name(theirs["name"]) for theirs in snapshot}
        assert fake_quant_enabled(replay.model)
        for theirs in snapshot:
            exact = record["step"] == 0 and any(first in theirs["name"] for first in FIRST)
            steps = 1e-2 if exact else 0.1 if "weight" in theirs["name"] else 8.0
            assert_same_quantizer(ours[our_name(theirs["name"])], theirs, f"at step {record['step']}", steps)
    recorded = case["eval_batch0"]
    logits = replay.logits()
    for end in ("start", "end"):
        difference = logits[f"{end}_logits"] - torch.tensor(recorded[end])
        assert difference.abs().mean() < 0.2 * torch.tensor(recorded[end]).abs().mean(), f"{difference}"


def test_quantized_training_ends_where_sparseml_ended():
    case = load_case("quant/qat_legacy")
    replay = Replay(case | {"recipe": case["recipe"].rstrip() + OUTPUTS})
    start = {name: param.detach().clone() for name, param in replay.model.named_parameters()}
    for _ in replay.steps():
        pass
    golden = load_file(GOLDEN / "quant" / "qat_legacy.final.safetensors")
    final = {name.replace(".module.", "."): tensor for name, tensor in golden.items()}
    for name, param in replay.model.named_parameters():
        if "key.bias" not in name:  # no softmax sees it: its gradient is a rounding error
            way = (final[name] - start[name]).norm()
            assert (param - final[name]).norm() < 0.5 * way, name


def test_masks_are_kept_under_quantization_as_in_sparseml():
    case = load_case("quant/constant_then_qat")
    replay = Replay(case | {"recipe": case["recipe"].rstrip() + OUTPUTS}, "gmp/gmp_cubic_f0.5.final")
    masks = load_masks("quant/constant_then_qat")
    (constant,) = [modifier for modifier in replay.manager.modifiers if isinstance(modifier, ConstantPruningModifier)]
    for record, task_loss, _ in replay.steps():
        assert task_loss == pytest.approx(record["task_loss"], **LOSS)
        if record["step"] in masks:
            ours = constant.masked.state_dict()
            packed = np.concatenate([ours[name].numpy() for name in case["mask_param_order"]])
            assert (packed == masks[record["step"]]).all()
        zeros = sum(int((p == 0).sum()) for n, p in replay.model.named_parameters() if "encoder" in n and p.dim() == 2)
        assert zeros == record["weight_zero_total"]
        for module in replay.model.modules():
            if isinstance(module, torch.nn.Linear) and fake_quant_enabled(replay.model):
                assert (module.weight_quantizer.fake_quantize(module.weight)[module.weight == 0] == 0).all()


@pytest.mark.parametrize("name", ["quant/qat_new_scheme", "quant/qat_legacy_no_submodules"])
def test_embeddings_and_whole_models_are_quantized_where_sparseml_raised(name):
    case = load_case(name)
    assert "not implemented for 'Long'" in case["setup_error"]
    manager = ScheduledModifierManager.from_yaml(case["recipe"])
    model = load_model("model_student")
    manager.initialize(model)
    weights = [name for name in quantizers(model) if name.endswith("weight_quantizer")]
    assert len(weights) == 3 + 4 * 6 + 1
