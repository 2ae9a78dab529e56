"""Policies, value functions, and both together with or without shared layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import (
    CompositeDistribution,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys, require
from torchrl._core.legacy import old_names
from torchrl._core.records.flat_record import Record
from torchrl.data import Bounded, Composite, TensorSpec
from torchrl.modules._legacy import ACTORS, elsewhere
from torchrl.modules.distributions import Delta, TanhDelta, TanhNormal, TruncatedNormal
from torchrl.modules.distributions.continuous import Bound, check_range, keep_inside, same_kind
from torchrl.modules.tensordict_module.common import RecordModule, SafeModule, Spec
from torchrl.modules.tensordict_module.probabilistic import (
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
    composite_of,
)
from torchrl.modules.tensordict_module.sequence import SafeSequential

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

    supports_flat_records = True

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
        """Return the distribution with all its mass on the action; write the action, too."""
        return Delta(self(tensordict).get(self.out_keys[0]))


class ProbabilisticActor(SafeProbabilisticTensorDictSequential):
    """A stochastic policy: a network from observations to the parameters of a distribution.

    A distribution over a range (:class:`TanhNormal`, :class:`TanhDelta`, :class:`TruncatedNormal`)
    takes the range of the action's spec; ``distribution_kwargs`` may repeat it.

    Args:
        module: The module of tensordicts that writes the parameters.
        in_keys: Entries with the parameters, named as they are; or ``{parameter: entry}``.
        out_keys: Key of the action; for a :class:`CompositeDistribution`, its own names.
        spec: Spec of the action, or a composite.
        **kwargs: Of :class:`SafeProbabilisticModule`: ``distribution_class``,
            ``distribution_kwargs``, ``return_log_prob``, ``default_interaction_type``, ...

    Reads: what ``module`` reads. Writes: the parameters, ``action``, and ``action_log_prob`` with
    ``return_log_prob``.

    Raises:
        SpecError: if the range of the distribution is not that of the spec, or the range of the
            spec is infinite.
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
    (tensor(2.), torch.Size([5, 1]), torch.Size([5]))
    """

    supports_flat_records = True

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
                    hint="Wrap it: TensorDictModule(net, ['observation'], ['loc', 'scale']).",
                )
            )
        distribution, arguments = composite_of(
            kwargs.get("distribution_class", Delta), kwargs.get("distribution_kwargs")
        )
        kwargs.update(distribution_class=distribution, distribution_kwargs=arguments)
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
    owner: object, distribution: type, kwargs: Mapping[str, Any] | None, spec: Spec, action_key: NestedKey
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
    bounds = {"low": simplified(spec.low), "high": simplified(spec.high)}
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
        if name in given and not equal_bounds(given[name], bound):
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


def simplified(bound: Tensor) -> Bound:
    """Return a bound as a number if all its elements are equal, else without repeated dimensions.

    >>> simplified(torch.full((4, 2), 3.0)), simplified(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    (3.0, tensor([1., 2.]))
    """
    if bound.numel() and bool((bound == bound.flatten()[0]).all()):
        return float(bound.flatten()[0])
    while bound.ndim > 1 and bool((bound == bound[0]).all()):
        bound = bound[0]
    return bound


def equal_bounds(one: Bound, other: Bound) -> bool:
    """Return whether two bounds are the same, up to rounding and broadcasting.

    >>> equal_bounds(2, torch.tensor([2.0, 2.0])), equal_bounds(2, torch.tensor([2.0, 3.0]))
    (True, False)
    """
    left, right = torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu()
    try:
        left, right = torch.broadcast_tensors(left.double(), right.double())
    except RuntimeError:
        return False
    return torch.allclose(left, right)


class ValueOperator(SafeModule):
    """A value function: a network from observations, or observations and an action, to a value.

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

    supports_flat_records = True

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


class TanhModule(RecordModule):
    """Squash entries into their range by a hyperbolic tangent.

    Args:
        in_keys: Entries to squash.
        out_keys: Keys of the results; in place by default.
        spec: Spec of the results, or a composite, with the ranges.
        low: Lower end of the range of all entries, where there is no spec; -1 by default.
        high: Upper end; 1 by default.
        clamp: Keep results away from the bounds by one machine precision.

    The ends of the range are the buffers ``<key>_low`` and ``<key>_high``.

    Reads: ``in_keys [*B, A]``. Writes: ``out_keys [*B, A]``.

    Raises:
        SpecError: if the spec is not bounded, or ``low`` or ``high`` contradicts it.
        ValueError: if the range is empty, or there is not one output for each input.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> module = TanhModule(["action"], low=0, high=4)
    >>> module(TensorDict(action=torch.tensor([0.0, 99.0])))["action"]
    tensor([2., 4.])
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | NestedKey,
        out_keys: Sequence[NestedKey] | NestedKey | None = None,
        *,
        spec: TensorSpec | None = None,
        low: Bound | None = None,
        high: Bound | None = None,
        clamp: bool = False,
    ) -> None:
        super().__init__()
        reads = as_keys(in_keys)
        writes = reads if out_keys is None else as_keys(out_keys)
        self.in_keys, self.out_keys = reads, writes
        if len(self.in_keys) != len(self.out_keys):
            raise ValueError(
                describe(self, "has one output for each input", expected=self.in_keys, found=self.out_keys)
            )
        self.clamp = clamp
        specs = {key: spec.get(key, None) if isinstance(spec, Composite) else spec for key in self.out_keys}
        self._specs = list(specs.items())
        self._ranges = [self._range(key, leaf, low, high) for key, leaf in self._specs]
        for key, ends in zip(self.out_keys, self._ranges, strict=True):
            for end, bound in zip(("low", "high"), ends, strict=True):
                self.register_buffer(_buffer_name(key, end), torch.as_tensor(bound, dtype=torch.get_default_dtype()))
        self.register_load_state_dict_post_hook(_read_again)

    def _read_buffers(self) -> None:
        """Take over the ranges of the buffers; as numbers, where they are, since arithmetic with these is faster."""
        for i, (key, known) in enumerate(zip(self.out_keys_source, self._ranges, strict=True)):
            ends = [getattr(self, _buffer_name(key, end)) for end in ("low", "high")]
            pairs = zip(known, ends, strict=True)
            low, high = (old if equal_bounds(old, new) else simplified(new) for old, new in pairs)
            self._ranges[i] = low, high

    @property
    def spec(self) -> Composite:
        """The spec of each result; ``None`` for those without."""
        spec = Composite()
        for key, leaf in self._specs:
            spec.set(key, leaf)
        return spec

    @property
    def non_trivial(self) -> dict[NestedKey, bool]:
        """Whether the range of each result is another than [-1, 1]."""
        ranges = zip(self.out_keys_source, self._ranges, strict=True)
        return {key: not (equal_bounds(low, -1) and equal_bounds(high, 1)) for key, (low, high) in ranges}

    def _range(
        self, key: NestedKey, leaf: TensorSpec | None, low: Bound | None, high: Bound | None
    ) -> tuple[Bound, Bound]:
        if leaf is None:
            ends = (-1.0 if low is None else low), (1.0 if high is None else high)
            check_range(self, *ends)
            return ends
        if not isinstance(leaf, Bounded):
            raise SpecError(describe(self, "has no range", key=key, expected="a Bounded spec", found=leaf))
        for name, given, bound in (("low", low, leaf.low), ("high", high, leaf.high)):
            if given is not None and not equal_bounds(given, bound):
                raise SpecError(
                    describe(
                        self,
                        "has another range than its spec",
                        key=key,
                        expected=f"{name}={simplified(bound)}",
                        found=f"{name}={given}",
                        hint="Leave out low and high, or the spec.",
                    )
                )
        return simplified(leaf.low), simplified(leaf.high)

    def _run(self, td: Record) -> None:
        """Squash each entry."""
        for read, written, (low, high) in zip(self.in_keys, self.out_keys_source, self._ranges, strict=True):
            value = td.get(read)
            if value is None:
                require(td, [read], self, "Put the network before this module.")
            low, high = same_kind(low, value), same_kind(high, value)
            squashed = value.tanh() * ((high - low) / 2) + (high + low) / 2
            td.set(written, keep_inside(squashed, low, high) if self.clamp else squashed)


def _buffer_name(key: NestedKey, end: str) -> str:
    return f"{key if isinstance(key, str) else '_'.join(map(str, key))}_{end}"


def _read_again(module: TanhModule, incompatible_keys: object) -> None:
    module._read_buffers()


def chain(*modules: TensorDictModuleBase) -> TensorDictSequential:
    """Return a sequence of modules, a probabilistic one if it ends in a draw."""
    last = modules[-1]
    if isinstance(last, ProbabilisticTensorDictSequential):
        inner = last.module
        parts = inner.values() if isinstance(inner, nn.ModuleDict) else inner
        return SafeProbabilisticTensorDictSequential(*modules[:-1], *parts)
    if isinstance(last, ProbabilisticTensorDictModule):
        return SafeProbabilisticTensorDictSequential(*modules)
    return SafeSequential(*modules)


class ActorValueOperator(SafeSequential):
    """A policy and a value function with shared first layers.

    Args:
        common_operator: The shared layers: from observations to a hidden state.
        policy_operator: From the hidden state to an action.
        value_operator: From the hidden state to a value; a network of tensors reads
            what the shared layers write.

    Reads: what the shared layers read. Writes: hidden state, action, ``state_value``.

    >>> import torch
    >>> from torchrl.modules import Actor, SafeModule
    >>> trunk = SafeModule(torch.nn.Linear(3, 4), ["observation"], ["hidden"])
    >>> actor = Actor(torch.nn.Linear(4, 2), ["hidden"])
    >>> both = ActorValueOperator(trunk, actor, torch.nn.Linear(4, 1))
    >>> both.out_keys, both.get_policy_operator().out_keys
    (['hidden', 'action', 'state_value'], ['hidden', 'action'])
    """

    supports_flat_records = True
    action_keys: ClassVar[tuple[str, ...]] = ()  # read by a value operator that is a network of tensors

    def __init__(
        self,
        common_operator: TensorDictModuleBase,
        policy_operator: TensorDictModuleBase,
        value_operator: TensorDictModuleBase | Callable,
    ) -> None:
        if not TensorDictModuleBase.is_tdmodule_compatible(value_operator):
            reads = [*common_operator.out_keys, *self.action_keys]
            value_operator = ValueOperator(value_operator, in_keys=reads)
        super().__init__(common_operator, policy_operator, value_operator)

    module: Any  # a ModuleList of the three operators

    def get_policy_operator(self) -> TensorDictSequential:
        """Return shared layers and policy, with the same parameters."""
        return chain(self.module[0], self.module[1])

    def get_value_operator(self) -> TensorDictSequential:
        """Return shared layers and value function, with the same parameters."""
        return chain(self.module[0], self.module[2])

    def get_policy_head(self) -> TensorDictModuleBase:
        """Return the policy without the shared layers."""
        return self.module[1]

    def get_value_head(self) -> TensorDictModuleBase:
        """Return the value function without the shared layers."""
        return self.module[2]


class ActorCriticOperator(ActorValueOperator):
    """A policy and an action-value function with shared first layers.

    Args:
        common_operator: The shared layers: from observations to a hidden state.
        policy_operator: From the hidden state to an action.
        value_operator: From hidden state and action to a value; a network of tensors
            reads what the shared layers write, and the action.

    Reads: what the shared layers read. Writes: hidden state, action, ``state_action_value``.

    >>> import torch
    >>> from torchrl.modules import Actor, MLP, SafeModule
    >>> trunk = SafeModule(torch.nn.Linear(3, 4), ["observation"], ["hidden"])
    >>> actor = Actor(torch.nn.Linear(4, 2), ["hidden"])
    >>> ActorCriticOperator(trunk, actor, MLP(6, 1)).get_critic_operator().out_keys
    ['hidden', 'action', 'state_action_value']
    """

    supports_flat_records = True
    action_keys = ("action",)

    def get_critic_operator(self) -> TensorDictSequential:
        """Return shared layers, policy and critic, with the same parameters."""
        return chain(*self.module)

    def get_value_operator(self) -> TensorDictSequential:
        """Raise RuntimeError: the critic needs the action of the policy."""
        raise RuntimeError(_no_value_alone(self, "get_value_operator"))

    def get_value_head(self) -> TensorDictModuleBase:
        """Raise RuntimeError: the critic needs the action of the policy."""
        raise RuntimeError(_no_value_alone(self, "get_value_head"))


def _no_value_alone(owner: object, name: str) -> str:
    return describe(
        owner,
        f"has no {name}(): its value depends on the action that the policy takes",
        hint="Use get_critic_operator().",
    )


class ActorCriticWrapper(SafeSequential):
    """A policy and a value function without shared layers.

    Args:
        policy_operator: From observations to an action.
        value_operator: From observations to a value.

    Reads: what either of them reads. Writes: what either of them writes.

    >>> import torch
    >>> from torchrl.modules import Actor, ValueOperator
    >>> actor, value = Actor(torch.nn.Linear(3, 2)), ValueOperator(torch.nn.Linear(3, 1))
    >>> both = ActorCriticWrapper(actor, value)
    >>> both.out_keys, both.get_value_operator() is both.get_value_head()
    (['action', 'state_value'], True)
    """

    supports_flat_records = True

    def __init__(self, policy_operator: TensorDictModuleBase, value_operator: TensorDictModuleBase) -> None:
        super().__init__(policy_operator, value_operator)

    module: Any  # a ModuleList of the two operators

    def get_policy_operator(self) -> TensorDictModuleBase:
        """Return the policy."""
        return self.module[0]

    def get_value_operator(self) -> TensorDictModuleBase:
        """Return the value function."""
        return self.module[1]

    get_policy_head = get_policy_operator
    get_value_head = get_value_operator
