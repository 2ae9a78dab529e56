"""Transforms of environments that reset themselves, so that they are reset by ``reset()``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Composite
from torchrl.envs.base import EnvBase
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import R, State, Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.inner_env_info import Reset, Step, step_rows, where_rows
from torchrl.envs.transforms.observation.shape import drop
from torchrl.envs.transforms.transformed_env import TransformedEnv


class _KeptReset(Transform):
    """Base of transforms that keep the first observation of an episode for the next reset.

    Where an episode ends, the environment returns the first observation of the next one: it is
    returned by the next reset, which does not reset the environment then.

    Hooks:
        _last: ``(key, value, record) -> [*B, *S]``, the last observation under ``key`` where an
            episode has ended, in place of ``value``.
    """

    _keys: list[NestedKey]
    _shown: Any = None  # the last result, where a row has been reset

    @abstractmethod
    def _last(self, key: NestedKey, value: Tensor, record: Record) -> Tensor: ...

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        over = self.inner.ended(next_tensordict)  # [*B, 1]
        self.__dict__["_shown"] = None
        if bool(over.any()):
            self.__dict__["_shown"] = next_tensordict.copy()
            for key in self._keys:
                value = next_tensordict.get(key)
                last = self._last(key, value, next_tensordict)
                rows = expand_right(over, value.shape)
                next_tensordict.set(key, torch.where(rows, last, value))
        return next_tensordict

    def _around_reset(self, reset: Reset, step: Step, tensordict: R | None) -> R:
        shown, self.__dict__["_shown"] = self._shown, None
        if tensordict is None or shown is None:
            return reset(tensordict)
        ready, rows = self.inner.ended(shown), self.inner.reset_rows(tensordict)
        late = ~ready if rows is None else rows & ~ready
        for key in self.inner.rewards:
            shown.pop(key)
        for key in self.inner.flags:
            shown.set(key, torch.zeros_like(shown.get(key)))
        if bool(late.any()):
            shown = where_rows(reset(self.inner.select_reset(tensordict, late)), shown, late)
        return shown

    def get_extra_state(self) -> State:
        """Return the first observations that are kept for a reset."""
        return {"shown": self._shown}

    def set_extra_state(self, state: State) -> None:
        """Go on from there."""
        self.__dict__["_shown"] = state["shown"]

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Find the entries to keep; the specs do not change."""
        self.__dict__["_keys"] = leaf_names(specs["observation"])
        return specs


class AutoResetTransform(_KeptReset):
    """Presents an environment that resets itself within a step as one that ``reset()`` resets.

    The last observation of an episode, which the environment does not return, is filled.

    Args:
        replace: Fill the last observation of an episode; otherwise it is the first one of the next
            episode. Filled if ``None``.
        fill_float: Fill value of floats.
        fill_int: Fill value of integers; 0 for unsigned ones.
        fill_bool: Fill value of flags.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), AutoResetTransform())
    >>> env.reset()["observation"].shape
    torch.Size([4])
    """

    supports_flat_records = True

    def __init__(
        self,
        *,
        replace: bool | None = None,
        fill_float: float | str = "nan",
        fill_int: int = -1,
        fill_bool: bool = False,
    ) -> None:
        super().__init__()
        self.replace = replace is None or replace
        self.fill_float, self.fill_int, self.fill_bool = float(fill_float), fill_int, fill_bool

    def _last(self, key: NestedKey, value: Tensor, record: Record) -> Tensor:
        if not self.replace:
            return value
        if value.dtype is torch.bool:
            return torch.full_like(value, self.fill_bool)
        if value.is_floating_point():
            return torch.full_like(value, self.fill_float)
        return torch.full_like(value, self.fill_int if value.dtype.is_signed else 0)


