"""From action values to the best action.

``*B`` batch dimensions, ``N`` choices, ``Z`` atoms of a distribution of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, require
from torchrl._core.plan import Record
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.calls import RecordModule, choose
from torchrl.modules.tensordict_module.choices import resolve
from torchrl.modules.tensordict_module.common import HasSpec, SafeModule
from torchrl.modules.tensordict_module.sequence import SafeSequential

Space = str | TensorSpec | None
CHOSEN = "chosen_action_value"


class QValueModule(HasSpec, RecordModule):
    """Chooses the action of highest value; of equal ones, the first.

    Args:
        action_space: ``"one_hot"``, ``"categorical"``, ``"mult_one_hot"``, ``"mult_categorical"``;
            or a spec.
        action_value_key: Where the values are.
        action_mask_key: Where the mask of allowed actions is, if there is one.
        out_keys: Where action, values and value of the action go.
        var_nums: Number of choices of each space of a product.
        spec: Spec of the action, or a composite of the outputs; tells the action space.
        safe: Project the action on its spec.
        strict_shape: Refuse another number of values than the spec has choices.

    Reads: ``action_value [*B, N]``, and the mask ``[*B, N]``.
    Writes: ``action`` (one-hot ``[*B, N]`` or index ``[*B]``), ``action_value [*B, N]``,
    ``chosen_action_value [*B, 1]``; for a product, the sum over its spaces.

    Raises:
        ValueError: if nothing tells the action space.
        MissingKeyError: at a call, if there are no values.
        ValueError: at a call, if the mask allows nothing in a row that is not ``done``.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> td = QValueModule("one_hot")(TensorDict(action_value=torch.tensor([1.0, 3.0, 3.0])))
    >>> td["action"], td["chosen_action_value"]
    (tensor([0, 1, 0]), tensor([3.]))
    """

    entrywise = True

    def __init__(
        self,
        action_space: Space = None,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        var_nums: Sequence[int] | None = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
        strict_shape: bool = True,
    ) -> None:
        super().__init__()
        self.strict_shape = strict_shape
        self.action_value_key = action_value_key if action_value_key else "action_value"
        self.action_mask_key, self.var_nums = action_mask_key, var_nums
        reads: Any = [self.action_value_key, *as_keys(action_mask_key)]
        writes: Any = ["action", self.action_value_key, CHOSEN] if out_keys is None else out_keys
        self.in_keys, self.out_keys = reads, writes
        self.action_space, spec = resolve(self, action_space, spec, var_nums, self.out_keys[0])
        self.register_spec(spec, safe)

    def _run(self, td: Record) -> None:
        """Write the best action, its value, and all values."""
        values = td.get(self.action_value_key)
        if values is None:
            require(td, self.in_keys, self, "Put the network before this module.")
        scores = self._scores(values)
        if self.strict_shape:
            self.action_space.check(scores)
        if self.action_mask_key is not None:
            scores = self._masked(scores, td)
        action, chosen = self.action_space.best(scores)
        self._write(td, action, values, chosen)

    def _scores(self, values: Tensor) -> Tensor:
        return values

    def _masked(self, scores: Tensor, td: Record) -> Tensor:
        mask = td.get(self.action_mask_key)
        if mask is None:
            require(td, self.in_keys, self, "Add an ActionMask to the environment.")
        near = as_keys(self.action_mask_key)
        return choose(td, near, lambda: self.action_space.masked(scores, mask))

    def _write(self, td: Record, action: Tensor, values: Tensor, chosen: Tensor) -> None:
        action_key, value_key, chosen_key = self.out_keys_source
        td.set(action_key, action)
        if value_key != self.action_value_key:
            td.set(value_key, values)
        td.set(chosen_key, chosen)
        if self._projected:
            self.project(td)


class DistributionalQValueModule(QValueModule):
    """Chooses the action of highest expected value, given a distribution over atoms.

    Args:
        action_space: See :class:`QValueModule`.
        support: Value of each atom, ``[Z]``.
        action_value_key: Where the log-probabilities of the atoms are.
        action_mask_key: Where the mask of allowed actions is, if there is one.
        out_keys: Where action and log-probabilities go, and, if a third is named, the
            log-probabilities ``[*B, Z]`` of the chosen action.
        var_nums: Number of choices of each space of a product.
        spec: Spec of the action, or a composite of the outputs.
        safe: Project the action on its spec.

    Reads: ``action_value [*B, Z, N]``, and the mask ``[*B, N]``.
    Writes: ``action``, ``action_value [*B, Z, N]``.

    Raises:
        ShapeError: at a call, if the atoms are not as many as the support's.

    Source: Bellemare et al., 2017, https://arxiv.org/abs/1707.06887.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 5.0]])  # two atoms, two actions
    >>> module = DistributionalQValueModule("one_hot", torch.tensor([0.0, 1.0]))
    >>> module(TensorDict(action_value=logits.log_softmax(-2)))["action"]
    tensor([0, 1])
    """

    entrywise = True

    def __init__(
        self,
        action_space: Space,
        support: Tensor,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        var_nums: Sequence[int] | None = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
    ) -> None:
        if out_keys is None:
            out_keys = ["action", action_value_key if action_value_key else "action_value"]
        super().__init__(
            action_space, action_value_key, action_mask_key, out_keys, var_nums, spec, safe
        )
        self.register_buffer("support", support)

    support: Tensor

    def _scores(self, values: Tensor) -> Tensor:
        if values.shape[-2] != self.support.shape[-1]:
            raise ShapeError(
                describe(
                    self,
                    "has one row for each atom",
                    key=self.action_value_key,
                    expected=[*values.shape[:-2], self.support.shape[-1], values.shape[-1]],
                    found=list(values.shape),
                    hint="Atoms are the last dimension but one, actions the last.",
                )
            )
        return (values.exp() * self.support.to(values.dtype).unsqueeze(-1)).sum(-2)  # [*B, N]

    def _write(self, td: Record, action: Tensor, values: Tensor, chosen: Tensor) -> None:
        action_key, value_key, *rest = self.out_keys_source
        td.set(action_key, action)
        if value_key != self.action_value_key:
            td.set(value_key, values)
        if rest:
            td.set(rest[0], _atoms_of(values, self.action_space.index(action)))
        if self._projected:
            self.project(td)


def _atoms_of(values: Tensor, index: Tensor) -> Tensor:
    """Return the log-probabilities ``[*B, Z]`` of the actions ``index [*B, 1]``."""
    index = index.unsqueeze(-2).expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)


class QValueHook:
    """A forward hook that turns the action values of a network into a choice.

    Args:
        action_space: See :class:`QValueModule`.
        var_nums: Number of choices of each space of a product.
        action_value_key: Name of the values, for messages.
        action_mask_key: Refused: a hook sees no mask.
        out_keys: Names of the outputs, for messages.

    Returns: action, values, value of the action, in the place of the network's output.

    >>> import torch
    >>> net = nn.Linear(3, 2)
    >>> handle = net.register_forward_hook(QValueHook("one_hot"))
    >>> [x.shape[-1] for x in net(torch.zeros(3))]
    [2, 2, 1]
    """

    def __init__(
        self,
        action_space: Space,
        var_nums: Sequence[int] | None = None,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        if action_mask_key is not None:
            raise ValueError(
                describe(self, "sees no mask", hint="Put a QValueModule behind the network.")
            )
        self.module = self._make(action_space, action_value_key, out_keys, var_nums)

    def _make(self, space: Space, key: Any, out_keys: Any, var_nums: Any) -> QValueModule:
        return QValueModule(space, key, None, out_keys, var_nums)

    def __call__(self, net: nn.Module, observation: Any, values: Tensor) -> tuple[Tensor, ...]:
        """Return what the network shall return instead of ``values``."""
        action, chosen = self.module.action_space.best(self.module._scores(values))
        return action, values, chosen


class DistributionalQValueHook(QValueHook):
    """The hook of a network with a distribution of values; see :class:`QValueHook`.

    Args:
        action_space: See :class:`QValueModule`.
        support: Value of each atom, ``[Z]``.
        var_nums: Number of choices of each space of a product.
        action_value_key: Name of the values, for messages.
        action_mask_key: Refused: a hook sees no mask.
        out_keys: Names of the outputs, for messages.

    Returns: action and log-probabilities ``[*B, Z, N]``, in the place of the network's output.

    >>> import torch
    >>> net = nn.Unflatten(-1, (2, 2))
    >>> hook = DistributionalQValueHook("categorical", torch.tensor([0.0, 1.0]))
    >>> handle = net.register_forward_hook(hook)
    >>> net(torch.tensor([0.0, -1.0, -9.0, -0.5]))[0]
    tensor(1)
    """

    def __init__(
        self,
        action_space: Space,
        support: Tensor,
        var_nums: Sequence[int] | None = None,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        self.support = support
        super().__init__(action_space, var_nums, action_value_key, action_mask_key, out_keys)

    def _make(self, space: Space, key: Any, out_keys: Any, var_nums: Any) -> QValueModule:
        return DistributionalQValueModule(space, self.support, key, None, out_keys, var_nums)

    def __call__(self, net: nn.Module, observation: Any, values: Tensor) -> tuple[Tensor, ...]:
        """Return what the network shall return instead of ``values``."""
        return super().__call__(net, observation, values)[:2]


class QValueActor(SafeSequential):
    """A network of action values and the choice of the best action.

    Args:
        module: The network, or a module of tensordicts that writes the values.
        in_keys: What the network reads.
        spec: Spec of the action, or a composite of the outputs; tells the action space.
        safe: Project the action on its spec.
        action_space: See :class:`QValueModule`.
        action_value_key: Where the values go.
        action_key: Where the action goes.
        chosen_action_value_key: Where its value goes.
        action_mask_key: Where the mask of allowed actions is, if there is one.
        var_nums: Number of choices of each space of a product.
        strict_shape: See :class:`QValueModule`.

    Reads: ``observation [*B, O]``. Writes: what :class:`QValueModule` writes.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from torchrl.data import OneHot
    >>> actor = QValueActor(nn.Linear(3, 2), spec=OneHot(2))
    >>> actor(TensorDict(observation=torch.zeros(3)))["action"].dtype, actor.out_keys
    (torch.bool, ['action', 'action_value', 'chosen_action_value'])
    """

    entrywise = True

    def __init__(
        self,
        module: Callable,
        *,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
        action_space: Space = None,
        action_value_key: NestedKey | None = None,
        action_key: NestedKey | None = None,
        chosen_action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        var_nums: Sequence[int] | None = None,
        strict_shape: bool = True,
    ) -> None:
        value_key = action_value_key if action_value_key else "action_value"
        out_keys = [action_key or "action", value_key, chosen_action_value_key or CHOSEN]
        choice = QValueModule(
            action_space, value_key, action_mask_key, out_keys, var_nums, spec, safe, strict_shape
        )
        super().__init__(_values(module, in_keys, value_key), choice)

    @property
    def action_space(self) -> Any:
        """The space of the actions."""
        return self.module[-1].action_space


class DistributionalQValueActor(SafeSequential):
    """A network of distributions of action values and the choice of the best action.

    Args:
        module: The network, or a module of tensordicts that writes ``[*B, Z, N]``.
        support: Value of each atom, ``[Z]``.
        in_keys: What the network reads.
        spec: Spec of the action, or a composite of the outputs; tells the action space.
        safe: Project the action on its spec.
        var_nums: Number of choices of each space of a product.
        action_space: See :class:`QValueModule`.
        action_value_key: Where the log-probabilities of the atoms go.
        action_mask_key: Where the mask of allowed actions is, if there is one.
        make_log_softmax: Normalise the network's output over the atoms.

    Reads: ``observation [*B, O]``. Writes: ``action_value [*B, Z, N]``, ``action``.

    Source: Bellemare et al., 2017, https://arxiv.org/abs/1707.06887.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from torchrl.modules import MLP
    >>> net = MLP(3, (5, 2), depth=1)
    >>> actor = DistributionalQValueActor(net, torch.linspace(0, 1, 5), action_space="one_hot")
    >>> total = actor(TensorDict(observation=torch.zeros(3)))["action_value"].exp().sum(-2)
    >>> torch.allclose(total, torch.ones(2))
    True
    """

    entrywise = True

    def __init__(
        self,
        module: Callable,
        support: Tensor,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
        var_nums: Sequence[int] | None = None,
        action_space: Space = None,
        action_value_key: NestedKey = "action_value",
        action_mask_key: NestedKey | None = None,
        make_log_softmax: bool = True,
    ) -> None:
        choice = DistributionalQValueModule(
            action_space,
            support,
            action_value_key,
            action_mask_key,
            var_nums=var_nums,
            spec=spec,
            safe=safe,
        )
        parts = [_values(module, in_keys, action_value_key)]
        if make_log_softmax:
            normalise = nn.LogSoftmax(-2)
            parts.append(TensorDictModule(normalise, [action_value_key], [action_value_key]))
        super().__init__(*parts, choice)

    @property
    def support(self) -> Any:
        """Value of each atom, ``[Z]``."""
        return self.module[-1].support

    @property
    def action_space(self) -> Any:
        """The space of the actions."""
        return self.module[-1].action_space


def _values(module: Callable, in_keys: Any, out_key: NestedKey) -> TensorDictModuleBase:
    if isinstance(module, TensorDictModuleBase):
        return module
    reads = ["observation"] if in_keys is None else as_keys(in_keys)
    return SafeModule(module, reads, [out_key])
