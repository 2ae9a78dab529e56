"""Distributions of policies on batches that hold their own outputs."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
    set_composite_lp_aggregate,
)
from torch import distributions as d
from torch import nn

from torchrl._core.records.policies import input_keys
from torchrl.modules import (
    ActorCriticOperator,
    ActorValueOperator,
    ProbabilisticActor,
    SafeModule,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
    SafeSequential,
    ValueOperator,
)
from torchrl.modules.tensordict_module.probabilistic import distribution_of
from torchrl.objectives.distributions import distribution
from torchrl.objectives.value import GAE, TD0Estimator


def normal(loc, scale):
    return d.Independent(d.Normal(loc, scale), 1)


def split(hidden):
    return hidden[..., :3], hidden[..., 3:5], hidden[..., 5:].exp()


HEADS = {
    "distribution_class": CompositeDistribution,
    "distribution_kwargs": {
        "distribution_map": {"grip": d.Categorical, "move": normal},
        "name_map": {"grip": ("action", "grip"), "move": ("action", "move")},
    },
}


def heads(*group, sequence=TensorDictSequential, reads="observation"):
    """Return layers that write the parameters of two heads into a group."""
    names = [("grip", "logits"), ("move", "loc"), ("move", "scale")]
    return sequence(
        TensorDictModule(nn.Linear(3, 7), [reads], ["hidden"]),
        TensorDictModule(split, ["hidden"], [(*group, *name) for name in names]),
    )


def as_a_whole(hidden):
    logits, loc, scale = split(hidden)
    move = TensorDict(loc=loc, scale=scale, batch_size=loc.shape[:-1])
    grip = TensorDict(logits=logits, batch_size=loc.shape[:-1])
    return TensorDict(grip=grip, move=move, batch_size=loc.shape[:-1])


def whole_group():
    return TensorDictSequential(
        TensorDictModule(nn.Linear(3, 7), ["observation"], ["hidden"]),
        TensorDictModule(as_a_whole, ["hidden"], ["params"]),
    )


class OneHead(nn.Module):
    def __init__(self, features=3):
        super().__init__()
        self.layer = nn.Linear(features, 4)

    def forward(self, x):
        loc, scale = self.layer(x).chunk(2, -1)
        return loc, scale.exp()


def plain_draw(in_keys, **kwargs):
    return ProbabilisticTensorDictModule(in_keys, out_keys=[("action", "grip"), ("action", "move")], **kwargs)


def shared_trunk(operator):
    trunk = SafeModule(nn.Linear(3, 3), ["observation"], ["trunk"])
    policy = ProbabilisticActor(heads("params", reads="trunk"), ["params"], **HEADS)
    value = ValueOperator(nn.Linear(3, 1), ["trunk"])
    return operator(trunk, policy, value).get_policy_operator()


def critic_on_action():
    trunk = SafeModule(nn.Linear(3, 3), ["observation"], ["trunk"])
    policy = ProbabilisticActor(heads("params", reads="trunk"), ["params"], **HEADS)
    value = SafeModule(lambda x, a: x + a, ["trunk", ("action", "move")], ["state_action_value"])
    return ActorCriticOperator(trunk, policy, value).get_policy_operator()


POLICIES = {
    "one head": lambda: ProbabilisticActor(
        TensorDictModule(OneHead(), ["observation"], ["loc", "scale"]), ["loc", "scale"], distribution_class=normal
    ),
    "parameters in a group": lambda: ProbabilisticActor(
        TensorDictModule(OneHead(), ["observation"], [("params", "loc"), ("params", "scale")]),
        [("params", "loc"), ("params", "scale")],
        distribution_class=normal,
    ),
    "a group written as a whole": lambda: ProbabilisticActor(whole_group(), ["params"], **HEADS),
    "two heads": lambda: ProbabilisticActor(heads("params"), ["params"], **HEADS),
    "two heads, deeper": lambda: ProbabilisticActor(heads("agent", "params"), [("agent", "params")], **HEADS),
    "two heads, renamed": lambda: ProbabilisticActor(heads("mine"), {"params": "mine"}, **HEADS),
    "two heads, safe layers": lambda: ProbabilisticActor(heads("params", sequence=SafeSequential), ["params"], **HEADS),
    "two heads in a sequence": lambda: SafeProbabilisticTensorDictSequential(
        *heads("params"), SafeProbabilisticModule(["params"], **HEADS)
    ),
    "two heads of tensordict": lambda: ProbabilisticTensorDictSequential(
        *heads("params"), plain_draw(["params"], **HEADS)
    ),
    "a policy in a sequence of tensordict": lambda: ProbabilisticTensorDictSequential(
        TensorDictModule(nn.Identity(), ["observation"], ["copied"]),
        ProbabilisticActor(heads("params", reads="copied"), ["params"], **HEADS),
    ),
    "a policy in a sequence": lambda: SafeProbabilisticTensorDictSequential(
        TensorDictModule(nn.Identity(), ["observation"], ["copied"]),
        ProbabilisticActor(heads("params", reads="copied"), ["params"], **HEADS),
    ),
    "ActorValueOperator": lambda: shared_trunk(ActorValueOperator),
    "ActorCriticOperator": critic_on_action,
}


def acted(make, batch=(5,)):
    """Return a policy, and a batch that holds everything that it wrote."""
    torch.manual_seed(0)
    policy = make()
    td = TensorDict(observation=torch.randn(*batch, 3), batch_size=batch)
    with torch.no_grad():
        return policy, policy(td)


def moved(policy):
    """Change all parameters of a policy."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter))


