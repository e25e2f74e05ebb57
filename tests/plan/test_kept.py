"""Files of measurements: a name for all that they depend on, and no second measurement."""

import torch
from torch import nn

from sparsification.plan.kept import digest, kept_text, kept_timings, timings_file


def test_digest_is_that_of_numbers_and_settings():
    one, same, other = torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 2)
    assert digest([one], "a") == digest([same], "a")
    assert len({digest([one], "a"), digest([other], "a"), digest([one], "b"), digest([one.half()], "a")}) == 4


def test_timings_of_another_model_or_setting_have_another_file(tmp_path):
    torch.manual_seed(0)
    models = [nn.Linear(2, 2), nn.Linear(2, 2)]
    paths = {timings_file(tmp_path, "costs", model, setting) for model in models for setting in (1, 2)}
    assert len(paths) == 4 and all(path.name.startswith("costs-") for path in paths)


def test_what_is_there_is_not_measured_again(tmp_path):
    path, calls, said = tmp_path / "new" / "costs.json", [], []

    def measure() -> str:
        calls.append(1)
        return "text"

    assert [kept_text(path, measure), kept_timings(path, measure, said.append)] == ["text", "text"]
    assert len(calls) == 1 and said == [f"Costs: from {path}"]
