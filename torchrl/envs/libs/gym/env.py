"""Gymnasium environments, single and vectorised, and how values of their spaces become tensors and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDictBase
from torch import Tensor

from torchrl._core.generators import next_seed
from torchrl._core.optional import require_package
from torchrl._core.records.capabilities import is_unchanged
from torchrl._core.records.flat_record import FlatRecord
from torchrl.data import Bounded, Composite, MultiOneHot, NonTensor, OneHot, TensorSpec, Unbounded
from torchrl.envs.gym_like import GymLikeEnv
from torchrl.envs.libs.gym.backend import gym_backend
from torchrl.envs.libs.gym.row_stepper import Rows, RowStepper
from torchrl.envs.libs.gym.spaces import STAND_INS, children_of, copy_array, kind_of, spec_from_space
from torchrl.envs.libs.gym.vector import SAME_STEP, driver_of, render_rows
from torchrl.envs.specs import flag_specs, leaf_names
from torchrl.envs.wrapper import Catalogue

# Names that gymnasium learns when a package is imported, and the extra that brings it.
_BROUGHT = {"ALE/": ("ale_py", "atari"), "MiniGrid-": ("minigrid", "minigrid"), "BabyAI-": ("minigrid", "minigrid")}


def _ids() -> list[str]:
    return sorted(gym_backend().envs.registry)


class GymWrapper(GymLikeEnv):
    """Presents a ``gymnasium.Env`` or ``gymnasium.vector.VectorEnv``.

    Args:
        env: The environment, already built.
        categorical_action_encoding: Encode discrete actions and observations as integers instead of
            one-hot vectors.
        from_pixels: Write the rendered frame, ``pixels [*B, H, W, C]`` of bytes; the environment
            must have been built with ``render_mode="rgb_array"``. The attribute is also true where
            the observation itself is an image.
        pixels_only: Leave the other observations out.
        convert_actions_to_numpy: Hand actions over as numpy arrays and Python numbers; otherwise as
            the tensors that they are.
        missing_obs_value: The last observation of an episode, where a vector environment that
            resets its own rows does not return it; 0 for integers.
        frame_skip: Number of times each action is repeated.
        device: Device of what is returned.
        batch_size: Must be that of the environment, ``[N]`` for a vector environment; found if
            ``None``.
        allow_done_after_reset: Accept an episode that is over at its start.
        spec_locked: Refuse edits inside the specs.

    Reads: ``action``, or one entry for each child of a ``Dict`` action space.
    Writes: ``observation``, or one entry for each child of a ``Dict`` observation space, or
        ``pixels`` if the space is that of colour images, ``[*B, H, W, 3]`` from 0 to 255;
        ``reward [*B, 1]``, ``terminated``, ``truncated`` and ``done`` ``[*B, 1]``; for a vector
        environment the numbers in its infos, which are found in a reset and a random step.

    Raises:
        TypeError: if ``env`` is not an environment of gymnasium, or has a space without a spec.

    >>> import gymnasium
    >>> env = GymWrapper(gymnasium.make("Pendulum-v1"))
    >>> env.rollout(2)["next", "observation"].shape
    torch.Size([2, 3])
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True
    libname = "gymnasium"
    configuration: Collection[str] = (
        "_categorical",
        "_from_pixels",
        "_missing_obs_value",
        "_pixels_only",
        "_readers",
        "_write_action",
    )
    available_envs = Catalogue(_ids)
    _pixels_only_default = False
    _writes_infos = True  # of a vector environment

    def __init__(
        self,
        env: object = None,
        categorical_action_encoding: bool = False,
        *,
        from_pixels: bool = False,
        pixels_only: bool | None = None,
        convert_actions_to_numpy: bool = True,
        missing_obs_value: float = float("nan"),
        **kwargs: Any,
    ) -> None:
        self._missing_obs_value = missing_obs_value
        self._categorical = categorical_action_encoding
        self._from_pixels = from_pixels
        self._pixels_only = from_pixels and (self._pixels_only_default if pixels_only is None else pixels_only)
        self._to_numpy = convert_actions_to_numpy
        self._seeds: object = None  # of the next reset
        self._driver: Any = None  # of a vector environment
        super().__init__(env=env, **kwargs)
        if self._driver is not None and self._writes_infos:
            self._add_infos()

    @property
    def from_pixels(self) -> bool:
        """Whether images are written, as ``pixels``."""
        return self._from_pixels or self._lone_name() == "pixels"

    @property
    def pixels_only(self) -> bool:
        """Whether images are all that is observed."""
        return self._pixels_only or self._lone_name() == "pixels"

    # --- construction ----------------------------------------------------------------------------

    def _build_env(self, env: Any = None, **kwargs: object) -> object:
        if kwargs:
            raise TypeError(
                f"{type(self).__name__} takes no arguments {sorted(kwargs)}; those of the "
                "environment itself go to GymEnv, or to gymnasium.make."
            )
        if not hasattr(env, "action_space") or not hasattr(env, "step"):
            raise TypeError(
                f"GymWrapper: expected a gymnasium environment, found {type(env).__name__}. "
                "For an environment's name use GymEnv."
            )
        if self._from_pixels and getattr(env, "render_mode", None) != "rgb_array":
            raise ValueError(
                "GymWrapper: from_pixels=True needs an environment that renders arrays, found "
                f"render_mode={getattr(env, 'render_mode', None)!r}; build it with "
                "gymnasium.make(..., render_mode='rgb_array')."
            )
        if hasattr(env, "single_action_space"):
            self._driver = self._make_driver(env)
            self._batch_size = torch.Size([env.num_envs])
            if self._from_pixels and getattr(self._driver, "mode", None) == SAME_STEP:
                raise ValueError(
                    "GymWrapper: from_pixels=True needs the frame of the last step of an episode, "
                    "which an environment with autoreset mode SAME_STEP cannot render any more; "
                    "build it with autoreset_mode=AutoresetMode.DISABLED."
                )
        return env

    def _make_driver(self, env: object) -> object:
        return driver_of(env, self._missing_obs_value)

    def _make_specs(self, env: object) -> None:
        batch, device = self.batch_size, self.device or "cpu"
        action_space, space = self._spaces()
        action = spec_from_space(action_space, categorical=self._categorical, device=device)
        lone = kind_of(action_space) != "Dict"
        observation: Any = Composite()
        if not self._pixels_only:
            observation = spec_from_space(space, categorical=self._categorical, device=device)
            if kind_of(space) != "Dict":
                observation = Composite({self._lone_name(): observation})
        if self._from_pixels:
            observation["pixels"] = self._pixel_spec(device)
        self.observation_spec = _expand(observation, batch)
        self.action_spec = _expand(Composite(action=action) if lone else action, batch)
        self.reward_spec = Unbounded((*batch, 1), device=device)
        self.done_spec = flag_specs(batch, device)
        self._refuse_shared_names()
        self._make_readers()

    def _spaces(self) -> tuple[Any, Any]:
        """Return the spaces of actions and of observations, of one row."""
        env = self._env
        if self._driver is not None:
            return env.single_action_space, env.single_observation_space
        return env.action_space, env.observation_space

    def _lone_name(self) -> str:
        """Return what an observation that is no ``Dict`` is called: ``"pixels"`` if it is an image."""
        _, space = self._spaces()
        if self._from_pixels or kind_of(space) != "Box" or len(space.shape) != 3 or space.shape[-1] != 3:
            return "observation"
        return "pixels" if (space.low == 0).all() and (space.high == 255).all() else "observation"

    def _make_readers(self) -> None:
        """Decide how actions are written and observations read; again after a move."""
        action_space, _ = self._spaces()
        self._write_action = record_writer(
            action_space,
            spec_from_space(action_space, categorical=self._categorical, device=self.device or "cpu"),
            batched=self._driver is not None,
            path=() if kind_of(action_space) == "Dict" else ("action",),
        )
        if self._pixels_only:
            self._readers: list[Any] = []
            return
        _, space = self._spaces()
        self._readers = leaf_readers(
            space,
            spec_from_space(space, categorical=self._categorical),
            batched=self._driver is not None,
            device=self.device,
            path=() if kind_of(space) == "Dict" else (self._lone_name(),),
        )

    def _refuse_shared_names(self) -> None:
        shared = {*leaf_names(self.full_action_spec)} & {*leaf_names(self.full_observation_spec)}
        if shared:
            raise ValueError(
                f"{type(self).__name__}: the environment has actions and observations of one name, "
                f"{sorted(shared, key=str)}, and each entry can be only one of them. Rename one in "
                "a gymnasium wrapper."
            )

    def _pixel_spec(self, device: torch.device | str | int | None) -> TensorSpec:
        self._env.reset() if self._driver is None else self._driver.reset(None)
        frame = self._render()
        shape = frame.shape[len(self.batch_size) :]
        return Bounded(0, 255, shape=shape, dtype=torch.uint8, device=device)

    def _render(self) -> np.ndarray:
        return self._env.render() if self._driver is None else render_rows(self._env)

    # --- stepping --------------------------------------------------------------------------------

    def _repeat_step(self, action: object) -> tuple:
        if self._driver is not None:
            return self._output_transform(self._driver.step(action, self.frame_skip))
        if self.frame_skip == 1:
            return self._output_transform(self._call_step(action))
        return super()._repeat_step(action)

    def _call_step(self, action: object) -> tuple:
        return self._env.step(action) if self._driver is None else self._driver.step(action)

    def _call_reset(self, mask: np.ndarray | None, **kwargs: Any) -> tuple:
        seeds, self._seeds = self._seeds, None
        if kwargs.get("seed") is not None:
            kwargs["seed"] = self._row_seeds(kwargs["seed"])
        elif seeds is not None:
            kwargs["seed"] = seeds
        if self._driver is not None:
            return self._driver.reset(mask, **kwargs)
        return self._env.reset(**kwargs)

    def row_stepper(self, inputs: Rows, result: Rows, root: Rows) -> RowStepper | None:
        """Return what steps this environment on rows of batched memory, without tensors.

        Args:
            inputs: Rows that a step reads.
            result: Rows that a step writes.
            root: Rows that a reset writes.

        Returns: ``None`` where it would not compute exactly the same: for vector environments,
            pixels, dictionaries, repeated frames, and subclasses that override a method.
        """
        is_plain = (
            is_unchanged(type(self), GymEnv if isinstance(self, GymEnv) else GymWrapper)
            and "_step" not in vars(self)  # nothing observes the calls, as a profile does
            and self._driver is None
            and not self._info_readers
            and self.frame_skip == 1
            and not self._from_pixels
            and self._to_numpy
            and (self.device is None or self.device.type == "cpu")
            and list(result) == [self._lone_name(), "reward", "done", "terminated", "truncated"]
            and list(inputs) == ["action"]
            and type(self._env.observation_space).__name__ == "Box"
        )
        return RowStepper(self, inputs, result, root) if is_plain else None

    def _set_seed(self, seed: int | None) -> None:
        self._seeds = None if seed is None else self._row_seeds(seed)

    def _row_seeds(self, seed: int | None) -> object:
        """Return a seed for each row, if there are rows."""
        if not isinstance(seed, int | np.integer):
            return seed
        seeds = [int(seed)]
        if self._driver is None:
            return seeds[0]
        while len(seeds) < self.batch_size.numel():
            seeds.append(next_seed(seeds[-1]))
        return seeds

    @contextmanager
    def _seeds_kept(self) -> Iterator[None]:
        seeds = self._seeds
        yield
        self._seeds = seeds

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        for name in ("_readers", "_write_action"):  # functions, made again
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self._make_readers()

    def _follow(self) -> None:
        super()._follow()
        self._make_readers()

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment, each row with a seed of its own; return the seed that follows."""
        next_root = super().set_seed(seed, static_seed=static_seed)
        if static_seed or next_root is None:
            return next_root
        for _ in range(self.batch_size.numel() - 1):
            next_root = next_seed(next_root)
        return next_root

    def read_attribute(self, path: str) -> Any:
        """Return an attribute; that of each row, if there are rows."""
        if self._driver is None or path == "repeats_per_step":  # one of ours
            return super().read_attribute(path)
        return self._driver.read_attribute(path)

    def read_action(self, tensordict: TensorDictBase) -> Any:
        """Return the action as the environment takes it; note the rows that do not step."""
        if self._driver is not None:
            mask = tensordict.get("_step", None)
            if mask is not None:
                self._driver.hold(~mask.reshape(-1).numpy(force=True))
        if not self._to_numpy:
            return tensordict.get(self.action_key).clone()
        return self._write_action(tensordict)

    def read_obs(self, observation: object) -> FlatRecord:
        """Return the observations as tensors by key."""
        entries = FlatRecord()
        for key, read in self._readers:
            entries[key] = read(observation)
        if self._from_pixels:
            frame = torch.from_numpy(np.array(self._render()))
            entries["pixels"] = frame if self._device is None else frame.to(self._device)
        return entries


class GymEnv(GymWrapper):
    """Builds a registered gymnasium environment.

    Args:
        env_name: Its id; ``"module:Name-v0"`` imports the module first.
        num_envs: Number of copies run as one vector environment, batch size ``[num_envs]``; a
            single environment without batch size if 0 or ``None``.
        num_workers: Build a :class:`~torchrl.envs.ParallelEnv` with so many workers instead, each
            with an environment of these arguments.
        vectorization_mode: ``"sync"`` steps the copies one after the other, ``"async"`` in a
            process each.
        from_pixels: Write the rendered frame, ``pixels [*B, H, W, C]``.
        pixels_only: With ``from_pixels``, leave the other observations out; ``True`` if ``None``.
        disable_env_checker: Skip gymnasium's own checker; ours look at the first step.
        kwargs: Those of :class:`GymWrapper`; all others go to ``gymnasium.make``.

    >>> env = GymEnv("CartPole-v1")
    >>> env.set_seed(0)
    795726461
    >>> env.reset()["observation"].shape
    torch.Size([4])
    >>> GymEnv("CartPole-v1", num_envs=3).rollout(5, break_when_any_done=False).batch_size
    torch.Size([3, 5])
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True
    _pixels_only_default = True

    def __new__(cls, *args: Any, num_workers: int | None = None, **kwargs: Any) -> Any:
        """Make an environment, or several in workers."""
        if num_workers is None:
            return super().__new__(cls, *args, **kwargs)
        return cls.make_parallel(partial(cls, *args, **kwargs), num_envs=num_workers)

    def __init__(
        self,
        env_name: str,
        *,
        num_envs: int | None = None,
        num_workers: None = None,
        vectorization_mode: str = "sync",
        disable_env_checker: bool = True,
        **kwargs: Any,
    ) -> None:
        self.env_name = env_name
        super().__init__(
            env_name=env_name,
            num_envs=num_envs,
            vectorization_mode=vectorization_mode,
            disable_env_checker=disable_env_checker,
            **kwargs,
        )

    def _build_env(  # type: ignore[override]  # makes one
        self, env_name: str, num_envs: int | None, vectorization_mode: str, **kwargs: object
    ) -> Any:
        gym = gym_backend()
        for prefix, (package, extra) in _BROUGHT.items():
            if env_name.startswith(prefix):
                require_package(package, needed_by=f"GymEnv({env_name!r})", extra=extra)
        if self._from_pixels:
            kwargs.setdefault("render_mode", "rgb_array")
        if not num_envs:
            return super()._build_env(gym.make(env_name, **kwargs))
        if num_envs < 0:
            raise ValueError(f"GymEnv: num_envs counts environments, found {num_envs}.")
        if gym.__name__ == "gym" and vectorization_mode == "sync":  # its rows are stepped one by one
            rows = [partial(gym.make, env_name, **kwargs)] * num_envs
            return super()._build_env(gym.vector.SyncVectorEnv(rows))
        if not hasattr(gym.vector, "AutoresetMode"):
            raise ImportError("GymEnv: num_envs needs gymnasium 1.1: pip install 'gymnasium>=1.1'")
        env = gym.make_vec(
            env_name,
            num_envs=num_envs,
            vectorization_mode=vectorization_mode,
            vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.DISABLED},
            **kwargs,
        )
        return super()._build_env(env)

    @property
    def lib(self) -> Any:
        """The package that builds the environments."""
        return gym_backend()


