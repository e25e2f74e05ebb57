#!/usr/bin/env python
"""Prune a model in a plain PyTorch loop, without Trainer, and export it.

    python examples/plain_loop.py --recipe recipe.yaml --output_dir out

The task is a toy: does a sequence of token ids hold more even ids than odd ones? Put your own model, batches
and optimizer in their places. Only the lines that use ``manager`` and the export concern the recipe. For a recipe that
distills, or that prunes by gradients of single batches, use ``sparsification.plain_loop.PlainLoop``, which takes a
teacher and a gradient sampler, in place of ``manager.modify``.
"""

import argparse

import torch
from transformers import BertConfig, BertForSequenceClassification

from sparsification import ScheduledModifierManager, export_onnx

STEPS_PER_EPOCH = 8


def make_batch(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Make a batch of 16 sequences of 12 token ids, and their labels."""
    ids = torch.randint(1, 64, (16, 12), generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ((ids % 2 == 0).sum(1) > 6).long(),
    }


def main(argv: list[str] | None = None) -> None:
    """Train for ``--num_epochs``, or for as long as the recipe says, and write ``model.onnx``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_epochs", type=int, default=3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    manager = ScheduledModifierManager.from_yaml(args.recipe)
    optimizer = manager.modify(model, optimizer, STEPS_PER_EPOCH)
    for _ in range(int((manager.max_epochs or args.num_epochs) * STEPS_PER_EPOCH)):
        batch = make_batch(generator)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    manager.finalize()

    report = export_onnx(
        model.eval(),
        args.output_dir,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        check_batches=[make_batch(generator)],
    )
    print(f"{report.path}: {manager.sparsity()['sparsity/encoder']:.1%} of the encoder's weights are zero")


if __name__ == "__main__":
    main()
