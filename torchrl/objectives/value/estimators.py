"""Value estimators: their base class, TD(0), TD(1), TD(lambda) and GAE.

The base class evaluates the critic at both ends of each step; the return is then a pure function of
:mod:`torchrl._core.returns`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor

from torchrl._core import returns
from torchrl._core.attributes import is_class_attribute
from torchrl._core.devices import check_devices
from torchrl._core.errors import TorchRLError, UnexpectedKeyError, describe, nearest
from torchrl._core.keys import as_keys, next_key, read_next, require, write
from torchrl._core.legacy import old_keywords
from torchrl._core.math import cleared, replaced, standardized
from torchrl._core.records.ended_rows import evaluating
from torchrl._core.records.policies import input_keys, merge, take
from torchrl._core.records.rows import expand_right
from torchrl._core.records.torch_private import has_names
from torchrl.objectives.networks import frozen
from torchrl.objectives.value.sequences import interleave, shuffled_pairs, takes_sequences

PADDING_MASK: NestedKey = ("collector", "mask")


@dataclass
class Steps:
    """What an estimate is made of; every tensor is ``[*B, T, F]``, with ``T`` at ``time_dim``."""

    reward: Tensor
    done: Tensor
    terminated: Tensor
    next_value: Tensor
    value: Tensor | None
    gamma: float | Tensor
    time_dim: int
    tensordict: TensorDictBase
    mask: Tensor | None

    def standardized(self, x: Tensor) -> Tensor:
        """Return ``x [*B, T, F]`` with mean 0 and standard deviation 1 over the rows that count."""
        return standardized(x, self.mask, min_std=1e-4)


@dataclass
class ValueKeys:
    """Names of the entries that a value estimator reads and writes."""

    advantage: NestedKey = write("advantage")
    value_target: NestedKey = write("value_target")
    value: NestedKey = write("state_value")
    reward: NestedKey = read_next("reward")
    done: NestedKey = read_next("done")
    terminated: NestedKey = read_next("terminated")
    steps_to_next_obs: NestedKey = write("steps_to_next_obs")
    sample_log_prob: NestedKey = write("action_log_prob")


class ValueEstimatorBase(TensorDictModuleBase, ABC):
    """A module that writes an advantage and a value target into trajectories.

    ``terminated`` stops the bootstrap, ``done`` cuts the recursion, and where the data ends the
    last step bootstraps; rows that ``collector.mask`` excludes are no data, but padding. A missing
    ``terminated`` is taken from ``done``.

    Args:
        gamma: Discount factor, or one a step. Data of several steps in one (an entry
            ``steps_to_next_obs``) is discounted by its power.
        value_network: Reads observations, writes ``state_value [*B, T, 1]``; ``None`` if the values
            are in the data.
        shifted: Evaluate the critic once, on each observation of a trajectory and on the last one
            of each piece, rather than on both ends of every step; for data whose next observation
            is the following root. Recurrent critics that take sequences are always evaluated so,
            but on data of several steps in one: they remember what came before a next observation.
        differentiable: Let gradients flow to what the critic reads and to rewards, and into parameters
            that are passed to a call; the critic's own get none. Otherwise nothing is differentiable.
        skip_existing: Use the values found in the data, rather than those of the critic.
        advantage_key: Old way to name the advantage, like ``set_keys(advantage=...)``.
        value_target_key: The same for the value target.
        value_key: The same for the values.
        time_dim: Which batch dimension is time. By default the one that is called ``"time"``,
            otherwise the last one.
        device: Hold discounts as tensors on this device; otherwise numbers stay numbers.
        value_chunk_size: Evaluate the critic on pieces of the batch, of at most this size, to spare
            memory.
        num_chunks: Evaluate it on so many pieces; ``num_chunk`` is another name for it.
        value_chunk_dim: Along which batch dimension the pieces lie.

    Hooks:
        returns: ``Steps -> value target [*B, T, F]``.
        estimate: ``Steps -> (advantage, value target)``; by default what ``returns`` gives, minus
            the value.
        needs_value: Whether ``returns`` reads the value itself.

    Reads: ``next.reward``, ``next.done``, ``next.terminated``, all ``[*B, T, 1]``, and what the
        critic reads, at the root and under ``next``.
    Writes: ``advantage``, ``value_target``, ``state_value``, ``next.state_value``, all
        ``[*B, T, 1]``.

    Raises:
        MissingKeyError: if an entry is absent.
        ShapeError: if rewards, flags and values differ in shape.

    >>> from tensordict import TensorDict
    >>> class Reward(ValueEstimatorBase):
    ...     def returns(self, steps):
    ...         return steps.reward  # as if gamma were zero
    >>> flag = torch.zeros(2, 1, dtype=torch.bool)
    >>> after = TensorDict(state_value=torch.zeros(2, 1), reward=torch.ones(2, 1), done=flag, terminated=flag)
    >>> td = TensorDict(state_value=torch.full((2, 1), 0.5), next=after, batch_size=[2])
    >>> Reward(gamma=0.9, value_network=None)(td)["advantage"].T
    tensor([[0.5000, 0.5000]])
    """

    _AcceptedKeys = ValueKeys
    default_keys: Callable[[], Any] = ValueKeys
    value_network: Any
    needs_value = False
    needs_time = True
    _was_checked = False
    linked_keys: Sequence[NestedKey] = ()  # what tells that rows are in order, without a network
    keys_of_heads: ClassVar[tuple[str, ...]] = ("sample_log_prob",)

    @old_keywords(deactivate_vmap=None, shifted_budget=None, num_chunk="num_chunks")
    def __init__(
        self,
        *,
        gamma: float | Tensor,
        value_network: TensorDictModuleBase | None,
        shifted: bool = False,
        differentiable: bool = False,
        skip_existing: bool | None = None,
        advantage_key: NestedKey | None = None,
        value_target_key: NestedKey | None = None,
        value_key: NestedKey | None = None,
        time_dim: int | None = None,
        device: torch.device | str | None = None,
        value_chunk_size: int | None = None,
        num_chunks: int | None = None,
        value_chunk_dim: int = 0,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        if value_chunk_size is not None and num_chunks is not None:
            raise ValueError(describe(self, "got both value_chunk_size and num_chunks", hint="Give one of them."))
        self.value_chunk_size, self.num_chunks = value_chunk_size, num_chunks
        self.value_chunk_dim = value_chunk_dim
        self._device = device
        self.gamma = self._hold("gamma", gamma)
        self.value_network = value_network
        self.shifted, self.differentiable = shifted, differentiable
        self.skip_existing, self.time_dim = bool(skip_existing), time_dim
        self.tensor_keys = self._AcceptedKeys()
        if value_network is not None and self.tensor_keys.value not in value_network.out_keys:
            self.tensor_keys.value = value_network.out_keys[0]
        old = {"advantage": advantage_key, "value_target": value_target_key, "value": value_key}
        self.set_keys(**{name: key for name, key in old.items() if key is not None})

    def set_keys(self, **names: NestedKey | list[NestedKey]) -> None:
        """Rename entries: ``set_keys(advantage="my_advantage")``.

        ``sample_log_prob`` may be a list, of one entry for each head of the policy.

        Raises:
            UnknownEntryError: if a name is unknown; a KeyError and a ValueError.
        """
        self.tensor_keys = renamed(self, self.tensor_keys, names)

    @property  # type: ignore[misc]  # an attribute of tensordict's
    def in_keys(self) -> list[NestedKey]:
        """Every entry read: what the critic reads at both ends, reward, done, terminated."""
        if self.value_network is None:
            values: list[NestedKey] = [self.tensor_keys.value, next_key(self.tensor_keys.value)]
        else:
            root = input_keys(self.value_network)
            values = [*root, *(next_key(key) for key in root)]
        keys = self.tensor_keys
        return [*values, *(next_key(key) for key in (keys.reward, keys.done, keys.terminated))]

    @property  # type: ignore[misc]  # an attribute of tensordict's
    def out_keys(self) -> list[NestedKey]:
        """What a call with tensors returns: the advantage and the value target."""
        return [self.tensor_keys.advantage, self.tensor_keys.value_target]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_AcceptedKeys" in vars(cls):
            cls.default_keys = cls._AcceptedKeys

    def __getattr__(self, name: str) -> Any:
        """Return the name of an entry as ``reward_key``, ``value_key``, ..."""
        keys = self.__dict__.get("tensor_keys")
        if name.endswith("_key") and hasattr(keys, name.removesuffix("_key")):
            return getattr(keys, name.removesuffix("_key"))
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not is_class_attribute(self, name):
                raise
        return object.__getattribute__(self, name)  # raises the error of a property

    @dispatch
    def forward(  # type: ignore[override]  # with options
        self,
        tensordict: TensorDictBase,
        *,
        params: TensorDictBase | None = None,
        target_params: TensorDictBase | None = None,
        time_dim: int | None = None,
    ) -> TensorDictBase:
        """Write advantage, value target and values into ``tensordict [*B, T]``, and return it.

        Args:
            tensordict: Trajectories, time last.
            params: Parameters of the critic at the root, if not its own.
            target_params: Parameters of the critic at the next step; ``params`` by default.
            time_dim: Which batch dimension is time, for this call.
        """
        keys = self.tensor_keys
        along = nullcontext() if time_dim is None else self._along(time_dim)
        with along, nullcontext() if self.differentiable else torch.no_grad():
            inputs = self._without_padding(tensordict)
            value, next_value = self._values(inputs, params, target_params)
            advantage, target = self.estimate(self.steps(tensordict, value, next_value))
        tensordict.set(keys.value, value)
        tensordict.set(next_key(keys.value), next_value)
        tensordict.set(keys.advantage, advantage)
        return tensordict.set(keys.value_target, target)

    def value_estimate(
        self,
        tensordict: TensorDictBase,
        target_params: TensorDictBase | None = None,
        next_value: Tensor | None = None,
        time_dim: int | None = None,
    ) -> Tensor:
        """Return the value target ``[*B, T, 1]`` and write nothing.

        Args:
            tensordict: Trajectories, time last.
            target_params: Parameters of the critic, if not its own.
            next_value: ``[*B, T, 1]``, instead of what the critic says.
            time_dim: Which batch dimension is time, for this call.
        """
        along = nullcontext() if time_dim is None else self._along(time_dim)
        with along, nullcontext() if self.differentiable else torch.no_grad():
            value = None
            if next_value is None:
                inputs = self._without_padding(tensordict)
                value, next_value = self._values(inputs, target_params, target_params)
            elif self.needs_value:
                value = self._value_at(tensordict, target_params, root=True)
            return self.returns(self.steps(tensordict, value, next_value))

    @contextmanager
    def _along(self, time_dim: int) -> Iterator[None]:
        """Take another batch dimension for time in the block."""
        before, self.time_dim = self.time_dim, time_dim
        try:
            yield
        finally:
            self.time_dim = before

    @abstractmethod
    def returns(self, steps: Steps) -> Tensor: ...

    def estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        target = self.returns(steps)
        assert steps.value is not None
        return target - steps.value, target

    def steps(self, td: TensorDictBase, value: Tensor | None, next_value: Tensor) -> Steps:
        """Gather what an estimate is made of."""
        keys, gamma = self.tensor_keys, self.gamma
        mask = td.get(PADDING_MASK, None)
        mask = None if mask is None else mask.reshape(td.batch_size).bool()  # [*B, T]
        time = self._find_time(td) if self.needs_time else 0
        done, terminated = self.ends(td)
        if self.needs_time and td.ndim == 1 and not self._was_checked:
            self._check_order(td, done, mask)
        reward = td.get("next").get(keys.reward, None)
        if reward is None:
            require(td, [next_key(keys.reward)], self)
        num_steps = td.get(keys.steps_to_next_obs, None)
        if num_steps is not None:
            gamma = gamma ** (num_steps.unsqueeze(-1) if num_steps.ndim == td.ndim else num_steps)
        if mask is not None:
            reward, next_value = cleared(reward, mask), cleared(next_value, mask)
            value = None if value is None else cleared(value, mask)
            done = _cut(done, mask, time) if self.needs_time else done
        return Steps(
            reward=reward,
            done=done,
            terminated=terminated,
            next_value=next_value,
            value=value,
            gamma=gamma,
            time_dim=time,
            tensordict=td,
            mask=mask,
        )

    def ends(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return ``done`` and ``terminated``; if one is missing, the other is used for both."""
        after, keys = td.get("next", None), self.tensor_keys
        done: Any = None
        terminated: Any = None
        if after is not None:
            done, terminated = after.get(keys.done, None), after.get(keys.terminated, None)
        if done is None and terminated is None:
            require(td, [next_key(keys.done)], self)
        return (terminated if done is None else done, done if terminated is None else terminated)

    def _check_order(self, td: TensorDictBase, done: Tensor, mask: Tensor | None) -> None:
        """Warn, once, if the rows ``[T]`` of a batch do not follow each other."""
        if torch.compiler.is_compiling() or self.tensor_keys.steps_to_next_obs in td:
            return
        network = self.value_network
        keys = self.linked_keys if network is None else input_keys(network)
        goes_on = ~_cut(done, mask, 0).flatten(1).any(-1)
        found = shuffled_pairs(td, keys, goes_on if mask is None else goes_on & mask)
        # a look at the values makes other devices wait: once is enough there
        self._was_checked = found is not None or done.device.type != "cpu"
        if found is not None:
            fact = "estimates the advantage along rows that do not follow each other"
            warnings.warn(
                describe(
                    self,
                    fact,
                    expected="trajectories in order of time, [*B, T]",
                    found=f"{found[0]} of {found[1]} rows whose next observation is the next root",
                    hint="Run GAE, or another estimator, on the batch before it is shuffled; "
                    "the loss then finds the advantage in it.",
                ),
                stacklevel=4,
            )

    def _hold(self, name: str, value: float | Tensor) -> float | Tensor:
        """Return a number, or a tensor that was registered so that it moves with the module."""
        if self._device is None and not isinstance(value, Tensor):
            return float(value)
        self.register_buffer(name, torch.as_tensor(value, device=self._device))
        return getattr(self, name)

    def _find_time(self, td: TensorDictBase) -> int:
        """Return the batch dimension that is time."""
        if not td.ndim:
            raise TorchRLError(
                describe(
                    self,
                    "needs a time dimension",
                    expected="a batch of size [*B, T]",
                    found=list(td.batch_size),
                    hint="Estimate on trajectories, before they are cut into single steps.",
                )
            )
        if self.time_dim is not None:
            return self.time_dim % td.ndim
        return td.names.index("time") if has_names(td) and "time" in td.names else td.ndim - 1

    def _without_padding(self, td: TensorDictBase) -> TensorDictBase:
        """Return what the critic is to read: padding, which may be NaN, reaches no gradient."""
        mask = _mask(td) if self.differentiable and self.value_network is not None else None
        if mask is None:
            return td
        keys, clean = input_keys(self.value_network), td.copy()
        for key in [*keys, *map(next_key, keys)]:
            entry = td.get(key, None)
            if isinstance(entry, Tensor):
                clean.set(key, replaced(entry, mask, everything=True))
        return clean

    def _values(
        self, td: TensorDictBase, params: TensorDictBase | None, target_params: TensorDictBase | None
    ) -> tuple[Tensor, Tensor]:
        """Return the values of both ends of every step, each ``[*B, T, F]``."""
        keys = self.tensor_keys
        if self.value_network is None or self.skip_existing:
            value, next_value = td.get(keys.value, None), td.get(next_key(keys.value), None)
            if value is not None and next_value is not None:
                return value, next_value
            if self.value_network is None:
                require(
                    td,
                    [keys.value, next_key(keys.value)],
                    self,
                    "Give the estimator a value_network, or write the values first.",
                )
        target_params = params if target_params is None else target_params
        if not (self.shifted or self.remembers(self.value_network, td)):
            value = self._value_at(td, params, root=True)
            return value, self._value_at(td, target_params, root=False)
        value, next_value = self._values_in_turn(td, target_params)
        if target_params is not params:
            value = self._value_at(td, params, root=True)
        return value, next_value

    def _value_at(self, td: TensorDictBase, params: TensorDictBase | None, root: bool) -> Tensor:
        network = self._critic()
        keys = input_keys(network)
        require(td, keys if root else map(next_key, keys), self)
        place = td if root else td.get("next")
        with self._use_params(network, params):
            return self._evaluate(place)

    def _evaluate(self, inputs: Any) -> Tensor:
        """Return the critic's values, found piece by piece if so chosen."""
        network, key, dim = self.value_network, self.tensor_keys.value, self.value_chunk_dim
        size, count = self.value_chunk_size, self.num_chunks
        if size is None and count is None:
            with evaluating():
                return take(network, inputs, key)
        dim, inputs = dim % inputs.ndim, merge(inputs, network)
        pieces: Any = inputs.split(size, dim) if count is None else inputs.chunk(count, dim)
        with evaluating():
            return torch.cat([take(network, piece, key) for piece in pieces], dim)

    def _values_in_turn(self, td: TensorDictBase, params: TensorDictBase | None) -> tuple[Tensor, Tensor]:
        network = self._critic()
        keys = input_keys(network)
        require(td, [*keys, *map(next_key, keys)], self)
        with self._use_params(network, params):
            return self.in_turn(td, keys, self._evaluate)

    def remembers(self, network: Any, td: TensorDictBase) -> bool:
        """Return whether what a network makes of a row follows from the rows before it."""
        return takes_sequences(network) and self.tensor_keys.steps_to_next_obs not in td

    def in_turn(
        self, td: TensorDictBase, keys: list[NestedKey], evaluate: Callable[[Any], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Evaluate roots, with those next observations between them that are not the next root.

        Args:
            td: Trajectories ``[*B, T]``, in pieces.
            keys: What is read of roots and next observations.
            evaluate: ``rows [*B, L] -> values [*B, L, *F]``, in the order of time.

        Returns:
            The values of both ends of every step, each ``[*B, T, *F]``.
        """
        time = self._find_time(td)
        columns = [size for dim, size in enumerate(td.batch_size) if dim != time]  # [*B]
        order = [*(dim for dim in range(td.ndim) if dim != time), time]
        both = [td.select(*keys), td.get("next").select(*keys)]
        roots, nexts = (part.permute(order).reshape(-1, td.shape[time]) for part in both)  # [N, T]
        ends = _cut(self.ends(td)[0], _mask(td), time).flatten(td.ndim).any(-1).permute(order)
        index = interleave(ends.reshape(roots.shape))
        rows = torch.cat([roots, nexts], 1)[index.column, index.source].reshape(*columns, -1)
        values = evaluate(rows.permute([order.index(dim) for dim in range(td.ndim)]))
        features = values.shape[td.ndim :]
        values = values.movedim(time, td.ndim - 1).reshape(*index.source.shape, *features)
        value, next_value = (
            values[index.column, place].reshape(*columns, -1, *features).movedim(td.ndim - 1, time)
            for place in (index.place, index.place + 1)
        )
        return value, next_value

    def _use_params(self, network: torch.nn.Module, params: TensorDictBase | None) -> AbstractContextManager[object]:
        """Run the critic with other parameters, if given; its own get no gradient."""
        if params is not None:
            return params.to_module(network)
        return frozen(network) if torch.is_grad_enabled() else nullcontext()

    def _critic(self) -> TensorDictModuleBase:
        if self.value_network is None:
            raise TorchRLError(describe(self, "needs values and has no value_network", hint="Give it one."))
        return self.value_network


class _TDEstimator(ValueEstimatorBase):
    """What the three share: rewards that may be standardised."""

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        value_network: TensorDictModuleBase | None = None,
        average_rewards: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(gamma=gamma, value_network=value_network, **options)
        self.average_rewards = average_rewards


class TD0Estimator(_TDEstimator):
    r"""One-step bootstrap.

    .. math:: G_t = r_t + \gamma (1 - e_t) V(s_{t+1})

    Args:
        gamma: Discount factor, or one a step.
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_rewards: Standardise the rewards of the batch first.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Sutton, 1988, https://doi.org/10.1007/BF00115009.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> after = TensorDict(state_value=[4.0], reward=[1.0], done=[False], terminated=[False])
    >>> estimator = TD0Estimator(gamma=0.5, value_network=None)
    >>> estimator(TensorDict(state_value=[1.0], next=after))["advantage"]
    tensor([2.])
    """

    needs_time = False

    def returns(self, steps: Steps) -> Tensor:
        reward = steps.standardized(steps.reward) if self.average_rewards else steps.reward
        return returns.td0_return_estimate(steps.gamma, steps.next_value, reward, steps.terminated)


class TD1Estimator(_TDEstimator):
    r"""Discounted return to the end of the episode, bootstrapped where the future goes on.

    Args:
        gamma: Discount factor, or one a step.
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_rewards: Standardise the rewards of the batch first.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, section 12.1.

    >>> from tensordict import TensorDict
    >>> flag = torch.tensor([[False], [True]])
    >>> after = TensorDict(state_value=torch.zeros(2, 1), reward=torch.ones(2, 1), done=flag, terminated=flag)
    >>> td = TensorDict(state_value=torch.zeros(2, 1), next=after, batch_size=[2])
    >>> TD1Estimator(gamma=0.5)(td)["value_target"].T
    tensor([[1.5000, 1.0000]])
    """

    def returns(self, steps: Steps) -> Tensor:
        return returns.td1_return_estimate(
            steps.gamma,
            steps.next_value,
            steps.standardized(steps.reward) if self.average_rewards else steps.reward,
            steps.done,
            steps.terminated,
            time_dim=steps.time_dim,
        )


class TDLambdaEstimator(_TDEstimator):
    r"""Lambda-return: all n-step returns, weighted by powers of :math:`\lambda`.

    Args:
        gamma: Discount factor, or one a step.
        lmbda: From 0 (one step) to 1 (the whole episode).
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_rewards: Standardise the rewards of the batch first.
        vectorized: Scan over time (``True``), loop over it (``False``) or do what is faster.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, eq. 12.18.

    >>> from tensordict import TensorDict
    >>> flag = torch.tensor([[False], [True]])
    >>> after = TensorDict(state_value=torch.ones(2, 1), reward=torch.ones(2, 1), done=flag, terminated=flag)
    >>> td = TensorDict(state_value=torch.ones(2, 1), next=after, batch_size=[2])
    >>> TDLambdaEstimator(gamma=0.5, lmbda=0.5)(td)["value_target"].T
    tensor([[1.5000, 1.0000]])
    """

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        lmbda: float | Tensor,
        value_network: TensorDictModuleBase | None = None,
        average_rewards: bool = False,
        vectorized: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(gamma=gamma, value_network=value_network, average_rewards=average_rewards, **options)
        self.lmbda, self.vectorized = self._hold("lmbda", lmbda), vectorized

    def returns(self, steps: Steps) -> Tensor:
        return returns.td_lambda_return_estimate(
            steps.gamma,
            self.lmbda,
            steps.next_value,
            steps.standardized(steps.reward) if self.average_rewards else steps.reward,
            steps.done,
            steps.terminated,
            time_dim=steps.time_dim,
            vectorized=self.vectorized,
        )


class GAE(ValueEstimatorBase):
    r"""Generalized advantage estimation.

    .. math:: A_t = \sum_k (\gamma \lambda)^k \delta_{t+k}, \quad
        \delta_t = r_t + \gamma (1 - e_t) V(s_{t+1}) - V(s_t)

    Args:
        gamma: Discount factor, or one a step.
        lmbda: Bias-variance trade-off, from 0 (one step) to 1 (the whole episode).
        value_network: Reads observations, writes ``state_value [*B, T, 1]``.
        average_gae: Standardise the advantages of the batch, after the value target is made of
            them.
        vectorized: Scan over time (``True``), loop over it (``False``) or do what is faster.
        auto_reset_env: The next observation of a truncated step is that of the next episode (some
            vectorised environments keep no other): bootstrap from the root instead.
        options: Arguments of :class:`ValueEstimatorBase`.

    Source: Schulman et al., 2016, https://arxiv.org/abs/1506.02438, eq. 16.

    >>> from tensordict import TensorDict
    >>> flag = torch.zeros(2, 1, dtype=torch.bool)
    >>> after = TensorDict(state_value=torch.zeros(2, 1), reward=torch.ones(2, 1), done=flag)
    >>> td = TensorDict(state_value=torch.zeros(2, 1), next=after, batch_size=[2])
    >>> GAE(gamma=0.5, lmbda=1.0, value_network=None)(td)["advantage"].T
    tensor([[1.5000, 1.0000]])
    """

    needs_value = True

    def __init__(
        self,
        *,
        gamma: float | Tensor,
        lmbda: float | Tensor,
        value_network: TensorDictModuleBase | None = None,
        average_gae: bool = False,
        vectorized: bool | None = None,
        auto_reset_env: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(gamma=gamma, value_network=value_network, **options)
        self.lmbda, self.vectorized = self._hold("lmbda", lmbda), vectorized
        self.average_gae, self.auto_reset_env = average_gae, auto_reset_env

    def returns(self, steps: Steps) -> Tensor:
        return self._estimate(steps)[1]

    def estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        advantage, target = self._estimate(steps)
        return steps.standardized(advantage) if self.average_gae else advantage, target

    def _estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        assert steps.value is not None
        next_value = steps.next_value
        if self.auto_reset_env:
            next_value = torch.where(steps.done, steps.value, next_value)
        return returns.generalized_advantage_estimate(
            steps.gamma,
            self.lmbda,
            steps.value,
            next_value,
            steps.reward,
            steps.done,
            steps.terminated,
            time_dim=steps.time_dim,
            vectorized=self.vectorized,
        )


class MultiAgentGAE(GAE):
    """GAE for agents that share rewards and ends but have each their value.

    Rewards and flags ``[*B, T, 1]`` of the team count for every agent of values
    ``[*B, T, n, 1]``; those that already have the agent dimension are left as they are.

    Args:
        agent_dim: Where the agents are in the values.
        options: Arguments of :class:`GAE`.

    >>> from tensordict import TensorDict
    >>> flag = torch.zeros(2, 1, dtype=torch.bool)  # one flag for the team
    >>> after = TensorDict(state_value=torch.zeros(2, 3, 1), reward=torch.ones(2, 1), done=flag, batch_size=[2])
    >>> td = TensorDict(state_value=torch.zeros(2, 3, 1), next=after, batch_size=[2])  # values of three agents
    >>> MultiAgentGAE(gamma=0.5, lmbda=1.0, value_network=None)(td)["advantage"].squeeze(-1)
    tensor([[1.5000, 1.5000, 1.5000],
            [1.0000, 1.0000, 1.0000]])
    """

    def __init__(self, *, agent_dim: int = -2, **options: Any) -> None:
        super().__init__(**options)
        self.agent_dim = agent_dim

    def _estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        shape = steps.next_value.shape

        def of_each(x: Tensor) -> Tensor:
            x = x if x.ndim == len(shape) else x.unsqueeze(self.agent_dim)
            return x.expand(shape)

        team: dict[str, Any] = {name: of_each(getattr(steps, name)) for name in ("reward", "done", "terminated")}
        gamma = steps.gamma
        if isinstance(gamma, Tensor) and gamma.ndim:
            gamma = of_each(gamma)
        return super()._estimate(replace(steps, **team, gamma=gamma))


def _mask(td: TensorDictBase) -> Tensor | None:
    """Return the mask ``[*B, T]`` of the rows that are no padding, if there is one."""
    mask = td.get(PADDING_MASK, None)
    return None if mask is None else mask.reshape(td.batch_size).bool()


def _cut(done: Tensor, mask: Tensor | None, time: int) -> Tensor:
    """Return where a recursion is cut: at ends, and where padding follows."""
    return done if mask is None else done | expand_right(~mask.roll(-1, time), done)


class UnknownEntryError(UnexpectedKeyError, ValueError):
    """A name that was to be changed is none of the component."""


def renamed(component: Any, accepted: Any, names: Mapping[str, NestedKey | list[NestedKey]]) -> Any:
    """Return the names of entries after :meth:`set_keys`; an unknown one is an error.

    A list of names has one entry for each head of a policy, where ``component`` takes it.
    """
    known = [f.name for f in fields(accepted)]
    for name in names:
        if name not in known:
            raise UnknownEntryError(
                describe(
                    component,
                    f"has no entry called {name!r} to rename",
                    expected=f"one of {known}",
                    hint=nearest(name, known),
                )
            )
    keys: dict[str, Any] = {}
    for name, key in names.items():
        every = as_keys(key)
        if len(every) != 1 and (not every or name not in component.keys_of_heads):
            raise ValueError(
                describe(component, f"got {len(every)} entries for {name}", expected="the name of one entry", found=key)
            )
        keys[name] = every[0] if len(every) == 1 else every
    return replace(accepted, **keys)