def _expand(spec: TensorSpec, batch: torch.Size) -> TensorSpec:
    return spec.expand(*batch, *spec.shape) if batch else spec


# --- values of spaces and tensors ------------------------------------------------------------------

Reader = Callable[[Any], object]


def leaf_readers(
    space: object, spec: TensorSpec, *, batched: bool, device: Any, path: tuple[str, ...]
) -> list[tuple[NestedKey, Reader]]:
    """Return, for each leaf of a space, its key and how to read its tensor out of a sample.

    Args:
        space: The space of one environment.
        spec: Its spec, without batch dimensions, on the CPU.
        batched: Whether samples carry one leading dimension, environments.
        device: Where the entries go; ``None`` for the CPU, and for objects of no device.
        path: Key of the space in the record.
    """
    children = children_of(space)
    if children is None:
        key = path[0] if len(path) == 1 else path
        return [(key, _reader(space, spec, key, batched=batched, device=device))]
    leaves: list[tuple[NestedKey, Reader]] = []
    for name, (index, child) in children.items():
        for leaf, read in leaf_readers(child, spec[name], batched=batched, device=device, path=(*path, name)):

            def read_part(sample: Mapping[object, object], index: object = index, read: Reader = read) -> object:
                return read(sample[index])

            leaves.append((leaf, read_part))
    return leaves


