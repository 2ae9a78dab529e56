"""Environments of dm_control and others with the interface of ``dm_env``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey

from torchrl._core.errors import ResetError, describe
from torchrl._core.optional import require_package
from torchrl._core.records.flat_record import FlatRecord, Record
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs.gym_like import GymLikeEnv
from torchrl.envs.libs.array_specs import action_spec, array_leaves, key_of, observation_spec
from torchrl.envs.specs import flag_specs
from torchrl.envs.wrapper import Catalogue, take_options, wrong_kind

_HEIGHT, _WIDTH = 240, 320  # of a frame, by default


def _tasks() -> list[tuple[str, list[str]]]:
    suite = require_package("dm_control.suite", needed_by="DMControlEnv", extra="dm_control")
    return [(domain, list(tasks)) for domain, tasks in suite.TASKS_BY_DOMAIN.items()]


class DMControlWrapper(GymLikeEnv):
    """Presents a ``dm_env.Environment``, such as those of ``dm_control``.

    A last step whose discount is 1 is the end of the time: ``truncated``. With any other discount
    it is the end of the task: ``terminated``.

    Args:
        env: The environment, already built.
        from_pixels: Write the rendered frame, ``pixels [H, W, 3]`` of bytes.
        pixels_only: With ``from_pixels``, leave the other observations out.
        camera_id: The camera that sees: its number or its name.
        render_kwargs: More keywords of ``physics.render``, such as ``height`` and ``width``.
        categorical_action_encoding: Encode discrete actions as integers instead of one-hot vectors.
        kwargs: Those of :class:`~torchrl.envs.GymLikeEnv`: ``frame_skip``, ``device`` and so on.

    Reads: ``action``, with the shape and dtype of the environment's own (doubles, mostly).
    Writes: one entry for each of the environment's observations (numbers get a dimension of 1), or
        ``observation`` if it has no names; ``reward [1]``; ``terminated``, ``truncated`` and
        ``done`` ``[1]``.

    Raises:
        TypeError: if ``env`` is no ``dm_env.Environment``, or has a spec that is no array.
        ResetError: from ``set_seed``, if the environment has no random generator.

    >>> from dm_control import suite
    >>> env = DMControlWrapper(suite.load("cartpole", "balance"))
    >>> env.rollout(2)["next", "position"].shape
    torch.Size([2, 3])
    """

    supports_flat_records = True
    reads_action_only = True
    libname = "dm_control"
    configuration = ("_readers", "_render_kwargs")
    git_url = "https://github.com/google-deepmind/dm_control"
    available_envs = Catalogue(_tasks, "dm_control")

    def __init__(
        self,
        env: object = None,
        *,
        from_pixels: bool = False,
        pixels_only: bool = True,
        camera_id: int | str = 0,
        render_kwargs: Mapping[str, Any] | None = None,
        categorical_action_encoding: bool = False,
        **kwargs: Any,
    ) -> None:
        self._from_pixels = from_pixels
        self._pixels_only = from_pixels and pixels_only
        self._render_kwargs = {"camera_id": camera_id, **(render_kwargs or {})}
        self._categorical = categorical_action_encoding
        super().__init__(env=env, **kwargs)

    @property
    def from_pixels(self) -> bool:
        """Whether rendered frames are written, as ``pixels``."""
        return self._from_pixels

    @property
    def pixels_only(self) -> bool:
        """Whether frames are all that is observed."""
        return self._pixels_only

    def _build_env(self, env: object = None) -> object:
        dm_env = require_package("dm_env", needed_by=self, extra="dm_control")
        if not isinstance(env, dm_env.Environment):
            raise wrong_kind(self, env, "a dm_env.Environment", "DMControlEnv")
        if self._from_pixels and not hasattr(env, "physics"):
            raise TypeError(
                describe(
                    self,
                    "can render pixels only where there is physics to render",
                    found=type(env).__name__,
                    hint="Leave from_pixels out.",
                )
            )
        return env

    def _make_specs(self, env: Any) -> None:
        device = self.device or torch.device("cpu")
        observation = Composite()
        self._readers: list[tuple[NestedKey, Callable[[object], object]]] = []
        for path, array in () if self._pixels_only else array_leaves(env.observation_spec()):
            key = key_of(path)
            observation[key] = observation_spec(array)
            self._readers.append((key, _reader(path, array, observation[key].shape)))
        if self._from_pixels:
            height = self._render_kwargs.get("height", _HEIGHT)
            width = self._render_kwargs.get("width", _WIDTH)
            observation["pixels"] = Bounded(0, 255, (height, width, 3), dtype=torch.uint8)
        self.observation_spec = observation.to(device)
        action = action_spec(env.action_spec(), categorical=self._categorical)
        self.action_spec = action.to(device)
        self.reward_spec = Unbounded((1,), device=device)
        self.done_spec = flag_specs(self.batch_size, device)

    # --- stepping --------------------------------------------------------------------------------

    def _output_transform(self, step_out: Any) -> tuple:
        over = bool(step_out.last())
        truncated = over and step_out.discount == 1.0
        terminated = over and not truncated
        return step_out.observation, step_out.reward, terminated, truncated, over, {}

    def _reset_output_transform(self, reset_out: Any) -> tuple:
        return reset_out.observation, {}

    def _call_reset(self, mask: np.ndarray | None, **kwargs: object) -> Any:
        return self._env.reset(**kwargs)

    def _set_seed(self, seed: int | None) -> None:
        source = getattr(getattr(self._env, "task", None), "random", None)
        if source is None:
            source = getattr(self._env, "random_state", None)
        if not isinstance(source, np.random.RandomState):
            raise ResetError(
                describe(
                    self,
                    "cannot be seeded: the environment has no random generator",
                    expected="a numpy RandomState, env.task.random or env.random_state",
                    found=type(source).__name__,
                    hint="Give the environment its seed where it is built.",
                )
            )
        source.seed(seed)

    def read_action(self, tensordict: Record) -> Any:
        """Return the action as the environment takes it."""
        spec, action = self.full_action_spec["action"], tensordict.get("action")
        if isinstance(spec, OneHot | Categorical):
            return spec.to_numpy(action)
        return np.array(action.numpy(force=True))  # a copy: a task may edit its action

    def read_obs(self, observation: object) -> FlatRecord:
        """Return the observations as tensors by key."""
        entries = FlatRecord()
        for key, read in self._readers:
            entries[key] = read(observation)
        if self._from_pixels:
            frame = self._env.physics.render(**self._render_kwargs)
            entries["pixels"] = torch.from_numpy(np.array(frame))
        if self._device is not None and self._device.type != "cpu":
            for key, value in entries.items():
                entries[key] = value.to(self._device)
        return entries


class DMControlEnv(DMControlWrapper):
    """Builds a task of the control suite.

    Args:
        env_name: Its domain.
        task_name: The task in it.
        environment_kwargs: Passed to ``suite.load``: ``flat_observation``, ``control_timestep``
            and so on.
        visualize_reward: Colour the rendered scene by the reward.
        kwargs: Those of :class:`DMControlWrapper`; all others go to the task (``random``,
            ``time_limit``).

    >>> env = DMControlEnv("cheetah", "run", frame_skip=4)
    >>> env.set_seed(0)
    795726461
    >>> env.reset()["velocity"].dtype
    torch.float64
    """

    supports_flat_records = True
    reads_action_only = True

    def __init__(
        self,
        env_name: str,
        task_name: str,
        *,
        from_pixels: bool = False,
        pixels_only: bool = True,
        camera_id: int | str = 0,
        render_kwargs: Mapping[str, object] | None = None,
        categorical_action_encoding: bool = False,
        environment_kwargs: Mapping[str, object] | None = None,
        visualize_reward: bool = False,
        **kwargs: object,
    ) -> None:
        self.env_name, self.task_name = env_name, task_name
        ours = take_options(kwargs, "frame_skip")
        super().__init__(
            from_pixels=from_pixels,
            pixels_only=pixels_only,
            camera_id=camera_id,
            render_kwargs=render_kwargs,
            categorical_action_encoding=categorical_action_encoding,
            domain_name=env_name,
            task_name=task_name,
            task_kwargs=kwargs,
            environment_kwargs=None if environment_kwargs is None else {**environment_kwargs},
            visualize_reward=visualize_reward,
            **ours,
        )

    def _build_env(self, **kwargs: object) -> object:  # type: ignore[override]  # makes one
        suite = require_package("dm_control.suite", needed_by=self, extra="dm_control")
        domain, task = kwargs["domain_name"], kwargs["task_name"]
        known = suite.TASKS_BY_DOMAIN
        if task not in known.get(domain, ()):
            raise ValueError(
                describe(
                    self,
                    f"knows no task {task!r} in the domain {domain!r}",
                    expected=f"one of {sorted(known[domain])}"
                    if domain in known
                    else f"a domain among {sorted(known)}",
                )
            )
        return super()._build_env(suite.load(**kwargs))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(env={self.env_name}, task={self.task_name}, "
            f"batch_size={self.batch_size}, device={self.device})"
        )


def _reader(path: tuple[str, ...], array: Any, shape: torch.Size) -> Callable[[object], object]:
    """Return how one observation is read out of all of them."""

    def read(observation: Any) -> Any:
        for part in path:
            observation = observation[part]
        # A simulator may reuse its buffer, hence the copy.
        return torch.from_numpy(np.array(observation, array.dtype)).reshape(shape)

    return read
