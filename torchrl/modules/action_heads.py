"""The distribution of an action, from its spec: its class, its arguments, and the layers before it.

``*B`` batch dimensions, ``A`` numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn.distributions import AddStateIndependentNormalScale
from torch import Tensor, nn

from torchrl._core.errors import SpecError, describe
from torchrl.data import Binary, Bounded, Categorical, OneHot, TensorSpec, Unbounded
from torchrl.data.tensor_specs import MultiCategorical, MultiOneHot
from torchrl.modules.distributions import (
    FactorizedCategorical,
    FactorizedOneHotCategorical,
    IndependentBernoulli,
    IndependentNormal,
    MaskedCategorical,
    MaskedOneHotCategorical,
    OneHotCategorical,
    TanhNormal,
)
from torchrl.modules.encoders import Problem

LOG_SCALE_RANGE = (-20.0, 2.0)  # of the code of Haarnoja et al., 2018
DISCRETE = (Categorical, OneHot, MultiCategorical, MultiOneHot, Binary)


class NormalParams(nn.Module):
    """Split numbers ``[*B, 2 A]`` into a location and the logarithm of a scale, which is limited to [-20, 2].

    Args:
        shape: Shape of an action.

    Source: Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905; the limits are those of its code.

    >>> loc, scale = NormalParams([2])(torch.tensor([1.0, 1.0, 0.0, 99.0]))
    >>> scale
    tensor([1.0000, 7.3891])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, params: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = params.unflatten(-1, (2, -1)).unbind(-2)
        if len(self.shape) != 1:
            loc, log_scale = (x.reshape(*x.shape[:-1], *self.shape) for x in (loc, log_scale))
        return loc, log_scale.clamp(*LOG_SCALE_RANGE).exp()


class Reshape(nn.Module):
    """Give the last dimension another shape.

    >>> Reshape([2, 3])(torch.zeros(5, 6)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, value: Tensor) -> Tensor:
        return value.reshape(*value.shape[:-1], *self.shape)


@dataclass
class ActionHead:
    """The distribution of an action, and how many numbers it is computed from.

    Args:
        size: How many numbers the last linear layer returns.
        layers: Layers after it.
        params: Names of the parameters that the network writes.
        kind: The distribution.
        kwargs: Its other arguments.
        mask_key: The entry with the mask, if there is one.
    """

    size: int
    layers: list[nn.Module]
    params: list[str]
    kind: type
    kwargs: dict[str, Any]
    mask_key: NestedKey | None = None


def discrete_head(problem: Problem) -> ActionHead:
    """Return the distribution of a discrete action.

    Raises:
        SpecError: if the action is not one choice, or several side by side.
    """
    spec, mask_key = problem.action_spec, problem.mask_key
    shape = tuple(spec.shape)
    if isinstance(spec, Binary):
        layers: list[nn.Module] = [] if len(shape) == 1 else [Reshape(shape)]
        kwargs: dict[str, Any] = {"event_dim": len(shape), "dtype": spec.dtype}
        return ActionHead(math.prod(shape), layers, ["logits"], IndependentBernoulli, kwargs)
    kind: type
    if isinstance(spec, MultiOneHot):
        kind, size, kwargs = FactorizedOneHotCategorical, shape[-1], {"nvec": tuple(spec.counts), "dtype": spec.dtype}
        is_vector = len(shape) == 1
    elif isinstance(spec, OneHot):
        kind, size = OneHotCategorical if mask_key is None else MaskedOneHotCategorical, spec.n
        kwargs = {"dtype": spec.dtype}
        is_vector = len(shape) == 1
    elif isinstance(spec, MultiCategorical) and shape:
        nvec = spec.nvec.cpu()
        kind, size, kwargs = FactorizedCategorical, int(nvec.sum()), {"nvec": nvec.tolist(), "dtype": spec.dtype}
        is_vector = spec.nvec.shape == spec.shape
    else:
        assert isinstance(spec, Categorical | MultiCategorical)
        size = spec.counts[0] if isinstance(spec, MultiCategorical) else spec.space.n
        kind = torch.distributions.Categorical if mask_key is None else MaskedCategorical
        kwargs = {"validate_args": False} if mask_key is None else {}
        is_vector = True
        if shape:  # several choices among the same number of values
            kind, kwargs = FactorizedCategorical, {"nvec": torch.full(shape, size).tolist(), "dtype": spec.dtype}
            size, is_vector = size * math.prod(shape), mask_key is None
    if not is_vector:
        raise problem.misfit("one discrete action, or several side by side", "Flatten the action.")
    if mask_key is not None and problem.mask_shape != (size,):
        raise SpecError(
            describe(
                problem.owner,
                "is a mask of another shape",
                key=mask_key,
                expected=[size],
                found=list(problem.mask_shape),
                hint="A mask has one entry for each value, those of several choices side by side.",
            )
        )
    if isinstance(kwargs.get("nvec"), list):
        kwargs["nvec"] = _nested_tuple(kwargs["nvec"])
    return ActionHead(size, [], ["logits"], kind, kwargs, mask_key)


def _nested_tuple(values: list) -> tuple:
    return tuple(_nested_tuple(value) if isinstance(value, list) else value for value in values)


def is_bounded(spec: TensorSpec) -> bool:
    """Return whether a spec has a finite range.

    >>> is_bounded(Bounded(-1, 1, (2,))), is_bounded(Bounded(0, float("inf"), (2,)))
    (True, False)
    """
    return isinstance(spec, Bounded) and bool(spec.low.isfinite().all() and spec.high.isfinite().all())


def continuous_head(problem: Problem, scale: str, squash: bool | None, init_scale: float) -> ActionHead:
    """Return the distribution of a continuous action; the arguments are those of the builder.

    Raises:
        SpecError: if the action is not continuous, or has no bounds to squash into.
        ValueError: for an unknown scale.
    """
    spec = problem.action_spec
    if not isinstance(spec, Bounded | Unbounded) or not (spec.dtype or torch.int64).is_floating_point:
        raise problem.misfit("continuous numbers, or choices", "Cast or discretise the action with a transform.")
    if squash is None:
        squash = is_bounded(spec)
    if squash and not is_bounded(spec):
        raise problem.misfit("finite bounds to squash into", "Leave out squash=True.")
    shape = tuple(spec.shape)
    count = math.prod(shape)
    kind = TanhNormal if squash else IndependentNormal
    kwargs = {"event_dims" if squash else "event_dim": len(shape)}
    if scale == "network":
        return ActionHead(2 * count, [NormalParams(shape)], ["loc", "scale"], kind, kwargs)
    if scale != "free":
        raise ValueError(
            describe(problem.owner, "has no such scale", expected="'free' or 'network'", found=repr(scale))
        )
    free = AddStateIndependentNormalScale(
        shape,
        scale_lb=math.exp(LOG_SCALE_RANGE[0]),  # type: ignore[arg-type]  # a float is a Number
        device=None if problem.device is None else torch.device(problem.device),
        init_value=math.log(init_scale),
    )
    layers: list[nn.Module] = [free] if len(shape) == 1 else [Reshape(shape), free]
    return ActionHead(count, layers, ["loc", "scale"], kind, kwargs)
