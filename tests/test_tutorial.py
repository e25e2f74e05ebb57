"""The whole path: the tutorial's three commands of 2021, word for word, and what goes wrong along it."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForQuestionAnswering

import run_qa
from helpers import ROOT
from helpers.data import PLACES, squad_json
from helpers.models import save_model
from sparsification.tasks.question_answering import sparse_trainer

TEACHER = """
python transformers/examples/pytorch/question-answering/run_qa.py --model_name_or_path bert-base-uncased \
  --dataset_name squad --do_train --do_eval --evaluation_strategy epoch --per_device_train_batch_size 16 \
  --learning_rate 3e-5 --max_seq_length 384 --doc_stride 128 --output_dir MODELS_DIR/bert-base-12layers \
  --cache_dir cache --preprocessing_num_workers 6 --fp16 --num_train_epochs 2 --warmup_steps 5400 \
  --save_strategy epoch --save_total_limit 2
"""
STUDENT = """
python transformers/examples/pytorch/question-answering/run_qa.py --model_name_or_path bert-base-uncased \
  --distill_teacher MODELS_DIR/bert-base-12layers \
  --dataset_name squad --do_train --do_eval --evaluation_strategy epoch --per_device_train_batch_size 16 \
  --learning_rate 5e-5 --max_seq_length 384 --doc_stride 128 --output_dir MODELS_DIR/bert-base-12layers_prune80 \
  --cache_dir cache --preprocessing_num_workers 6 --fp16 --num_train_epochs 30 \
  --recipe recipes/bert-base-12layers_prune80.md --onnx_export_path MODELS_DIR/bert-base-12layers_prune80/onnx \
  --save_strategy epoch --save_total_limit 2
"""
EXPORT = """
python transformers/examples/pytorch/question-answering/run_qa.py \
  --model_name_or_path MODELS_DIR/bert-base-12layers_prune80 --dataset_name squad --do_eval \
  --per_device_eval_batch_size 64 --max_seq_length 384 --doc_stride 128 \
  --output_dir MODELS_DIR/bert-base-12layers_prune80/eval --cache_dir cache --preprocessing_num_workers 6 \
  --onnx_export_path MODELS_DIR/bert-base-12layers_prune80/onnx
"""
SCRIPT = "transformers/examples/pytorch/question-answering/run_qa.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with what the tutorial expects there: a small model, a data set, the recipes, the script."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / SCRIPT).parent.mkdir(parents=True)
    (folder / SCRIPT).symlink_to(ROOT / "run_qa.py")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "squad").mkdir()
    (folder / "squad" / "train-v1.1.json").write_text(json.dumps(squad_json(PLACES[:6])))
    (folder / "squad" / "dev-v1.1.json").write_text(json.dumps(squad_json(PLACES[6:])))
    save_model(folder / "bert-base-uncased", layers=2)
    return folder


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command line as it is typed, in ``folder``."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def teacher_run(folder):
    return shell(TEACHER, folder)


def run_in(folder: Path, command: str) -> int:
    """Run a command line in ``folder`` and in this process, which has imported everything: its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", command.split()[1:])
        return run_qa.cli()


@pytest.fixture(scope="module")
def student_run(folder, teacher_run):
    return run_in(folder, STUDENT)


@pytest.fixture
def run_here(folder):
    return functools.partial(run_in, folder)


