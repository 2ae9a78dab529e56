"""EnvPool: environments stepped by threads of compiled code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np

from torchrl._core.errors import describe
from torchrl._core.optional import require_package
from torchrl.envs.libs.gym.env import GymWrapper
from torchrl.envs.libs.gym.vector import attribute_of
from torchrl.envs.wrapper import Catalogue, unknown_name, wrong_kind


def _tasks() -> list[str]:
    pool = require_package("envpool", needed_by="MultiThreadedEnv", extra="envpool")
    return sorted(pool.list_all_envs())


class MultiThreadedEnvWrapper(GymWrapper):
    """Presents a pool of EnvPool, one row an environment.

    A pool starts a new episode in the step after an end and drops the action of that step. Here
    ``reset()`` resets rows: partial resets touch no other row, and a step always returns entries of
    the episode of its action.

    Args:
        env: A pool of ``envpool.make_gymnasium`` that answers in lockstep (``batch_size`` equal to
            ``num_envs``).
        kwargs: Those of :class:`~torchrl.envs.GymWrapper`.

    Reads: ``action``, as in :class:`~torchrl.envs.GymWrapper`.
    Writes: ``observation``, or one entry for each child of a ``Dict`` space; ``reward [N, 1]``;
        ``terminated``, ``truncated`` and ``done`` ``[N, 1]``. An episode that reaches the task's
        time limit counts as truncated, whatever else happened at that step: a pool does not tell.

    Raises:
        TypeError: if ``env`` is not such a pool.

    >>> import envpool
    >>> env = MultiThreadedEnvWrapper(envpool.make_gymnasium("CartPole-v1", num_envs=2))
    >>> env.rollout(3, break_when_any_done=False).batch_size
    torch.Size([2, 3])
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True
    _writes_infos = False
    libname = "envpool"
    git_url = "https://github.com/sail-sg/envpool"
    available_envs = Catalogue(_tasks, "envpool")

    def _build_env(self, env: object = None, **kwargs: object) -> object:
        if not hasattr(env, "config") or not hasattr(env, "single_action_space"):
            expected = "a pool of envpool.make_gymnasium"
            raise wrong_kind(self, env, expected, "MultiThreadedEnv")
        rows, answers = env.config["num_envs"], env.config["batch_size"]
        if rows != answers:
            raise TypeError(
                describe(
                    self,
                    "steps all rows of a pool at once",
                    expected=f"batch_size={rows}, as many as num_envs",
                    found=f"batch_size={answers}",
                    hint="Leave batch_size out of envpool.make_gymnasium.",
                )
            )
        return super()._build_env(env, **kwargs)

    def _make_driver(self, env: object) -> PoolDriver:
        return PoolDriver(env)

    def _call_reset(self, mask: np.ndarray | None, **kwargs: object) -> tuple:
        result = super()._call_reset(mask, **kwargs)
        self._env = self._driver.env  # a pool with new seeds is a new pool
        return result

    @property
    def repeats_per_step(self) -> int:
        """Number of times that a step takes its action, with the repeats of the pool."""
        return self.frame_skip * int(self._env.config.get("frame_skip", 1))

    def __getstate__(self) -> dict[str, object]:
        """Drop the pool, whose threads cannot be pickled; the copy starts new episodes."""
        state = self.__dict__.copy()
        state["_env"] = state["_driver"] = None
        state["_recipe"] = _recipe(self._env)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        recipe = state.pop("_recipe")
        self.__dict__.update(state)
        self._env = recipe()
        self._driver = PoolDriver(self._env)


