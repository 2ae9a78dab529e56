"""Environments that are pure functions of a state, written in JAX.

``B`` rows, simulated by one vectorised, compiled function.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.optional import require_package
from torchrl._core.records.flat_record import FlatRecord
from torchrl.data import TensorSpec
from torchrl.envs.wrapper import EnvWrapper


class JaxEnv(EnvWrapper):
    """Keeps the state of a JAX environment, and resets the rows that a mask selects.

    Args:
        env: The environment, already built.
        jit: Compile the functions; not for debugging.
        kwargs: Those of :class:`~torchrl.envs.wrapper.EnvWrapper`; with a ``batch_size`` that many
            copies are simulated at once.

    Hooks:
        _start: ``key -> state``, of one row; pure.
        _advance: ``state, action -> state``, of one row; pure.
        _read: ``state -> entries``, of all rows: observations, reward and end flags.
    """

    partial_reset_safe = True

    def __init__(self, env: Any = None, *, jit: bool = True, **kwargs: Any) -> None:
        self._jit = jit
        self._key: Any = None
        self._state: Any = None
        super().__init__(env, **kwargs)

    @abstractmethod
    def _start(self, key: NestedKey) -> object: ...

    @abstractmethod
    def _advance(self, state: object, action: object) -> object: ...

    @abstractmethod
    def _read(self, state: object) -> FlatRecord: ...

    def _compile(self) -> None:
        """Compile the functions that simulate all rows."""
        jax = require_package("jax", needed_by=self)
        start, advance = self._start, self._advance
        if self.batch_size:
            start, advance = jax.vmap(start), jax.vmap(advance)
        wrap = jax.jit if self._jit else lambda function: function
        self._functions = wrap(start), wrap(advance), wrap(_choose)

    def _set_seed(self, seed: int | None) -> None:
        jax = require_package("jax", needed_by=self)
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        self._key = jax.random.PRNGKey(seed % 2**32)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        jax = require_package("jax", needed_by=self)
        if self._key is None:
            self._set_seed(None)
        start, _, choose = self._functions
        next_root, key = jax.random.split(self._key)
        self._key = next_root
        if self.batch_size:
            key = jax.random.split(key, self.batch_size.numel())
        fresh = start(key)
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is not None:
            rows = mask.reshape(self.batch_size.numel()).numpy(force=True)
            fresh = choose(rows, fresh, self._state)
        self._state = fresh
        entries = self._read(fresh)
        entries.pop("reward")
        return self._record(entries, tensordict)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self._native(tensordict.get("action"))
        _, advance, choose = self._functions
        next_root = advance(self._state, action)
        mask = tensordict.get("_step", None)
        if mask is not None and self.batch_size:
            rows = mask.reshape(self.batch_size.numel()).numpy(force=True)
            next_root = choose(rows, next_root, self._state)
        self._state = next_root
        return self._record(self._read(next_root), tensordict)

    def _native(self, action: Tensor) -> np.ndarray:
        """Return an action of the simulator, its rows along one dimension."""
        array = action.numpy(force=True)
        return array.reshape(-1, *array.shape[len(self.batch_size) :]) if self.batch_size else array

    def _record(self, entries: FlatRecord, like: object) -> Any:
        if isinstance(like, FlatRecord):
            return entries
        record = TensorDict({}, self.batch_size)
        for key, value in entries.items():
            record.set(key, value)
        return record if self.device is None else record.to(self.device)

    def _tensor(self, value: object, spec: TensorSpec) -> Tensor:
        """Return an array of the simulator as a tensor that owns its memory."""
        tensor = torch.from_numpy(np.array(value)).to(spec.dtype).reshape(spec.shape)
        return tensor if self.device is None else tensor.to(self.device)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the compiled functions, which cannot be pickled."""
        state = self.__dict__.copy()
        state.pop("_functions", None)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._compile()


def _choose(rows: Any, new: object, old: object) -> object:
    """Return the state of ``new`` in ``rows [B]``, of ``old`` elsewhere."""
    jax = require_package("jax", needed_by="JaxEnv")

    def pick(a: Any, b: object) -> Any:
        return jax.numpy.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree_util.tree_map(pick, new, old)
