"""The frame of the studies of accuracy: a run is done once, with its command, and intervals are of paired samples."""

import json
import sys

import numpy as np
import pytest

from benchmarks import study


class Words(study.Study):
    """A study that writes the names of its results."""

    script = "script.py"
    runs = {  # noqa: RUF012
        "dense": study.Run(one_shot=True),
        "pruned": study.Run("prune80", "sparsity=0.9", "dense", ("--seed", "1")),
        "quantized": study.Run("quantize", start="pruned", one_shot=True),
    }

    def __init__(self, folder) -> None:
        self.results_file = folder / "results.json"
        super().__init__(folder / "work")

    def flags(self, name, output):
        return ["--data", name]

    def measure(self, name, folder):
        return {"folder": folder.name}

    def write_page(self):
        (self.work / "page.md").write_text(" ".join(self.results))


@pytest.fixture
def done(monkeypatch):
    """Commands that were run; each leaves what run_timed leaves."""
    commands = []

    def run_timed(command, output):
        commands.append(command)
        output.mkdir()
        (output / "run.json").write_text("{}")

    monkeypatch.setattr(study, "run_timed", run_timed)
    monkeypatch.setattr(study, "start_model", lambda work: work / "start")
    return commands


def test_a_run_is_done_once_after_those_it_starts_from(done, tmp_path):
    Words(tmp_path).result("quantized")
    Words(tmp_path).result("quantized")
    Words(tmp_path).result("pruned")
    assert [command[command.index("--output_dir") + 1] for command in done] == [
        str(tmp_path / "work" / name) for name in ("dense", "pruned", "quantized")
    ]
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["pruned", "quantized"]
    assert (tmp_path / "work" / "page.md").read_text() == "quantized pruned"


def test_command_trains_unless_the_run_is_at_one_stroke(done, tmp_path):
    words = Words(tmp_path)
    dense, pruned, quantized = (words.command(name, tmp_path / name) for name in Words.runs)
    assert dense[dense.index("--model_name_or_path") + 1] == str(tmp_path / "work" / "start")
    assert not {"--recipe", "--one_shot", "--do_train"} & set(dense)
    assert pruned[-2:] == ["--seed", "1"] and "--do_train" in pruned and "--one_shot" not in pruned
    assert pruned[pruned.index("--recipe_args") + 1] == "sparsity=0.9"
    assert "--one_shot" in quantized and "--do_train" not in quantized and "--recipe_args" not in quantized


def test_minutes_of_a_run_are_those_of_all_its_tries(tmp_path):
    output = tmp_path / "pruned"
    output.mkdir()
    spend = "import time\nwhile time.process_time() < 0.3: pass\n"
    with pytest.raises(SystemExit, match="pruned failed"):
        study.run_timed([sys.executable, "-c", f"{spend}raise SystemExit(1)"], output)
    assert not (output / "run.json").exists()
    study.run_timed([sys.executable, "-c", spend], output)
    used = json.loads((output / "run.json").read_text())
    assert used["cpu_minutes"] >= 0.6 / 60 and used["minutes"] >= 0.6 / 60
    study.run_timed([sys.executable, "-c", ""], output)
    assert json.loads((output / "run.json").read_text())["cpu_minutes"] < 0.6 / 60


def test_interval_of_a_constant_ratio_is_that_ratio():
    scores = np.arange(1.0, 101.0)
    assert study.interval(0.8 * scores, scores) == pytest.approx((0.8, 0.8))


def test_interval_has_the_width_of_the_differences_and_not_of_the_scores():
    generator = np.random.default_rng(1)
    scores = generator.uniform(0, 100, 1000)
    other = scores + generator.normal(0, 1, 1000)
    low, high = study.interval(other, scores)
    assert 0.996 < low < other.mean() / scores.mean() < high < 1.004
