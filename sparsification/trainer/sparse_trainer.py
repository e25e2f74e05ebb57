"""Transformers' Trainer with a recipe, for any task whose model returns a loss."""

from transformers import Trainer

from sparsification.trainer.mixin import SparseTrainerMixin


class SparseTrainer(SparseTrainerMixin, Trainer):
    """``Trainer`` that applies a recipe while it trains.

    Takes the arguments of ``Trainer``, and those of ``SparseTrainerMixin``: ``manager``, ``teacher``,
    ``teacher_inputs``, ``teacher_cache`` and ``best_model_after_epoch``.

    >>> from tempfile import TemporaryDirectory
    >>> from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
    >>> from sparsification import ScheduledModifierManager, SparseTrainer
    >>> manager = ScheduledModifierManager.from_yaml('''
    ... modifiers:
    ...   - !GMPruningModifier {params: ['re:.*query.weight'], final_sparsity: 0.75, start_epoch: 0.0, end_epoch: 1.0}
    ... ''')
    >>> model = BertForSequenceClassification(
    ...     BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ... )
    >>> rows = [{"input_ids": [1, 2, 3], "labels": number % 2} for number in range(8)]
    >>> with TemporaryDirectory() as folder:
    ...     args = TrainingArguments(
    ...         folder, num_train_epochs=2, report_to="none", disable_tqdm=True, save_strategy="no",
    ...         logging_strategy="no", use_cpu=True,
    ...     )
    ...     output = SparseTrainer(manager=manager, model=model, args=args, train_dataset=rows).train()
    {'train_runtime': ...}
    >>> float((model.bert.encoder.layer[0].attention.self.query.weight == 0).float().mean())
    0.75
    """
