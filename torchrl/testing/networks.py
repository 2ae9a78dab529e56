"""Small networks and batches, for tests of losses."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict
from tensordict.nn import (
    CompositeDistribution,
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torch import distributions as d

from torchrl.modules import DistributionalQValueActor

OBS, BATCH = 3, 6


def independent_normal(loc: Tensor, scale: Tensor) -> d.Distribution:
    normal = d.Normal(loc, scale, validate_args=False)
    return d.Independent(normal, 1, validate_args=False)


def tanh_normal(loc: Tensor, scale: Tensor) -> d.Distribution:
    """Return a distribution without a closed form of its entropy."""
    squash: list[d.Transform] = [d.transforms.TanhTransform(cache_size=1)]
    base = d.TransformedDistribution(d.Normal(loc, scale, validate_args=False), squash)
    base._validate_args = False
    return d.Independent(base, 1, validate_args=False)


def one_hot(logits: Tensor) -> d.Distribution:
    return d.OneHotCategorical(logits=logits, validate_args=False)


def gaussian_actor(actions: int = 2, dist: Any = independent_normal) -> ProbabilisticTensorDictSequential:
    net = nn.Sequential(nn.Linear(OBS, 2 * actions), NormalParamExtractor())
    return ProbabilisticTensorDictSequential(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=dist, return_log_prob=True),
    )


class Heads(nn.Module):
    """Location and scale of one number for each of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.split = nn.Linear(OBS, 4), NormalParamExtractor()

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        loc, scale = self.split(self.net(observation))
        return loc[..., :1], scale[..., :1], loc[..., 1:], scale[..., 1:]


def composite_actor() -> ProbabilisticTensorDictSequential:
    """Return a policy with two actions, ``a`` and ``b [*B, 1]``."""
    params: list[NestedKey] = [("params", head, k) for head in "ab" for k in ("loc", "scale")]
    return ProbabilisticTensorDictSequential(
        TensorDictModule(Heads(), ["observation"], params),
        ProbabilisticTensorDictModule(
            ["params"],
            ["a", "b"],
            distribution_class=CompositeDistribution,
            distribution_kwargs={"distribution_map": {"a": independent_normal, "b": independent_normal}},
            return_log_prob=True,
        ),
    )


def two_actions() -> TensorDict:
    """Return steps of that policy."""
    td = transitions()
    td["a"], td["b"] = td.pop("action").chunk(2, -1)
    return td


def discrete_actor(actions: int = 3) -> ProbabilisticTensorDictSequential:
    return ProbabilisticTensorDictSequential(
        TensorDictModule(nn.Linear(OBS, actions), ["observation"], ["logits"]),
        ProbabilisticTensorDictModule(
            ["logits"],
            ["action"],
            distribution_class=one_hot,  # type: ignore[arg-type]  # a function
            return_log_prob=True,
        ),
    )


def deterministic_actor(actions: int = 2) -> TensorDictModule:
    return TensorDictModule(nn.Linear(OBS, actions), ["observation"], ["action"])


class Concat(nn.Module):
    """A network of several inputs, concatenated."""

    def __init__(self, size: int, out: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, out))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net(torch.cat(inputs, -1))


def critic() -> TensorDictModule:
    return TensorDictModule(Concat(OBS), ["observation"], ["state_value"])


def q_critic(actions: int = 2, out: int = 1) -> TensorDictModule:
    return TensorDictModule(Concat(OBS + actions, out), ["observation", "action"], ["state_action_value"])


def q_network(actions: int = 3) -> TensorDictModule:
    return TensorDictModule(Concat(OBS, actions), ["observation"], ["action_value"])


def quantile_q_network(actions: int = 3, quantiles: int = 4) -> TensorDictModule:
    net = nn.Sequential(Concat(OBS, quantiles * actions), nn.Unflatten(-1, (quantiles, actions)))
    return TensorDictModule(net, ["observation"], ["action_value"])


def distributional_q_network(actions: int = 3, atoms: int = 5) -> DistributionalQValueActor:
    return DistributionalQValueActor(
        quantile_q_network(actions, atoms), support=torch.linspace(-2.0, 2.0, atoms), action_space="one_hot"
    )


