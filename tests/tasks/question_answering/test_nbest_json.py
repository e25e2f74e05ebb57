"""JSON files of n-best lists."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.two_questions import two_questions
from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.nbest_json import _NBestText, write_json


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.floats(), st.floats(width=32)), min_size=1, max_size=5))
def test_n_best_lists_are_written_as_json_writes_them(rows):
    content = _NBestText()
    texts, numbers, others = [text for text, _, _ in rows], [row[1] for row in rows], [row[2] for row in rows]
    for name in texts:
        content.add(name, texts, np.array(numbers), np.array(others), np.array(others))
    written = io.StringIO()
    content.write_to(written)
    keys = ("text", "probability", "start_logit", "end_logit")
    records = [
        dict(zip(keys, (text, one, other, other), strict=True))
        for text, one, other in zip(texts, numbers, others, strict=True)
    ]
    lists = [json.dumps({name: records}, indent=4)[2:-2] for name in texts]
    assert written.getvalue() == "{\n" + ",\n".join(lists) + "\n}"


def test_files_carry_the_prefix_and_no_unfinished_file_stays(tmp_path):
    examples, features, logits = two_questions()
    postprocess_qa_predictions(examples, features, logits, output_dir=str(tmp_path / "new"), prefix="eval")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"eval_predictions.json", "eval_nbest_predictions.json"}
    postprocess_qa_predictions(examples, features, logits, True, output_dir=str(tmp_path / "new"), prefix="eval")
    assert {path.name for path in (tmp_path / "new").iterdir()} == names | {"eval_null_odds.json"}


def test_failed_writing_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


texts = st.lists(st.sampled_from(["the", "red", "Red", "car.", "car", "a", "sea", "(sea)"]), max_size=4).map(" ".join)
