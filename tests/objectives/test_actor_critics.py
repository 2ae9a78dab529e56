"""DDPG, TD3, SAC and their kin against the papers, written by hand."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import distributions as d
from torch import nn

from torchrl.data import Bounded, Composite, OneHot
from torchrl.objectives import (
    CrossQLoss,
    DDPGLoss,
    DiscreteSACLoss,
    REDQLoss,
    SACLoss,
    SoftUpdate,
    TD3BCLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.testing.networks import (
    OBS,
    critic,
    deterministic_actor,
    discrete_actor,
    gaussian_actor,
    q_critic,
    q_network,
    tanh_normal,
    transitions,
)

ACTIONS = [1, 2, 17]
GAMMA = 0.9


def apart(loss):
    """Move the networks away from their targets."""
    with torch.no_grad():
        for name, p in loss.named_parameters():
            if "alpha" not in name:
                p.add_(0.2 * torch.randn_like(p))
    return loss


def data(actions, weights=False, batch=32):
    td = transitions(actions, batch=(batch,))
    weight = torch.rand(batch) if weights else torch.ones(batch)
    if weights:
        td["priority_weight"] = weight.unsqueeze(-1)
    alive = 1 - td["next", "terminated"].squeeze(-1).float()
    return td, weight, td["next", "reward"].squeeze(-1), alive


def q_of(net):
    return lambda obs, action: net.module(obs, action).squeeze(-1)


def huber(x):
    return torch.where(x.abs() < 1, 0.5 * x**2, x.abs() - 0.5)


def assert_same(loss, td, expected, seed=0):
    """Compare every loss, and the gradient of their sum."""
    torch.manual_seed(seed)
    out = loss(td)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, atol=1e-5, rtol=1e-5, msg=name)
    parameters = list(loss.parameters())
    got = torch.autograd.grad(
        sum(v for k, v in out.items() if k.startswith("loss")), parameters, allow_unused=True
    )
    want = torch.autograd.grad(
        sum(v for k, v in expected.items() if k.startswith("loss")), parameters, allow_unused=True
    )
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    return out


def without_gradient(net):
    """The same function of its inputs, with constant parameters."""
    params = {k: v.detach() for k, v in net.module.named_parameters()}
    return lambda *x: torch.func.functional_call(net.module, params, x).squeeze(-1)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(
    ("delay_actor", "delay_value", "weights"),
    [(False, True, False), (True, True, True), (False, False, False)],
)
def test_ddpg(actions, delay_actor, delay_value, weights):
    loss = apart(
        DDPGLoss(
            deterministic_actor(actions),
            q_critic(actions),
            gamma=GAMMA,
            delay_actor=delay_actor,
            delay_value=delay_value,
        )
    )
    td, weight, reward, alive = data(actions, weights)
    obs, after = td["observation"], td["next", "observation"]
    pi, q = loss.actor_network.module, q_of(loss.value_network)
    with torch.no_grad():
        next_action = loss.target("actor_network").module(after)
        target = reward + GAMMA * alive * q_of(loss.target("value_network"))(after, next_action)
    predicted = q(obs, td["action"])
    expected = {
        "loss_actor": -without_gradient(loss.value_network)(obs, pi(obs)).mean(),
        "loss_value": (weight * (predicted - target) ** 2).mean(),
        "pred_value": predicted.mean().detach(),
        "target_value": target.mean(),
        "pred_value_max": predicted.max().detach(),
        "target_value_max": target.max(),
        "td_error": ((predicted - target) ** 2).mean().detach(),
    }
    assert_same(loss, td, expected)
    torch.testing.assert_close(td["td_error"], ((predicted - target) ** 2).detach())


def test_ddpg_with_done_alone():
    loss = DDPGLoss(deterministic_actor(), q_critic(), gamma=0.99)
    td = transitions()
    td["next", "done"] = td["next", "terminated"].clone()
    expected = loss(td)
    torch.testing.assert_close(loss(td.exclude(("next", "terminated"))), expected)


def test_separate_losses_spare_the_shared_trunk():
    trunk = TensorDictModule(nn.Linear(OBS, 4), ["observation"], ["hidden"])
    actor = TensorDictSequential(trunk, TensorDictModule(nn.Linear(4, 2), ["hidden"], ["action"]))

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 1)

        def forward(self, *x):
            return self.net(torch.cat(x, -1))

    head = TensorDictModule(Head(), ["hidden", "action"], ["state_action_value"])
    for separate in (False, True):
        loss = DDPGLoss(actor, TensorDictSequential(trunk, head), separate_losses=separate)
        assert len(list(loss.parameters())) == 6
        loss.zero_grad()
        loss(transitions())["loss_value"].backward()
        assert (trunk.module.weight.grad is None) == separate
        assert head.module.net.weight.grad is not None


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("behaviour", [False, True])
def test_td3(actions, delay, behaviour):
    low, high = torch.full((actions,), -0.5), torch.full((actions,), 1.5)
    make = TD3BCLoss if behaviour else TD3Loss
    loss = apart(
        make(
            deterministic_actor(actions),
            q_critic(actions),
            bounds=(low, high),
            gamma=GAMMA,
            delay_actor=delay,
            delay_qvalue=delay,
        )
    )
    td, weight, reward, alive = data(actions, weights=True)
    obs, after = td["observation"], td["next", "observation"]
    pi = loss.actor_network.module
    q1, q2 = (q_of(n) for n in loss.qvalue_network)
    t1, t2 = (q_of(n) for n in loss.target("qvalue_network"))
    torch.manual_seed(0)
    with torch.no_grad():
        noise = (torch.randn(32, actions) * 0.2).clamp(-0.5, 0.5) * (high - low) / 2
        smoothed = loss.target("actor_network").module(after) + noise
        smoothed = torch.max(torch.min(smoothed, high), low)
        ahead = torch.min(t1(after, smoothed), t2(after, smoothed))
        target = reward + GAMMA * alive * ahead
    errors = [q(obs, td["action"]) - target for q in (q1, q2)]
    value = without_gradient(loss.qvalue_network[0])(obs, pi(obs))
    expected = {
        "loss_actor": -value.mean(),
        "loss_qvalue": (weight * (huber(errors[0]) + huber(errors[1]))).mean(),
        "next_state_value": ahead,
        "target_value": target,
        "state_action_value_actor": value.detach(),
    }
    if behaviour:
        weight = 2.5 / value.abs().mean().detach()
        distance = ((pi(obs) - td["action"]) ** 2).mean()
        expected["loss_actor"] = -weight * value.mean() + distance
        expected["lmbd"], expected["bc_loss"] = weight, distance.detach()
    out = assert_same(loss, td, expected)
    assert out["pred_value"].shape == (2, 32)
    largest = torch.stack(errors).abs().amax(0).detach()
    torch.testing.assert_close(td["td_error"], largest, atol=1e-5, rtol=1e-5)


def test_td3_needs_the_range_of_actions_once():
    spec = Bounded(-2.0, 3.0, (2,))
    for given in (spec, Composite(action=spec)):
        loss = TD3Loss(deterministic_actor(), q_critic(), action_spec=given)
        assert loss.action_low.tolist() == [-2, -2]
        assert loss.action_high.tolist() == [3, 3]
    message = r"TD3Loss: needs to know the range of the actions once.*found {}"
    with pytest.raises(TypeError, match=message.format("neither")):
        TD3Loss(deterministic_actor(), q_critic())
    with pytest.raises(TypeError, match=message.format("both")):
        TD3Loss(deterministic_actor(), q_critic(), action_spec=spec, bounds=(-1, 1))


def draw(actor, obs):
    """A reparametrised action of the Gaussian actor, and its log-probability."""
    loc, scale = actor[0].module(obs)
    noise = torch.randn_like(loc)
    log_prob = (-0.5 * noise**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return loc + scale * noise, log_prob


def sac_by_hand(loss, td, weight, reward, alive, *, subset=None, mean=False, target_entropy):
    """The three losses; draws in the order of the library: next step first."""
    obs, after = td["observation"], td["next", "observation"]
    alpha = loss.log_alpha.exp().detach()
    actor = loss.actor_network
    with torch.no_grad():
        next_action, next_log_prob = draw(loss.target("actor_network"), after)
        ahead = torch.stack([q_of(n)(after, next_action) for n in loss.target("qvalue_network")])
        if subset is not None:
            ahead = ahead[torch.randperm(len(ahead))[:subset]]
        target = reward + GAMMA * alive * (ahead.min(0).values - alpha * next_log_prob)
    errors = torch.stack([q_of(n)(obs, td["action"]) for n in loss.qvalue_network]) - target
    action, log_prob = draw(actor, obs)
    values = torch.stack([without_gradient(n)(obs, action) for n in loss.qvalue_network])
    value = values.mean(0) if mean else values.min(0).values
    return {
        "loss_actor": (alpha * log_prob - value).mean(),
        "loss_qvalue": (weight * huber(errors).sum(0)).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob + target_entropy).detach()).mean(),
        "alpha": alpha,
        "entropy": -log_prob.mean().detach(),
    }, errors


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize(
    ("delay_actor", "delay_qvalue", "weights"),
    [(False, True, False), (True, True, True), (False, False, False)],
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
    loss = apart(
        SACLoss(gaussian_actor(actions), q_critic(actions), critic(), gamma=GAMMA, alpha_init=0.3)
    )
    td, weight, reward, alive = data(actions, weights=True)
    obs, after = td["observation"], td["next", "observation"]
    with torch.no_grad():
        ahead = loss.target("value_network").module(after).squeeze(-1)
        target = reward + GAMMA * alive * ahead
    errors = torch.stack([q_of(n)(obs, td["action"]) for n in loss.qvalue_network]) - target
    torch.manual_seed(0)
    action, log_prob = draw(loss.actor_network, obs)
    value = torch.stack([without_gradient(n)(obs, action) for n in loss.qvalue_network]).amin(0)
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
    spec = Composite(a=Bounded(-1, 1, (2,)), b=Bounded(-1, 1, (3,)))

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(OBS, 5)

        def forward(self, x):
            a, b = self.net(x).split([2, 3], -1)
            return a, torch.ones_like(a), b, torch.ones_like(b)

    keys = [("params", h, k) for h in "ab" for k in ("loc", "scale")]
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(Heads(), ["observation"], keys),
        ProbabilisticTensorDictModule(
            in_keys=["params"],
            out_keys=["a", "b"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={"distribution_map": {"a": d.Normal, "b": d.Normal}},
        ),
    )
    net = q_critic(5).module
    q = TensorDictModule(net, ["observation", "a", "b"], ["state_action_value"])
    td = transitions().exclude("action")
    td["a"], td["b"] = torch.randn(6, 2), torch.randn(6, 3)
    for loss in (SACLoss(actor, q, action_spec=spec), SACLoss(actor, q)):
        loss.set_keys(action="a")
        loss(td)
        assert loss.target_entropy == -5


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


@pytest.mark.parametrize("actions", ACTIONS)
def test_redq(actions):
    loss = apart(
        REDQLoss(
            gaussian_actor(actions),
            q_critic(actions),
            num_qvalue_nets=5,
            gamma=GAMMA,
            alpha_init=0.3,
        )
    )
    td, *rest = data(actions, weights=True)
    torch.manual_seed(0)
    expected, _ = sac_by_hand(loss, td, *rest, subset=2, mean=True, target_entropy=-actions)
    out = assert_same(loss, td, expected)
    assert out["state_action_value_actor"].shape == (5, 32)
    with pytest.raises(ValueError, match=r"sub_sample_len in 1 to 5, found 6"):
        REDQLoss(gaussian_actor(), q_critic(), num_qvalue_nets=5, sub_sample_len=6)


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
    statistics = [{k: v.clone() for k, v in n.module.named_buffers()} for n in loss.qvalue_network]

    def evaluate(training, *x, detach):
        """Every critic on these inputs, on statistics of its own."""
        out = []
        for n, buffers in zip(loss.qvalue_network, statistics, strict=True):
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
    assert all(n.training for n in loss.qvalue_network)
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
        pooled = torch.cat(
            [n.module(after, next_action) for n in loss.target("qvalue_network")], -1
        )
        kept = pooled.sort(-1).values[:, :9] - 0.3 * next_log_prob.unsqueeze(-1)
        target = reward.unsqueeze(-1) + GAMMA * alive.unsqueeze(-1) * kept
    total = 0
    for n in loss.qvalue_network:
        quantiles = n.module(obs, td["action"])
        for i in range(4):
            u = target - quantiles[:, i : i + 1]
            total = total + ((i + 0.5) / 4 - (u < 0).float()).abs() * huber(u)
    action, log_prob = draw(loss.actor_network, obs)
    params = [{k: v.detach() for k, v in n.module.named_parameters()} for n in loss.qvalue_network]
    value = torch.stack(
        [
            torch.func.functional_call(n.module, p, (obs, action))
            for n, p in zip(loss.qvalue_network, params, strict=True)
        ]
    ).mean((0, -1))
    expected = {
        "loss_actor": (0.3 * log_prob - value).mean(),
        "loss_qvalue": (weight * total.mean(-1) / 12).mean(),
        "loss_alpha": -(loss.log_alpha * (log_prob - actions).detach()).mean(),
    }
    assert_same(loss, td, expected)
    with pytest.raises(ValueError, match=r"TQCLoss: drops all quantiles; expected less than 8"):
        TQCLoss(
            gaussian_actor(),
            q_critic(2, 4),
            num_qvalue_nets=2,
            top_quantiles_to_drop_per_net=4,
        )(transitions())


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
    values = torch.stack([n.module(obs) for n in loss.qvalue_network])
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


def test_any_network_works():
    """Dropout, normalisation and in-place layers need no special care."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(OBS + 2, 8),
                nn.BatchNorm1d(8),
                nn.ReLU(inplace=True),
                nn.Dropout(0.3),
                nn.Linear(8, 1),
            )

        def forward(self, *x):
            return self.net(torch.cat(x, -1))

    q = TensorDictModule(Odd(), ["observation", "action"], ["state_action_value"])
    for loss in (
        SACLoss(gaussian_actor(), q),
        TD3Loss(deterministic_actor(), q, bounds=(-1, 1)),
        DDPGLoss(deterministic_actor(), q),
        REDQLoss(gaussian_actor(), q, num_qvalue_nets=3),
    ):
        loss(transitions(batch=(16,))).backward()
        assert all(p.grad is not None for p in loss.parameters())


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
    gauss = ProbabilisticTensorDictSequential(
        TensorDictModule(head, ["observation"], ["loc", "scale"]), gauss[1]
    )
    q, qs = (
        TensorDictModule(Joint(n), ["observation", "action"], ["state_action_value"])
        for n in (1, 5)
    )
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
