"""Log-probabilities, entropies and divergences of any policy, composite or not, as ``[*B]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from tensordict.nn import CompositeDistribution
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, require
from torchrl.modules.distributions.utils import rsample_and_log_prob, sample_and_log_prob

if TYPE_CHECKING:
    from collections.abc import Mapping


OLD_LOG_PROB = "sample_log_prob"


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


def sum_to(x: Tensor, ndim: int) -> Tensor:
    """Sum the trailing dimensions of ``x`` until ``ndim`` are left.

    >>> sum_to(torch.ones(4, 3, 2), 1)
    tensor([6., 6., 6., 6.])
    """
    return x if x.ndim <= ndim else x.flatten(ndim).sum(-1)


def old_log_prob(
    component: object,
    tensordict: TensorDictBase,
    key: NestedKey | list[NestedKey],
    actor: Any,
    ndim: int,
) -> Tensor:
    """Return the log-probability ``[*B]`` under the policy that acted, by any of its names.

    Args:
        component: Who reads it.
        tensordict: Has it in one entry, in one for each head, or in a group of these.
        key: Name or names; without them its older name and those of the policy's heads are tried.
        actor: The policy.
        ndim: How many dimensions ``*B`` are.

    Raises:
        MissingKeyError: if it is not there.
        ShapeError: if it has fewer dimensions.
    """
    keys: list[Any] = as_keys(key)
    if any(tensordict.get(name, None) is None for name in keys):
        others = [[OLD_LOG_PROB], getattr(actor, "log_prob_keys", [])]
        there = [
            names
            for names in others
            if names and all(tensordict.get(name, None) is not None for name in names)
        ]
        if not there:
            require(tensordict, keys, component)
        keys = there[0]
    total: Any = sum(_sum_all(tensordict.get(name), ndim) for name in keys)
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


def _sum_all(value: Any, ndim: int) -> Tensor:
    """Sum a tensor, or every entry of a tensordict, down to ``ndim`` dimensions."""
    leaves = value.values(True, True) if is_tensor_collection(value) else [value]
    total: Any = sum(sum_to(leaf, ndim) for leaf in leaves)
    return total


def log_prob(
    dist: Distribution, sample: TensorDictBase, key: NestedKey | list[NestedKey], ndim: int
) -> Tensor:
    """Log-probability ``[*B]`` of the action found in a tensordict.

    Args:
        dist: Of any kind; factors that were not summed (a bare ``Normal``) are summed here, those
            of a composite distribution too.
        sample: Holds the action, or the actions of each head.
        key: Name of the action, or those of all heads; see :func:`heads`.
        ndim: How many dimensions ``*B`` are.
    """
    scores = (head.log_prob(sample.get(name)) for name, head in heads(dist, key).items())
    total: Any = sum(_sum_all(score, ndim) for score in scores)
    return total


def heads(
    dist: Distribution, key: NestedKey | list[NestedKey] = "action"
) -> Mapping[NestedKey, Distribution]:
    """Return the distributions of each action; a plain distribution is that of ``key``.

    A composite distribution knows its own names; a list of others stands for them in their order.

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


def draw(
    dist: Distribution, key: NestedKey | list[NestedKey], ndim: int
) -> tuple[dict[NestedKey, Tensor], Tensor]:
    """Draw actions and their log-probability ``[*B]``, both with gradients.

    Every head is scored by the noise that drew it: exact where a squashed action saturates.

    Args:
        dist: Its heads all have ``rsample``.
        key: Name of the action, or those of all heads; see :func:`heads`.
        ndim: How many dimensions ``*B`` are.
    """
    drawn = {name: rsample_and_log_prob(head) for name, head in heads(dist, key).items()}
    score: Any = sum(sum_to(log_prob, ndim) for _, log_prob in drawn.values())
    return {name: action for name, (action, _) in drawn.items()}, score


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
