"""Losses of continuous control solve a probe."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn

from torchrl.objectives import CrossQLoss, DDPGLoss, REDQLoss, SACLoss, SoftUpdate, TD3BCLoss, TD3Loss, TQCLoss
from torchrl.testing.networks import gaussian_actor

# a probe whose best action depends on the observation


def bandit(batch=64):
    obs = torch.rand(batch, 1) * 2 - 1
    action = torch.rand(batch, 1) * 2 - 1
    flag = torch.ones(batch, 1, dtype=torch.bool)
    reward = -((action - 0.5 * obs) ** 2)
    after = TensorDict(observation=obs, reward=reward, done=flag, terminated=flag, batch_size=batch)
    return TensorDict(observation=obs, action=action, next=after, batch_size=batch)


def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


class Joint(nn.Module):
    def __init__(self, outputs=1):
        super().__init__()
        self.net = net(2, outputs)

    def forward(self, *x):
        return self.net(torch.cat(x, -1))


LEARNERS = {
    "ddpg": lambda pi, gauss, q, qs: DDPGLoss(pi, q),
    "td3": lambda pi, gauss, q, qs: TD3Loss(pi, q, bounds=(-1, 1)),
    "td3+bc": lambda pi, gauss, q, qs: TD3BCLoss(pi, q, bounds=(-1, 1), alpha=20.0),
    "sac": lambda pi, gauss, q, qs: SACLoss(gauss, q, alpha_init=0.01, fixed_alpha=True),
    "redq": lambda pi, gauss, q, qs: REDQLoss(
        gauss, q, num_qvalue_nets=3, alpha_init=0.1, max_alpha=0.1, fixed_alpha=True
    ),
    "crossq": lambda pi, gauss, q, qs: CrossQLoss(gauss, q, alpha_init=0.01, fixed_alpha=True),
    "tqc": lambda pi, gauss, q, qs: TQCLoss(gauss, qs, alpha_init=0.01, fixed_alpha=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_learns_an_action_that_depends_on_the_observation(name):
    pi = TensorDictModule(net(1, 1), ["observation"], ["action"])
    gauss = gaussian_actor(1)
    head = nn.Sequential(net(1, 2), gauss[0].module[1])
    gauss = ProbabilisticTensorDictSequential(TensorDictModule(head, ["observation"], ["loc", "scale"]), gauss[1])
    q, qs = (TensorDictModule(Joint(n), ["observation", "action"], ["state_action_value"]) for n in (1, 5))
    loss = LEARNERS[name](pi, gauss, q, qs)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    updater = SoftUpdate(loss, tau=0.05) if loss.target_pairs() else None
    for _ in range(700):
        loss(bandit()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if updater is not None:
            updater.step()
    obs = torch.linspace(-0.8, 0.8, 9).unsqueeze(-1)
    best = pi.module(obs) if loss.actor_network is pi else gauss[0].module(obs)[0]
    assert (best - 0.5 * obs).abs().max() < 0.25, best.T
