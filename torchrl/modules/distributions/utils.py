"""What one asks of a distribution without knowing which: a value, a score, a closed form."""

from __future__ import annotations

from typing import Any

import torch
from tensordict.nn import CompositeDistribution, InteractionType
from torch import Size, Tensor
from torch import distributions as d


def draw(dist: d.Distribution, kind: InteractionType, num_empirical: int = 1000) -> Tensor:
    """Return the value of ``dist`` that an exploration type asks for.

    ``DETERMINISTIC`` is ``deterministic_sample`` if the distribution has it, else the mode of a
    discrete and the mean of any other one. ``MEAN`` of a discrete distribution is its mode, since
    the mean is no outcome of it. A mean without a closed form is estimated.

    Args:
        dist: The distribution.
        kind: The exploration type.
        num_empirical: Number of samples in an estimated mean.

    Raises:
        NotImplementedError: if the distribution does not have what is asked for.

    >>> draw(d.Categorical(logits=torch.tensor([0.0, 3.0])), InteractionType.DETERMINISTIC)
    tensor(1)
    """
    if kind is InteractionType.RANDOM:
        return dist.rsample() if dist.has_rsample else dist.sample()
    if kind is InteractionType.DETERMINISTIC:
        value = getattr(dist, "deterministic_sample", None)
        if value is not None:
            return value
        base = dist.base_dist if isinstance(dist, d.Independent) else dist
        value = getattr(base, "deterministic_sample", None)
        if value is not None:
            return value
        kind = InteractionType.MODE if base.has_enumerate_support else InteractionType.MEAN
    if kind is InteractionType.MEAN and is_discrete(dist):
        kind = InteractionType.MODE
    try:
        value = getattr(dist, kind.value)
    except (AttributeError, NotImplementedError):
        value = None
    if kind is InteractionType.MODE and _is_bernoulli(dist) and value is not None:
        value = value.nan_to_num(0.0)  # both outcomes are as likely: torch has NaN
    if value is None and kind is InteractionType.MEAN:
        many = Size((num_empirical,))
        return (dist.rsample(many) if dist.has_rsample else dist.sample(many)).mean(0)
    if value is None:
        raise NotImplementedError(f"{type(dist).__name__} has no {kind.value}.")
    return value


def is_discrete(dist: d.Distribution) -> bool:
    """Return whether a distribution is over finitely or countably many values.

    >>> is_discrete(d.Independent(d.Bernoulli(torch.ones(2)), 1)), is_discrete(d.Normal(0.0, 1.0))
    (True, False)
    """
    try:
        support: Any = dist.support
        return bool(support.is_discrete)
    except (AttributeError, NotImplementedError):
        return bool(dist.has_enumerate_support)


def _is_bernoulli(dist: d.Distribution) -> bool:
    base = dist.base_dist if isinstance(dist, d.Independent) else dist
    return isinstance(base, d.Bernoulli)


def draw_and_score(
    dist: d.Distribution, kind: InteractionType, num_empirical: int = 1000
) -> tuple[Tensor, Tensor]:
    """Return :func:`draw` and its log-probability; a sample is scored before it is rounded.

    >>> value, score = draw_and_score(d.Normal(0.0, 1.0), InteractionType.MEAN)
    >>> value, score
    (tensor(0.), tensor(-0.9189))
    """
    if kind is InteractionType.RANDOM:
        return sample_and_log_prob(dist, reparameterize=dist.has_rsample)
    value = draw(dist, kind, num_empirical)
    return value, dist.log_prob(value)


def sample_and_log_prob(
    distribution: d.Distribution,
    sample_shape: Size | tuple = (),
    *,
    reparameterize: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draw and score, without inverting a transformation where the distribution can do so.

    Args:
        distribution: The distribution.
        sample_shape: Shape of the samples, before the batch shape.
        reparameterize: Let gradients flow through the samples.

    >>> sample_and_log_prob(d.Normal(0.0, 1.0), (3,))[1].shape
    torch.Size([3])
    """
    name = "rsample" if reparameterize else "sample"
    both: Any = getattr(distribution, f"{name}_and_log_prob", None)
    if both is not None:
        return both(Size(sample_shape))
    value = getattr(distribution, name)(Size(sample_shape))
    return value, distribution.log_prob(value)


def rsample_and_log_prob(
    distribution: d.Distribution, sample_shape: Size | tuple = ()
) -> tuple[Tensor, Tensor]:
    """Draw differentiably and score; see :func:`sample_and_log_prob`."""
    return sample_and_log_prob(distribution, sample_shape, reparameterize=True)


def composite_entropy(distribution: CompositeDistribution, samples_mc: int = 1) -> Tensor:
    """Return the entropy ``[*B]`` of several actions, which is the sum of theirs.

    Args:
        distribution: Of ``*B`` batch dimensions.
        samples_mc: How many samples estimate an entropy without a closed form.

    >>> from tensordict import TensorDict
    >>> params = TensorDict(move={"loc": torch.zeros(2), "scale": torch.ones(2)}, batch_size=[2])
    >>> composite_entropy(CompositeDistribution(params, {"move": d.Normal}))
    tensor([1.4189, 1.4189])
    """
    ndim = len(distribution.batch_shape)
    total = torch.zeros(())
    for head in distribution.dists.values():
        try:
            entropy = head.entropy()
        except NotImplementedError:
            many = (samples_mc,)
            entropy = -sample_and_log_prob(head, many, reparameterize=head.has_rsample)[1].mean(0)
        total = total + (entropy.flatten(ndim).sum(-1) if entropy.ndim > ndim else entropy)
    return total


def has_analytic_entropy(dist: d.Distribution) -> bool:
    """Return whether ``dist.entropy()`` has a closed form.

    >>> has_analytic_entropy(d.Normal(0.0, 1.0))
    True
    """
    try:
        dist.entropy()
    except NotImplementedError:
        return False
    return True


def has_analytic_kl(p: d.Distribution, q: d.Distribution) -> bool:
    """Return whether the Kullback-Leibler divergence of ``p`` from ``q`` has a closed form.

    >>> has_analytic_kl(d.Normal(0.0, 1.0), d.Normal(0.0, 1.0))
    True
    """
    try:
        d.kl_divergence(p, q)
    except NotImplementedError:
        return False
    return True
