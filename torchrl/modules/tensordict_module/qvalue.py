"""Q-values: modules, hooks and policies that choose the action of highest value.

``*B`` batch dimensions, ``N`` choices, ``Z`` atoms of a distribution of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, require
from torchrl._core.records.flat_record import Record
from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.action_space import resolve
from torchrl.modules.tensordict_module.common import HasSpec, RecordModule, SafeModule, choose
from torchrl.modules.tensordict_module.sequence import SafeSequential

Space = str | TensorSpec | None
Keys = Sequence[NestedKey] | None
Sizes = Sequence[int] | None
CHOSEN = "chosen_action_value"


class QValueModule(HasSpec, RecordModule):
    """Choose the action of highest value; of equal ones, the first.

    Args:
        action_space: ``"one_hot"``, ``"categorical"``, ``"mult_one_hot"``, ``"mult_categorical"``;
            or a spec.
        action_value_key: Key of the values.
        action_mask_key: Key of the mask of allowed actions, if there is one.
        out_keys: Keys of the action, the values and the value of the action.
        var_nums: Number of choices of each space of a product.
        spec: Spec of the action, or a composite of the outputs; has the action space.
        safe: Project the action on its spec.
        strict_shape: Raise if the number of values is not that of the choices of the spec.

    Reads: ``action_value [*B, N]``, and the mask ``[*B, N]``.
    Writes: ``action`` (one-hot ``[*B, N]`` or index ``[*B]``), ``action_value [*B, N]``,
    ``chosen_action_value [*B, 1]``; for a product, the sum over its spaces.

    Raises:
        ValueError: if the arguments determine no action space.
        MissingKeyError: at a call, if there are no values.
        ValueError: at a call, if the mask allows nothing in a row that is not ``done``.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> td = QValueModule("one_hot")(TensorDict(action_value=torch.tensor([1.0, 3.0, 3.0])))
    >>> td["action"], td["chosen_action_value"]
    (tensor([0, 1, 0]), tensor([3.]))
    """

    supports_flat_records = True

    def __init__(
        self,
        action_space: Space = None,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        var_nums: Sizes = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
        strict_shape: bool = True,
    ) -> None:
        super().__init__()
        self.strict_shape = strict_shape
        self.action_value_key = action_value_key if action_value_key else "action_value"
        self.action_mask_key, self.var_nums = action_mask_key, var_nums
        self.in_keys = [self.action_value_key, *as_keys(action_mask_key)]
        self.out_keys = ["action", self.action_value_key, CHOSEN] if out_keys is None else list(out_keys)
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
            scores = self._masked(scores, td, self.action_mask_key)
        action, chosen = self.action_space.best(scores)
        self._write(td, action, values, chosen)

    def _scores(self, values: Tensor) -> Tensor:
        return values

    def _masked(self, scores: Tensor, td: Record, mask_key: NestedKey) -> Tensor:
        mask = td.get(mask_key)
        if mask is None:
            require(td, self.in_keys, self, "Add an ActionMask to the environment.")
        return choose(td, [mask_key], lambda: self.action_space.masked(scores, mask))

    def _write(self, td: Record, action: Tensor, values: Tensor, chosen: Tensor) -> None:
        action_key, value_key, chosen_key = self.out_keys_source
        td.set(action_key, action)
        if value_key != self.action_value_key:
            td.set(value_key, values)
        td.set(chosen_key, chosen)
        if self._projected:
            self.project(td)


class DistributionalQValueModule(QValueModule):
    """Choose the action of highest expected value, given a distribution over atoms.

    Args:
        action_space: See :class:`QValueModule`.
        support: Value of each atom, ``[Z]``.
        action_value_key: Key of the log-probabilities of the atoms.
        action_mask_key: Key of the mask of allowed actions, if there is one.
        out_keys: Keys of the action and the log-probabilities and, as an optional third, of the
            log-probabilities ``[*B, Z]`` of the chosen action.
        var_nums: Number of choices of each space of a product.
        spec: Spec of the action, or a composite of the outputs.
        safe: Project the action on its spec.

    Reads: ``action_value [*B, Z, N]``, and the mask ``[*B, N]``.
    Writes: ``action``, ``action_value [*B, Z, N]``.

    Raises:
        ShapeError: at a call, if the number of atoms is not that of the support.

    Source: Bellemare et al., 2017, https://arxiv.org/abs/1707.06887.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 5.0]])  # two atoms, two actions
    >>> module = DistributionalQValueModule("one_hot", torch.tensor([0.0, 1.0]))
    >>> module(TensorDict(action_value=logits.log_softmax(-2)))["action"]
    tensor([0, 1])
    """

    supports_flat_records = True

    def __init__(
        self,
        action_space: Space,
        support: Tensor,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        var_nums: Sizes = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
    ) -> None:
        if out_keys is None:
            out_keys = ["action", action_value_key if action_value_key else "action_value"]
        super().__init__(action_space, action_value_key, action_mask_key, out_keys, var_nums, spec, safe)
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
            index = self.action_space.index(action).unsqueeze(-2)  # [*B, 1, 1]
            chosen = values.gather(-1, index.expand(*values.shape[:-1], 1)).squeeze(-1)  # [*B, Z]
            td.set(rest[0], chosen)
        if self._projected:
            self.project(td)


class QuantileQValueModule(QValueModule):
    """Choose the action with the highest mean of quantiles of its value; of equal ones, the first.

    Args are those of :class:`QValueModule`.

    Reads: ``action_value [*B, Z, N]``, ``Z`` quantiles of each of ``N`` actions, and the mask ``[*B, N]``.
    Writes: ``action``, ``action_value [*B, Z, N]``, ``chosen_action_value [*B, 1]``, the mean.

    Source: Dabney et al., 2018, https://arxiv.org/abs/1710.10044, section 4.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> quantiles = torch.tensor([[0.0, 1.0], [9.0, 2.0]])  # two quantiles, two actions
    >>> QuantileQValueModule("categorical")(TensorDict(action_value=quantiles))["chosen_action_value"]
    tensor([4.5000])
    """

    supports_flat_records = True

    def _scores(self, values: Tensor) -> Tensor:
        return values.mean(-2)


def choice_of(network: object) -> QValueModule | None:
    """Return the module at the end of a sequence that only chooses among values, if there is one.

    >>> actor = QValueActor(nn.Linear(3, 2), action_space="one_hot")
    >>> choice_of(actor) is actor.module[-1], choice_of(actor.module[0])
    (True, None)
    """
    last = [*network.module][-1] if isinstance(network, TensorDictSequential) else None
    return last if isinstance(last, QValueModule) else None


class QValueHook:
    """A forward hook that replaces the action values of a network by a choice.

    Args:
        action_space: See :class:`QValueModule`.
        var_nums: Number of choices of each space of a product.
        action_value_key: Name of the values in error messages.
        action_mask_key: Must be ``None``: a hook has no mask.
        out_keys: Names of the outputs; the first is that of the action in a composite spec.

    Returns: action, values, value of the action, in place of the output of the network.

    >>> import torch
    >>> net = nn.Linear(3, 2)
    >>> handle = net.register_forward_hook(QValueHook("one_hot"))
    >>> [x.shape[-1] for x in net(torch.zeros(3))]
    [2, 2, 1]
    """

    def __init__(
        self,
        action_space: Space,
        var_nums: Sizes = None,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        if action_mask_key is not None:
            raise ValueError(describe(self, "does not support masks", hint="Put a QValueModule behind the network."))
        self.module = self._make(action_space, action_value_key, out_keys, var_nums)

    def _make(self, space: Space, key: NestedKey | None, out_keys: Keys, var_nums: Sizes) -> QValueModule:
        return QValueModule(space, key, None, out_keys, var_nums)

    def __call__(self, net: nn.Module, observation: object, values: Tensor) -> tuple[Tensor, ...]:
        """Return the output that replaces ``values``."""
        action, chosen = self.module.action_space.best(self.module._scores(values))
        return action, values, chosen


class DistributionalQValueHook(QValueHook):
    """The forward hook of a network of distributions of values; see :class:`QValueHook`.

    Args:
        action_space: See :class:`QValueModule`.
        support: Value of each atom, ``[Z]``.
        var_nums: Number of choices of each space of a product.
        action_value_key: Name of the values in error messages.
        action_mask_key: Must be ``None``: a hook has no mask.
        out_keys: Names of the outputs; the first is that of the action in a composite spec.

    Returns: action and log-probabilities ``[*B, Z, N]``, in place of the output of the network.

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
        var_nums: Sizes = None,
        action_value_key: NestedKey | None = None,
        action_mask_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        self.support = support
        super().__init__(action_space, var_nums, action_value_key, action_mask_key, out_keys)

    def _make(self, space: Space, key: NestedKey | None, out_keys: Keys, var_nums: Sizes) -> QValueModule:
        return DistributionalQValueModule(space, self.support, key, None, out_keys, var_nums)

    def __call__(self, net: nn.Module, observation: object, values: Tensor) -> tuple[Tensor, ...]:
        """Return the output that replaces ``values``."""
        return super().__call__(net, observation, values)[:2]