def score(dist, td):
    """Return the sum of all log-probabilities of what the batch holds as actions."""
    if isinstance(dist, CompositeDistribution):
        return sum(head.log_prob(td[name]).sum() for name, head in dist.dists.items())
    return dist.log_prob(td["action"]).sum()


FINDERS = {
    "loss": distribution,
    "distribution_of": distribution_of,
    "policy": lambda policy, td: policy.get_dist(td.copy()),
}


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize("name", POLICIES)
def test_a_distribution_follows_the_parameters_on_a_batch_of_the_policys_outputs(name, find, aggregate):
    """The distribution, and its gradient, are those of a batch that holds observations alone."""
    find = FINDERS[find]
    if name == "a policy in a sequence of tensordict" and find is FINDERS["policy"]:
        pytest.skip("get_dist of tensordict skips the layers of the policy within")
    with set_composite_lp_aggregate(aggregate):
        policy, td = acted(POLICIES[name])
        moved(policy)
        right = score(distribution_of(policy, td.select("observation")), td)
        found = score(find(policy, td), td)
    torch.testing.assert_close(found, right)
    parameters = list(policy.parameters())
    for one, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(right, parameters), strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("name", POLICIES)
def test_a_loss_leaves_the_parameters_in_the_batch_as_they_were(name):
    """What the policy wrote as the batch was collected can still be compared with."""
    policy, td = acted(POLICIES[name])
    moved(policy)
    before = td.clone()
    distribution(policy, td)
    distribution(policy, td.lock_())
    assert set(td.keys(True, True)) == set(before.keys(True, True))
    assert (td == before).all()
    assert input_keys(policy) == ["observation"]


def critic_by_group():
    """Return a critic whose second layer reads, as a whole, a group that the first one writes."""
    return TensorDictSequential(
        TensorDictModule(nn.Linear(3, 4), ["observation"], [("features", "x")]),
        TensorDictModule(lambda group: group["x"].sum(-1, True), ["features"], ["state_value"]),
    )


@pytest.mark.parametrize("options", [{}, {"shifted": True}], ids=["both ends", "shifted"])
@pytest.mark.parametrize("kind", [GAE, TD0Estimator])
def test_a_critic_by_groups_is_run_on_observations(kind, options):
    """Values are those of the critic as it is now, not of the group that stands in the batch."""
    torch.manual_seed(0)
    critic = critic_by_group()
    next_root = TensorDict(observation=torch.randn(2, 4, 3), batch_size=[2, 4])
    next_root.update({key: torch.zeros(2, 4, 1, dtype=torch.bool) for key in ("done", "terminated")})
    next_root["reward"] = torch.randn(2, 4, 1)
    root = torch.cat([torch.randn(2, 1, 3), next_root["observation"][:, :-1]], 1)
    td = TensorDict(observation=root, next=next_root, batch_size=[2, 4])
    keys = {"lmbda": 0.9} if kind is GAE else {}
    if kind is not GAE and options:
        pytest.skip("one network call for both ends is an option of GAE")
    estimator = kind(gamma=0.9, value_network=critic, **keys, **options)
    with torch.no_grad():
        right = estimator(td.clone())["value_target"]
        stale = td.clone()
        critic(stale), critic(stale["next"])
        for part in (stale, stale["next"]):
            part["features", "x"] = torch.full((2, 4, 4), 9.0)
        torch.testing.assert_close(estimator(stale)["value_target"], right)