class VecGymEnvTransform(_KeptReset):
    """Presents a vector environment that resets its rows itself as one that ``reset()`` resets.

    Args:
        final_name: Where the environment writes the last observation, in the step that ends an
            episode: ``(final_name, key)`` beside each ``key``. Removed from the output.
        missing_obs_value: Value of a last observation that is absent; 0 in entries of a dtype that
            cannot hold it.
        native_autoreset: The environment returns the last observation itself and is reset by the
            next step, whatever the action; ``reset()`` takes that step.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1", num_envs=2), VecGymEnvTransform())
    >>> env.rollout(50, break_when_any_done=False)["next", "observation"].shape
    torch.Size([2, 50, 4])
    """

    supports_flat_records = True
    _final: list[NestedKey]
    _ended: Tensor | None = None  # rows that the next step resets

    def __init__(
        self, final_name: str = "final", missing_obs_value: float = torch.nan, *, native_autoreset: bool = False
    ) -> None:
        super().__init__()
        self.final_name, self.missing_obs_value = final_name, missing_obs_value
        self.native_autoreset = native_autoreset

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        if self.native_autoreset:
            over = self.inner.ended(next_tensordict)
            self.__dict__["_ended"] = over if bool(over.any()) else None
        elif self._final:  # otherwise ``reset()`` resets them already
            super()._step(tensordict, next_tensordict)
        return self._hide(next_tensordict)

    def _last(self, key: NestedKey, value: Tensor, record: Record) -> Tensor:
        last = record.get((self.final_name, *(key if isinstance(key, tuple) else (key,))), None)
        if last is not None:
            return last
        holds = value.is_floating_point() or self.missing_obs_value == self.missing_obs_value
        return torch.full_like(value, self.missing_obs_value if holds else 0)

    def _hide(self, record: R) -> R:
        for key in self._final:
            drop(record, key)
        return record

    def _around_reset(self, reset: Reset, step: Step, tensordict: R | None) -> R:
        over, self.__dict__["_ended"] = self._ended, None
        if over is None or tensordict is None:
            return self._hide(super()._around_reset(reset, step, tensordict))
        rows = self.inner.reset_rows(tensordict)
        rows = torch.ones_like(over) if rows is None else rows
        acting = tensordict.copy()
        for key, spec in self.inner.actions.items():
            acting.set(key, spec.zero(self.inner.free_dims(rows)))
        root = where_rows(step_rows(step, acting, rows & over), tensordict, rows & over)
        for key in self.inner.rewards:
            root.pop(key)
        if bool((late := rows & ~over).any()):
            root = where_rows(reset(self.inner.select_reset(tensordict, late)), root, late)
        return self._hide(root)

    def get_extra_state(self) -> State:
        """Return the observations and rows that are kept for a reset."""
        return {**super().get_extra_state(), "over": self._ended}

    def set_extra_state(self, state: State) -> None:
        """Go on from there."""
        super().set_extra_state(state)
        self.__dict__["_ended"] = state["over"]

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Delete the specs of the last observations."""
        super().transform_specs(specs)
        name = self.final_name
        self.__dict__["_final"] = [key for key in self._keys if isinstance(key, tuple) and key[0] == name]
        self.__dict__["_keys"] = [key for key in self._keys if key not in self._final]
        if self._final:
            del specs["observation"][name]
        return specs


class AutoResetEnv(TransformedEnv):
    """An environment that resets itself within a step, presented as one that ``reset()`` resets.

    It is what the constructor of any environment returns with ``auto_reset=True``.

    Args:
        base_env: The environment that resets itself.
        transform: An :class:`AutoResetTransform` instead of the default one, or a transform after it.
        replace: Fill the last observation of an episode, which ``base_env`` does not return.
        kwargs: Passed to :class:`~torchrl.envs.TransformedEnv`.

    >>> from torchrl.envs import GymEnv
    >>> AutoResetEnv(GymEnv("CartPole-v1")).reset()["observation"].shape
    torch.Size([4])
    """

    def __init__(
        self,
        base_env: EnvBase,
        transform: Transform | Callable[[TensorDictBase], TensorDictBase] | None = None,
        *,
        replace: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(transform, AutoResetTransform):
            first = AutoResetTransform(replace=replace)
            transform = Compose(first) if transform is None else Compose(first, transform)
        super().__init__(base_env, transform, **kwargs)
