"""A small BERT with quantization ranges from a few batches."""

import torch
from golden_run import load_model

from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep

RECIPE = """
modifiers:
  - !QuantizationModifier
      start_epoch: {start}
      disable_quantization_observer_epoch: {frozen}
      submodules: [bert.embeddings, bert.encoder, qa_outputs]
"""


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (4, 16), generator=generator)
    mask = torch.ones(4, 16, dtype=torch.long)
    mask[1, 10:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def quantized_model(recipe: str = RECIPE.format(start=0, frozen=1), batches: int = 3):
    model = load_model("model_student")
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(model)
    manager.on_train_begin(TrainingStep(0, 10))
    for seed in range(batches):
        model(**batch(seed))
    manager.finalize()
    return model.eval(), manager
