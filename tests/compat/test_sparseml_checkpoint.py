"""Conversion of a directory that SparseML 1.8.0 saved (tests/golden/saved) into a plain checkpoint."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from golden_run import GOLDEN
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering

from sparsification.cli.main import main
from sparsification.compat.sparseml_checkpoint import convert_checkpoint
from sparsification.compat.sparseml_files import SparseMLFormatError
from sparsification.compat.sparseml_quantization import SavedRange, find_qargs
from sparsification.quantization.checkpoint import load_quantization
from sparsification.quantization.modules import quantizers
from sparsification.recipe.loader import load_recipe

SAVED = GOLDEN / "saved"
STATE = torch.load(SAVED / "pytorch_model.bin", weights_only=True)
PLAIN = {
    name.replace(".module.", ".").replace("layer.2.", "layer.1."): tensor
    for name, tensor in STATE.items()
    if "fake_quant" not in name and "activation_post_process" not in name
}


def load(folder: Path):
    model, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval()


def logits_of(model) -> dict[str, torch.Tensor]:
    batch = {name: tensor[0] for name, tensor in load_file(GOLDEN / "batches.safetensors").items()}
    with torch.no_grad():
        outputs = model(**batch)
    return {name: outputs[name] for name in ("start_logits", "end_logits")}


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of the saved directory, to be spoilt."""
    return Path(shutil.copytree(SAVED, tmp_path / "saved"))


def test_quantized_model_with_dropped_layers_computes_what_it_computed_in_sparseml(tmp_path):
    said = convert_checkpoint(SAVED, tmp_path / "out")
    assert said[0] == "bert.encoder.layer: layers 0, 2 of 4 are renumbered 0, 1"
    assert said[-1] == "int8: 62 ranges"
    model = load(tmp_path / "out")
    assert model.config.num_hidden_layers == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, PLAIN[name]), name
    assert load_quantization(model, tmp_path / "out")
    theirs = json.loads((SAVED / "logits.json").read_text())
    for name, logits in logits_of(model).items():
        # Bit by bit on the processor that recorded them; on another one, a number here and there is rounded otherwise.
        torch.testing.assert_close(logits, torch.tensor(theirs[name]), rtol=0, atol=0.1)


def test_every_range_is_the_saved_one(tmp_path):
    convert_checkpoint(SAVED, tmp_path / "out")
    model = load(tmp_path / "out")
    load_quantization(model, tmp_path / "out")
    ours = quantizers(model)
    assert len(ours) == 62
    value = ours["bert.encoder.layer.1.attention.self.matmul_quantizers.value"]  # layer 2 in SparseML
    prefix = "bert.encoder.layer.2.attention.self.context_layer_matmul.input_quant_stubs.1.activation_post_process"
    assert value.min_val == STATE[f"{prefix}.activation_post_process.min_val"]
    assert value.scale.item() == pytest.approx(STATE[f"{prefix}.scale"].item(), rel=1e-6)
    norm = ours["bert.embeddings.LayerNorm.output_quantizer"]
    assert norm.zero_point == STATE["bert.embeddings.LayerNorm.activation_post_process.zero_point"]
    assert not any(quantizer.observer_enabled for quantizer in ours.values())


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_model_that_was_not_quantized(copied, tmp_path, suffix):
    kept = {name.replace("layer.1.", "layer.2."): tensor for name, tensor in PLAIN.items()}
    (copied / "pytorch_model.bin").unlink()
    if suffix == "bin":
        torch.save(kept, copied / "pytorch_model.bin")
    else:
        save_file(kept, copied / "model.safetensors")
    convert_checkpoint(copied, tmp_path / "out")
    assert not (tmp_path / "out" / "quantization.safetensors").exists()
    state = load(tmp_path / "out").state_dict()
    assert state.keys() == PLAIN.keys()
    assert all(torch.equal(state[name], PLAIN[name]) for name in state)


def test_recipe_and_tokenizer_go_with_it(copied, tmp_path):
    (copied / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "out").mkdir()
    convert_checkpoint(copied, tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_text() == "[PAD]\n"
    ours, theirs = (load_recipe(folder / "recipe.yaml") for folder in (tmp_path / "out", SAVED))
    assert ours.modifiers == theirs.modifiers


def test_quantized_model_of_this_project_stays_quantized(tmp_path):
    convert_checkpoint(SAVED, tmp_path / "ours")
    (tmp_path / "ours" / "spm.model").write_bytes(b"a tokenizer")
    said = convert_checkpoint(tmp_path / "ours", tmp_path / "again")
    assert said[-1] == "int8: 62 ranges of quantization.safetensors"
    models = [load(tmp_path / name) for name in ("ours", "again")]
    for name, model in zip(("ours", "again"), models, strict=True):
        assert load_quantization(model, tmp_path / name)
    expected, found = map(logits_of, models)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        path.name for path in (tmp_path / "again").iterdir()
    }


