"""The distribution of a policy, composite or not: log-probabilities, entropies, divergences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    set_interaction_type,
)
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, require
from torchrl._core.records.flat_record import FlatRecord
from torchrl._core.records.policies import CompiledPolicy, compile_policy, input_keys, kept
from torchrl.modules import SafeProbabilisticModule, SafeProbabilisticTensorDictSequential
from torchrl.modules.distributions.utils import rsample_and_log_prob, sample_and_log_prob
from torchrl.modules.tensordict_module.probabilistic import distribution_of

if TYPE_CHECKING:
    from collections.abc import Mapping


LOG_PROB, OLD_LOG_PROB = "action_log_prob", "sample_log_prob"
_DRAWS = (ProbabilisticTensorDictModule.get_dist, SafeProbabilisticModule.get_dist)
_SEQUENCES = (ProbabilisticTensorDictSequential.get_dist, SafeProbabilisticTensorDictSequential.get_dist)


def check_actor(component: object, actor: object) -> None:
    """Refuse a network that has no distribution over actions.

    Raises:
        TypeError: if it has no ``get_dist``.
    """
    if not hasattr(actor, "get_dist"):
        raise TypeError(
            describe(
                component,
                "got an actor_network without get_dist",
                expected="a policy with a distribution, such as ProbabilisticActor",
                found=type(actor).__name__,
            )
        )


def sum_to(x: Any, ndim: int) -> Tensor:
    """Sum a tensor, or every entry of a tensordict, over its trailing dimensions to ``ndim``.

    >>> sum_to(torch.ones(4, 3, 2), 1)
    tensor([6., 6., 6., 6.])
    """
    if isinstance(x, Tensor):
        return x if x.ndim <= ndim else x.flatten(ndim).sum(-1)
    total: Any = sum(sum_to(leaf, ndim) for leaf in x.values(True, True))
    return total


def per_item(x: Tensor) -> Tensor:
    """Return ``[*B]``, one number an item, of ``x [*B, F]``: the mean of its features.

    >>> per_item(torch.tensor([[1.0], [2.0]]))
    tensor([1., 2.])
    """
    return x.squeeze(-1) if x.shape[-1] == 1 else x.mean(-1)


def old_log_prob(
    component: object, tensordict: TensorDictBase, key: NestedKey | list[NestedKey], actor: Any, ndim: int
) -> Tensor:
    """Return the log-probability ``[*B]`` under the policy that acted, by any of its names.

    Args:
        component: Who reads it.
        tensordict: Has it in one entry, in one for each head, or in a group of these.
        key: Name or names; without them its default name, its older one and those of the policy's heads are tried.
        actor: The policy.
        ndim: How many dimensions ``*B`` are.

    Raises:
        MissingKeyError: if it is not there.
        ShapeError: if it has fewer dimensions.
    """
    given = key if isinstance(key, list) else [key]
    total: Any = None
    for keys in (given, [LOG_PROB], [OLD_LOG_PROB], getattr(actor, "log_prob_keys", [])):
        for name in keys:
            value = tensordict.get(name, None)
            if value is None:
                total = None
                break
            score = sum_to(value, ndim)
            total = score if total is None else total + score
        if total is not None:
            break
    else:
        require(tensordict, as_keys(key), component)
    if total.ndim < ndim:
        raise ShapeError(
            describe(
                component,
                "has fewer dimensions than the advantage",
                key=keys[0] if len(keys) == 1 else keys,
                expected=f"{ndim} dimensions or more",
                found=list(total.shape),
                hint="Log-probabilities of agents must not be summed over the agents.",
            )
        )
    return total.detach()


def log_prob(dist: Distribution, sample: TensorDictBase, key: NestedKey | list[NestedKey], ndim: int) -> Tensor:
    """Log-probability ``[*B]`` of the action found in a tensordict.

    Args:
        dist: Of any kind; factors that were not summed (a bare ``Normal``) are summed here, those
            of a composite distribution too.
        sample: Holds the action, or the actions of each head.
        key: Name of the action, or those of all heads; see :func:`heads`.
        ndim: How many dimensions ``*B`` are.
    """
    if not isinstance(dist, CompositeDistribution):
        return sum_to(dist.log_prob(sample.get(key)), ndim)
    scores = (head.log_prob(sample.get(name)) for name, head in heads(dist, key).items())
    total: Any = sum(sum_to(score, ndim) for score in scores)
    return total


def heads(dist: Distribution, key: NestedKey | list[NestedKey] = "action") -> Mapping[NestedKey, Distribution]:
    """Return the distributions of each action; a plain distribution is that of ``key``.

    A composite distribution knows its own names; a list of others replaces them in their order.

    Raises:
        ValueError: if a list has not one name for each head.
    """
    if not isinstance(dist, CompositeDistribution):
        return {key: dist}  # type: ignore[dict-item]  # a list is of composite distributions
    if not isinstance(key, list) or set(key) == set(dist.dists):
        return dist.dists
    if len(key) != len(dist.dists):
        raise ValueError(
            describe(
                "set_keys",
                "got a list of actions that does not fit the heads of the policy",
                expected=f"one name for each of {list(dist.dists)}",
                found=key,
            )
        )
    return dict(zip(key, dist.dists.values(), strict=True))


def draw(dist: Distribution, key: NestedKey | list[NestedKey], ndim: int) -> tuple[dict[NestedKey, Tensor], Tensor]:
    """Draw actions and their log-probability ``[*B]``, both with gradients.

    Every head is scored by the noise that drew it: exact where a squashed action saturates.

    Args:
        dist: Its heads all have ``rsample``.
        key: Name of the action, or those of all heads; see :func:`heads`.
        ndim: How many dimensions ``*B`` are.

    >>> from torch.distributions import Independent, Normal
    >>> loc = torch.zeros(4, 2, requires_grad=True)
    >>> actions, log_prob = draw(Independent(Normal(loc, 1.0), 1), "action", ndim=1)
    >>> actions["action"].shape, log_prob.shape, log_prob.requires_grad
    (torch.Size([4, 2]), torch.Size([4]), True)
    """
    drawn = {name: rsample_and_log_prob(head) for name, head in heads(dist, key).items()}
    score: Any = sum(sum_to(log_prob, ndim) for _, log_prob in drawn.values())
    return {name: action for name, (action, _) in drawn.items()}, score


def closed_entropy(dist: Distribution, ndim: int) -> Tensor | None:
    """Return the entropy ``[*B]`` in closed form, if all heads have one."""
    try:
        parts: Any = [sum_to(head.entropy(), ndim) for head in heads(dist).values()]
    except NotImplementedError:
        return None
    return sum(parts)


def entropy(dist: Distribution, ndim: int, samples: int = 1) -> Tensor:
    """Entropy ``[*B]``: in closed form where there is one, otherwise an unbiased estimate.

    Args:
        dist: Of any kind; the heads of a composite distribution are summed.
        ndim: How many dimensions ``*B`` are.
        samples: How many samples the estimate takes.
    """
    if isinstance(dist, CompositeDistribution):
        total: Any = sum(entropy(head, ndim, samples) for head in dist.dists.values())
        return total
    try:
        return sum_to(dist.entropy(), ndim)
    except NotImplementedError:
        pass
    _, value = sample_and_log_prob(dist, (samples,), reparameterize=dist.has_rsample)
    if not dist.has_rsample:
        # the gradient of an entropy is -E[log p * grad(log p)]; this has it, and the value -log p
        value = value + value.detach() * (value - value.detach())
    return -sum_to(value.mean(0), ndim)


def divergence(before: Distribution, after: Distribution, ndim: int, samples: int = 1) -> Tensor:
    """Kullback-Leibler divergence ``KL(before || after) [*B]``, estimated if it must be.

    Args:
        before: Not trained.
        after: The policy being learnt.
        ndim: How many dimensions ``*B`` are.
        samples: How many samples the estimate takes.
    """
    if isinstance(before, CompositeDistribution):
        parts = zip(before.dists.values(), heads(after).values(), strict=True)
        total: Any = sum(divergence(b, a, ndim, samples) for b, a in parts)
        return total
    try:
        return sum_to(kl_divergence(before, after), ndim)
    except NotImplementedError:
        x = before.sample(torch.Size((samples,)))
        return sum_to((before.log_prob(x) - after.log_prob(x)).mean(0), ndim)


def distribution(actor: Any, td: TensorDictBase) -> Distribution:
    """Return the distribution of a policy over its actions, from the observations of a batch.

    Parameters of a distribution that the batch holds, from when it was collected, are not read.
    """
    found = None if torch.compiler.is_compiling() else kept(actor, _networks_and_draw)
    if found is None:
        return distribution_of(actor, td)
    networks, last, keys = found
    record = FlatRecord()
    for key in keys:
        value = td.get(key, None)
        if value is not None:
            record[key] = value
    with set_interaction_type(interaction_type() or last.default_interaction_type):
        for run in networks:
            run(record)
    if record.keys() >= set(last.in_keys):
        return last.get_dist(record)
    params = TensorDict({}, td.batch_size)  # of heads that are read as one group
    for key, value in record.items():
        params.set(key, value)
    return last.get_dist(params)


def _networks_and_draw(actor: Any) -> tuple[list[CompiledPolicy], Any, list[NestedKey]] | None:
    """Return the compiled networks of a policy, its draw and its inputs, if it is no more."""
    kind, plain = type(actor), ProbabilisticTensorDictSequential
    if not isinstance(actor, plain) or actor.return_composite or actor.partial_tolerant:
        return None
    if kind.get_dist not in _SEQUENCES or kind.get_dist_params is not plain.get_dist_params:
        return None
    *networks, last = actor.module.children()
    if getattr(type(last), "get_dist", None) not in _DRAWS:
        return None
    needed = input_keys(actor)
    read_before = {key for network in networks for key in getattr(network, "in_keys", ())}
    if read_before.intersection(actor.in_keys).difference(needed):
        return None  # a network reads what another one writes into its group
    runs = []
    for network in networks:
        run = compile_policy(network)
        if run is None:
            return None
        runs.append(run)
    return runs, last, needed
