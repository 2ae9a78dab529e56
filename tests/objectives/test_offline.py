"""IQL, CQL, behaviour cloning and decision transformers against the papers, by hand."""

import math

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import distributions as d
from torch import nn

from tests.objectives.oracles import ACTIONS, GAMMA, apart, assert_same, data, draw, huber
from torchrl.data import Bounded
from torchrl.objectives import BCLoss, CQLLoss, DiscreteCQLLoss, DiscreteIQLLoss, DTLoss, IQLLoss, OnlineDTLoss
from torchrl.testing.networks import (
    critic,
    deterministic_actor,
    discrete_actor,
    gaussian_actor,
    q_critic,
    q_network,
    tanh_normal,
    transitions,
)


def values(networks, *x):
    return torch.stack([n.module(*x).squeeze(-1) for n in networks])


def constant(networks, *x):
    """The same with constant parameters."""
    out = []
    for n in networks:
        params = {k: v.detach() for k, v in n.module.named_parameters()}
        out.append(torch.func.functional_call(n.module, params, x).squeeze(-1))
    return torch.stack(out)


def gaussian_log_prob(actor, obs, action):
    loc, scale = actor[0].module(obs)
    z = (action - loc) / scale
    return (-0.5 * z**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_iql(actions, expectile):
    loss = apart(
        IQLLoss(gaussian_actor(actions), q_critic(actions), critic(), gamma=GAMMA, expectile=expectile, temperature=3.0)
    )
    td, weight, reward, alive = data(actions, weights=True)
    obs, action = td["observation"], td["action"]
    v = lambda o: loss.value_network.module(o).squeeze(-1)
    with torch.no_grad():
        target = reward + GAMMA * alive * v(td["next", "observation"])
        lowest = values(loss.target("qvalue_network"), obs, action).amin(0)
    errors = values(loss.network("qvalue_network"), obs, action) - target
    gap = lowest - v(obs)
    side = (expectile - (gap < 0).float()).abs()
    boost = (3.0 * gap.detach()).exp().clamp(max=100)
    log_prob = gaussian_log_prob(loss.actor_network, obs, action)
    loc, scale = loss.actor_network[0].module(obs)
    expected = {
        "loss_actor": -(boost * log_prob).mean(),
        "loss_qvalue": (weight * huber(errors).sum(0)).mean(),
        "loss_value": (weight * side * gap**2).mean(),
        "entropy": d.Normal(loc, scale).entropy().sum(-1).mean().detach(),
    }
    assert_same(loss, td, expected)
    torch.testing.assert_close(td["td_error"], errors.abs().amax(0).detach())


def test_discrete_iql():
    loss = apart(DiscreteIQLLoss(discrete_actor(), q_network(), critic(), action_space="one_hot", gamma=GAMMA))
    td, weight, reward, alive = data(3, weights=True, discrete=True)
    obs, action = td["observation"], td["action"]
    taken = lambda networks: torch.stack([(n.module(obs) * action).sum(-1) for n in networks])
    v = lambda o: loss.value_network.module(o).squeeze(-1)
    with torch.no_grad():
        target = reward + GAMMA * alive * v(td["next", "observation"])
        lowest = taken(loss.target("qvalue_network")).amin(0)
    gap = lowest - v(obs)
    log_prob = (loss.actor_network[0].module(obs).log_softmax(-1) * action).sum(-1)
    expected = {
        "loss_actor": -(gap.detach().exp().clamp(max=100) * log_prob).mean(),
        "loss_qvalue": (weight * huber(taken(loss.network("qvalue_network")) - target).sum(0)).mean(),
        "loss_value": (weight * 0.5 * gap**2).mean(),
    }
    assert_same(loss, td, expected)


def test_iql_refuses_what_is_no_expectile():
    with pytest.raises(ValueError, match=r"IQLLoss: got an expectile that is none.*found 1\.5"):
        IQLLoss(gaussian_actor(), q_critic(), critic(), expectile=1.5)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("lagrange", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_cql(actions, lagrange, deterministic):
    low, high, count, heat, weight_of_penalty = -0.5, 1.5, 4, 0.7, 2.0
    loss = apart(
        CQLLoss(
            gaussian_actor(actions),
            q_critic(actions),
            action_spec=Bounded(low, high, (actions,)),
            gamma=GAMMA,
            alpha_init=0.3,
            num_random=count,
            temperature=heat,
            min_q_weight=weight_of_penalty,
            with_lagrange=lagrange,
            lagrange_thresh=0.5,
            deterministic_backup=deterministic,
        )
    )
    if lagrange:
        loss.log_alpha_prime.data.fill_(0.2)
    td, weight, reward, alive = data(actions, weights=True)
    obs, after, action = td["observation"], td["next", "observation"], td["action"]
    actor, q = loss.actor_network, loss.network("qvalue_network")
    torch.manual_seed(0)
    with torch.no_grad():
        next_action, next_log_prob = draw(actor, after)
        ahead = values(loss.target("qvalue_network"), after, next_action).amin(0)
        target = reward + GAMMA * alive * (ahead - (not deterministic) * 0.3 * next_log_prob)
    errors = values(q, obs, action) - target
    drawn, log_prob = draw(actor, obs)
    value = constant(q, obs, drawn).amin(0)
    _, again = draw(actor, obs)
    clone = (0.3 * again - gaussian_log_prob(actor, obs, action)).mean()
    with torch.no_grad():
        uniform = low + (high - low) * torch.rand(count, 32, actions)
        sets = [(uniform, torch.full((count, 32), -actions * math.log(high - low)))]
        sets += [draw(actor, o.expand(count, 32, -1)) for o in (obs, after)]
    pools = torch.cat([values(q, obs.expand(count, 32, -1), a) / heat - density for a, density in sets], 1)
    over = heat * (pools.exp().mean(1)).log() - values(q, obs, action)
    penalty = weight * weight_of_penalty * over  # of each critic
    expected = {
        "loss_actor": (0.3 * log_prob - value).mean(),
        "loss_actor_bc": clone,
        "loss_qvalue": (weight * huber(errors).sum(0)).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob - actions).detach()).mean(),
        "loss_cql": penalty.sum(0).mean(),
    }
    if lagrange:
        prime = loss.log_alpha_prime.exp()
        gap = penalty - weight * 0.5
        expected["loss_cql"] = prime.detach() * gap.sum(0).mean()
        expected["loss_alpha_prime"] = -prime * gap.detach().mean()
    assert_same(loss, td, expected)


