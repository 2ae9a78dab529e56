"""Gymnasium's vector environments: three ways of resetting themselves, one way of being used.

Whatever the mode, a step returns the true last observation of each episode, and rows begin anew
when they are told to, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from torchrl._core.errors import ResetError

DISABLED, NEXT_STEP, SAME_STEP = "Disabled", "NextStep", "SameStep"


class VectorDriver:
    """Steps and resets a vector environment row by row.

    Args:
        env: A ``gymnasium.vector.VectorEnv``.

    Raises:
        TypeError: if the environment resets its rows on its own at the next step and offers no way
            to reset them before.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.num_envs: int = env.num_envs
        mode = env.metadata.get("autoreset_mode", None)
        self.mode = getattr(mode, "value", mode) or NEXT_STEP
        kinds = {c.__name__ for c in type(env.unwrapped).__mro__}
        takes_mask = kinds & {"SyncVectorEnv", "AsyncVectorEnv"} or self.mode == DISABLED
        shares = getattr(env.unwrapped, "shared_memory", True)
        if self.mode == NEXT_STEP and not (takes_mask and shares):
            raise TypeError(
                f"GymWrapper: {type(env.unwrapped).__name__} resets its rows at the step after "
                "their end, which loses a step of the others. Build it with "
                "gymnasium.make_vec(..., vectorization_mode='sync', "
                "vector_kwargs={'autoreset_mode': 'Disabled'})."
            )
        self.takes_mask = bool(takes_mask)
        self._fresh: Any = None  # observations of rows that have reset themselves
        self._fresh_rows = np.zeros(self.num_envs, bool)
        self._over = np.zeros(self.num_envs, bool)

    def step(self, action: Any) -> tuple:
        """Step all rows; the observation is that of the episode that the action belongs to."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._over = terminated | truncated
        if self.mode == SAME_STEP:
            self._fresh_rows = self._over
            if self._over.any():
                self._fresh = observation
                observation = _with_rows(observation, info["final_obs"], self._over)
        return observation, reward, terminated, truncated, info

    def hold(self, rows: np.ndarray) -> None:
        """Prepare for a step whose outcome in ``rows [N]`` will be thrown away.

        Rows that are over may not be stepped, so they begin an episode that nobody will see.
        """
        over = rows & self._over
        if over.any() and self.mode != SAME_STEP:
            self.env.reset(options={"reset_mask": over})
            self._over &= ~over

    def reset(self, mask: np.ndarray | None, **kwargs: Any) -> tuple:
        """Reset the rows of ``mask [N]``, or all; return observations ``[N, ...]`` and info."""
        if mask is None:
            self._fresh_rows = self._over = np.zeros(self.num_envs, bool)
            return self.env.reset(**kwargs)
        if self.mode == SAME_STEP:
            if not (mask & ~self._fresh_rows).any():
                return self._fresh, {}
            if not self.takes_mask:
                raise ResetError(
                    f"GymWrapper: {type(self.env.unwrapped).__name__} resets rows at their "
                    "end, and only then; it cannot reset a row in the middle of an episode."
                )
        options = {**(kwargs.pop("options", None) or {}), "reset_mask": np.array(mask)}
        return self.env.reset(options=options, **kwargs)


def _with_rows(observation: Any, final: Any, rows: np.ndarray) -> Any:
    """Return a copy of ``observation`` that has, in ``rows``, what ``final`` holds there."""
    if isinstance(observation, Mapping):
        return {
            key: _with_rows(value, _child(final, key), rows) for key, value in observation.items()
        }
    if isinstance(observation, tuple):
        return tuple(
            _with_rows(value, _child(final, i), rows) for i, value in enumerate(observation)
        )
    merged = deepcopy(observation)
    for row in np.flatnonzero(rows):
        merged[row] = final[row]
    return merged


def _child(final: Any, key: Any) -> Any:
    """Return one child of final observations, which come as an array of samples or as a mapping."""
    if isinstance(final, np.ndarray):
        return [None if sample is None else sample[key] for sample in final]
    return final[key]


def render_rows(env: Any) -> np.ndarray:
    """Return the frames of all rows, ``[N, H, W, C]``."""
    return np.stack(env.render())
