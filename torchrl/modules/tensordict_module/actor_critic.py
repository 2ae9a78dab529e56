"""A policy and a value function together, with or without a common trunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import nn

from torchrl._core.errors import describe
from torchrl.modules.tensordict_module.actors import ValueOperator
from torchrl.modules.tensordict_module.probabilistic import SafeProbabilisticTensorDictSequential
from torchrl.modules.tensordict_module.sequence import SafeSequential


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
    """A policy and a value function behind a common trunk.

    Args:
        common_operator: The trunk: from observations to a hidden state.
        policy_operator: From the hidden state to an action.
        value_operator: From the hidden state to a value; a bare network reads what the trunk
            writes.

    Reads: what the trunk reads. Writes: hidden state, action, ``state_value``.

    >>> import torch
    >>> from torchrl.modules import Actor, SafeModule
    >>> trunk = SafeModule(torch.nn.Linear(3, 4), ["observation"], ["hidden"])
    >>> actor = Actor(torch.nn.Linear(4, 2), ["hidden"])
    >>> both = ActorValueOperator(trunk, actor, torch.nn.Linear(4, 1))
    >>> both.out_keys, both.get_policy_operator().out_keys
    (['hidden', 'action', 'state_value'], ['hidden', 'action'])
    """

    entrywise = True

    def __init__(
        self,
        common_operator: TensorDictModuleBase,
        policy_operator: TensorDictModuleBase,
        value_operator: TensorDictModuleBase | Callable,
    ) -> None:
        if not TensorDictModuleBase.is_tdmodule_compatible(value_operator):
            value_operator = ValueOperator(value_operator, in_keys=common_operator.out_keys)
        super().__init__(common_operator, policy_operator, value_operator)

    module: Any  # a ModuleList of the three operators

    def get_policy_operator(self) -> TensorDictSequential:
        """Return trunk and policy, sharing their parameters with this."""
        return chain(self.module[0], self.module[1])

    def get_value_operator(self) -> TensorDictSequential:
        """Return trunk and value function, sharing their parameters with this."""
        return chain(self.module[0], self.module[2])

    def get_policy_head(self) -> TensorDictModuleBase:
        """Return the policy without the trunk."""
        return self.module[1]

    def get_value_head(self) -> TensorDictModuleBase:
        """Return the value function without the trunk."""
        return self.module[2]


class ActorCriticOperator(ActorValueOperator):
    """A policy and an action-value function behind a common trunk.

    Args:
        common_operator: The trunk: from observations to a hidden state.
        policy_operator: From the hidden state to an action.
        value_operator: From hidden state and action to a value; a bare network reads what the
            trunk writes, and the action.

    Reads: what the trunk reads. Writes: hidden state, action, ``state_action_value``.

    >>> import torch
    >>> from torchrl.modules import Actor, MLP, SafeModule
    >>> trunk = SafeModule(torch.nn.Linear(3, 4), ["observation"], ["hidden"])
    >>> actor = Actor(torch.nn.Linear(4, 2), ["hidden"])
    >>> ActorCriticOperator(trunk, actor, MLP(6, 1)).get_critic_operator().out_keys
    ['hidden', 'action', 'state_action_value']
    """

    entrywise = True

    def __init__(
        self,
        common_operator: TensorDictModuleBase,
        policy_operator: TensorDictModuleBase,
        value_operator: TensorDictModuleBase | Callable,
    ) -> None:
        if not TensorDictModuleBase.is_tdmodule_compatible(value_operator):
            reads = [*common_operator.out_keys, "action"]
            value_operator = ValueOperator(value_operator, in_keys=reads)
        super().__init__(common_operator, policy_operator, value_operator)

    def get_critic_operator(self) -> TensorDictSequential:
        """Return trunk, policy and critic, sharing their parameters with this."""
        return chain(*self.module)

    def get_value_operator(self) -> TensorDictSequential:
        """Refuse: the critic needs the policy's action."""
        raise RuntimeError(_no_value_alone(self, "get_value_operator"))

    def get_value_head(self) -> TensorDictModuleBase:
        """Refuse: the critic needs the policy's action."""
        raise RuntimeError(_no_value_alone(self, "get_value_head"))


def _no_value_alone(owner: object, name: str) -> str:
    return describe(
        owner,
        f"has no {name}(): its value depends on the action that the policy takes",
        hint="Use get_critic_operator().",
    )


class ActorCriticWrapper(SafeSequential):
    """A policy and a value function that share nothing.

    Args:
        policy_operator: From observations to an action.
        value_operator: From observations to a value.

    Reads: what either reads. Writes: what either writes.

    >>> import torch
    >>> from torchrl.modules import Actor, ValueOperator
    >>> actor, value = Actor(torch.nn.Linear(3, 2)), ValueOperator(torch.nn.Linear(3, 1))
    >>> both = ActorCriticWrapper(actor, value)
    >>> both.out_keys, both.get_value_operator() is both.get_value_head()
    (['action', 'state_value'], True)
    """

    entrywise = True

    def __init__(
        self, policy_operator: TensorDictModuleBase, value_operator: TensorDictModuleBase
    ) -> None:
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