class MultiThreadedEnv(MultiThreadedEnvWrapper):
    """Builds a pool of copies of one task of EnvPool.

    Args:
        num_workers: Number of copies, batch size ``[num_workers]``.
        env_name: The task, such as ``"Pong-v5"``.
        create_env_kwargs: Passed to ``envpool.make_gymnasium``: ``num_threads``,
            ``max_episode_steps`` and so on.
        kwargs: Those of :class:`MultiThreadedEnvWrapper`.

    Raises:
        ValueError: if there is no such task.

    >>> env = MultiThreadedEnv(3, "CartPole-v1", create_env_kwargs={"max_episode_steps": 5})
    >>> env.rollout(6, break_when_any_done=False)["next", "truncated"][..., 0].sum(-1)
    tensor([1, 1, 1])
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True

    def __init__(
        self, num_workers: int, env_name: str, *, create_env_kwargs: Mapping[str, object] | None = None, **kwargs: Any
    ) -> None:
        self.env_name, self.num_workers = env_name, num_workers
        super().__init__(task_id=env_name, pool=dict(create_env_kwargs or {}), **kwargs)

    def _build_env(self, task_id: str, pool: dict[str, object]) -> object:  # type: ignore[override]  # makes one
        envpool = require_package("envpool", needed_by=self, extra="envpool")
        if task_id not in self.available_envs:
            raise unknown_name(self, "task", task_id, self.available_envs)
        with _quiet():
            env = envpool.make_gymnasium(task_id, num_envs=self.num_workers, **pool)
        return super()._build_env(env)


class PoolDriver:
    """Steps and resets a pool row by row.

    Args:
        env: A pool in lockstep.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.num_envs: int = env.num_envs
        with _quiet():
            self._dtype = getattr(env.single_action_space, "dtype", None)
            self._observation = env.observation_space.sample()  # replaced at the first reset
        self._held: np.ndarray | None = None
        self._info: dict[str, object] = {}  # of each row

    def step(self, action: object, repeat: int = 1) -> tuple:
        """Step all rows that are not held, ``repeat`` times or to their end; rewards add up."""
        live = np.ones(self.num_envs, bool) if self._held is None else ~self._held
        self._held = None
        total = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict[str, object] = {}
        action = np.asarray(action, self._dtype)
        for _ in range(repeat):
            ids = np.flatnonzero(live).astype(np.int32)
            if not len(ids):
                break
            observation, reward, ended, cut, info = self.env.step(action[ids], ids)
            self._observation = _put(self._observation, ids, observation, self.num_envs)
            total[ids] += reward
            terminated[ids], truncated[ids] = ended, cut
            infos.update(_rows_of(info, ids, self.num_envs, infos))
            live = live & ~(terminated | truncated)
            self._info = {**self._info, **_rows_of(info, ids, self.num_envs, self._info)}
        return self._observation, total, terminated, truncated, infos

    def hold(self, rows: np.ndarray) -> None:
        """Leave ``rows [N]`` out of the next step."""
        self._held = rows

    def reset(self, mask: np.ndarray | None, *, seed: int | None = None) -> tuple:
        """Reset the rows of ``mask [N]``, or all; return observations ``[N, ...]`` and info.

        Args:
            mask: The rows.
            seed: One seed for each row; the pool is built again with them.
        """
        if seed is not None:
            self.env = _recipe(self.env, seed)()
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        ids = rows.astype(np.int32)
        with _quiet():
            observation, info = self.env.reset(ids)
        self._observation = _put(self._observation, ids, observation, self.num_envs)
        self._info = {**self._info, **_rows_of(info, ids, self.num_envs, self._info)}
        return self._observation, _rows_of(info, ids, self.num_envs, {})

    def read_attribute(self, path: str) -> Any:
        """Return the last infos of the rows with the last name of ``path``, ``[N, ...]``."""
        return attribute_of(self.env, self._info, path)


def _recipe(pool: Any, seeds: Any = None) -> Callable[[], object]:
    """Return what builds a pool like another, with seeds of its own."""
    kind, spec_kind, config = type(pool), type(pool.spec), deepcopy(dict(pool.config))
    if seeds is not None:
        config["env_seed"] = [int(seed) % 2**31 for seed in seeds]  # which is all a pool can hold

    def build() -> Any:
        with _quiet():
            return kind(spec_kind(spec_kind.gen_config(**config)))

    return build


def _put(before: Any, ids: np.ndarray, rows: Any, num: int) -> Any:
    """Return observations ``[N, ...]`` with new values in the rows of ``ids``."""
    if isinstance(rows, Mapping):
        return {name: _put(before[name], ids, value, num) for name, value in rows.items()}
    if len(ids) == num:
        return rows
    after = np.array(before)
    after[ids] = rows
    return after


def _rows_of(info: Mapping, ids: np.ndarray, num: int, before: Mapping) -> dict[str, Any]:
    """Return the infos of the rows as arrays ``[N, ...]``; zero where there is none."""
    spread = {}
    for name, value in info.items():
        if isinstance(value, np.ndarray) and len(value) == len(ids) and name != "env_id":
            rows = np.array(before[name]) if name in before else np.zeros((num, *value.shape[1:]))
            rows = rows.astype(value.dtype)
            rows[ids] = value
            spread[name] = rows
    return spread


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warning of gymnasium that the bounds of a pool are doubles cast down."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
