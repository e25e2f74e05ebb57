"""Which models are trained and asked, and which are refused before that, in words?"""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from helpers.command_lines import command
from helpers.models import BART, SIZE
from run_qa import main
from sparsification.export.onnx import ExportError
from sparsification.export.verify import OnnxModel
from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering.models import check_model

HEADS = {"n_layer": 1, "n_head": 2, "initializer_range": 0.5}  # so that no two logits are close


def save(folder, tokenizer, family: str, **settings) -> str:
    """Save a random model with a tokenizer whose vocabulary it has, and give the folder."""
    ends = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(family, **settings | ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


RUN = {
    "bart": BART | {"max_position_embeddings": 64, "decoder_start_token_id": 3, "init_std": 0.5},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "xlnet": {"d_model": 16, "d_inner": 16, **HEADS},
    "gpt2": {"n_embd": 16, "n_positions": 64, **HEADS},
    "ibert": SIZE | {"max_position_embeddings": 65, "initializer_range": 0.5},
}


@pytest.mark.parametrize("family", RUN)
def test_model_is_trained_evaluated_and_exported(family, tiny_tokenizer, tiny_squad, tmp_path):
    source = save(tmp_path / "model", tiny_tokenizer, family, **RUN[family])
    flags = ["--do_train", "--do_eval", "--max_steps", "1", "--onnx_export_path", str(tmp_path / "onnx")]
    metrics = main(command(source, tiny_squad, tmp_path / "out", *flags))
    assert OnnxModel(tmp_path / "onnx" / "model.onnx").output_names == ["start_logits", "end_logits"]
    answers = [json.loads((tmp_path / f"out/{name}_predictions.json").read_text()) for name in ("eval", "eval_onnx")]
    assert answers[0] == answers[1] and len(answers[0]) == 6
    assert metrics["eval_onnx_f1"] == metrics["eval_f1"]


REFUSED = {
    "lxmert": (
        {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "l_layers": 1, "x_layers": 1}
        | {"r_layers": 1},
        r"LxmertForQuestionAnswering cannot be run on input_ids, .*`visual_feats` cannot be `None`",
    ),
    "nystromformer": (
        SIZE | {"max_position_embeddings": 64, "segment_means_seq_len": 64, "num_landmarks": 8},
        r"NystromformerForQuestionAnswering cannot be run on .* of 64 tokens, .*\(RuntimeError: ",
    ),
    "longformer": (
        SIZE | {"max_position_embeddings": 66, "attention_window": 8, "sep_token_id": 3},
        r"LongformerForQuestionAnswering cannot be run on .* three separator tokens",  # as its own tokenizer makes
    ),
}


@pytest.mark.parametrize("family", REFUSED)
def test_model_that_cannot_answer_is_refused_before_anything_is_written(family, tiny_tokenizer, tiny_squad, tmp_path):
    settings, message = REFUSED[family]
    source = save(tmp_path / "model", tiny_tokenizer, family, **settings)
    with pytest.raises(UsageError, match=message):
        main(command(source, tiny_squad, tmp_path / "out", "--do_train"))
    assert not (tmp_path / "out").exists()


def test_tokenizer_that_cannot_pad_is_refused(tiny_model_dir, tiny_squad, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    flags = ["--do_eval", "--tokenizer_name", str(tmp_path / "tokenizer")]
    with pytest.raises(UsageError, match="has no padding token, .*tokenizer.pad_token = tokenizer.eos_token"):
        main(command(tiny_model_dir, tiny_squad, tmp_path / "out", *flags))


def test_model_of_other_outputs_is_refused(tiny_model_dir, tiny_tokenizer):
    class Scored(type(AutoModelForQuestionAnswering.from_pretrained(tiny_model_dir))):
        def forward(self, input_ids):
            return super().forward(input_ids) | {"scores": torch.ones(1)}

    class Masked(Scored):
        def forward(self, boxes, input_ids):
            raise NotImplementedError

    for kind, message in (
        (Scored, "Scored returns start_logits, end_logits, scores"),
        (Masked, "Masked needs boxes"),
    ):
        with pytest.raises(UsageError, match=message):
            check_model(kind.from_pretrained(tiny_model_dir), tiny_tokenizer, "it", 16)


def test_trying_a_model_changes_neither_it_nor_random_numbers(tiny_model_dir, tiny_tokenizer):
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_model_dir).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = torch.random.get_rng_state()
    check_model(model, tiny_tokenizer, "it", 128)
    assert model.training and torch.equal(torch.random.get_rng_state(), numbers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_export_of_a_model_that_wants_whole_features_is_refused_in_words(tmp_path):
    from sparsification.export.onnx import export_onnx

    settings = SIZE | {"max_position_embeddings": 66, "attention_window": 8, "sep_token_id": 3, "pad_token_id": 1}
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model("longformer", **settings)).eval()
    ids = torch.full((2, 40), 7)
    ids[:, [5, 6, 39]] = 3
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    names = {"input_names": list(batch), "output_names": ["start_logits", "end_logits"]}
    with pytest.raises(ExportError, match="cannot be exported to ONNX: .* differs from batch"):
        export_onnx(model, tmp_path, **names, check_batches=[batch])
    assert list(tmp_path.iterdir()) == []
