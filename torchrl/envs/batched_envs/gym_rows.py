"""A single gymnasium environment that goes from row to row without becoming a tensor on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl.envs.common import EnvBase
from torchrl.envs.libs.gym import GymEnv, GymWrapper
from torchrl.envs.libs.gym.spaces import copy_array

Rows = dict[NestedKey, Tensor]


class GymRows:
    """Steps an environment as :class:`~torchrl.envs.GymWrapper` does, on arrays that lie in rows.

    It exists only for what it does exactly alike: see :meth:`of`. The first step is taken, and
    validated, by the environment itself.

    Args:
        env: The environment.
        inputs: Holds the action.
        outcome: Written by a step.
        root: Written by a reset.
    """

    def __init__(self, env: Any, inputs: Rows, outcome: Rows, root: Rows) -> None:
        self._env, self._step = env, env._env.step
        self._action = _action_of(env, inputs["action"])
        names = ("observation", "reward", "done", "terminated", "truncated")
        self._outcome = tuple(outcome[name].numpy() for name in names)
        self._root = root["observation"].numpy()
        self._shape, self._dtype = self._root.shape, self._root.dtype
        self._root_flags = [root[name].numpy() for name in names[2:]]

    @staticmethod
    def of(env: EnvBase, inputs: Rows, outcome: Rows, root: Rows) -> GymRows | None:
        """Return one for a plain environment with an array as its only observation, or ``None``."""
        if type(env) not in (GymEnv, GymWrapper):
            return None
        gym: Any = env
        plain = (
            gym._driver is None
            and "_step" not in vars(gym)  # nothing stands between
            and not gym._info_readers
            and gym.frame_skip == 1
            and not gym._from_pixels
            and gym._to_numpy
            and (gym.device is None or gym.device.type == "cpu")
            and list(outcome) == ["observation", "reward", "done", "terminated", "truncated"]
            and list(inputs) == ["action"]
            and type(gym._env.observation_space).__name__ == "Box"
        )
        return GymRows(env, inputs, outcome, root) if plain else None

    def step(self) -> bool:
        """Step; return whether the episode has ended."""
        observation, reward, terminated, truncated, _ = self._step(self._action())
        rows = self._outcome
        rows[0][...] = self._fitted(observation)
        rows[1][0] = reward
        rows[2][0] = ended = bool(terminated or truncated)
        rows[3][0] = terminated
        rows[4][0] = truncated
        return ended

    def _fitted(self, observation: Any) -> Any:
        """Return an observation that can be written to its row as it is.

        Raises:
            ShapeError, DTypeError: if there is none.
        """
        if (
            type(observation) is np.ndarray
            and observation.dtype == self._dtype
            and observation.shape == self._shape
        ):
            return observation
        array = copy_array(observation, self._dtype, "observation")
        if array.shape != self._shape:
            raise ShapeError(
                describe(
                    self._env,
                    "has another shape than its space",
                    key="observation",
                    expected=self._shape,
                    found=array.shape,
                    hint="Give it the same shape at every step.",
                )
            )
        return array

    def reset(self) -> None:
        """Begin a new episode."""
        observation, _ = self._env._call_reset(None)
        self._root[...] = self._fitted(observation)
        for flag in self._root_flags:
            flag[0] = False


def _action_of(env: Any, row: Tensor) -> Callable[[], Any]:
    """Return how a row becomes what the environment takes."""
    space = env._env.action_space
    if type(space).__name__ == "Discrete":
        array, start = row.numpy(), int(space.start)
        if array.ndim:
            return lambda: int(array.argmax()) + start
        return lambda: int(array) + start
    # An environment may keep what it is given, and the row changes at the next step.
    return lambda: env._write_action({"action": row.clone()})