class QValueActor(SafeSequential):
    """A network of action values and the choice of the best action.

    Args:
        module: The network, or a module of tensordicts that writes the values.
        in_keys: What the network reads.
        spec: Spec of the action, or a composite of the outputs; has the action space.
        safe: Project the action on its spec.
        action_space: See :class:`QValueModule`.
        action_value_key: Key of the values.
        action_key: Key of the action.
        chosen_action_value_key: Key of its value.
        action_mask_key: Key of the mask of allowed actions, if there is one.
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

    supports_flat_records = True

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
        var_nums: Sizes = None,
        strict_shape: bool = True,
    ) -> None:
        value_key = action_value_key if action_value_key else "action_value"
        out_keys = [action_key or "action", value_key, chosen_action_value_key or CHOSEN]
        choice = QValueModule(action_space, value_key, action_mask_key, out_keys, var_nums, spec, safe, strict_shape)
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
        spec: Spec of the action, or a composite of the outputs; has the action space.
        safe: Project the action on its spec.
        var_nums: Number of choices of each space of a product.
        action_space: See :class:`QValueModule`.
        action_value_key: Key of the log-probabilities of the atoms.
        action_mask_key: Key of the mask of allowed actions, if there is one.
        make_log_softmax: Normalise the network's output over the atoms.
        action_key: Key of the action.

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

    supports_flat_records = True

    def __init__(
        self,
        module: Callable,
        support: Tensor,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
        var_nums: Sizes = None,
        action_space: Space = None,
        action_value_key: NestedKey = "action_value",
        action_mask_key: NestedKey | None = None,
        make_log_softmax: bool = True,
        action_key: NestedKey = "action",
    ) -> None:
        out_keys = [action_key, action_value_key]
        choice = DistributionalQValueModule(
            action_space, support, action_value_key, action_mask_key, out_keys, var_nums, spec, safe
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


class QuantileQValueActor(SafeSequential):
    """A network of quantiles of action values and the choice of the action with the highest mean.

    Args:
        module: The network, or a module of tensordicts that writes ``[*B, Z, N]``.
        in_keys: What the network reads.
        spec: Spec of the action, or a composite of the outputs; has the action space.
        safe: Project the action on its spec.
        action_space: See :class:`QValueModule`.
        action_value_key: Key of the quantiles.
        action_key: Key of the action.
        action_mask_key: Key of the mask of allowed actions, if there is one.

    Reads: ``observation [*B, O]``. Writes: what :class:`QuantileQValueModule` writes.

    Source: Dabney et al., 2018, https://arxiv.org/abs/1710.10044.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from torchrl.modules import MLP
    >>> actor = QuantileQValueActor(MLP(3, (5, 2)), action_space="one_hot")
    >>> actor(TensorDict(observation=torch.zeros(3)))["action_value"].shape
    torch.Size([5, 2])
    """

    supports_flat_records = True

    def __init__(
        self,
        module: Callable,
        *,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        spec: TensorSpec | None = None,
        safe: bool = False,
        action_space: Space = None,
        action_value_key: NestedKey = "action_value",
        action_key: NestedKey = "action",
        action_mask_key: NestedKey | None = None,
    ) -> None:
        out_keys = [action_key, action_value_key, CHOSEN]
        choice = QuantileQValueModule(action_space, action_value_key, action_mask_key, out_keys, spec=spec, safe=safe)
        super().__init__(_values(module, in_keys, action_value_key), choice)

    @property
    def action_space(self) -> Any:
        """The space of the actions."""
        return self.module[-1].action_space


def _values(module: Callable, in_keys: Keys | NestedKey, out_key: NestedKey) -> TensorDictModuleBase:
    if isinstance(module, TensorDictModuleBase):
        return module
    reads = ["observation"] if in_keys is None else as_keys(in_keys)
    return SafeModule(module, reads, [out_key])
