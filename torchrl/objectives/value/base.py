"""What all value estimators share: the critic at both ends of each step, then a pure function."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.ended_rows import evaluating
from torchrl._core.errors import TorchRLError, describe, nearest
from torchrl._core.keys import as_keys, next_key, read_next, require, write
from torchrl._core.legacy import old_keywords
from torchrl._core.plan import input_keys
from torchrl.objectives.calls import merge, take
from torchrl.objectives.masks import PADDING_MASK, cleared, expand_right, replaced, standardized
from torchrl.objectives.value.interleaving import interleave, takes_sequences
from torchrl.objectives.value.order import shuffled_pairs


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
        differentiable: Let gradients flow into the critic; otherwise nothing is differentiable.
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
    """

    _AcceptedKeys = ValueKeys
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
            raise ValueError(
                describe(
                    self,
                    "got both value_chunk_size and num_chunks",
                    hint="Give one of them.",
                )
            )
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
            ValueError: if a name is unknown.
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
        """Every entry written."""
        keys = self.tensor_keys
        return [keys.advantage, keys.value_target, keys.value, next_key(keys.value)]

    @property
    def advantage_key(self) -> NestedKey:
        """Name of the advantage."""
        return self.tensor_keys.advantage

    @property
    def value_target_key(self) -> NestedKey:
        """Name of the value target."""
        return self.tensor_keys.value_target

    @property
    def value_key(self) -> NestedKey:
        """Name of the value."""
        return self.tensor_keys.value

    @dispatch
    def forward(  # type: ignore[override]  # with options
        self,
        tensordict: TensorDictBase,
        *,
        params: TensorDictBase | None = None,
        target_params: TensorDictBase | None = None,
    ) -> TensorDictBase:
        """Write advantage, value target and values into ``tensordict [*B, T]``, and return it.

        Args:
            tensordict: Trajectories, time last.
            params: Parameters of the critic at the root, if not its own.
            target_params: Parameters of the critic at the next step; ``params`` by default.
        """
        keys = self.tensor_keys
        with nullcontext() if self.differentiable else torch.no_grad():
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
    ) -> Tensor:
        """Return the value target ``[*B, T, 1]`` and write nothing.

        Args:
            tensordict: Trajectories, time last.
            target_params: Parameters of the critic, if not its own.
            next_value: ``[*B, T, 1]``, instead of what the critic says.
        """
        with nullcontext() if self.differentiable else torch.no_grad():
            value = None
            if next_value is None:
                inputs = self._without_padding(tensordict)
                value, next_value = self._values(inputs, target_params, target_params)
            elif self.needs_value:
                value = self._value_at(tensordict, target_params, root=True)
            return self.returns(self.steps(tensordict, value, next_value))

    @abstractmethod
    def returns(self, steps: Steps) -> Tensor: ...

    def estimate(self, steps: Steps) -> tuple[Tensor, Tensor]:
        target = self.returns(steps)
        assert steps.value is not None
        return target - steps.value, target

    def steps(self, td: TensorDictBase, value: Tensor | None, next_value: Tensor) -> Steps:
        """Gather what an estimate is made of."""
        keys, gamma, mask = self.tensor_keys, self.gamma, _mask(td)
        time = self._find_time(td) if self.needs_time else 0
        done, terminated = self.ends(td)
        if self.needs_time and td.ndim == 1 and not self._was_checked:
            self._check_order(td, done, mask)
        reward = td.get(next_key(keys.reward), None)
        if reward is None:
            require(td, [next_key(keys.reward)], self)
        num_steps = td.get(keys.steps_to_next_obs, None)
        if num_steps is not None:
            gamma = gamma ** (num_steps.unsqueeze(-1) if num_steps.ndim == td.ndim else num_steps)
        return Steps(
            reward=cleared(reward, mask),
            done=_cut(done, mask, time) if self.needs_time else done,
            terminated=terminated,
            next_value=cleared(next_value, mask),
            value=None if value is None else cleared(value, mask),
            gamma=gamma,
            time_dim=time,
            tensordict=td,
            mask=mask,
        )

    def ends(self, td: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return ``done`` and ``terminated``; one of them stands in for the other."""
        key = next_key(self.tensor_keys.done)
        done, terminated = td.get(key, None), td.get(next_key(self.tensor_keys.terminated), None)
        if done is None and terminated is None:
            require(td, [key], self)
        return (
            terminated if done is None else done,
            done if terminated is None else terminated,
        )

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
        return td.names.index("time") if td._has_names() and "time" in td.names else td.ndim - 1

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
        self,
        td: TensorDictBase,
        params: TensorDictBase | None,
        target_params: TensorDictBase | None,
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
        with use_params(network, params):
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

    def _values_in_turn(
        self, td: TensorDictBase, params: TensorDictBase | None
    ) -> tuple[Tensor, Tensor]:
        network = self._critic()
        keys = input_keys(network)
        require(td, [*keys, *map(next_key, keys)], self)
        with use_params(network, params):
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
        lanes = [size for dim, size in enumerate(td.batch_size) if dim != time]  # [*B]
        order = [*(dim for dim in range(td.ndim) if dim != time), time]
        both = [td.select(*keys), td.get("next").select(*keys)]
        roots, nexts = (part.permute(order).reshape(-1, td.shape[time]) for part in both)  # [N, T]
        ends = _cut(self.ends(td)[0], _mask(td), time).flatten(td.ndim).any(-1).permute(order)
        index = interleave(ends.reshape(roots.shape))
        rows = torch.cat([roots, nexts], 1)[index.lane, index.source].reshape(*lanes, -1)
        values = evaluate(rows.permute([order.index(dim) for dim in range(td.ndim)]))
        features = values.shape[td.ndim :]
        values = values.movedim(time, td.ndim - 1).reshape(*index.source.shape, *features)
        value, next_value = (
            values[index.lane, place].reshape(*lanes, -1, *features).movedim(td.ndim - 1, time)
            for place in (index.place, index.place + 1)
        )
        return value, next_value

    def _critic(self) -> TensorDictModuleBase:
        if self.value_network is None:
            raise TorchRLError(
                describe(self, "needs values and has no value_network", hint="Give it one.")
            )
        return self.value_network


def _mask(td: TensorDictBase) -> Tensor | None:
    """Return the mask ``[*B, T]`` of the rows that are no padding, if there is one."""
    mask = td.get(PADDING_MASK, None)
    return None if mask is None else mask.reshape(td.batch_size).bool()


def _cut(done: Tensor, mask: Tensor | None, time: int) -> Tensor:
    """Return where a recursion is cut: at ends, and where padding follows."""
    return done if mask is None else done | expand_right(~mask.roll(-1, time), done)


@contextmanager
def use_params(network: torch.nn.Module, params: TensorDictBase | None) -> Iterator[None]:
    """Run a network with other parameters than its own, if they are given."""
    with nullcontext() if params is None else params.to_module(network):
        yield


def renamed(component: Any, accepted: Any, names: Mapping[str, NestedKey | list[NestedKey]]) -> Any:
    """Return the names of entries after :meth:`set_keys`; an unknown one is an error.

    A list of names stands for one entry of each head of a policy, where ``component`` takes it.
    """
    known = [f.name for f in fields(accepted)]
    for name in names:
        if name not in known:
            raise ValueError(
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
                describe(
                    component,
                    f"got {len(every)} entries for {name}",
                    expected="the name of one entry",
                    found=key,
                )
            )
        keys[name] = every[0] if len(every) == 1 else every
    return replace(accepted, **keys)