def transitions(
    actions: int = 2, discrete: bool = False, batch: tuple[int, ...] = (BATCH,), seed: int = 0
) -> TensorDict:
    """Return steps of which some are terminated and some truncated."""
    g = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.randn((*batch, *size), generator=g)

    terminated = torch.rand((*batch, 1), generator=g) < 0.3
    done = terminated | (torch.rand((*batch, 1), generator=g) < 0.3)
    after = TensorDict(observation=rand(OBS), reward=rand(1), terminated=terminated, done=done, batch_size=batch)
    if discrete:
        index = torch.randint(actions, batch, generator=g)
        action = nn.functional.one_hot(index, actions)
    else:
        action = rand(actions).tanh() * 0.9
    return TensorDict(observation=rand(OBS), action=action, next=after, batch_size=batch)


def advantage_batch(
    actions: int = 2, discrete: bool = False, batch: tuple[int, ...] = (BATCH,), seed: int = 0
) -> TensorDict:
    """Return such steps with the outputs of a policy and of an advantage estimator."""
    td = transitions(actions, discrete, batch, seed)
    g = torch.Generator().manual_seed(seed + 1)

    def rand(*size: int) -> Tensor:
        return torch.randn((*batch, *size), generator=g)

    td["action_log_prob"] = rand() * 0.1 - (1 if discrete else actions)
    td["advantage"], td["value_target"], td["state_value"] = rand(1), rand(1), rand(1)
    if discrete:
        td["logits"] = rand(actions)
    else:
        td["loc"], td["scale"] = rand(actions), rand(actions).exp()
    return td


AGENTS = 2


def team_networks(actions: int = 2) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """Return a policy and a critic for several agents."""
    net = nn.Sequential(nn.Linear(OBS, 2 * actions), NormalParamExtractor())
    loc: NestedKey = ("agents", "loc")
    scale: NestedKey = ("agents", "scale")
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(net, [("agents", "observation")], [loc, scale]),
        ProbabilisticTensorDictModule(
            {"loc": loc, "scale": scale},
            [("agents", "action")],
            distribution_class=independent_normal,  # type: ignore[arg-type]  # a function
            return_log_prob=True,
        ),
    )
    value: list[NestedKey] = [("agents", "state_value")]
    return actor, TensorDictModule(Concat(OBS), [("agents", "observation")], value)


class Mixer(nn.Module):
    """A mixer that is monotone in the value of every agent."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(OBS, AGENTS)

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        return (values.squeeze(-1) * self.net(state).exp()).sum(-1, keepdim=True)


def mixing_networks(actions: int = 4) -> tuple[TensorDictModule, TensorDictModule]:
    """Return a network of the action values of each agent and a mixer."""
    local = TensorDictModule(Concat(OBS, actions), [("agents", "observation")], [("agents", "action_value")])
    keys: list[NestedKey] = [("agents", "chosen_action_value"), "state"]
    return local, TensorDictModule(Mixer(), keys, ["chosen_action_value"])


def team(actions: int = 4, batch: tuple[int, ...] = (BATCH,), seed: int = 0) -> TensorDict:
    """Return steps of a team with one reward, discrete actions and a state."""
    td = transitions(actions, discrete=True, batch=batch, seed=seed)
    g = torch.Generator().manual_seed(seed + 2)
    for place in (td, td["next"]):
        place["state"] = place.pop("observation")
        observation = torch.randn((*batch, AGENTS, OBS), generator=g)
        place["agents"] = TensorDict(observation=observation, batch_size=(*batch, AGENTS))
    index = torch.randint(actions, (*batch, AGENTS), generator=g)
    td["agents", "action"] = nn.functional.one_hot(index, actions)
    return td.exclude("action")


def team_advantages(actions: int = 2, batch: tuple[int, ...] = (BATCH,), seed: int = 0) -> TensorDict:
    """Return steps of a team with continuous actions, advantages and values for each agent."""
    td = team(batch=batch, seed=seed)
    g = torch.Generator().manual_seed(seed + 3)

    def rand(*size: int) -> Tensor:
        return torch.randn((*batch, AGENTS, *size), generator=g)

    td["agents", "action"], td["agents", "action_log_prob"] = rand(actions), rand() * 0.1 - actions
    td["advantage"], td["value_target"] = rand(1), rand(1)
    return td
