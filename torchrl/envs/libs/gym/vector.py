"""Steps and resets of gymnasium's vector environments in their three autoreset modes.

In each mode a step returns the true last observation of each episode, and ``reset()`` resets rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from torchrl._core.errors import ResetError
from torchrl._core.log import logger
from torchrl.envs.libs.gym.backend import BACKENDS, gym_backend
from torchrl.envs.libs.gym.spaces import kind_of

DISABLED, NEXT_STEP, SAME_STEP = "Disabled", "NextStep", "SameStep"


class VectorDriver:
    """Steps and resets a vector environment row by row.

    Args:
        env: A ``gymnasium.vector.VectorEnv``.
        missing: Value of the last observation of an episode where the environment resets its rows
            in the step that ends them and does not return it; 0 for integers.

    Raises:
        TypeError: if the environment resets its rows on its own at the next step and offers no way
            to reset them before.
    """

    def __init__(self, env: Any, missing: float = float("nan")) -> None:
        self.env, self._missing, self._has_warned = env, missing, False
        self.num_envs: int = env.num_envs
        mode = env.metadata.get("autoreset_mode", None)
        self.mode = getattr(mode, "value", mode) or NEXT_STEP
        vector = gym_backend("vector")
        kinds = vector.SyncVectorEnv, vector.AsyncVectorEnv
        takes_mask = isinstance(env.unwrapped, kinds) or self.mode == DISABLED
        shares = getattr(env.unwrapped, "shared_memory", True)
        if self.mode == NEXT_STEP and not (takes_mask and shares):
            raise TypeError(
                f"GymWrapper: {type(env.unwrapped).__name__} resets its rows at the step after "
                "their end, which loses a step of the others. Build it with "
                "gymnasium.make_vec(..., vectorization_mode='sync', "
                "vector_kwargs={'autoreset_mode': 'Disabled'})."
            )
        self.takes_mask = takes_mask
        self._fresh: object = None  # observations of rows that have reset themselves
        self._fresh_rows = np.zeros(self.num_envs, bool)
        self._over = np.zeros(self.num_envs, bool)
        self._unseen = np.zeros(self.num_envs, bool)  # rows in episodes that were not requested
        self._info: dict = {}  # of each row, in the episode of its last step
        self._fresh_info: dict = {}  # of rows that have reset themselves

    def step(self, action: object, repeat: int = 1) -> tuple:
        """Step all rows, ``repeat`` times or to their end; rewards add up.

        The observation is that of the episode that the action belongs to.
        """
        result = self._step(action)
        for _ in range(repeat - 1):
            over = result[2] | result[3]
            if over.all():
                break
            if over.any():
                self.hold(over)
            result = self._go_on(result, self._step(action), over)
        self._over = result[2] | result[3]
        self._info = result[4]
        if self.mode == SAME_STEP and self._over.any():
            self._fresh_info = result[4]
            self._info = _merged(result[4].get("final_info", {}), result[4], self._over)
            return *result[:4], self._info
        return result

    def read_attribute(self, path: str) -> Any:
        """Return the last infos of the rows with the last name of ``path``, ``[N, ...]``."""
        return attribute_of(self.env, self._info, path)

    def _go_on(self, before: tuple, after: tuple, over: np.ndarray) -> tuple:
        """Return the result of two successive steps; rows that were ``over`` took one."""
        observation = _with_rows(self.env.single_observation_space, after[0], before[0], over)
        reward = before[1] + np.where(over, 0, after[1])
        flags = (np.where(over, b, a) for b, a in zip(before[2:4], after[2:4], strict=True))
        info = {}
        for name, value in after[4].items():
            known = before[4].get(name)
            rows = isinstance(value, np.ndarray) and isinstance(known, np.ndarray)
            info[name] = _pick(over, known, value) if rows else value
        return observation, reward, *flags, info

    def _step(self, action: object) -> tuple:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._over = terminated | truncated
        if self.mode == SAME_STEP:
            self._fresh_rows = self._over
            if self._over.any():
                self._fresh = observation
                space = self.env.single_observation_space
                final = info.get("final_obs")
                if final is None:
                    final = self._unknown(observation)
                observation = _with_rows(space, observation, final, self._over)
        return observation, reward, terminated, truncated, info

    def _unknown(self, observation: object) -> object:
        """Return the fill values of observations ``[N, ...]`` that are not returned."""
        if self._has_warned:
            return self._filled(observation)
        logger.warning(
            "%s does not return the last observations of episodes (info['final_obs']); they are "
            "filled with %s. Values that are bootstrapped from them are wrong.",
            type(self.env.unwrapped).__name__,
            self._missing,
        )
        self._has_warned = True
        return self._filled(observation)

    def _filled(self, observation: Any) -> object:
        if isinstance(observation, Mapping):
            return {key: self._filled(value) for key, value in observation.items()}
        if isinstance(observation, tuple):
            return [tuple(row) for row in zip(*map(self._filled, observation), strict=True)]
        floating = observation.dtype.kind == "f"
        return np.full_like(observation, self._missing if floating else 0)

    def hold(self, rows: np.ndarray) -> None:
        """Prepare for a step whose result in ``rows [N]`` is discarded.

        Rows that have ended cannot be stepped, so they start an episode that is not returned.

        Raises:
            ResetError: if a row is in the middle of an episode: it cannot be left out.
        """
        live = rows & ~self._over & ~self._unseen
        if live.any():
            raise ResetError(
                f"GymWrapper: {type(self.env.unwrapped).__name__} steps all rows at once and "
                f"cannot leave out rows {np.flatnonzero(live).tolist()}, whose episodes continue. "
                "Build it with vectorization_mode='sync'."
            )
        self._unseen |= rows
        over = rows & self._over
        if over.any() and self.mode != SAME_STEP:
            self.env.reset(options={"reset_mask": over})
            self._over &= ~over

    def reset(self, mask: np.ndarray | None, **kwargs: object) -> tuple:
        """Reset the rows of ``mask [N]``, or all; return observations ``[N, ...]`` and info."""
        self._unseen &= False if mask is None else ~mask
        result = self._reset(mask, **kwargs)
        rows = np.ones(self.num_envs, bool) if mask is None else mask
        self._info = _merged(result[1] or self._fresh_info, self._info, rows)
        return result

    def _reset(self, mask: np.ndarray | None, **kwargs: Any) -> tuple:
        if mask is None:
            if self.mode == SAME_STEP and self._fresh_rows.all() and not kwargs:
                return self._fresh, {}  # all rows have been reset in the last step
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


class RowDriver:
    """Steps and resets the rows of a ``gymnasium.vector.SyncVectorEnv`` in any mode.

    Equal to its own ``step`` without autoreset, at half the cost.

    Args:
        env: The vector environment.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.rows = env, env.envs
        self.num_envs: int = env.num_envs
        self._make_converters()
        self._observations: list[object] = [None] * self.num_envs
        self._held: np.ndarray | None = None

    def _make_converters(self) -> None:
        self._join = _joiner(self.env.single_observation_space, self.num_envs)
        self._split = _splitter(self.env.single_action_space, self.env.action_space)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_join", "_split")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._make_converters()

    def step(self, action: object, repeat: int = 1) -> tuple:
        """Step all rows that are not held, ``repeat`` times or to their end; rewards add up."""
        actions = self._split(action)
        if self._held is None and repeat == 1:
            results = [row.step(a) for row, a in zip(self.rows, actions, strict=True)]
        else:
            results = [self._step_row(i, a, repeat) for i, a in enumerate(actions)]
            self._held = None
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        self._observations = list(observations)
        ends = np.array(terminated), np.array(truncated)
        return self._join(observations), np.array(rewards), *ends, stack_infos(infos)

    def _step_row(self, i: int, action: object, repeat: int) -> tuple:
        if self._held is not None and self._held[i]:
            return self._observations[i], 0.0, False, False, {}
        total = 0.0
        for _ in range(repeat):
            observation, reward, terminated, truncated, info = self.rows[i].step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info

    def read_attribute(self, path: str) -> Any:
        """Return an attribute of each row, ``[N, ...]``, and what it returns if it is called."""
        values = []
        for found in self.rows:
            for name in path.split("."):
                found = getattr(found, name)
            values.append(found() if callable(found) else found)
        return np.array(values)

    def hold(self, rows: np.ndarray) -> None:
        """Leave ``rows [N]`` out of the next step."""
        self._held = rows

    def reset(self, mask: np.ndarray | None, *, seed: Any = None, options: dict | None = None) -> tuple:
        """Reset the rows of ``mask [N]``, or all; return observations ``[N, ...]`` and info."""
        infos: list[dict] = [{}] * self.num_envs
        for i in range(self.num_envs) if mask is None else np.flatnonzero(mask):
            row_seed = None if seed is None else seed[i]
            self._observations[i], infos[i] = self.rows[i].reset(seed=row_seed, options=options)
        return self._join(self._observations), stack_infos(infos)


