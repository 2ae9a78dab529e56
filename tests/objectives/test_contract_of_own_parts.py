"""The contract finds faults of losses and estimators that users write."""

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.objectives import LossModule
from torchrl.objectives.value import ValueEstimatorBase
from torchrl.testing import loss as loss_contract
from torchrl.testing import value as value_contract


class Regression(LossModule):
    """Squared errors of a network, one number an item."""

    def __init__(self):
        super().__init__()
        net = TensorDictModule(nn.Linear(3, 2), ["observation"], ["guess"])
        self.convert_to_functional(net, "network", create_target_params=True)
        self.in_keys, self.out_keys = ["observation", "truth"], ["loss_a", "loss_b"]

    def errors(self, td):
        return (self.network(td.select("observation"))["guess"] - td["truth"]).square()

    def losses(self, td):
        errors = self.errors(td)
        return {"loss_a": errors[..., 0], "loss_b": errors[..., 1]}


class OfAnotherShape(Regression):
    def losses(self, td):
        errors = self.errors(td)
        return {"loss_a": errors[..., 0], "loss_b": errors[..., 1:]}


class SummedOverItems(Regression):
    def losses(self, td):
        errors = self.errors(td)
        return {"loss_a": errors[..., 0].flatten()[:-1], "loss_b": errors[..., 1].flatten()[:-1]}


class ReadsWhatItDoesNotName(Regression):
    """Rows that do not count are cleaned only of the entries that are named."""

    def __init__(self):
        super().__init__()
        self.in_keys = ["observation"]


class TargetOfItsOwn(Regression):
    def __init__(self):
        super().__init__()
        self.target_network.module.weight.mul_(2.0)


class SharedTarget(Regression):
    def __init__(self):
        super().__init__()
        self.target_network.module.weight = self.network.module.weight.data


class HalfATarget(Regression):
    """The bias of the target is left out, which then trains with the network."""

    def __init__(self):
        super().__init__()
        twin = copy.deepcopy(self.target_network)
        del twin.module._buffers["bias"]
        twin.module.register_parameter("bias", nn.Parameter(self.network.module.bias.data.clone()))
        self.target_network = twin


def batch():
    torch.manual_seed(1)
    return TensorDict(observation=torch.randn(4, 3), truth=torch.randn(4, 2), batch_size=[4])


@pytest.mark.parametrize(
    ("check", "faulty"),
    [
        (loss_contract.unreduced_terms_add_up, OfAnotherShape),
        (loss_contract.unreduced_terms_add_up, SummedOverItems),
        (loss_contract.nan_in_excluded_rows_reaches_no_gradient, ReadsWhatItDoesNotName),
        (loss_contract.targets_follow, TargetOfItsOwn),
        (loss_contract.targets_follow, SharedTarget),
        (loss_contract.targets_follow, HalfATarget),
    ],
)
def test_the_contract_of_losses_finds_a_fault(check, faulty):
    check(Regression, batch)
    with pytest.raises(AssertionError):
        check(faulty, batch)


class Returns(ValueEstimatorBase):
    """Discounted rewards up to the end of an episode."""

    def returns(self, steps):
        reward, done = (x.movedim(steps.time_dim, 0) for x in (steps.reward, steps.done))
        total, out = torch.zeros_like(reward[0]), []
        for r, end in zip(reward.flip(0), done.flip(0), strict=True):
            total = r + steps.gamma * self.cut(total, end)
            out.append(total)
        return torch.stack(out[::-1]).movedim(0, steps.time_dim)

    def cut(self, total, end):
        return torch.where(end, 0.0, total)


class MultipliesByTheFlag(Returns):
    def cut(self, total, end):
        return total * ~end


class MeanOverTheBatch(Returns):
    def returns(self, steps):
        returns = super().returns(steps)
        return returns - returns.mean()


def trajectories():
    torch.manual_seed(1)
    done = torch.zeros(2, 5, 1, dtype=torch.bool)
    value = torch.randn(2, 5, 1)
    after = TensorDict(reward=torch.randn(2, 5, 1), done=done, terminated=done.clone(), state_value=value)
    after.batch_size = [2, 5]
    return TensorDict(state_value=value, next=after, batch_size=[2, 5])


@pytest.mark.parametrize("faulty", [MultipliesByTheFlag, MeanOverTheBatch])
def test_the_contract_of_estimators_finds_a_fault(faulty):
    def make(kind):
        return lambda: kind(gamma=0.9, value_network=None)

    value_contract.nan_stays_in_its_episode(make(Returns), trajectories)
    with pytest.raises(AssertionError):
        value_contract.nan_stays_in_its_episode(make(faulty), trajectories)