def error_line(capsys) -> str:
    """The one message of a command that failed as it should."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run_qa.py: error: ")]
    return line


def test_teacher_of_2021_trains(folder, teacher_run):
    assert teacher_run.returncode == 0, teacher_run.stderr
    model = folder / "MODELS_DIR/bert-base-12layers"
    for name in ("all_results.json", "eval_predictions.json", "model.safetensors", "trainer_state.json"):
        assert (model / name).exists()
    lines = [line for line in teacher_run.stderr.splitlines() if line.startswith("--")]
    assert [line.split()[0] for line in lines] == ["--evaluation_strategy", "--fp16"]


def test_student_of_2021_is_pruned_distilled_and_exported(folder, student_run):
    assert student_run == 0
    out = folder / "MODELS_DIR/bert-base-12layers_prune80"
    for name, weight in load_file(out / "model.safetensors").items():
        if "encoder" in name and weight.dim() == 2:
            assert int((weight == 0).sum()) == round(0.8 * weight.numel()), name
        elif weight.dim() == 2 and "position" not in name:
            assert (weight == 0).float().mean() < 0.05, name
    results = json.loads((out / "all_results.json").read_text())
    assert results["epoch"] == 30
    assert results["eval_onnx_f1"] == pytest.approx(results["eval_f1"], abs=1e-6)
    assert results["eval_onnx_max_difference"] < 1e-4
    assert json.loads((out / "eval_onnx_predictions.json").read_text()).keys() == {
        f"{city}-{kind}" for city in ("riga", "bern") for kind in ("capital", "water", "people")
    }
    assert {path.name for path in (out / "onnx").iterdir()} >= {"model.onnx", "config.json", "tokenizer.json"}
    assert (out / "recipe.yaml").exists()
    history = json.loads((out / "trainer_state.json").read_text())
    assert history["max_steps"] == 60


def test_export_of_2021_needs_no_recipe(folder, student_run, run_here):
    onnx = folder / "MODELS_DIR/bert-base-12layers_prune80/onnx/model.onnx"
    before = onnx.stat().st_mtime_ns
    assert run_here(EXPORT) == 0
    assert onnx.stat().st_mtime_ns > before
    trained = json.loads((folder / "MODELS_DIR/bert-base-12layers_prune80/all_results.json").read_text())
    exported = json.loads((folder / "MODELS_DIR/bert-base-12layers_prune80/eval/all_results.json").read_text())
    for name in ("eval_f1", "eval_exact_match", "eval_onnx_f1"):
        assert exported[name] == trained[name]


def test_layers_are_dropped_for_good(folder, teacher_run, run_here, caplog):
    save_model(folder / "twelve", layers=12)
    command = STUDENT.replace("12layers_prune80", "6layers_prune80")
    command += " --model_name_or_path twelve --recipe_args num_epochs=3 --onnx_exporter torchscript"
    assert run_here(command) == 0
    assert "--num_train_epochs 30 is not used" in caplog.text
    out = folder / "MODELS_DIR/bert-base-6layers_prune80"
    model, info = AutoModelForQuestionAnswering.from_pretrained(out, output_loading_info=True)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 6
    assert not info["missing_keys"] and not info["unexpected_keys"]


QUICK = (
    f"python {SCRIPT} --model_name_or_path bert-base-uncased --dataset_name squad --do_train --use_cpu "
    "--max_seq_length 64 --doc_stride 16 --num_train_epochs 1 "
)
PRUNE = "--recipe recipes/bert-base-12layers_prune80.md --recipe_args num_epochs=1 "


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--recipe nowhere.md", "nowhere.md: no such file"),
        ("--recipe empty.yaml", "empty.yaml: the recipe is empty"),
        ("--recipe typo.yaml", "no key 'final_sparcity'; did you mean 'final_sparsity'?"),
        ("--recipe_args a=1", "--recipe_args needs a --recipe"),
        (PRUNE, "name its teacher with --distill_teacher"),
        (PRUNE + "--distill_teacher nowhere", "--distill_teacher nowhere: "),
        (PRUNE + "--distill_teacher other-head", "another head than BertForQuestionAnswering"),
        (PRUNE + "--distill_teacher other-words", "another vocabulary"),
        (PRUNE.replace("12layers", "6layers") + "--distill_teacher self --model_name_or_path six", "has layers 0 to 5"),
        ("--recipe pattern.yaml", "'re:encoder.*query.weight': an expression is matched from the start of a name"),
        ("--dataset_name empty-folder", "empty-folder"),
        ("--train_file no-question.json", "question"),
        ("--model_name_or_path nowhere", "nowhere"),
        ("--one_shot", "--one_shot needs a --recipe"),
        ("--distill_hardness 1.0", "DistillationModifier"),
        ("--max_seq_length 64 --doc_stride 64", "--doc_stride 64 has to be less than the 61 tokens"),
    ],
)
def test_bad_input_is_one_clear_message(folder, flags, message, tmp_path, run_here, capsys):
    prepare_bad_input(folder)
    assert run_here(f"{QUICK} --output_dir {tmp_path}/out {flags}") == 1
    assert message in error_line(capsys)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def prepare_bad_input(folder: Path) -> None:
    """Lay out the wrong files that the cases above name, once."""
    if (folder / "six").exists():
        return
    modifier = "modifiers:\n  - !GMPruningModifier\n    params: ['re:.*query.weight']\n    end_epoch: 1.0\n"
    (folder / "empty.yaml").write_text("")
    (folder / "typo.yaml").write_text(modifier + "    final_sparcity: 0.8\n")
    (folder / "pattern.yaml").write_text(modifier.replace("re:.*", "re:encoder.*"))
    (folder / "empty-folder").mkdir()
    (folder / "no-question.json").write_text(json.dumps({"data": [{"context": "a", "id": "1"}]}))
    save_model(folder / "other-words", layers=1, vocab_size=50)
    save_model(folder / "other-head", layers=1)
    weights = folder / "other-head" / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "qa_outputs" not in k}, weights, {"format": "pt"})
    save_model(folder / "six", layers=6)


def test_one_shot_prunes_without_training(folder, tmp_path, run_here, capsys):
    command = f"{QUICK} --do_eval {PRUNE} --one_shot --output_dir {tmp_path}/out --onnx_export_path {tmp_path}/onnx"
    assert run_here(command) == 0
    dense = load_file(folder / "bert-base-uncased" / "model.safetensors")
    for name, weight in load_file(tmp_path / "out" / "model.safetensors").items():
        if "encoder" in name and weight.dim() == 2:
            assert int((weight == 0).sum()) == round(0.8 * weight.numel()), name
            assert torch.equal(weight[weight != 0], dense[name][weight != 0])
    assert (tmp_path / "onnx" / "model.onnx").exists()
    assert run_here(command) == 1 and "is not empty" in error_line(capsys)  # and would overwrite nothing


def test_full_output_folder_keeps_what_is_there(tmp_path, run_here, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("precious")
    assert run_here(f"{QUICK} --output_dir {tmp_path}/out") == 1
    assert "is not empty and has no complete checkpoint to go on from" in error_line(capsys)
    assert (tmp_path / "out" / "model.safetensors").read_text() == "precious"


def test_full_disk_is_one_message_and_keeps_the_checkpoints(folder, tmp_path, run_here):
    command = f"{QUICK} --output_dir {tmp_path}/out --save_strategy epoch --num_train_epochs"
    assert run_here(f"{command} 1") == 0
    kept = tmp_path / "out" / "checkpoint-3" / "model.safetensors"
    before = kept.read_bytes()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "out" / name).unlink()
    # A limit on the size of a file is the full disk of one process.
    done = shell(f"ulimit -f 20; {command} 2", folder)
    assert done.returncode not in (0, 130)
    assert "Traceback" not in done.stderr or "File too large" in done.stderr
    assert kept.read_bytes() == before
    assert run_here(f"{command} 2") == 0


def own_signals() -> None:
    """A process group that Ctrl-C reaches, also where the tests run in the background of a shell, which ignores it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_run_keeps_its_checkpoint_and_goes_on(folder, tmp_path, run_here):
    out = tmp_path / "out"
    command = f"{QUICK} --output_dir {out} --num_train_epochs 200 --save_strategy steps --save_steps 10 {PRUNE}"
    command = command.replace("num_epochs=1", "num_epochs=200") + "--distill_teacher self"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, *command.split()[1:]], cwd=folder, stderr=log, stdout=log, preexec_fn=own_signals
        )
        deadline = time.monotonic() + 120
        while not (out / "checkpoint-10" / "trainer_state.json").exists():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    text = (tmp_path / "log").read_text()
    assert "run_qa.py: error: interrupted; saved checkpoints are kept" in text and "Traceback" not in text
    steps = sorted(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*"))
    last = steps[-1]
    state = json.loads((out / f"checkpoint-{last}" / "trainer_state.json").read_text())
    assert state["global_step"] == last
    AutoModelForQuestionAnswering.from_pretrained(out / f"checkpoint-{last}")
    assert run_here(f"{command} --max_steps {last + 4}") == 0
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == last + 4


def test_not_enough_memory_is_one_message(tmp_path, monkeypatch, run_here, capsys):
    # More than any machine can address: the real error of torch's allocator, in the middle of a step.
    trainer = sparse_trainer.SparseQuestionAnsweringTrainer
    monkeypatch.setattr(trainer, "training_step", lambda *args: torch.empty(2**50))
    assert run_here(f"{QUICK} --output_dir {tmp_path}/out") == 1
    line = error_line(capsys)
    assert "not enough memory" in line and "--per_device_train_batch_size" in line


def test_two_processes_train_on_one_schedule_with_the_same_masks(folder, tmp_path, run_here):
    """Two processes with batches of 3 do what one with batches of 6 does; dropout aside, which each draws by itself."""
    save_model(tmp_path / "model", layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    flags = f"{QUICK} --model_name_or_path {tmp_path}/model {PRUNE} --distill_teacher self --logging_steps 1 --seed 1 "
    flags = flags.replace("num_epochs=1", "num_epochs=4")
    assert run_here(f"{flags} --output_dir {tmp_path}/one --per_device_train_batch_size 6") == 0
    torchrun = flags.replace("python ", "python -m torch.distributed.run --nproc_per_node 2 ")
    two = shell(f"{torchrun} --output_dir {tmp_path}/two --per_device_train_batch_size 3", folder)
    assert two.returncode == 0, two.stderr
    histories = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("one", "two")
    ]
    keys = ("step", "learning_rate", "GMPruningModifier/target_sparsity", "epoch")
    first, second = ([[row[key] for key in keys] for row in rows if "loss" in row] for rows in histories)
    assert first == second and len(first) == 12
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, weight in weights[0].items():
        if name.endswith(("qa_outputs.bias", "key.bias")):
            continue  # no softmax sees them: their gradients are rounding errors, which Adam makes steps of full size
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-5)
        if "encoder" in name and weight.dim() == 2:
            assert torch.equal(weight == 0, weights[1][name] == 0), name
