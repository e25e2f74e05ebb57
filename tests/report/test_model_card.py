"""The model card has the hyperparameters that were used and the results, whatever the arguments of Trainer were."""

import json
import logging
import re
from pathlib import Path

import pytest
import transformers
from huggingface_hub import ModelCard

import run_qa
from helpers.trainers import SparseTrainer, arguments, make_data, make_trainer

RECIPE = """
modifiers:
  - !EpochRangeModifier
    end_epoch: 2.0
  - !LearningRateFunctionModifier
    lr_func: linear
    init_lr: 0.002
    final_lr: 0.0
    start_epoch: 0.0
    end_epoch: 2.0
"""
COMMON = (
    "--use_cpu --max_seq_length 64 --doc_stride 16 --per_device_train_batch_size 6 --num_train_epochs 2 "
    "--learning_rate 0.3 --lr_scheduler_type cosine --warmup_steps 2"
)


def section(text: str, title: str) -> str:
    return text.partition(f"# {title}\n\n")[2].partition("\n#")[0]


@pytest.fixture(scope="module")
def runs(tiny_model_dir, tiny_squad, tmp_path_factory) -> Path:
    """The output folders of a run without a recipe, of one by a recipe, and of that recipe without training."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "prune.yaml").write_text(
        "modifiers:\n  - !MagnitudePruningModifier {params: ['re:.*query.weight'], init_sparsity: 0.0, "
        "final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 1.0, update_frequency: 0.5}\n"
    )
    base = f"--model_name_or_path {tiny_model_dir} --dataset_name {tiny_squad} {COMMON} --do_eval"
    for name, flags in {
        "plain": "--do_train --eval_strategy epoch",
        "recipe": f"--do_train --eval_strategy epoch --recipe {folder}/recipe.yaml",
        "no_evaluation": f"--do_train --recipe {folder}/recipe.yaml",
        "one_shot": f"--one_shot --recipe {folder}/prune.yaml",
        "evaluated": "",
    }.items():
        run_qa.main(f"{base} {flags} --output_dir {folder}/{name}".split())
    return folder


def results(out: Path) -> dict:
    return json.loads((out / "all_results.json").read_text())


@pytest.mark.parametrize("name", ["plain", "recipe", "no_evaluation", "one_shot", "evaluated"])
def test_metadata_has_the_task_and_the_scores(runs, name):
    data = ModelCard.load(runs / name / "README.md").data
    assert data.pipeline_tag == "question-answering"
    assert data.metrics == ["exact_match", "f1"]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {metric: results(runs / name)[f"eval_{metric}"] for metric in data.metrics}
    assert {result.task_type for result in data.eval_results} == {"question-answering"}


def test_learning_rate_and_scheduler_are_those_of_the_recipe(runs):
    text = ModelCard.load(runs / "recipe/README.md").text
    # Six steps, from 0.002 down to 0 at the end of the last one.
    assert "- learning_rate: 0.002 in the first step, 0.0003333 in the last one, by the recipe\n" in text
    assert "- lr_scheduler_type: the recipe's (LearningRateFunctionModifier)\n" in text
    assert "warmup" not in text and "0.3" not in section(text, "Training hyperparameters") and "cosine" not in text


def test_learning_rate_and_scheduler_are_the_command_lines_without_a_recipe(runs):
    text = ModelCard.load(runs / "plain/README.md").text
    for line in (
        "learning_rate: 0.3",
        "lr_scheduler_type: cosine",
        "lr_scheduler_warmup_steps: 2.0",
        "num_epochs: 2.0",
    ):
        assert f"- {line}\n" in text


@pytest.mark.parametrize(("name", "labels"), [("plain", ["Exact match", "F1"]), ("recipe", ["EM", "F1"])])
def test_training_results_are_the_evaluations_of_the_log(runs, name, labels):
    history = json.loads((runs / name / "trainer_state.json").read_text())["log_history"]
    logged = [row for row in history if "eval_f1" in row]
    assert [row["epoch"] for row in logged] == [1.0, 2.0]
    head, _, *rows = section(ModelCard.load(runs / name / "README.md").text, "Training results").strip().splitlines()
    assert head == f"| Epoch | Step | {' | '.join(labels)} |"
    assert [[float(cell) for cell in row.strip("| ").split(" | ")] for row in rows] == [
        pytest.approx([row["epoch"], row["step"], row["eval_exact_match"], row["eval_f1"]], abs=0.006) for row in logged
    ]


def test_run_without_an_evaluation_in_it_says_so(runs):
    text = ModelCard.load(runs / "no_evaluation/README.md").text
    assert section(text, "Training results").strip() == "No evaluation during training."


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one_shot", "None: the recipe was applied without training."),
        ("evaluated", "this run did not train"),
    ],
)
def test_card_of_a_run_that_did_not_train_names_no_hyperparameters(runs, name, words):
    text = ModelCard.load(runs / name / "README.md").text
    assert words in section(text, "Training hyperparameters")
    assert "learning_rate" not in text and "Framework versions" in text
    assert "during training by the recipe" not in text


def test_evaluation_in_the_folder_of_a_training_leaves_its_card(runs, tiny_squad):
    before = (runs / "recipe/README.md").read_text()
    run_qa.main(
        f"--model_name_or_path {runs}/recipe --output_dir {runs}/recipe --dataset_name {tiny_squad} --do_eval "
        f"{COMMON} --overwrite_output_dir".split()
    )
    assert (runs / "recipe/README.md").read_text() == before


@pytest.mark.parametrize("flags", ["--do_eval", "--do_train", "--do_train --do_eval --eval_strategy epoch"])
def test_no_run_prints_what_the_card_leaves_out(flags, tiny_model_dir, tiny_squad, tmp_path, caplog):
    card_logger = logging.getLogger("transformers.modelcard")
    card_logger.addHandler(caplog.handler)
    try:
        run_qa.main(
            f"--model_name_or_path {tiny_model_dir} --dataset_name {tiny_squad} --output_dir {tmp_path} {COMMON} "
            f"{flags}".split()
        )
        assert transformers.utils.logging.get_verbosity() == logging.INFO  # at which Trainer's card would say it
    finally:
        card_logger.removeHandler(caplog.handler)
    assert (tmp_path / "README.md").is_file()
    assert [record.getMessage() for record in caplog.records if record.name == "transformers.modelcard"] == []


def test_evaluations_with_a_loss_stay_as_trainer_writes_them(tmp_path):
    trainer = make_trainer(tmp_path, RECIPE, eval_dataset=make_data(8), eval_strategy="epoch")
    trainer.train()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "README.md")
    assert re.search(r"\| Training Loss \| Epoch \| Step \| Validation Loss \|", card.text)
    assert card.data.pipeline_tag == "question-answering"
    assert "0.002 in the first step" in card.text


def test_card_of_a_trainer_without_a_recipe_is_trainers_own(tmp_path):
    trainer = SparseTrainer(
        model=make_trainer(tmp_path, None).model, args=arguments(tmp_path), train_dataset=make_data(8)
    )
    trainer.train()
    trainer.create_model_card(tasks="question-answering", dataset_tags=["squad"])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.datasets == ["squad"]
    assert "- learning_rate: " in card.text and "by the recipe" not in card.text