def test_ranges_that_are_there_twice_or_of_another_model_are_refused(copied, tmp_path):
    convert_checkpoint(SAVED, tmp_path / "ours")
    shutil.copy(tmp_path / "ours" / "quantization.safetensors", copied)
    with pytest.raises(SparseMLFormatError, match="ranges both in its weights and in quantization.safetensors"):
        convert_checkpoint(copied, tmp_path / "out")
    save_file({"low": torch.ones(1)}, tmp_path / "ours" / "quantization.safetensors")
    with pytest.raises(SparseMLFormatError, match="is not a file of quantization ranges"):
        convert_checkpoint(tmp_path / "ours", tmp_path / "out")


def test_recipe_that_is_not_valid_here_is_copied_and_reported(copied, tmp_path):
    (copied / "recipe.yaml").write_text("modifiers:\n  - !UnheardOfModifier\n      start_epoch: 0.0\n")
    said = convert_checkpoint(copied, tmp_path / "out")
    assert "copied unchanged" in said[0] and "UnheardOfModifier" in said[1]
    assert (tmp_path / "out" / "recipe.yaml").read_text() == (copied / "recipe.yaml").read_text()


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def save_hostile(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"bert.weight": Hostile()}))


def save_hostile_zip(folder: Path) -> None:
    torch.save({"bert.weight": Hostile()}, folder / "pytorch_model.bin")


def save_noise(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no such thing")


def save_list(folder: Path) -> None:
    torch.save([torch.ones(1)], folder / "pytorch_model.bin")


def lose_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def changed(change):
    def spoil(folder: Path) -> None:
        state = dict(STATE)
        change(state)
        torch.save(state, folder / "pytorch_model.bin")

    return spoil


def configured(**values):
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return spoil


def lose_a_layer(state: dict) -> None:
    for name in [name for name in state if "layer.2." in name]:
        del state[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (save_hostile, "must contain weights and nothing else"),
        (save_hostile_zip, "must contain weights and nothing else"),
        (save_noise, "must contain weights and nothing else"),
        (save_list, "must contain tensors by name"),
        (lose_weights, "neither model.safetensors nor pytorch_model.bin"),
        (lose_config, "is not a saved model"),
        (configured(architectures=["DistilBertForQuestionAnswering"]), "which is no bert model"),
        (configured(architectures=["pipeline"]), "which is no bert model"),
        (configured(num_hidden_layers=10**9), "num_hidden_layers must be 1 to 1000, got 1000000000"),
        (configured(hidden_act="magic"), "config.json is not valid for BertForQuestionAnswering"),
        (configured(hidden_size=10**9), "config.json is not valid|must have shape"),
        (changed(lose_a_layer), r"weights of bert.encoder.layer.2 are missing, and recipe.yaml does not drop them"),
        (changed(lambda state: state.pop("qa_outputs.module.bias")), "qa_outputs.bias is missing"),
        (changed(lambda state: state.update({"extra.weight": torch.ones(1)})), "has no extra.weight"),
        (
            changed(lambda state: state.update({"qa_outputs.module.bias": torch.ones(3)})),
            r"qa_outputs.bias must have shape \(2,\), got \(3,\)",
        ),
        (
            changed(lambda state: state.pop("qa_outputs.quant.activation_post_process.scale")),
            "qa_outputs.quant.activation_post_process has no scale",
        ),
        (
            changed(lambda state: state["qa_outputs.quant.activation_post_process.scale"].mul_(1.5)),
            "have the scale and zero point of qa_outputs.input_quantizer",
        ),
    ],
)
def test_invalid_directory_is_refused_and_nothing_is_left(copied, tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    spoil(copied)
    with pytest.raises(SparseMLFormatError, match=message):
        convert_checkpoint(copied, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]  # nor has anything been executed


def test_target_that_is_not_empty_is_not_changed(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["convert", str(SAVED), str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path} must not exist, or be an empty folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["convert", str(SAVED), str(tmp_path / "out")]) == 0
    assert "int8: 62 ranges" in capsys.readouterr().out


SNAPSHOTS = {
    f"{path.stem}-{step}": quantized
    for path in sorted(GOLDEN.glob("quant/*.json"))
    for step, quantized in json.loads(path.read_text()).get("fake_quant_snapshots", {}).items()
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_integers_are_found_from_scale_and_range(name):
    for theirs in SNAPSHOTS[name]:
        low, high, scale, zero_point = (
            torch.tensor(theirs[key]) for key in ("min_val", "max_val", "scale", "zero_point")
        )
        qargs = find_qargs(theirs["name"], SavedRange(low, high, scale, zero_point))
        assert qargs.quant_max - qargs.quant_min == theirs["qmax"] - theirs["qmin"], theirs["name"]
        assert qargs.symmetric == ("symmetric" in theirs["qscheme"]), theirs["name"]
        assert qargs.per_channel == ("channel" in theirs["qscheme"]), theirs["name"]
