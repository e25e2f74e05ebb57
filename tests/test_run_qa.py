"""Does the script keep the well-known flags, files and metric names, go on where it stopped, and refuse clearly?"""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import run_qa
from helpers import ROOT
from helpers.command_lines import command
from run_qa import main
from sparsification.tasks.errors import DataError, TaskError, UsageError
from sparsification.tasks.output_dir import find_checkpoint
from sparsification.tasks.question_answering import feature_sets
from sparsification.tasks.question_answering import pipeline as stages_qa
from sparsification.tasks.question_answering.arguments import DataTrainingArguments, ModelArguments, parse_arguments
from sparsification.tasks.question_answering.predict import PredictError, load_predictor
from sparsification.trainer.checkpoints import last_complete_checkpoint
from sparsification.trainer.mixin import SparseTrainerMixin

SPEED = {"runtime", "samples_per_second", "steps_per_second"}


def results(out: Path, name: str) -> dict[str, float]:
    """One of the result files."""
    return json.loads((out / f"{name}_results.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a folder holds."""
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def whole_run(tiny_model_dir: Path, tiny_squad: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Train, evaluate and predict once: the output folder and what main returned."""
    out = tmp_path_factory.mktemp("whole") / "out"
    test_file = out.parent / "asked.json"
    asked = [{"id": "x", "question": "Where is Lima?", "context": "Lima is the capital of Peru."}]
    test_file.write_text(json.dumps({"data": asked}))
    flags = ["--do_train", "--do_eval", "--do_predict", "--test_file", str(test_file), "--num_train_epochs", "2"]
    flags += ["--save_strategy", "epoch", "--eval_strategy", "epoch", "--per_device_train_batch_size", "6"]
    return out, main(command(tiny_model_dir, tiny_squad, out, *flags))


@pytest.mark.parametrize("arguments", [ModelArguments, DataTrainingArguments])
def test_flags_and_defaults_are_the_recorded_ones(arguments):
    recorded = json.loads((ROOT / "tests/golden/flags.json").read_text())[arguments.__name__]
    ours = {
        field.name: "required" if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(arguments)
    }
    added = {}
    if arguments is DataTrainingArguments:
        added = {"overwrite_output_dir": False, "distill_file": None, "distill_questions_per_paragraph": 2}
    assert ours == recorded | added


def test_whole_run_leaves_the_known_files(whole_run):
    out, _ = whole_run
    names = {path.name for path in out.iterdir()}
    stages = [f"{stage}_results.json" for stage in ("train", "eval", "predict", "all")]
    answers = [f"{stage}_{kind}predictions.json" for stage in ("eval", "predict") for kind in ("", "nbest_")]
    saved = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "training_args.bin"]
    assert names == {
        *stages,
        *answers,
        *saved,
        *("trainer_state.json", "README.md", "checkpoint-3", "checkpoint-6"),
    }


def test_whole_run_reports_the_known_metrics(whole_run):
    out, returned = whole_run
    assert set(results(out, "train")) == {"epoch", "train_loss", "total_flos", "train_samples"} | {
        f"train_{name}" for name in SPEED
    }
    assert set(results(out, "eval")) == {"epoch", "eval_exact_match", "eval_f1", "eval_samples"} | {
        f"eval_{name}" for name in SPEED
    }
    predicted = results(out, "predict")
    assert "predict_samples" in predicted
    assert "test_f1" not in predicted  # the question came without its answer
    everything = results(out, "all")
    assert everything == results(out, "train") | results(out, "eval") | predicted
    assert set(everything) == set(returned)
    assert (everything["train_samples"], everything["eval_samples"], everything["predict_samples"]) == (18, 6, 1)


def test_whole_run_answers_from_the_contexts(whole_run, tiny_squad):
    out, _ = whole_run
    answers = json.loads((out / "eval_predictions.json").read_text())
    data = json.loads((tiny_squad / "validation.json").read_text())["data"]
    contexts = {q["id"]: p["context"] for article in data for p in article["paragraphs"] for q in p["qas"]}
    assert set(answers) == set(contexts)
    assert all(answer in contexts[name] for name, answer in answers.items())
    n_best = json.loads((out / "eval_nbest_predictions.json").read_text())
    assert all(set(found) == {"text", "probability", "start_logit", "end_logit"} for found in n_best["bern-water"])
    assert sum(found["probability"] for found in n_best["bern-water"]) == pytest.approx(1)


def test_saved_model_and_tokenizer_load_plainly_and_evaluate_the_same(whole_run, tiny_squad, tmp_path):
    out, _ = whole_run
    AutoModelForQuestionAnswering.from_pretrained(out)
    assert AutoTokenizer.from_pretrained(out).is_fast
    main(command(out, tiny_squad, tmp_path, "--do_eval", "--pad_to_max_length", "False"))
    assert results(tmp_path, "eval")["eval_f1"] == results(out, "eval")["eval_f1"]
    assert not (tmp_path / "model.safetensors").exists()


def test_version_2_reports_answerable_and_unanswerable_questions(tiny_model_dir, tiny_squad_v2, tmp_path):
    flags = ["--do_train", "--do_eval", "--max_steps", "1", "--version_2_with_negative"]
    main(command(tiny_model_dir, tiny_squad_v2, tmp_path / "out", *flags))
    metrics = results(tmp_path / "out", "eval")
    scores = [f"{group}{key}" for group in ("", "HasAns_", "NoAns_") for key in ("exact", "f1", "total")]
    best = ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
    assert {f"eval_{name}" for name in scores + best} <= set(metrics)
    assert (metrics["eval_HasAns_total"], metrics["eval_NoAns_total"], metrics["eval_total"]) == (6, 2, 8)
    odds = json.loads((tmp_path / "out/eval_null_odds.json").read_text())
    answers = json.loads((tmp_path / "out/eval_predictions.json").read_text())
    assert {name for name, answer in answers.items() if not answer} == {name for name, odd in odds.items() if odd > 0}


def test_sample_limits_and_batches_by_length(tiny_model_dir, tiny_squad, tmp_path):
    flags = [
        "--do_train",
        "--do_eval",
        "--max_train_samples",
        "5",
        "--max_eval_samples",
        "2",
        "--num_train_epochs",
        "1",
    ]
    flags += ["--train_sampling_strategy", "group_by_length", "--pad_to_max_length", "False"]
    metrics = main(command(tiny_model_dir, tiny_squad, tmp_path / "out", *flags))
    assert (metrics["train_samples"], metrics["eval_samples"]) == (5, 2)
    assert len(json.loads((tmp_path / "out/eval_predictions.json").read_text())) == 2


@pytest.mark.parametrize("flags", [[], ["--version_2_with_negative"]])
def test_questions_without_their_answers_get_no_scores(tiny_model_dir, tiny_squad_v2, tmp_path, flags):
    records = json.loads((tiny_squad_v2 / "validation.json").read_text())["data"]
    for question in (question for article in records for p in article["paragraphs"] for question in p["qas"]):
        del question["answers"], question["is_impossible"]
    (tmp_path / "test.json").write_text(json.dumps({"data": records}))
    out = tmp_path / "out"
    given = ["--do_predict", "--test_file", str(tmp_path / "test.json"), *flags]
    main(command(tiny_model_dir, tiny_squad_v2, out, *given))
    speed = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
    assert set(results(out, "predict")) == {"predict_samples"} | {f"test_{name}" for name in speed}
    assert len(json.loads((out / "predict_predictions.json").read_text())) == 8


@pytest.mark.parametrize("extension", ["json", "yaml", "yml"])
def test_config_file_means_the_same_as_the_command_line(tiny_model_dir, tiny_squad, tmp_path, extension):
    flags = ["--learning_rate", "3e-5", "--label_names", "a", "b", "--do_eval", "--lr_scheduler_kwargs", '{"x": 1}']
    expected = parse_arguments(command(tiny_model_dir, tiny_squad, tmp_path / "out", *flags))
    values = {
        **{"model_name_or_path": str(tiny_model_dir), "dataset_name": str(tiny_squad), "do_eval": True},
        **{"output_dir": str(tmp_path / "out"), "max_seq_length": 64, "doc_stride": 16, "use_cpu": True, "token": None},
        **{"onnx_exporter": "torchscript"},
        **{"label_names": ["a", "b"], "lr_scheduler_kwargs": {"x": 1}, "report_to": []},
    }
    path = tmp_path / f"config.{extension}"
    if extension == "json":
        path.write_text(json.dumps(values | {"learning_rate": 3e-5}))
    else:
        # YAML takes 3e-5 for a text; it is a number all the same.
        path.write_text(
            "\n".join(f"{name}: {json.dumps(value)}" for name, value in values.items()) + "\nlearning_rate: 3e-5"
        )
    found = parse_arguments([str(path)])
    assert (found.model, found.data, found.sparse) == (expected.model, expected.data, expected.sparse)
    assert found.training.to_dict() == expected.training.to_dict()


def test_interrupted_run_goes_on_and_ends_with_the_same_weights(
    whole_run, tiny_model_dir, tiny_squad, tmp_path, caplog
):
    out, _ = whole_run
    cut = tmp_path / "out"
    shutil.copytree(out / "checkpoint-3", cut / "checkpoint-3")
    # Killed while it wrote the next checkpoint: everything but trainer_state.json, which comes last.
    shutil.copytree(out / "checkpoint-6", cut / "checkpoint-6")
    (cut / "checkpoint-6/trainer_state.json").unlink()
    flags = ["--do_train", "--num_train_epochs", "2", "--save_strategy", "epoch", "--eval_strategy", "epoch"]
    flags += ["--do_eval", "--per_device_train_batch_size", "6"]
    stages_qa.logger.propagate = True
    main(command(tiny_model_dir, tiny_squad, cut, *flags))
    assert f"{cut / 'checkpoint-6'} is not complete and is skipped" in caplog.text
    assert f"Going on from {cut / 'checkpoint-3'}" in caplog.text
    expected, found = weights(out), weights(cut)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert results(cut, "eval")["eval_f1"] == results(out, "eval")["eval_f1"]


OVERWRITE = ["--do_train", "--num_train_epochs", "1", "--save_strategy", "epoch", "--overwrite_output_dir"]


def test_run_that_overwrites_a_folder_leaves_its_own_checkpoints_alone_to_resume_from(
    whole_run, tiny_model_dir, tiny_squad, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(whole_run[0], out)
    before = (out / "checkpoint-3" / "model.safetensors").read_bytes()
    argv = command(tiny_model_dir, tiny_squad, out, *OVERWRITE, "--per_device_train_batch_size", "6", "--seed", "1")
    main([*argv, "--save_total_limit", "1"])
    assert last_complete_checkpoint(out) == str(out / "checkpoint-3")
    assert [path.name for path in out.iterdir() if "checkpoint" in path.name] == ["checkpoint-3"]
    assert (out / "checkpoint-3" / "model.safetensors").read_bytes() != before


def test_run_that_overwrites_a_folder_and_saves_nothing_new_loses_no_checkpoint(
    whole_run, tiny_model_dir, tiny_squad, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(whole_run[0], out)
    # Trained from a checkpoint that is itself replaced.
    argv = command(out / "checkpoint-6", tiny_squad, out, *OVERWRITE, "--skip_trial")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SparseTrainerMixin, "training_step", interrupted)
        main(argv)
    names = sorted(path.name for path in out.iterdir() if "checkpoint" in path.name)
    assert names == [".replaced-checkpoint-3", ".replaced-checkpoint-6"]
    argv[1] = str(tiny_model_dir)
    argv.remove("--overwrite_output_dir")
    with pytest.raises(UsageError, match="is not empty and has no complete checkpoint to go on from"):
        main(argv)


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_checkpoint_to_go_on_from(whole_run, tiny_model_dir, tiny_squad, tmp_path):
    out, _ = whole_run

    def found(folder: Path, *flags: str) -> str | None:
        given = command(tiny_model_dir, tiny_squad, folder, "--do_train", *flags)
        flags = parse_arguments(given)
        return find_checkpoint(flags.training, flags.data.overwrite_output_dir)

    assert found(out) == found(out, "--resume_from_checkpoint", "True") == str(out / "checkpoint-6")
    assert found(out, "--overwrite_output_dir") is None
    assert found(out, "--resume_from_checkpoint", str(out / "checkpoint-3")) == str(out / "checkpoint-3")
    assert found(tmp_path) is found(tmp_path / "new") is None
    with pytest.raises(UsageError, match="no complete checkpoint in"):
        found(tmp_path, "--resume_from_checkpoint", "True")
    with pytest.raises(UsageError, match="gone: no such folder"):
        found(tmp_path, "--resume_from_checkpoint", str(tmp_path / "gone"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty and has no complete checkpoint.*--overwrite_output_dir"):
        found(tmp_path)
    assert found(tmp_path, "--overwrite_output_dir") is None
    with pytest.raises(UsageError, match="there is a file of that name"):
        found(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output_dir", "x"], "the following arguments are required: --model_name_or_path"),
        (["--model_name_or_path", "m"], "no data: give --dataset_name"),
        (
            ["--model_name_or_path", "m", "--train_file", "a.txt"],
            "--train_file a.txt: expected a file that ends in .csv",
        ),
        (
            ["--model_name_or_path", "m", "--dataset_name", "d", "--max_seq_length", "0"],
            "--max_seq_length 0: expected 1",
        ),
        (["--model_name_or_path", "m", "--dataset_name", "d", "--n_best_size", "x"], "--n_best_size.*invalid int"),
        (["--model_name_or_path", "m", "--dataset_name", "d", "--doc_strode", "3"], "did you mean --doc_stride"),
        (["no-such-file.json"], "no-such-file.json: .*No such file"),
    ],
)
def test_wrong_arguments_are_refused(argv, message):
    with pytest.raises(UsageError, match=message):
        parse_arguments(argv)


@pytest.mark.parametrize("content", ["", "- a", "a: ["])
def test_wrong_config_file_is_refused(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"c\.yaml"):
        parse_arguments([str(tmp_path / "c.yaml")])


def test_wrong_model_or_data_is_refused(tiny_model_dir, tiny_squad, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"--do_predict needs test data: name it with --test_file.*train, validation"):
        main(command(tiny_model_dir, tiny_squad, out, "--do_predict"))
    with pytest.raises(UsageError, match=f"--model_name_or_path {tmp_path}/gone: no such folder"):
        main(command(tmp_path / "gone", tiny_squad, out, "--do_eval"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match=r"--model_name_or_path .*bare"):
        main(command(tmp_path / "bare", tiny_squad, out, "--do_eval"))
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless/config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match=r"--model_name_or_path .*headless"):
        main(command(tmp_path / "headless", tiny_squad, out, "--do_eval"))
    shutil.copytree(tiny_model_dir, tmp_path / "wider")
    config = json.loads((tmp_path / "wider/config.json").read_text())
    (tmp_path / "wider/config.json").write_text(json.dumps(config | {"intermediate_size": 80}))
    with pytest.raises(UsageError, match=r"--model_name_or_path .*wider"):
        main(command(tmp_path / "wider", tiny_squad, out, "--do_eval"))
    with pytest.raises(PredictError, match="wider"):
        load_predictor(tmp_path / "wider")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UsageError, match="they do not fit together"):
        main(command(tiny_model_dir, tiny_squad, out, "--do_eval", "--tokenizer_name", str(tmp_path / "tokenizer")))
    assert not out.exists()


def test_unanswerable_questions_need_their_flag(tiny_model_dir, tiny_squad_v2, tmp_path):
    with pytest.raises(
        DataError, match=r"2 of 8 questions of the evaluation data have no answer.*--version_2_with_negative"
    ):
        main(command(tiny_model_dir, tiny_squad_v2, tmp_path / "out", "--do_eval"))


def test_too_long_a_sequence_is_cut_to_the_models(tiny_model_dir, tiny_squad, tmp_path, caplog):
    main(command(tiny_model_dir, tiny_squad, tmp_path / "out", "--do_eval", "--max_seq_length", "384"))
    assert "--max_seq_length 384 is more than the model's 128: using 128" in caplog.text


@pytest.mark.parametrize(("promised", "length"), [(10**30, 128), (512, 128), (128, 128), (100, 100)])
def test_windows_are_as_long_as_tokenizer_and_model_both_allow(tiny_model_dir, tiny_squad, tmp_path, promised, length):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.model_max_length = promised
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_model_dir)
    assert feature_sets.resolve_max_seq_length(tokenizer, model, 384) == length
    assert feature_sets.resolve_max_seq_length(tokenizer, model, 64) == 64
    long = {"id": "x", "question": "Where is Lima?", "context": "Lima is the capital of Peru. " * 60}
    (tmp_path / "test.json").write_text(json.dumps([long]))
    flags = ["--tokenizer_name", str(tmp_path / "tokenizer"), "--max_seq_length", "384", "--doc_stride", "20"]
    flags += ["--test_file", str(tmp_path / "test.json")]
    main(command(tiny_model_dir, tiny_squad, tmp_path / "out", "--do_predict", *flags))
    answers = json.loads((tmp_path / "out/predict_predictions.json").read_text())
    assert answers["x"] in long["context"]


def test_default_stride_fits_smaller_windows_and_a_given_one_is_kept(tiny_model_dir, tiny_squad, tmp_path, caplog):
    out = tmp_path / "out"
    stages_qa.logger.propagate = True
    main([flag for flag in command(tiny_model_dir, tiny_squad, out, "--do_eval") if flag not in ("--doc_stride", "16")])
    assert "Windows of 64 tokens cannot share 128: they share 21 (--doc_stride)" in caplog.text
    with pytest.raises(DataError, match="--doc_stride 61 has to be less than the 61 tokens"):
        main(command(tiny_model_dir, tiny_squad, tmp_path / "other", "--do_eval", "--doc_stride", "61"))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (TaskError("what to do"), 1, "run_qa.py: error: what to do\n"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError("of 3 GB"), 1, "not enough memory: of 3 GB. Try a smaller --per_device_train_batch_size"),
        (RuntimeError("PytorchStreamWriter failed writing file"), 1, "failed writing file"),
        (KeyboardInterrupt(), 130, "the same command resumes"),
    ],
)
def test_errors_of_use_end_in_one_message(monkeypatch, capsys, error, status, message):
    def fail() -> None:
        raise error

    monkeypatch.setattr(run_qa, "main", fail)
    assert run_qa.cli() == status
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_what_is_wrong_is_said_before_anything_slow_is_imported(tmp_path):
    start = ["run_qa.py", *command(tmp_path, tmp_path, tmp_path / "out")]
    wrong = [["--doc_strode", "3"], ["--recipe", "nowhere.yaml"]]
    code = (
        f"import sys, run_qa\nfor flags in {wrong}: sys.argv = {start} + flags; print(run_qa.cli())\n"
        "print({'datasets', 'onnxruntime', 'transformers.trainer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n1\nset()\n"
    typo, missing = [line for line in done.stderr.splitlines() if line.startswith("run_qa.py: error: ")]
    assert "did you mean --doc_stride?" in typo and "nowhere.yaml" in missing


def test_too_large_a_batch_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(run_qa, "main", lambda: torch.empty(10**15))
    assert run_qa.cli() == 1
    assert "not enough memory" in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run_qa, "main", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run_qa.cli()


def test_what_is_added_to_the_well_known_script_stands_in_few_marked_places():
    lines = [line.strip() for line in (ROOT / "run_qa.py").read_text().splitlines()]
    marks = [line for line in lines if line in ("# [sparsification]", "# [/sparsification]")]
    assert marks == ["# [sparsification]", "# [/sparsification]"] * 5
