"""Are the zeros, the changes of masks and the agreement with a teacher counted right?"""

import numpy as np
import pytest
import torch
from torch import nn

from sparsification.distillation.logits import agreement
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.pruning.sparsity import count_zeros, encoder_layers, encoder_sparsity


class Encoder(nn.Module):
    def __init__(self, layers: int):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.layer = nn.ModuleList(nn.Sequential(nn.Linear(4, 4 * (i + 1)), nn.LayerNorm(4)) for i in range(layers))


def test_zeros_of_the_encoder_are_those_of_its_matrices():
    model = Encoder(2)
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.layer[0][0].bias.zero_()
        model.layer[0][0].weight.view(-1)[:4] = 0.0
        model.layer[1][0].weight.zero_()
    assert encoder_sparsity(model) == {
        "sparsity/encoder": (4 + 32) / (16 + 32),
        "sparsity/layer.0": 0.25,
        "sparsity/layer.1": 1.0,
    }
    assert list(encoder_layers(model)) == ["layer.0", "layer.1"]
    assert encoder_sparsity(nn.Linear(2, 2)) == encoder_sparsity(Encoder(0)) == {}


def test_negative_zeros_are_zeros():
    assert count_zeros([torch.tensor([0.0, -0.0, 1e-45]), torch.empty(0)]) == [2, 0]
    assert count_zeros([]) == []


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 5)])
def test_agreement_is_the_share_of_features_with_every_largest_logit_in_its_place(shape):
    generator = np.random.default_rng(0)
    student, teacher = (generator.normal(size=(2, *shape)) for _ in range(2))
    student[:, :4] = teacher[:, :4] * 2  # four features agree, whatever the scale
    same = (student.argmax(-1) == teacher.argmax(-1)).all(0).reshape(6, -1).all(1)
    ours = agreement(list(torch.from_numpy(student)), list(torch.from_numpy(teacher)))
    assert ours.item() == pytest.approx(same.mean())
    assert ours.item() >= 4 / 6


def test_progress_is_told_of_what_takes_time_within_the_run():
    manager = ScheduledModifierManager.from_yaml(
        """
modifiers:
  - !EpochRangeModifier {end_epoch: 4.0}
  - !SetLearningRateModifier {start_epoch: 4.0, learning_rate: 0.1}
  - !SetWeightDecayModifier {start_epoch: 2.0, weight_decay: 0.1}
  - !LearningRateFunctionModifier {start_epoch: 0.0, end_epoch: 2.0, lr_func: linear, init_lr: 0.1, final_lr: 0.0}
"""
    )
    series = manager.metrics(TrainingStep(30, 10))
    assert {name: value for name, value in series.items() if name.endswith("/progress")} == {
        "EpochRangeModifier/progress": 0.75,
        "SetWeightDecayModifier/progress": 0.5,
        "LearningRateFunctionModifier/progress": 1.0,
    }
