"""What the contract checks of losses do besides checking."""

import warnings

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl.objectives import DQNLoss
from torchrl.testing import check_loss
from torchrl.testing.loss import CHECKS


def test_a_loss_with_target_networks_is_checked_without_a_warning_about_them():
    def make():
        network = TensorDictModule(torch.nn.Linear(3, 2), ["observation"], ["action_value"])
        return DQNLoss(network, action_space="categorical")

    def batch():
        flag = torch.zeros(4, 1, dtype=torch.bool)
        after = {"observation": torch.ones(4, 3), "reward": flag.float(), "done": flag, "terminated": flag}
        start = {"observation": torch.zeros(4, 3), "action": torch.arange(4) % 2}
        return TensorDict({**start, "next": TensorDict(after, [4])}, [4])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_loss(make, batch, skip=[check.__name__ for check in CHECKS if check.__name__ != "finite_scalars"])
    assert not caught, [str(each.message) for each in caught]