def test_cql_may_bootstrap_from_the_best_of_several_actions():
    loss = CQLLoss(gaussian_actor(), q_critic(), gamma=GAMMA, num_random=5, max_q_backup=True)
    td = transitions()
    torch.manual_seed(0)
    with torch.no_grad():
        after = td["next", "observation"].expand(5, 6, 3)
        action, _ = draw(loss.actor_network, after)
        ahead = values(loss.target("qvalue_network"), after, action).amin(0).amax(0)
        alive = ~td["next", "terminated"].squeeze(-1)
        target = td["next", "reward"].squeeze(-1) + GAMMA * alive * ahead
        errors = values(loss.network("qvalue_network"), td["observation"], td["action"]) - target
    torch.manual_seed(0)
    torch.testing.assert_close(loss(td)["loss_qvalue"].detach(), huber(errors).sum(0).mean())


@pytest.mark.parametrize(("temperature", "factor"), [(1.0, 1.0), (0.5, 4.0)])
def test_discrete_cql(temperature, factor):
    net = q_network()
    options = {"temperature": temperature, "min_q_weight": factor, "gamma": GAMMA}
    loss = apart(DiscreteCQLLoss(net, action_space="one_hot", **options))
    td, weight, reward, alive = data(3, weights=True, discrete=True)
    with torch.no_grad():
        ahead = loss.target("value_network").module(td["next", "observation"]).amax(-1)
        target = reward + GAMMA * alive * ahead
    every = net.module(td["observation"])
    taken = (every * td["action"]).sum(-1)
    expected = {
        "loss_qvalue": (weight * (taken - target) ** 2).mean(),
        "loss_cql": factor * (weight * (temperature * (every / temperature).exp().sum(-1).log() - taken)).mean(),
        "pred_value": taken.mean().detach(),
        "target_value": target.mean(),
        "td_error": ((taken - target) ** 2).mean().detach(),
    }
    assert_same(loss, td, expected)


