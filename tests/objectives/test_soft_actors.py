"""SAC, continuous and discrete, against the papers, written by hand."""

import math

import pytest
import torch
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import distributions as d
from torch import nn

from tests.objectives.oracles import (
    ACTIONS,
    GAMMA,
    apart,
    assert_same,
    data,
    draw,
    huber,
    q_of,
    sac_by_hand,
    without_gradient,
)
from torchrl.data import Bounded, Composite, OneHot
from torchrl.modules import ProbabilisticActor, TanhNormal
from torchrl.objectives import CQLLoss, CrossQLoss, DiscreteSACLoss, REDQLoss, SACLoss, TQCLoss
from torchrl.testing.networks import (
    OBS,
    Concat,
    composite_actor,
    critic,
    discrete_actor,
    gaussian_actor,
    q_critic,
    q_network,
    tanh_normal,
    transitions,
    two_actions,
)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(
    ("delay_actor", "delay_qvalue", "weights"), [(False, True, False), (True, True, True), (False, False, False)]
)
def test_sac(actions, delay_actor, delay_qvalue, weights):
    loss = apart(
        SACLoss(
            gaussian_actor(actions),
            q_critic(actions),
            gamma=GAMMA,
            alpha_init=0.3,
            delay_actor=delay_actor,
            delay_qvalue=delay_qvalue,
        )
    )
    td, *rest = data(actions, weights)
    torch.manual_seed(0)
    expected, errors = sac_by_hand(loss, td, *rest, target_entropy=-actions)
    assert_same(loss, td, expected)
    assert loss.target_entropy == -actions
    torch.testing.assert_close(td["td_error"], errors.abs().amax(0).detach())


@pytest.mark.parametrize("actions", ACTIONS)
def test_sac_with_a_value_network(actions):
    loss = apart(SACLoss(gaussian_actor(actions), q_critic(actions), critic(), gamma=GAMMA, alpha_init=0.3))
    td, weight, reward, alive = data(actions, weights=True)
    obs, after = td["observation"], td["next", "observation"]
    with torch.no_grad():
        ahead = loss.target("value_network").module(after).squeeze(-1)
        target = reward + GAMMA * alive * ahead
    errors = torch.stack([q_of(n)(obs, td["action"]) for n in loss.network("qvalue_network")]) - target
    torch.manual_seed(0)
    action, log_prob = draw(loss.actor_network, obs)
    value = torch.stack([without_gradient(n)(obs, action) for n in loss.network("qvalue_network")]).amin(0)
    now = loss.value_network.module(obs).squeeze(-1)
    expected = {
        "loss_actor": (0.3 * log_prob - value).mean(),
        "loss_qvalue": (weight * huber(errors).sum(0)).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob - actions).detach()).mean(),
        "loss_value": (weight * huber(now - (value - 0.3 * log_prob).detach())).mean(),
    }
    assert_same(loss, td, expected)
    assert not hasattr(loss, "target_qvalue_network")


def test_temperature():
    fixed = SACLoss(gaussian_actor(), q_critic(), fixed_alpha=True, alpha_init=0.2)
    assert not any("alpha" in name for name, _ in fixed.named_parameters())
    torch.testing.assert_close(fixed(transitions())["alpha"], torch.tensor(0.2))
    limited = SACLoss(gaussian_actor(), q_critic(), min_alpha=0.5, max_alpha=2.0)
    for far, limit in ((10.0, 2.0), (-10.0, 0.5)):
        limited.log_alpha.data.fill_(far)
        torch.testing.assert_close(limited(transitions())["alpha"], torch.tensor(limit))
    with pytest.raises(ValueError, match=r"alpha_init out of its limits.*\[0\.0, 0\.5\], found 1"):
        SACLoss(gaussian_actor(), q_critic(), max_alpha=0.5)


