"""Losses as functions."""

import pytest
import torch
from torch import nn

from torchrl._core.errors import ShapeError
from torchrl._core.math import cross_entropy_loss


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_cross_entropy_of_indices_and_of_one_hot_actions(batch):
    logits = torch.randn(*batch, 5)
    action = torch.randint(5, batch)
    expected = -nn.functional.cross_entropy(logits.reshape(-1, 5), action.reshape(-1), reduction="none").reshape(batch)
    log_policy = logits.log_softmax(-1)
    one_hot = nn.functional.one_hot(action, 5)
    torch.testing.assert_close(cross_entropy_loss(log_policy, action), expected)
    before = log_policy.clone()
    torch.testing.assert_close(cross_entropy_loss(log_policy, one_hot), expected)
    assert torch.equal(log_policy, before)
    torch.testing.assert_close(cross_entropy_loss(log_policy, one_hot, inplace=True), expected)
    assert torch.equal(log_policy, before * one_hot)


def test_impossible_actions_have_no_say():
    log_policy = torch.tensor([[0.0, -torch.inf]])
    assert cross_entropy_loss(log_policy, torch.tensor([[1, 0]])) == 0


def test_actions_of_another_shape():
    with pytest.raises(ShapeError, match=r"cross_entropy_loss.*\[4\] or \[4, 3\], found \[4, 1\]"):
        cross_entropy_loss(torch.zeros(4, 3), torch.zeros(4, 1))