def _merged(new: Mapping, old: Mapping, rows: np.ndarray) -> dict:
    """Return the infos ``old``, with those of ``rows [N]`` replaced by ``new``."""
    merged = dict(old)
    for name, value in new.items():
        known = old.get(name)
        if isinstance(value, np.ndarray) and isinstance(known, np.ndarray):
            value = _pick(rows, value, known)
        merged[name] = value
    return merged


def attribute_of(env: Any, info: Mapping, path: str) -> Any:
    """Return an attribute of a vector environment, or the entry of its infos of the last name.

    Raises:
        AttributeError: if there is neither.
    """
    found, name = env, path.rpartition(".")[2]
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        found = info.get(name)
    if found is None:
        raise AttributeError(f"{type(env.unwrapped).__name__} has no attribute {path!r}, and its infos no {name!r}")
    return found() if callable(found) else found


def driver_of(env: object, missing: float = float("nan")) -> VectorDriver | RowDriver:
    """Return what steps and resets a vector environment row by row; see :class:`VectorDriver`."""
    kind = type(env)
    is_plain = kind.__name__ == "SyncVectorEnv" and kind.__module__.partition(".")[0] in BACKENDS
    return RowDriver(env) if is_plain else VectorDriver(env, missing)


def _joiner(space: Any, num: int) -> Callable[[object], object]:
    """Return how the observations of rows become one batch."""
    if type(space).__name__ in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        dtype = space.dtype
        return lambda rows: np.array(rows, dtype)
    utils = gym_backend("vector.utils")

    def join(rows: Any) -> Any:
        return utils.concatenate(space, rows, utils.create_empty_array(space, num))

    return join


