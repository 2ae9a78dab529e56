"""Samples, log-probabilities and entropies of any distribution, and NormalParamWrapper."""

from __future__ import annotations

from typing import Any

import torch
from tensordict.nn import CompositeDistribution
from tensordict.nn.distributions import NormalParamExtractor
from torch import Size, Tensor, nn
from torch import distributions as d

from torchrl._core.math import safeatanh, safetanh  # noqa: F401 - found here by scripts of this API


def sample_and_log_prob(
    distribution: d.Distribution, sample_shape: Size | tuple = (), *, reparameterize: bool = False
) -> tuple[Tensor, Tensor]:
    """Return samples and their log-probabilities, without inverting a transform where possible.

    Args:
        distribution: The distribution.
        sample_shape: Shape of the samples, before the batch shape.
        reparameterize: Whether samples are differentiable.

    >>> sample_and_log_prob(d.Normal(0.0, 1.0), (3,))[1].shape
    torch.Size([3])
    """
    name = "rsample" if reparameterize else "sample"
    both: Any = getattr(distribution, f"{name}_and_log_prob", None)
    if both is not None:
        return both(Size(sample_shape))
    value = getattr(distribution, name)(Size(sample_shape))
    return value, distribution.log_prob(value)


def rsample_and_log_prob(distribution: d.Distribution, sample_shape: Size | tuple = ()) -> tuple[Tensor, Tensor]:
    """Return differentiable samples and log-probabilities; see :func:`sample_and_log_prob`.

    Args:
        distribution: A distribution that has ``rsample``.
        sample_shape: Shape of the draws, before that of the batch.

    >>> from torchrl.modules import TanhNormal
    >>> loc = torch.zeros(4, 2, requires_grad=True)
    >>> action, log_prob = rsample_and_log_prob(TanhNormal(loc, 1.0))
    >>> action.requires_grad, log_prob.shape
    (True, torch.Size([4]))
    """
    return sample_and_log_prob(distribution, sample_shape, reparameterize=True)


def composite_entropy(distribution: CompositeDistribution, samples_mc: int = 1) -> Tensor:
    """Return the entropy ``[*B]`` of several actions, which is the sum of theirs.

    Args:
        distribution: Of ``*B`` batch dimensions.
        samples_mc: Number of samples that estimate an entropy without a closed form.

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

    Args:
        dist: A distribution.

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

    Args:
        p: A distribution.
        q: The distribution that it is compared with.

    >>> has_analytic_kl(d.Normal(0.0, 1.0), d.Normal(0.0, 1.0))
    True
    """
    try:
        d.kl_divergence(p, q)
    except NotImplementedError:
        return False
    return True


class NormalParamWrapper(nn.Module):
    """A network whose output is split in two: a location, and a scale made positive.

    Args:
        operator: The network; its output is ``[*B, 2 A]``; further outputs are passed on.
        scale_mapping: Name of the map to positive numbers: see
            :class:`tensordict.nn.NormalParamExtractor`.
        scale_lb: Lower bound of the scale.

    >>> import torch
    >>> loc, scale = NormalParamWrapper(nn.Linear(3, 4))(torch.zeros(5, 3))
    >>> loc.shape, bool((scale > 0).all())
    (torch.Size([5, 2]), True)
    """

    def __init__(self, operator: nn.Module, scale_mapping: str = "biased_softplus_1.0", scale_lb: float = 1e-4) -> None:
        super().__init__()
        self.operator = operator
        self.extractor = NormalParamExtractor(scale_mapping, scale_lb)  # type: ignore[arg-type]  # a float is a Number

    def forward(self, *tensors: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        out = self.operator(*tensors, **kwargs)
        return self.extractor(*out) if isinstance(out, tuple) else self.extractor(out)
