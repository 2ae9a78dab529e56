"""Stepping a single gymnasium environment on numpy arrays, without tensors or records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl.envs.libs.gym.spaces import copy_array

Rows = dict[NestedKey, Tensor]


class RowStepper:
    """Steps a :class:`~torchrl.envs.GymWrapper` as it does itself, on rows of batched memory.

    It is made by :meth:`GymWrapper.row_stepper`, where it computes exactly the same. The
    environment itself takes the first step, and validates it.

    Args:
        env: The wrapper, with an array as its only observation.
        inputs: Holds the action.
        result: Written by a step.
        root: Written by a reset.
    """

    def __init__(self, env: Any, inputs: Rows, result: Rows, root: Rows) -> None:
        self._env, self._step = env, env._env.step
        self._action = _action_reader(env, inputs["action"])
        self._key, *names = result  # observation, reward, done, terminated, truncated
        self._result = tuple(rows.numpy() for rows in result.values())
        self._root = root[self._key].numpy()
        self._shape, self._dtype = self._root.shape, self._root.dtype
        self._root_flags = [root[name].numpy() for name in names[1:]]

    def step(self) -> bool:
        """Step; return whether the episode has ended."""
        observation, reward, terminated, truncated, _ = self._step(self._action())
        rows = self._result
        rows[0][...] = self._checked(observation)
        rows[1][0] = reward
        rows[2][0] = ended = bool(terminated or truncated)
        rows[3][0] = terminated
        rows[4][0] = truncated
        return ended

    def _checked(self, observation: object) -> Any:
        """Return an observation that has the shape and the dtype of its row.

        Raises:
            ShapeError: if it has another shape.
            DTypeError: if it has another dtype and cannot be converted.
        """
        if type(observation) is np.ndarray and observation.dtype == self._dtype and observation.shape == self._shape:
            return observation
        array = copy_array(observation, self._dtype, self._key)
        if array.size == self._root.size == 1:
            array = array.reshape(self._shape)
        if array.shape != self._shape:
            raise ShapeError(
                describe(
                    self._env,
                    "has another shape than its space",
                    key=self._key,
                    expected=self._shape,
                    found=array.shape,
                    hint="Give it the same shape at every step.",
                )
            )
        return array

    def reset(self) -> None:
        """Start a new episode."""
        observation, _ = self._env._call_reset(None)
        self._root[...] = self._checked(observation)
        for flag in self._root_flags:
            flag[0] = False


def _action_reader(env: Any, row: Tensor) -> Callable[[], object]:
    """Return a function that reads the action from its row, as the environment takes it."""
    space = env._env.action_space
    if type(space).__name__ == "Discrete":
        array, start = row.numpy(), int(space.start)
        if array.ndim:
            return lambda: int(array.argmax()) + start
        return lambda: int(array) + start
    # A copy: an environment may keep its action, and the row changes at the next step.
    return lambda: env._write_action({"action": row.clone()})
