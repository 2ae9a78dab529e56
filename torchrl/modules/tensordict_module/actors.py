"""Policies and value functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import CompositeDistribution, TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys
from torchrl._core.legacy import old_names
from torchrl.data import Bounded, Composite
from torchrl.modules._legacy import ACTORS, elsewhere
from torchrl.modules.distributions import Delta, TanhDelta, TanhNormal, TruncatedNormal
from torchrl.modules.distributions.continuous import Bound
from torchrl.modules.tensordict_module.common import SafeModule, Spec
from torchrl.modules.tensordict_module.probabilistic import (
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
)

RANGED = (TanhNormal, TanhDelta, TruncatedNormal)
_OLD_BOUNDS = {"min": "low", "max": "high"}
__getattr__ = old_names(__name__, elsewhere(ACTORS))


class Actor(SafeModule):
    """A deterministic policy: a network from observations to an action.

    Args:
        module: The network.
        in_keys: What it reads.
        out_keys: What it writes, the action first.
        spec: Spec of the action, or a composite of all outputs.
        **kwargs: Of :class:`SafeModule`, such as ``safe``.

    Reads: ``observation [*B, O]``. Writes: ``action [*B, A]``.

    >>> from tensordict import TensorDict
    >>> from torch import nn
    >>> Actor(nn.Linear(3, 2))(TensorDict(observation=torch.zeros(3)))["action"].shape
    torch.Size([2])
    """

    entrywise = True

    def __init__(
        self,
        module: Callable,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        out_keys: Sequence[NestedKey] | NestedKey | None = None,
        *,
        spec: Spec = None,
        **kwargs: Any,
    ) -> None:
        reads = ["observation"] if in_keys is None else in_keys
        writes = ["action"] if out_keys is None else out_keys
        super().__init__(module, reads, writes, spec=spec, **kwargs)

    def get_dist(self, tensordict: TensorDictBase) -> Delta:
        """Return the policy as a distribution, all of it on the action; writes the action too."""
        return Delta(self(tensordict).get(self.out_keys[0]))


class ProbabilisticActor(SafeProbabilisticTensorDictSequential):
    """A stochastic policy: a network from observations to parameters, and a draw from them.

    A distribution over a range (:class:`TanhNormal`, :class:`TanhDelta`, :class:`TruncatedNormal`)
    takes the range of the action's spec, unless ``distribution_kwargs`` name the same one.

    Args:
        module: Writes the parameters: a module of tensordicts.
        in_keys: Entries with the parameters, named as they are; or ``{parameter: entry}``.
        out_keys: Where the action goes; for a :class:`CompositeDistribution`, its own names.
        spec: Spec of the action, or a composite.
        **kwargs: Of :class:`SafeProbabilisticModule`: ``distribution_class``,
            ``distribution_kwargs``, ``return_log_prob``, ``default_interaction_type``, ...

    Reads: what ``module`` reads. Writes: the parameters, ``action``, and ``action_log_prob`` with
    ``return_log_prob``.

    Raises:
        SpecError: if the distribution's range is not that of the spec, or the spec has no range
            that such a distribution could have.
        TypeError: if ``module`` is a network of tensors.

    >>> from tensordict import TensorDict
    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.modules import NormalParamExtractor
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(3, 2), NormalParamExtractor())
    >>> actor = ProbabilisticActor(
    ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
    ...     in_keys=["loc", "scale"],
    ...     spec=Bounded(-2, 2, (1,)),
    ...     distribution_class=TanhNormal,
    ...     return_log_prob=True,
    ... )
    >>> td = actor(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))
    >>> actor.get_dist(td).high, td["action"].shape, td["action_log_prob"].shape
    (2.0, torch.Size([5, 1]), torch.Size([5]))
    """

    entrywise = True

    def __init__(
        self,
        module: TensorDictModuleBase,
        in_keys: NestedKey | Sequence[NestedKey] | Mapping[str, NestedKey],
        out_keys: Sequence[NestedKey] | NestedKey | None = None,
        *,
        spec: Spec = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(module, nn.Module) and not hasattr(module, "out_keys"):
            raise TypeError(
                describe(
                    self,
                    "the network must read and write entries of tensordicts",
                    found=type(module).__name__,
                    hint="Wrap it: TensorDictModule(net, ['observation'], ['loc', 'scale']), say.",
                )
            )
        distribution = kwargs.get("distribution_class", Delta)
        if out_keys is None and distribution is not CompositeDistribution:
            out_keys = ["action"]
        if isinstance(distribution, type) and issubclass(distribution, RANGED):
            action_key = as_keys(out_keys)[0]
            kwargs["distribution_kwargs"] = with_range(
                self, distribution, kwargs.get("distribution_kwargs"), spec, action_key
            )
        head = SafeProbabilisticModule(in_keys, out_keys, spec, **kwargs)
        super().__init__(module, head)


def with_range(
    owner: object,
    distribution: type,
    kwargs: Mapping[str, Any] | None,
    spec: Spec,
    action_key: NestedKey,
) -> dict[str, Any]:
    """Return the arguments of a distribution over a range, with the range of the action's spec.

    Raises:
        SpecError: if the arguments name another range, or the spec is not bounded on both sides.
    """
    given = {_OLD_BOUNDS.get(name, name): value for name, value in (kwargs or {}).items()}
    if isinstance(spec, Composite):
        spec = spec.get(action_key, None)
    if not isinstance(spec, Bounded):
        return given
    bounds = {"low": simplest(spec.low), "high": simplest(spec.high)}
    for name, bound in bounds.items():
        if not torch.as_tensor(bound).isfinite().all():
            raise SpecError(
                describe(
                    owner,
                    f"cannot be drawn from a {distribution.__name__}, whose range is finite",
                    key=action_key,
                    expected=f"a spec with a finite {name}",
                    found=bound,
                    hint="Use another distribution, or a spec with finite bounds.",
                )
            )
        if name in given and not agree(given[name], bound):
            raise SpecError(
                describe(
                    owner,
                    f"has another range in the {distribution.__name__} than in its spec",
                    key=action_key,
                    expected=f"{name}={bound}",
                    found=f"{name}={given[name]}",
                    hint="Leave low and high out of distribution_kwargs, or fix the spec.",
                )
            )
    return {**given, **bounds}


def simplest(bound: Tensor) -> Bound:
    """Return a bound as a number if it is one, else without dimensions along which it repeats.

    >>> simplest(torch.full((4, 2), 3.0)), simplest(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    (3.0, tensor([1., 2.]))
    """
    if bound.numel() and bool((bound == bound.flatten()[0]).all()):
        return float(bound.flatten()[0])
    while bound.ndim > 1 and bool((bound == bound[0]).all()):
        bound = bound[0]
    return bound


def agree(one: Bound, other: Bound) -> bool:
    """Return whether two bounds are the same, up to rounding and repetition.

    >>> agree(2, torch.tensor([2.0, 2.0])), agree(2, torch.tensor([2.0, 3.0]))
    (True, False)
    """
    left, right = torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu()
    try:
        left, right = torch.broadcast_tensors(left.double(), right.double())
    except RuntimeError:
        return False
    return torch.allclose(left, right)


class ValueOperator(SafeModule):
    """A value function: a network from observations, perhaps with an action, to a number.

    Args:
        module: The network.
        in_keys: What it reads.
        out_keys: What it writes; ``state_action_value`` where it reads an ``action``.
        **kwargs: Of :class:`SafeModule`.

    Reads: ``observation [*B, O]``. Writes: ``state_value [*B, 1]`` or ``state_action_value``.

    >>> from tensordict import TensorDict
    >>> from torch import nn
    >>> ValueOperator(nn.Linear(3, 1))(TensorDict(observation=torch.zeros(3)))["state_value"].shape
    torch.Size([1])
    >>> ValueOperator(nn.Linear(3, 1), in_keys=["observation", "action"]).out_keys
    ['state_action_value']
    """

    entrywise = True

    def __init__(
        self,
        module: Callable,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        out_keys: Sequence[NestedKey] | NestedKey | None = None,
        **kwargs: Any,
    ) -> None:
        reads = ["observation"] if in_keys is None else as_keys(in_keys)
        if out_keys is None:
            out_keys = ["state_action_value" if "action" in reads else "state_value"]
        super().__init__(module, reads, out_keys, **kwargs)
