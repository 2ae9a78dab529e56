"""REDQ, CrossQ and TQC against the papers, written by hand."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from tests.objectives.oracles import ACTIONS, GAMMA, apart, assert_same, data, draw, huber, sac_by_hand
from torchrl.objectives import CrossQLoss, REDQLoss, TQCLoss
from torchrl.testing.networks import OBS, gaussian_actor, q_critic, transitions


@pytest.mark.parametrize("actions", ACTIONS)
def test_redq(actions):
    loss = apart(REDQLoss(gaussian_actor(actions), q_critic(actions), num_qvalue_nets=5, gamma=GAMMA, alpha_init=0.3))
    td, *rest = data(actions, weights=True)
    torch.manual_seed(0)
    expected, _ = sac_by_hand(loss, td, *rest, subset=2, mean=True, target_entropy=-actions)
    out = assert_same(loss, td, expected)
    assert out["state_action_value_actor"].shape == (5, 32)
    with pytest.raises(ValueError, match=r"sub_sample_len of 1 or more, found 0"):
        REDQLoss(gaussian_actor(), q_critic(), num_qvalue_nets=5, sub_sample_len=0)


class Normed(nn.Module):
    """A critic whose output depends on the rest of the batch."""

    def __init__(self, actions):
        super().__init__()
        self.norm = nn.BatchNorm1d(OBS + actions)
        self.net = nn.Linear(OBS + actions, 1)

    def forward(self, *x):
        return self.net(self.norm(torch.cat(x, -1)))


@pytest.mark.parametrize("actions", ACTIONS)
def test_crossq(actions):
    q = TensorDictModule(Normed(actions), ["observation", "action"], ["state_action_value"])
    loss = apart(CrossQLoss(gaussian_actor(actions), q, gamma=GAMMA, alpha_init=0.3))
    td, weight, reward, alive = data(actions, weights=True)
    obs, after = td["observation"], td["next", "observation"]
    statistics = [{k: v.clone() for k, v in n.module.named_buffers()} for n in loss.network("qvalue_network")]

    def evaluate(training, *x, detach):
        """Every critic on these inputs, on statistics of its own."""
        out = []
        for n, buffers in zip(loss.network("qvalue_network"), statistics, strict=True):
            params = {k: v.detach() if detach else v for k, v in n.module.named_parameters()}
            n.train(training)
            out.append(torch.func.functional_call(n.module, {**params, **buffers}, x).squeeze(-1))
            n.train()
        return torch.stack(out)

    torch.manual_seed(0)
    with torch.no_grad():
        next_action, next_log_prob = draw(loss.actor_network, after)
    rows = torch.cat([obs, after]), torch.cat([td["action"], next_action])
    predicted, ahead = evaluate(True, *rows, detach=False).chunk(2, -1)
    soft = ahead.amin(0) - 0.3 * next_log_prob
    errors = predicted - (reward + GAMMA * alive * soft).detach()
    action, log_prob = draw(loss.actor_network, obs)
    value = evaluate(False, obs, action, detach=True).amin(0)
    expected = {
        "loss_actor": (0.3 * log_prob - value).mean(),
        "loss_qvalue": (weight * huber(errors).sum(0)).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob - actions).detach()).mean(),
    }
    assert_same(loss, td, expected)
    assert all(n.training for n in loss.network("qvalue_network"))
    assert not hasattr(loss, "target_qvalue_network")


@pytest.mark.parametrize("actions", ACTIONS)
def test_tqc(actions):
    loss = apart(
        TQCLoss(
            gaussian_actor(actions),
            q_critic(actions, 4),
            num_qvalue_nets=3,
            top_quantiles_to_drop_per_net=1,
            gamma=GAMMA,
            alpha_init=0.3,
        )
    )
    td, weight, reward, alive = data(actions, weights=True, batch=8)
    obs, after = td["observation"], td["next", "observation"]
    torch.manual_seed(0)
    with torch.no_grad():
        next_action, next_log_prob = draw(loss.actor_network, after)
        pooled = torch.cat([n.module(after, next_action) for n in loss.target("qvalue_network")], -1)
        kept = pooled.sort(-1).values[:, :9] - 0.3 * next_log_prob.unsqueeze(-1)
        target = reward.unsqueeze(-1) + GAMMA * alive.unsqueeze(-1) * kept
    total = 0
    for n in loss.network("qvalue_network"):
        quantiles = n.module(obs, td["action"])
        for i in range(4):
            u = target - quantiles[:, i : i + 1]
            total = total + ((i + 0.5) / 4 - (u < 0).float()).abs() * huber(u)
    action, log_prob = draw(loss.actor_network, obs)
    params = [{k: v.detach() for k, v in n.module.named_parameters()} for n in loss.network("qvalue_network")]
    value = torch.stack(
        [
            torch.func.functional_call(n.module, p, (obs, action))
            for n, p in zip(loss.network("qvalue_network"), params, strict=True)
        ]
    ).mean((0, -1))
    expected = {
        "loss_actor": (0.3 * log_prob - value).mean(),
        "loss_qvalue": (weight * total.mean(-1) / 12).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob - actions).detach()).mean(),
    }
    assert_same(loss, td, expected)
    with pytest.raises(ValueError, match=r"TQCLoss: drops all quantiles; expected less than 8"):
        TQCLoss(gaussian_actor(), q_critic(2, 4), num_qvalue_nets=2, top_quantiles_to_drop_per_net=4)(transitions())
