"""Do several processes do what one with all their batches does? Masks, ranges, weights, files and log lines."""

import json
from pathlib import Path

import crash_study
import pytest
import torch
from safetensors.torch import load_file

from helpers import ROOT
from helpers.processes import run, run_script
from helpers.trainers import make_model
from sparsification.manager import ScheduledModifierManager
from sparsification.quantization.fake_quantize import FakeQuantize, QuantizationArgs

LEARNING_RATE = (
    "  - !LearningRateFunctionModifier {lr_func: linear, init_lr: 1.0e-3, final_lr: 0, start_epoch: 0, end_epoch: 4}\n"
)
FLAGS = crash_study.FLAGS.replace("--per_device_train_batch_size 4", "--per_device_train_batch_size {}")


def batches_of(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(3, 8, generator=generator) for _ in range(4)]


def observe() -> None:
    """One process of two: watch its batches, and save the ranges."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for per_channel in (False, True):
        quantizer = FakeQuantize(QuantizationArgs(per_channel=per_channel), num_channels=3)
        for batch in batches_of(rank):
            quantizer.observe(batch)
        torch.save((quantizer.min_val, quantizer.max_val, quantizer.scale), f"{rank}-{per_channel}")
    torch.distributed.destroy_process_group()


def test_ranges_are_those_of_all_processes_batches(tmp_path):
    run(observe, folder=tmp_path, processes=2)
    for per_channel in (False, True):
        one = FakeQuantize(QuantizationArgs(per_channel=per_channel), num_channels=3)
        for pair in zip(batches_of(0), batches_of(1), strict=True):
            one.observe(torch.cat(pair, dim=1))
        for rank in range(2):
            for mine, theirs in zip(
                (one.min_val, one.max_val, one.scale), torch.load(tmp_path / f"{rank}-{per_channel}"), strict=True
            ):
                assert torch.equal(mine, theirs)


RECONSTRUCT = (
    "modifiers:\n  - !ReconstructionPruningModifier {params: ['re:.*layer.*dense.weight'], final_sparsity: 0.5, "
    "start_epoch: 0.0, end_epoch: 0.0}\n"
)


def reconstruct(rank: int) -> dict[str, torch.Tensor]:
    """Prune with calibration data that no other process has."""
    model = make_model()
    generator = torch.Generator().manual_seed(rank)
    batches = [{"input_ids": torch.randint(0, 50, (4, 8), generator=generator)} for _ in range(2)]
    manager = ScheduledModifierManager.from_yaml(RECONSTRUCT)
    manager.initialize(model)
    manager.set_calibration_sampler(lambda *_: batches)
    manager.apply_one_shot()
    return model.state_dict()


def reconstruct_together() -> None:
    """One process of two: prune, and save the weights."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.save(reconstruct(rank), str(rank))
    torch.distributed.destroy_process_group()


SEARCH = (
    "modifiers:\n  - !OBSPruningModifier {params: ['re:.*layer.*dense.weight'], final_sparsity: 0.5, start_epoch: 0.0, "
    "end_epoch: 0.0, num_grads: 4, fisher_block_size: 8, damp: auto}\n"
)


