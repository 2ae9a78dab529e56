"""Gradients into a critic are those of the rows that count, whatever padding holds."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.objectives.value import GAE, TD0Estimator, TD1Estimator, TDLambdaEstimator

MAKE = {
    "gae": lambda **kw: GAE(lmbda=0.8, **kw),
    "averaged gae": lambda **kw: GAE(lmbda=0.8, average_gae=True, **kw),
    "td_lambda": lambda **kw: TDLambdaEstimator(lmbda=0.8, **kw),
    "td0": TD0Estimator,
    "td1": TD1Estimator,
}


def trajectories(padding=None):
    torch.manual_seed(1)
    done = torch.zeros(2, 6, 1, dtype=torch.bool)
    done[0, 3] = True
    obs, after = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    next_root = {"observation": after, "reward": torch.randn(2, 6, 1), "done": done}
    td = TensorDict(observation=obs, batch_size=[2, 6])
    td["next"] = TensorDict({**next_root, "terminated": done.clone()}, batch_size=[2, 6])
    td["collector", "mask"] = torch.ones(2, 6, dtype=torch.bool)
    td["collector", "mask"][0, 4:] = False
    if padding is not None:
        for key in ("observation", ("next", "observation"), ("next", "reward")):
            td[key][0, 4:] = padding
    return td


@pytest.mark.parametrize("padding", [float("nan"), float("inf")])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_padding_reaches_no_gradient(name, shifted, padding):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    critic = TensorDictModule(net, ["observation"], ["state_value"])
    estimator = MAKE[name](gamma=0.9, value_network=critic, shifted=shifted, differentiable=True)
    grads = []
    for td in (trajectories(), trajectories(padding)):
        mask = td["collector", "mask"]
        params = TensorDict.from_module(critic)
        estimator(td, params=params)
        total = td["advantage"][mask].sum() + td["value_target"][mask].square().sum()
        target = estimator.value_estimate(td, target_params=params)[mask].sum()
        grads.append(torch.autograd.grad(total + target, list(net.parameters())))
    torch.testing.assert_close(grads[1], grads[0])
