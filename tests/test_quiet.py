"""Process-wide settings of Transformers are restored after a block."""

import huggingface_hub.utils as hub
import pytest
import transformers
from transformers.utils import logging

from sparsification.check.report import check
from sparsification.quiet import errors_only, no_progress_bars
from sparsification.tasks.question_answering.predict import load_predictor


def settings() -> tuple[int, bool, bool]:
    return logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()


@pytest.fixture(params=[(level, bars) for level in ("info", "warning") for bars in ("both", "hub", "ours", "none")])
def before(request):
    """Each combination of settings that a caller may have."""
    level, bars = request.param
    {"info": logging.set_verbosity_info, "warning": logging.set_verbosity_warning}[level]()
    (logging.enable_progress_bar if bars in ("both", "ours") else logging.disable_progress_bar)()
    (hub.enable_progress_bars if bars in ("both", "hub") else hub.disable_progress_bars)()
    assert settings()[1:] == (bars in ("both", "ours"), bars not in ("both", "hub"))
    return settings()


def test_blocks_put_back_what_they_change_also_after_an_error(before):
    with errors_only():
        assert settings() == (transformers.logging.ERROR, False, True)
    assert settings() == before
    with pytest.raises(ValueError, match="on purpose"), no_progress_bars():
        assert settings() == (before[0], False, True)
        raise ValueError("on purpose")
    assert settings() == before


def test_checking_a_recipe_and_loading_a_model_to_predict_leave_them(before, tiny_model_dir, tmp_path):
    (tmp_path / "recipe.yaml").write_text("modifiers:\n  - !EpochRangeModifier {end_epoch: 1.0}\n")
    check(str(tmp_path / "recipe.yaml"), model_name=str(tiny_model_dir))
    assert settings() == before
    load_predictor(tiny_model_dir)
    assert settings() == before
