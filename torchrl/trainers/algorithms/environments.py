"""The training environment of the algorithms: copies of a task, and the transforms around it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import sibling
from torchrl._core.optional import require_package
from torchrl.checkpoint import GlobalRNGState
from torchrl.data import Composite
from torchrl.envs import (
    ActionMask,
    AtariPreprocessing,
    ClipTransform,
    Compose,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    InitTracker,
    ReturnNorm,
    RewardSum,
    SerialEnv,
    SignTransform,
    StepCounter,
    Transform,
    TransformedEnv,
    UnaryTransform,
    VecNormV2,
)
from torchrl.trainers.algorithms.config import LARGEST_SEED, AlgorithmConfig

Task = str | EnvBase | Callable[[], EnvBase]

CLIP = 10.0  # largest normalised number; Engstrom et al., 2020, https://arxiv.org/abs/2005.12729


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch.

    Raises:
        ValueError: if it is no seed of numpy.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(describe("seed_everything", "no such seed", expected=f"0 to {LARGEST_SEED}", found=seed))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def isolated_seeds(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch, and set them back at the end as they were.

    >>> torch.manual_seed(0).initial_seed()
    0
    >>> with isolated_seeds(1):
    ...     number = torch.rand(())
    >>> round(torch.rand(()).item(), 4)
    0.4963
    """
    before = GlobalRNGState().state_dict()
    seed_everything(seed)
    try:
        yield
    finally:
        GlobalRNGState().load_state_dict(before)


def to_bytes(picture: Tensor) -> Tensor:
    """Return numbers between 0 and 1 as bytes, a quarter of the memory.

    >>> to_bytes(torch.tensor([0.0, 0.5, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (picture * 255).round().to(torch.uint8)


def make_atari_env(name: str, life_is_episode: bool = False, render_mode: str | None = None) -> TransformedEnv:
    """Return an Atari game, preprocessed as is usual, with the game's own rewards.

    Args:
        name: Its name, ``"ALE/..."``.
        life_is_episode: End an episode with each life, as in training.
        render_mode: ``"rgb_array"`` for ``render()``, which returns the screen in colour.

    Writes: ``pixels [4, 84, 84]``, the last four screens in gray, as bytes.

    Source: Machado et al., 2018, https://arxiv.org/abs/1709.06009.
    """
    env = GymEnv(name, frameskip=1, render_mode=render_mode)
    fire = "FIRE" in env.unwrapped.get_action_meanings()
    steps = AtariPreprocessing(terminal_on_life_loss=life_is_episode, fire_reset=fire, sign_reward=False)
    return TransformedEnv(env, Compose(steps, UnaryTransform(["pixels"], ["pixels"], fn=to_bytes)))


@cache
def register_minatar() -> None:
    """Let gymnasium know the names ``"MinAtar/..."``.

    Raises:
        ImportError: without the package ``minatar``.

    Source: Young and Tian, 2019, https://arxiv.org/abs/1903.03176.
    """
    require_package("minatar.gym", needed_by="MinAtar/...", extra="minatar").register_envs()


def make_base_env(task: Task, num_envs: int = 1, device: str = "cpu", *, is_training: bool = False) -> EnvBase:
    """Return a task, without transforms, as ``num_envs`` copies that step together.

    Atari games, ``"ALE/..."``, are preprocessed as is usual, see :func:`make_atari_env`; those of MinAtar,
    ``"MinAtar/..."``, need its package.

    Args:
        task: Name of a gymnasium task, function that builds an environment, or an environment.
        num_envs: Number of copies. An environment is taken as it is: it must have as many.
        device: Its device.
        is_training: End an episode of an Atari game with each life.

    Raises:
        ImportError: if the package of the task is missing.
        TypeError: for anything else, such as an environment of gymnasium.
        ValueError: if an environment has another number of copies.

    >>> make_base_env("CartPole-v1", num_envs=2).batch_size
    torch.Size([2])
    """
    if isinstance(task, EnvBase):
        if num_envs not in (1, task.batch_size.numel()):
            hint = "Pass a function that builds one, or its name."
            raise ValueError(
                describe(
                    task, "cannot be copied", expected=f"{num_envs} copies", found=task.batch_size.numel(), hint=hint
                )
            )
        return task.to(torch.device(device))
    if isinstance(task, str):
        _check_packages(task)
        if task.startswith("ALE/"):
            return SerialEnv(num_envs, partial(make_atari_env, task, is_training), device=device)
        return GymEnv(task, num_envs=num_envs if num_envs > 1 else 0, device=device)
    if not callable(task):
        expected, hint = "a name, a function that builds an environment, or an EnvBase", "As in GymWrapper(env)."
        raise TypeError(
            describe("make_base_env", "got no task", expected=expected, found=type(task).__name__, hint=hint)
        )
    return SerialEnv(num_envs, task, device=device) if num_envs > 1 else task().to(device)


def render_offscreen() -> None:
    """Let simulators that are imported from here on render without a screen, if there is none."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def make_film_env(name: str) -> EnvBase:
    """Return one copy of a gymnasium task, as a policy sees it, whose ``render()`` returns a picture in colour.

    Args:
        name: Its name.

    Raises:
        ImportError: if the package of the task is missing.
    """
    render_offscreen()
    _check_packages(name)
    make = make_atari_env if name.startswith("ALE/") else GymEnv
    return make(name, render_mode="rgb_array")


