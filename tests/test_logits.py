"""Logits as distributions: which outputs count, and labels that are drawn from them, against closed forms."""

import pytest
import torch

from sparsification.logits import distributions, drawn_label_loss

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])


def test_covariance_of_the_gradients_for_drawn_labels_is_the_fisher_matrix():
    logits = torch.tensor([0.3, -1.0, 1.5, 0.0])
    rows = logits.repeat(20_000, 1).requires_grad_()
    drawn_label_loss([rows], torch.Generator().manual_seed(0)).backward()
    gradients = len(rows) * rows.grad  # p - e_y of each draw
    p = logits.softmax(0)
    expected = torch.diag(p) - torch.outer(p, p)  # the Hessian of the negative log-likelihood, whatever the label
    torch.testing.assert_close(gradients.T @ gradients / len(rows), expected, rtol=0, atol=0.01)
    torch.testing.assert_close(gradients.mean(dim=0), torch.zeros(4), rtol=0, atol=0.01)


def test_loss_for_drawn_labels_is_the_entropy_on_average_over_rows_and_outputs():
    logits = [torch.tensor([0.3, -1.0, 1.5]).repeat(20_000, 1), torch.zeros(20_000, 8)]
    entropies = [torch.distributions.Categorical(logits=values[0]).entropy() for values in logits]
    loss = drawn_label_loss(logits, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(sum(entropies).item() / 2, abs=0.02)


def test_no_label_is_drawn_at_a_padded_position():
    logits = torch.zeros(2, 4, requires_grad=True)
    masked = distributions({"start_logits": logits}, MASK)["start_logits"]
    for seed in range(20):
        drawn_label_loss([masked], torch.Generator().manual_seed(seed)).backward(retain_graph=True)
    assert (logits.grad[MASK == 0] == 0).all()
    assert (logits.grad[0, :3] != 0).all()


def test_logits_of_each_token_are_the_rows_of_the_real_tokens():
    logits = torch.randn(2, 4, 3)
    outputs = {"loss": torch.tensor(1.0), "logits": logits, "hidden_states": torch.randn(2, 4, 8)}
    assert torch.equal(distributions(outputs, MASK)["logits"], torch.cat([logits[0, :3], logits[1, :1]]))
    assert list(distributions(outputs, None)) == ["logits"]
    assert distributions(outputs, None)["logits"] is logits


def test_logits_of_classes_are_left_as_they_are():
    logits = torch.randn(2, 3)
    assert distributions({"logits": logits}, MASK)["logits"] is logits


@pytest.mark.parametrize("outputs", [{"loss": torch.tensor(1.0)}, {"logits": torch.randn(2, 1)}])
def test_outputs_that_are_no_distributions_are_refused(outputs):
    with pytest.raises(ValueError, match="must be logits of at least two classes, got (none|logits)"):
        distributions(outputs, MASK)