def _reader(
    space: Any, spec: TensorSpec, key: NestedKey, *, batched: bool, device: torch.device | str | int | None
) -> Reader:
    move = device is not None and torch.device(device).type != "cpu"

    def finish(tensor: Tensor) -> Tensor:
        return tensor.to(device) if move else tensor

    kind = kind_of(space)
    if isinstance(spec, NonTensor):
        one = partial(NonTensorData, device=device)
        return (lambda samples: NonTensorStack(*map(one, samples))) if batched else one
    if kind == "Discrete":
        start, n, one_hot = int(space.start), int(space.n), isinstance(spec, OneHot)
        eye = torch.eye(n, dtype=spec.dtype)

        def choice(sample: object) -> Tensor:
            index = np.asarray(sample, np.int64) - start
            return finish(eye[index] if one_hot else torch.from_numpy(np.array(index)))

        return choice
    if kind == "MultiDiscrete":
        starts, dims = np.asarray(getattr(space, "start", 0)), space.nvec.ndim

        def choices(sample: object) -> Tensor:
            index = np.asarray(sample, np.int64) - starts
            index = index.reshape(*index.shape[: index.ndim - dims], -1)
            return finish(spec.encode(index) if isinstance(spec, MultiOneHot) else torch.from_numpy(index))

        return choices
    dtype = space.dtype if kind in ("Box", "MultiBinary") else None
    if dtype is None:
        return lambda sample: finish(spec.encode(sample))
    stand_in = STAND_INS.get(np.dtype(dtype), dtype)
    if space.shape and np.prod(space.shape) == 1:  # it may be returned without its dimensions
        shape = (-1, *space.shape) if batched else space.shape

        def number(sample: object) -> Tensor:
            array = copy_array(sample, stand_in, key)
            return finish(torch.from_numpy(array.reshape(shape) if array.ndim == int(batched) else array))

        return number

    def numbers(sample: object) -> Tensor:
        # A simulator may reuse its buffer, hence the copy.
        if type(sample) is np.ndarray and sample.dtype == stand_in:
            tensor = torch.from_numpy(sample.copy())
        else:
            tensor = torch.from_numpy(copy_array(sample, stand_in, key))
        return tensor.to(device) if move else tensor

    return numbers