@pytest.mark.parametrize("actions", ACTIONS)
def test_behaviour_cloning(actions):
    td = transitions(actions, batch=(4, 8))
    obs, action = td["observation"], td["action"]
    actor = gaussian_actor(actions)
    expected = {"loss_bc": -gaussian_log_prob(actor, obs, action).mean()}
    assert_same(BCLoss(actor), td, expected)
    plain = deterministic_actor(actions)
    expected = {"loss_bc": ((plain.module(obs) - action) ** 2).mean()}
    assert_same(BCLoss(plain), td, expected)
    expected = {"loss_bc": (plain.module(obs) - action).abs().mean()}
    assert_same(BCLoss(plain, loss_function="l1"), td, expected)


@pytest.mark.parametrize("actions", ACTIONS)
def test_decision_transformer(actions):
    td = transitions(actions, batch=(4, 8))
    actor = deterministic_actor(actions)
    expected = {"loss": ((actor.module(td["observation"]) - td["action"]) ** 2).mean()}
    assert_same(DTLoss(actor), td, expected)


@pytest.mark.parametrize("actions", ACTIONS)
def test_online_decision_transformer(actions):
    td = transitions(actions, batch=(4, 8))
    actor = gaussian_actor(actions)
    loss = OnlineDTLoss(actor, alpha_init=0.3)
    _, scale = actor[0].module(td["observation"])
    entropy = (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
    log_prob = gaussian_log_prob(actor, td["observation"], td["action"])
    expected = {
        "loss_log_likelihood": -log_prob.mean(),
        "loss_entropy": -0.3 * entropy.mean(),
        "loss_alpha": (loss.log_alpha * (entropy + actions).detach()).mean(),
        "entropy": entropy.mean().detach(),
    }
    assert_same(loss, td, expected)
    assert loss.target_entropy == -actions
    OnlineDTLoss(gaussian_actor(actions, tanh_normal), samples_mc_entropy=3)(td)


@pytest.mark.slow
def test_conservative_values_of_actions_outside_the_data():
    """Actions are all 0; without the penalty, the critic may say anything elsewhere."""
    td = transitions(1, batch=(64,))
    td["action"] = torch.zeros(64, 1)
    loss = CQLLoss(gaussian_actor(1), q_critic(1), min_q_weight=5.0)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    for _ in range(100):
        loss(td).backward()
        optimizer.step()
        optimizer.zero_grad()
    inside = values(loss.network("qvalue_network"), td["observation"], td["action"])
    outside = values(loss.network("qvalue_network"), td["observation"], torch.ones(64, 1))
    assert inside.mean() > outside.mean()


@pytest.mark.slow
def test_iql_prefers_the_better_actions_of_the_data():
    """Half of the data acts well; the policy shall do as that half does."""
    td = transitions(1, batch=(64,))
    good = torch.arange(64).unsqueeze(-1) % 2 == 0
    td["action"] = torch.where(good, 0.5, -0.5)
    td["next", "reward"] = good.float()
    td["next", "terminated"] = td["next", "done"] = torch.ones(64, 1, dtype=torch.bool)
    actor = gaussian_actor(1)
    loss = IQLLoss(actor, q_critic(1), critic(), expectile=0.8, temperature=5.0)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    for _ in range(300):
        loss(td).backward()
        optimizer.step()
        optimizer.zero_grad()
    for twin, net in zip(loss.target("qvalue_network"), loss.network("qvalue_network"), strict=True):
        twin.load_state_dict(net.state_dict())
    for _ in range(200):
        loss(td).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert actor[0].module(td["observation"])[0].mean() > 0.2


def test_networks_that_read_several_entries():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        def forward(self, observation, goal):
            return self.net(torch.cat([observation, goal], -1))

    actor = TensorDictModule(Two(), ["observation", "goal"], ["action"])
    td = transitions().set("goal", torch.zeros(6, 1))
    loss = BCLoss(actor)
    assert set(loss.in_keys) == {"action", "observation", "goal"}
    assert loss(td)["loss_bc"].requires_grad
