"""Environments that begin a new episode by themselves, made to wait until they are told to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl.data import Composite
from torchrl.envs.common import EnvBase
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.step_plan import expand_flag
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.env import TransformedEnv
from torchrl.envs.transforms.inside import Inside, Reset, Step, step_rows, take_rows
from torchrl.envs.transforms.shape import drop


class _Waiting(Transform):
    """Base of transforms that keep the beginning of an episode for the reset that follows.

    Where an episode ends, what the environment shows is the beginning of the next one: it is kept
    for the reset that follows, which then does nothing else.

    Hooks:
        _last: ``(key, value, record) -> [*B, *S]``, what stands under ``key`` where an episode has
            ended, instead of ``value``.
    """

    _inside: Inside
    _keys: list[NestedKey]
    _shown: Any = None  # the last outcome, where a row has begun anew

    @abstractmethod
    def _last(self, key: NestedKey, value: Tensor, record: Any) -> Tensor: ...

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        over = self._inside.over(next_tensordict)  # [*B, 1]
        self.__dict__["_shown"] = None
        if bool(over.any()):
            self.__dict__["_shown"] = next_tensordict.copy()
            for key in self._keys:
                value = next_tensordict.get(key)
                last = self._last(key, value, next_tensordict)
                rows = expand_flag(over, value.shape)
                next_tensordict.set(key, torch.where(rows, last, value))
        return next_tensordict

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        shown, self.__dict__["_shown"] = self._shown, None
        if tensordict is None or shown is None:
            return reset(tensordict)
        ready, rows = self._inside.over(shown), self._inside.being_reset(tensordict)
        late = ~ready if rows is None else rows & ~ready
        for key in self._inside.rewards:
            shown.pop(key)
        for key in self._inside.flags:
            shown.set(key, torch.zeros_like(shown.get(key)))
        if bool(late.any()):
            shown = take_rows(reset(self._inside.select_reset(tensordict, late)), shown, late)
        return shown

    def get_extra_state(self) -> Any:
        """Return the beginnings that are kept for a reset."""
        return {"shown": self._shown}

    def set_extra_state(self, state: Any) -> None:
        """Go on from there."""
        self.__dict__["_shown"] = state["shown"]

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Note which entries are kept; the specs stay."""
        self.__dict__["_inside"] = Inside(specs)
        self.__dict__["_keys"] = leaf_names(specs["observation"])
        return specs


class AutoResetTransform(_Waiting):
    """Makes an environment that resets itself within a step look like one that waits to be told.

    The last observation of an episode, which cannot be known, is filled.

    Args:
        replace: Fill the last observation of an episode; otherwise the first one of the next
            stands in for it. Filled if ``None``.
        fill_float: What floats are filled with.
        fill_int: What integers are filled with; 0 for those without sign.
        fill_bool: What flags are filled with.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), AutoResetTransform())
    >>> env.reset()["observation"].shape
    torch.Size([4])
    """

    entrywise = True

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

    def _last(self, key: NestedKey, value: Tensor, record: Any) -> Tensor:
        if not self.replace:
            return value
        if value.dtype is torch.bool:
            return torch.full_like(value, self.fill_bool)
        if value.is_floating_point():
            return torch.full_like(value, self.fill_float)
        return torch.full_like(value, self.fill_int if value.dtype.is_signed else 0)


class VecGymEnvTransform(_Waiting):
    """Makes a vector environment that resets its rows itself look like one that waits to be told.

    Args:
        final_name: Where the environment shows, in the step that ends an episode, the last
            observation: ``(final_name, key)`` beside each ``key``. Not seen from outside.
        missing_obs_value: What stands for a last observation that is not there; 0 in entries that
            cannot hold it.
        native_autoreset: The environment shows the last observation itself, and begins anew in the
            step after that, whatever the action; a reset takes that step.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1", num_envs=2), VecGymEnvTransform())
    >>> env.rollout(50, break_when_any_done=False)["next", "observation"].shape
    torch.Size([2, 50, 4])
    """

    entrywise = True
    _final: list[NestedKey]
    _over: Tensor | None = None  # rows that begin anew in the coming step

    def __init__(
        self,
        final_name: str = "final",
        missing_obs_value: float = torch.nan,
        *,
        native_autoreset: bool = False,
    ) -> None:
        super().__init__()
        self.final_name, self.missing_obs_value = final_name, missing_obs_value
        self.native_autoreset = native_autoreset

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        if self.native_autoreset:
            over = self._inside.over(next_tensordict)
            self.__dict__["_over"] = over if bool(over.any()) else None
        elif self._final:  # otherwise its rows wait already
            super()._step(tensordict, next_tensordict)
        return self._hide(next_tensordict)

    def _last(self, key: NestedKey, value: Tensor, record: Any) -> Tensor:
        last = record.get(self._under_final(key), None)
        if last is not None:
            return last
        holds = value.is_floating_point() or self.missing_obs_value == self.missing_obs_value
        return torch.full_like(value, self.missing_obs_value if holds else 0)

    def _under_final(self, key: NestedKey) -> NestedKey:
        return (self.final_name, *(key if isinstance(key, tuple) else (key,)))

    def _hide(self, record: Any) -> Any:
        for key in self._final:
            drop(record, key)
        return record

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        over, self.__dict__["_over"] = self._over, None
        if over is None or tensordict is None:
            return self._hide(super()._around_reset(reset, step, tensordict))
        rows = self._inside.being_reset(tensordict)
        rows = torch.ones_like(over) if rows is None else rows
        acting = tensordict.copy()
        for key, spec in self._inside.actions.items():
            acting.set(key, spec.zero(self._inside.lead(rows)))
        begun = take_rows(step_rows(step, acting, rows & over), tensordict, rows & over)
        for key in self._inside.rewards:
            begun.pop(key)
        if bool((late := rows & ~over).any()):
            begun = take_rows(reset(self._inside.select_reset(tensordict, late)), begun, late)
        return self._hide(begun)

    def get_extra_state(self) -> Any:
        """Return what is kept for a reset."""
        return {**super().get_extra_state(), "over": self._over}

    def set_extra_state(self, state: Any) -> None:
        """Go on from there."""
        super().set_extra_state(state)
        self.__dict__["_over"] = state["over"]

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Take the last observations out of the specs."""
        super().transform_specs(specs)
        name = self.final_name
        self.__dict__["_final"] = [
            key for key in self._keys if isinstance(key, tuple) and key[0] == name
        ]
        self.__dict__["_keys"] = [key for key in self._keys if key not in self._final]
        if self._final:
            del specs["observation"][name]
        return specs


def AutoResetEnv(  # noqa: N802 - to its users it is one more environment
    base_env: EnvBase,
    transform: Transform | Callable[[TensorDictBase], TensorDictBase] | None = None,
    **kwargs: Any,
) -> TransformedEnv:
    """Return an environment that resets itself within a step, seen as one that waits to be told.

    Args:
        base_env: The environment that resets itself.
        transform: What else it is seen through, after an :class:`AutoResetTransform`.
        kwargs: Handed to :class:`~torchrl.envs.TransformedEnv`.

    >>> from torchrl.envs import GymEnv
    >>> AutoResetEnv(GymEnv("CartPole-v1")).reset()["observation"].shape
    torch.Size([4])
    """
    parts = [AutoResetTransform()] if transform is None else [AutoResetTransform(), transform]
    return TransformedEnv(base_env, Compose(*parts), **kwargs)