def _check_packages(name: str) -> None:
    """Raise ImportError if a package of a family of tasks is missing; let gymnasium know the tasks of MinAtar."""
    if name.startswith("ALE/"):
        require_package("ale_py", needed_by=f"make_env({name!r})", extra="atari")
    elif name.startswith("MinAtar/"):
        register_minatar()


def observation_transforms(spec: Composite, config: AlgorithmConfig) -> list[Transform]:
    """Return the transforms that a policy needs to see its observations as in training.

    Args:
        spec: The observations of the task, ``[*B]``.
        config: Its ``normalize_observations`` is used, for vectors of real numbers.
    """
    parts: list[Transform] = [DoubleToFloat()]
    if config.normalize_observations:
        keys = [
            key
            for key, leaf in spec.items(True, True)
            if leaf.dtype is not None and leaf.dtype.is_floating_point and leaf.ndim == spec.ndim + 1
        ]
        parts.append(VecNormV2(keys, decay=1.0, reduce_batch_dims=True))
        parts.append(ClipTransform(keys, low=-CLIP, high=CLIP))
    return parts


def mask_key(env: EnvBase) -> NestedKey | None:
    """Return the entry with the mask of legal actions, beside the action or at the root, if there is one.

    Args:
        env: An environment with one action.

    >>> from torchrl.testing.mocks import MaskedEnv
    >>> mask_key(MaskedEnv())
    'action_mask'
    """
    names = (sibling(env.action_key, "action_mask"), "action_mask")
    return next((name for name in names if name in env.observation_spec.keys(True)), None)


def make_env(task: Task, config: AlgorithmConfig, *, seed: int | None = None) -> TransformedEnv:
    """Return the training environment.

    Args:
        task: Name of a gymnasium task, function that builds an environment, or an environment.
        config: Its ``num_envs``, ``device``, ``seed`` and normalisations are used.
        seed: In place of that of the configuration.

    In training, an episode of an Atari game ends with each life, and rewards are replaced by their sign.

    Writes: beside the task's entries ``episode_reward``, the sum of the task's own rewards since the
        episode started, ``step_count``, and ``is_init`` for recurrent policies.

    >>> make_env("Pendulum-v1", AlgorithmConfig(num_envs=2)).rollout(3)["next", "episode_reward"].shape
    torch.Size([2, 3, 1])
    """
    base = make_base_env(task, config.num_envs, config.device, is_training=True)
    parts = [*observation_transforms(base.observation_spec, config), RewardSum(), StepCounter()]
    if getattr(config, "recurrent", ""):
        parts.append(InitTracker())
    if (mask := mask_key(base)) is not None:
        parts.append(ActionMask(base.action_key, mask))  # random actions are legal then
    if isinstance(task, str) and task.startswith("ALE/"):
        parts.append(SignTransform([base.reward_key]))  # Mnih et al., 2015
    if config.normalize_rewards:
        gamma = getattr(config, "gamma", 0.99)
        parts += [ReturnNorm(gamma, [base.reward_key]), ClipTransform([base.reward_key], low=-CLIP, high=CLIP)]
    env = TransformedEnv(base, Compose(*parts))
    env.set_seed(config.seed if seed is None else seed)
    return env