def _splitter(single: Any, batched: object) -> Callable[[Any], Any]:
    """Return how a batch of actions becomes those of rows."""
    if type(single).__name__ == "Discrete":
        return list  # of numpy's integers, which gymnasium checks faster than Python's
    if type(single).__name__ in ("Box", "MultiDiscrete", "MultiBinary"):
        return lambda action: [np.asarray(row) for row in action] if not single.shape else action
    utils = gym_backend("vector.utils")
    return lambda action: utils.iterate(batched, action)


def stack_infos(infos: Any) -> dict:
    """Return the infos of rows as one mapping of arrays ``[N]``, zero where a row lacks an entry.

    >>> stack_infos([{"lives": 3}, {}])
    {'lives': array([3, 0])}
    """
    if not any(infos):
        return {}
    stacked = {}
    for name in dict.fromkeys(name for info in infos for name in info):
        values = [info.get(name) for info in infos]
        array = _stack_numbers(values)
        if array is None:
            array = np.empty(len(values), object)
            array[:] = values
        stacked[name] = array
    return stacked


def _stack_numbers(values: list[Any]) -> np.ndarray | None:
    """Return numbers, or arrays of one shape, as an array ``[N, ...]``; ``None`` for the rest."""
    known = [value for value in values if value is not None]
    numeric = all(isinstance(v, bool | int | float | np.generic | np.ndarray) for v in known)
    if not known or not numeric or len({np.shape(value) for value in known}) > 1:
        return None
    zero = np.zeros_like(known[0])
    return np.array([zero if value is None else value for value in values])


def _with_rows(space: Any, observation: Any, final: Any, rows: np.ndarray) -> object:
    """Return a copy of ``observation`` that has, in ``rows``, what ``final`` holds there."""
    kind = kind_of(space)
    if kind == "Dict":
        return {
            key: _with_rows(child, observation[key], _child(final, key), rows) for key, child in space.spaces.items()
        }
    if kind == "Tuple":
        return tuple(_with_rows(child, observation[i], _child(final, i), rows) for i, child in enumerate(space.spaces))
    if isinstance(observation, tuple):  # one object a row
        return tuple(final[i] if rows[i] else sample for i, sample in enumerate(observation))
    merged = deepcopy(observation)
    for row in np.flatnonzero(rows):
        merged[row] = final[row]
    return merged


def _pick(rows: np.ndarray, chosen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return ``chosen`` in ``rows [N]`` and ``other`` elsewhere."""
    return np.where(rows.reshape(-1, *(1,) * (other.ndim - 1)), chosen, other)


def _child(final: Any, key: Any) -> object:
    """Return one child of final observations, which come as one sample a row or as a mapping."""
    if isinstance(final, Mapping):
        return final[key]
    return [None if sample is None else sample[key] for sample in final]


def render_rows(env: Any) -> np.ndarray:
    """Return the frames of all rows, ``[N, H, W, C]``."""
    return np.stack(env.render())