def find_damp(rank: int, folder: str) -> None:
    """One process of two: prune with gradients and examples that the other one does not have."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/search", rank=rank, world_size=2)
    model = make_model()
    generator = torch.Generator().manual_seed(rank)
    batches = [{"input_ids": torch.randint(0, 50, (4, 8), generator=generator)} for _ in range(2)]
    manager = ScheduledModifierManager.from_yaml(SEARCH)
    manager.initialize(model)
    manager.set_calibration_sampler(lambda *_: batches)
    manager.set_gradient_sampler(
        lambda parameters, count, *_: (
            [(rank + 1) * torch.randn(param.shape, generator=generator) for param in parameters] for _ in range(count)
        )
    )
    manager.apply_one_shot()
    torch.save(model.state_dict() | manager.state_dict(), f"{folder}/damp-{rank}")
    torch.distributed.destroy_process_group()


def test_processes_find_one_damp_and_have_the_same_weights(tmp_path):
    torch.multiprocessing.spawn(find_damp, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"damp-{rank}") for rank in range(2))
    assert any(name.endswith("damp") for name in first)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_processes_have_the_masks_and_weights_that_the_first_one_reconstructs(tmp_path):
    run(reconstruct_together, folder=tmp_path, processes=2)
    first, second = (torch.load(tmp_path / name) for name in ("0", "1"))
    for name, weight in reconstruct(0).items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], weight, rtol=1e-4, atol=1e-5)


def launch(folder: Path, name: str, processes: int, batch_size: int, more: str = "") -> str:
    """Run the script and give its output."""
    flags = FLAGS.format(batch_size) + f" --output_dir {name} --onnx_export_path {name}-onnx {more}"
    data = "--model_name_or_path model --train_file train.json --validation_file validation.json"
    done = run_script([ROOT / "run_qa.py", *data.split(), *flags.split()], folder, processes)
    log = "".join(printed for _, printed in done)
    assert not any(status for status, _ in done), log[-5000:]
    return log


def test_two_processes_prune_quantize_distill_resume_and_export_as_one_does(tmp_path):
    crash_study.prepare(tmp_path)
    recipe = crash_study.RECIPE.replace("pruning_modifiers", LEARNING_RATE + "pruning_modifiers")
    (tmp_path / "recipe.yaml").write_text(recipe)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # each process draws by itself
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    launch(tmp_path, "one", processes=1, batch_size=6)
    launch(tmp_path, "two", processes=2, batch_size=3, more="--max_steps 8")
    log = launch(tmp_path, "two", processes=2, batch_size=3)  # resumes
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    history = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("one", "two")
    ]
    steps = [[row["step"] for row in rows if "loss" in row] for rows in history]
    assert steps[0] == steps[1]
    assert log.count("Going on from") <= 1
    for name, weight in load_file(tmp_path / "one" / "model.safetensors").items():
        other = load_file(tmp_path / "two" / "model.safetensors")[name]
        if "dense.weight" in name and "layer" in name:
            assert torch.equal(weight == 0, other == 0), name
        if not name.endswith(("qa_outputs.bias", "key.bias")):  # no softmax sees them: Adam steps by rounding errors
            torch.testing.assert_close(other, weight, rtol=1e-3, atol=5e-4)  # a rounding to int8 may fall differently
    ranges = [load_file(tmp_path / name / "quantization.safetensors") for name in ("one", "two")]
    assert ranges[0].keys() == ranges[1].keys()
    for name, end in ranges[0].items():
        torch.testing.assert_close(ranges[1][name], end, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "two-onnx" / "model.onnx").exists()


def test_every_process_ends_with_the_weights_of_the_best_checkpoint(tmp_path):
    crash_study.prepare(tmp_path)
    (tmp_path / "recipe.yaml").write_text("modifiers: []\n")
    log = launch(
        tmp_path,
        "two",
        processes=2,
        batch_size=3,
        more="--max_steps 5 --learning_rate 0.3 --warmup_steps 1 --eval_strategy steps --eval_steps 1 --save_steps 1 "
        "--load_best_model_at_end --metric_for_best_model f1 --do_predict --test_file validation.json",
    )
    assert "Could not locate" not in log
    best = json.loads((tmp_path / "two" / "trainer_state.json").read_text())
    scores = [row["eval_f1"] for row in best["log_history"] if "eval_f1" in row][:5]
    assert scores[-1] < best["best_metric"] == max(scores)
    weights = load_file(tmp_path / best["best_model_checkpoint"] / "model.safetensors")
    for name, weight in load_file(tmp_path / "two" / "model.safetensors").items():
        assert torch.equal(weight, weights[name]), name
    results = json.loads((tmp_path / "two" / "all_results.json").read_text())
    for stage in ("eval", "eval_onnx", "test"):  # each is half the second process's
        assert results[f"{stage}_f1"] == pytest.approx(best["best_metric"]), stage