def record_writer(
    space: object, spec: TensorSpec, *, batched: bool, path: tuple[str, ...] = ()
) -> Callable[[Any], object]:
    """Return how the actions of a record become what ``step`` of the foreign environment takes.

    Args:
        space: The action space of one environment.
        spec: Its spec, without batch dimensions.
        batched: Whether actions carry one leading dimension, environments.
        path: Key of the space in the record; a lone action is called ``action``.
    """
    children = children_of(space)
    if children is None:
        write = _writer(space, spec, batched)
        key: NestedKey = "action" if not path else path[0] if len(path) == 1 else path
        return lambda record: write(record.get(key))
    parts = {
        index: record_writer(child, spec[name], batched=batched, path=(*path, name))
        for name, (index, child) in children.items()
    }
    if kind_of(space) == "Tuple":
        return lambda record: tuple(write(record) for write in parts.values())
    return lambda record: {name: write(record) for name, write in parts.items()}


def _writer(space: Any, spec: TensorSpec, batched: bool) -> Callable[[Any], object]:
    kind = kind_of(space)
    if isinstance(spec, NonTensor):
        return lambda action: tuple(action.tolist()) if batched else action.tolist()
    if kind == "Discrete":
        start = int(space.start)
        if isinstance(spec, OneHot):
            if batched:
                return lambda action: action.numpy(force=True).argmax(-1) + start
            return lambda action: int(action.numpy(force=True).argmax()) + start
        if batched:
            return lambda action: action.numpy(force=True) + start
        return lambda action: int(action) + start
    if kind == "MultiDiscrete":
        shape, starts = space.nvec.shape, np.asarray(getattr(space, "start", 0))

        def choices(action: Tensor) -> np.ndarray:
            if isinstance(spec, MultiOneHot):
                parts = action.split(space.nvec.flatten().tolist(), -1)
                action = torch.stack([part.argmax(-1) for part in parts], -1)
            array = action.numpy(force=True)
            return array.reshape(*array.shape[:-1], *shape) + starts

        return choices
    if kind in ("Box", "MultiBinary"):
        dtype = space.dtype
        # A simulator may edit its action, hence the copy.
        return lambda action: np.array(action.numpy(force=True), dtype)
    return lambda action: spec.to_numpy(action.clone())