GROUP = Composite(agents=Composite(action=Bounded(-1, 1, (3, 2)), shape=(3,)))
SPECS = {
    "flat": (Bounded(-1, 1, (17,)), "action", 17),
    "in a composite": (Composite(action=Bounded(-1, 1, (6,))), "action", 6),
    "nested": (Composite(robot=Composite(arm=Bounded(-1, 1, (4,)))), ("robot", "arm"), 4),
    "matrix": (Composite(action=Bounded(-1, 1, (2, 3))), "action", 6),
    "batched": (Composite(action=Bounded(-1, 1, (5, 6)), shape=(5,)), "action", 6),
    "multi-agent": (GROUP, ("agents", "action"), 2),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", [SACLoss, REDQLoss, CrossQLoss, TQCLoss])
def test_automatic_target_entropy_is_minus_the_dimension(name, kind):
    spec, key, dims = SPECS[name]
    head = ProbabilisticTensorDictModule(["loc", "scale"], [key], distribution_class=d.Normal)
    actor = ProbabilisticTensorDictSequential(gaussian_actor()[0], head)
    actor.spec = spec
    assert kind(actor, q_critic()).target_entropy == -dims
    assert kind(gaussian_actor(), q_critic(), target_entropy=-1.5).target_entropy == -1.5


def test_target_entropy_of_several_heads():
    spec = Composite(a=Bounded(-1, 1, (1,)), b=Bounded(-1, 1, (1,)))
    q = TensorDictModule(Concat(OBS + 2), ["observation", "a", "b"], ["state_action_value"])
    for given in (spec, None):  # without a spec, the first batch tells
        loss = SACLoss(composite_actor(), q, action_spec=given)
        loss(two_actions())
        assert loss.target_entropy == -2


def test_sac_needs_actions_with_gradients():
    with pytest.raises(TypeError, match=r"SACLoss: needs actions with a gradient.*rsample"):
        SACLoss(discrete_actor(), q_critic(3), target_entropy=0.0)(transitions(3))


def test_sac_on_a_squashed_policy():
    """The log-probability has the correction for the squashing."""
    actor = gaussian_actor(2, tanh_normal)
    loss = SACLoss(actor, q_critic(), gamma=GAMMA)
    td = transitions()
    torch.manual_seed(0)
    with torch.no_grad():
        draw(actor, td["next", "observation"])
        loc, scale = actor[0].module(td["observation"])
        u = loc + scale * torch.randn_like(loc)
        gaussian = d.Normal(loc, scale).log_prob(u).sum(-1)
        log_prob = gaussian - 2 * (math.log(2) - u - nn.functional.softplus(-2 * u)).sum(-1)
    torch.manual_seed(0)
    torch.testing.assert_close(loss(td)["entropy"], -log_prob.mean(), atol=1e-4, rtol=1e-4)


class Edge(nn.Module):
    """Parameters of a squashed policy whose draws all round to an end of the range."""

    def __init__(self, copies):
        super().__init__()
        self.loc, self.copies = nn.Parameter(torch.tensor(20.0)), copies

    def forward(self, observation):
        loc = self.loc.expand(*observation.shape[:-1], 2)
        return (loc, torch.full_like(loc, 1e-3)) * self.copies


def certain_of_an_edge(composite):
    if not composite:
        return ProbabilisticActor(
            TensorDictModule(Edge(1), ["observation"], ["loc", "scale"]),
            ["loc", "scale"],
            distribution_class=TanhNormal,
            spec=Bounded(-1, 1, (2,)),
        )
    keys = [("params", head, name) for head in "ab" for name in ("loc", "scale")]
    return ProbabilisticTensorDictSequential(
        TensorDictModule(Edge(2), ["observation"], keys),
        ProbabilisticTensorDictModule(
            ["params"],
            ["a", "b"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={"distribution_map": {"a": TanhNormal, "b": TanhNormal}},
        ),
    )


@pytest.mark.parametrize("composite", [False, True], ids=["one head", "two heads"])
@pytest.mark.parametrize("make", [SACLoss, REDQLoss, CrossQLoss, TQCLoss])
def test_actions_at_an_edge_are_scored_by_the_noise_that_drew_them(make, composite):
    torch.manual_seed(0)
    names = ["a", "b"] if composite else ["action"]
    q = TensorDictModule(
        Concat(OBS + 2 * len(names), 5 if make is TQCLoss else 1), ["observation", *names], ["state_action_value"]
    )
    td = transitions(actions=2)
    for name in names:
        td[name] = td["action"]
    loss = make(certain_of_an_edge(composite), q, alpha_init=1.0)
    out = loss(td.select(*loss.in_keys))
    # each number of an action: log N(noise) - log scale - log(1 - tanh(x)^2), x = 20
    density = -0.5 - 0.5 * math.log(2 * math.pi) + math.log(1e3) - 2 * (math.log(2) - 20)
    assert (-out["entropy"]).item() == pytest.approx(2 * len(names) * density, rel=0.05)
    assert all(value.abs().max() < 1e5 for key, value in out.items() if "loss" in key)
    out["loss_actor"].backward()
    slope = 2.0 * 2 * len(names)  # of -log(1 - tanh(x)^2), far out, in each number
    assert loss.actor_network[0].module.loc.grad.item() == pytest.approx(slope, rel=0.01)


@pytest.mark.parametrize("actions", [2, 17])
def test_discrete_sac(actions):
    loss = apart(
        DiscreteSACLoss(
            discrete_actor(actions),
            q_network(actions),
            action_space="one_hot",
            num_actions=actions,
            gamma=GAMMA,
            alpha_init=0.3,
        )
    )
    td = transitions(actions, discrete=True, batch=(32,))
    obs, after = td["observation"], td["next", "observation"]
    policy = lambda o: loss.actor_network[0].module(o).log_softmax(-1)
    reward, alive = td["next", "reward"].squeeze(-1), ~td["next", "terminated"].squeeze(-1)
    with torch.no_grad():
        log_p = policy(after)
        ahead = torch.stack([n.module(after) for n in loss.target("qvalue_network")]).amin(0)
        target = reward + GAMMA * alive * (log_p.exp() * (ahead - 0.3 * log_p)).sum(-1)
    values = torch.stack([n.module(obs) for n in loss.network("qvalue_network")])
    errors = (values * td["action"]).sum(-1) - target
    log_p = policy(obs)
    entropy = -(log_p.exp() * log_p).sum(-1)
    goal = 0.98 * math.log(actions)
    expected = {
        "loss_actor": (log_p.exp() * (0.3 * log_p - values.detach().amin(0))).sum(-1).mean(),
        "loss_qvalue": huber(errors).sum(0).mean(),
        "loss_alpha": (loss.log_alpha * (entropy - goal).detach()).mean(),
        "entropy": entropy.mean().detach(),
    }
    assert_same(loss, td, expected)
    torch.testing.assert_close(td["td_error"], errors.abs().amax(0).detach())
    for spec in (OneHot(actions), Composite(action=OneHot(actions))):
        told = DiscreteSACLoss(discrete_actor(actions), q_network(actions), action_space=spec)
        torch.testing.assert_close(told.target_entropy, torch.tensor(goal))
    with pytest.raises(ValueError, match=r"cannot tell the target entropy. Give num_actions"):
        DiscreteSACLoss(discrete_actor(), q_network(), action_space="one_hot")


def test_cql_draws_actions_of_one_name():
    with pytest.raises(TypeError, match=r"CQLLoss: draws uniform actions of one name.*'b'"):
        CQLLoss(certain_of_an_edge(composite=True), q_critic())
