"""Log-probabilities, entropies and divergences of any policy, composite or not, as ``[*B]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from tensordict.nn import CompositeDistribution
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from torchrl._core.errors import describe
from torchrl.modules.distributions.utils import rsample_and_log_prob, sample_and_log_prob

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def sum_leaves(tensordict: TensorDictBase, ndim: int) -> Tensor:
    """Sum every entry of a tensordict, each down to ``ndim`` dimensions."""
    leaves: Any = tensordict.values(True, True)
    total: Any = sum(sum_to(leaf, ndim) for leaf in leaves)
    return total


def log_prob(dist: Distribution, sample: TensorDictBase, key: NestedKey, ndim: int) -> Tensor:
    """Log-probability ``[*B]`` of the action found in a tensordict.

    Args:
        dist: Of any kind; factors that were not summed (a bare ``Normal``) are summed here, those
            of a composite distribution too.
        sample: Holds the action, or the actions of each head.
        key: Name of the action; a composite distribution knows its own names.
        ndim: How many dimensions ``*B`` are.
    """
    if isinstance(dist, CompositeDistribution):
        value: Any = dist.log_prob(sample.copy())
    else:
        value = dist.log_prob(sample.get(key))
    return sum_leaves(value, ndim) if is_tensor_collection(value) else sum_to(value, ndim)


def heads(dist: Distribution, key: NestedKey = "action") -> Mapping[NestedKey, Distribution]:
    """Return the distributions of each action; a plain distribution is that of ``key``."""
    return dist.dists if isinstance(dist, CompositeDistribution) else {key: dist}


def draw(dist: Distribution, key: NestedKey, ndim: int) -> tuple[dict[NestedKey, Tensor], Tensor]:
    """Draw actions and their log-probability ``[*B]``, both with gradients.

    Every head is scored by the noise that drew it: exact where a squashed action saturates.

    Args:
        dist: Its heads all have ``rsample``.
        key: Name of the action; a composite distribution knows its own names.
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
