"""Brax: rigid bodies in JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from torchrl._core.entries import Entries
from torchrl._core.errors import describe
from torchrl._core.optional import require_package
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.libs.catalogue import Catalogue
from torchrl.envs.libs.jax_env import JaxEnv
from torchrl.envs.spec_access import flag_spec
from torchrl.envs.wrapper import take_options, unknown_name, wrong_kind


def _names() -> list[str]:
    envs = require_package("brax.envs", needed_by="BraxEnv", extra="brax")
    return sorted(envs._envs)


class BraxWrapper(JaxEnv):
    """Presents an environment of Brax.

    Args:
        env: The environment, already built, that simulates one row and does not reset itself:
            ``brax.envs.create(name, auto_reset=False)``, with a time limit, or
            ``brax.envs.get_environment(name)``, without.
        kwargs: Those of :class:`~torchrl.envs.libs.jax_env.JaxEnv`: ``batch_size``, ``device``,
            ``jit``.

    Reads: ``action [*B, A]`` in [-1, 1].
    Writes: ``observation [*B, F]``, or one entry for each name; ``reward [*B, 1]``; ``terminated``,
        ``truncated`` (at the time limit, where nothing else ended the episode) and ``done``.

    Raises:
        TypeError: if ``env`` is no such environment.
        ValueError: if it resets itself or has rows of its own.

    Source: Freeman et al., 2021, https://arxiv.org/abs/2106.13281.
    """

    entrywise = True
    resets_rows_alone = True
    reads_action_only = True
    libname = "brax"
    git_url = "https://github.com/google/brax"
    available_envs = Catalogue(_names)

    def __init__(self, env: Any = None, **kwargs: Any) -> None:
        if env is not None:
            kwargs["env"] = env
        super().__init__(**kwargs)

    def _build_env(self, env: Any = None) -> Any:
        envs = require_package("brax.envs", needed_by=self, extra="brax")
        if not isinstance(env, envs.Env):
            raise wrong_kind(self, env, "an environment of brax.envs", "BraxEnv")
        layer = env
        while isinstance(layer, envs.Wrapper):
            if type(layer).__name__ in ("AutoResetWrapper", "VmapWrapper"):
                raise ValueError(
                    describe(
                        self,
                        "vectorises and resets on its own, which keeps the last observations",
                        expected="an environment of one row that does not reset itself",
                        found=type(layer).__name__,
                        hint="Build it with brax.envs.create(..., auto_reset=False) and pass "
                        "batch_size= here.",
                    )
                )
            layer = layer.env
        return env

    def _make_specs(self, env: Any) -> None:
        batch, device = self.batch_size, self.device or "cpu"
        size = env.observation_size
        named = size if isinstance(size, Mapping) else {"observation": size}
        specs: dict[Any, Any] = {
            name: Unbounded((*batch, *np.atleast_1d(n).tolist()), device=device)
            for name, n in named.items()
        }
        self.observation_spec = Composite(specs, shape=batch)
        self.action_spec = Bounded(-1.0, 1.0, (*batch, env.action_size), device=device)
        self.reward_spec = Unbounded((*batch, 1), device=device)
        flags = ("done", "terminated", "truncated")
        self.done_spec = Composite(
            {name: flag_spec((*batch, 1), device) for name in flags}, shape=batch
        )
        self._compile()

    def _start(self, key: Any) -> Any:
        return self._env.reset(key)

    def _advance(self, state: Any, action: Any) -> Any:
        return self._env.step(state, action)

    def _read(self, state: Any) -> Entries:
        entries = Entries()
        seen = state.obs if isinstance(state.obs, Mapping) else {"observation": state.obs}
        for name, value in seen.items():
            entries[name] = self._tensor(value, self.full_observation_spec[name])
        entries["reward"] = self._tensor(state.reward, self.full_reward_spec["reward"])
        flag = self.full_done_spec["done"]
        entries["done"] = done = self._tensor(state.done, flag)
        cut = state.info.get("truncation")
        entries["truncated"] = torch.zeros_like(done) if cut is None else self._tensor(cut, flag)
        entries["terminated"] = done & ~entries["truncated"]
        return entries


class BraxEnv(BraxWrapper):
    """Builds an environment of Brax.

    Args:
        env_name: Its name.
        episode_length: Steps until an episode is truncated; without it there is no such end.
        action_repeat: Times each action is repeated, for which a time limit is needed too.
        kwargs: Those of :class:`BraxWrapper`; all others go to the environment (``backend``).

    Raises:
        ValueError: if there is no such environment.

    >>> "fast" in BraxEnv.available_envs
    True
    """

    entrywise = True
    resets_rows_alone = True
    reads_action_only = True

    def __init__(
        self,
        env_name: str,
        *,
        episode_length: int | None = None,
        action_repeat: int = 1,
        **kwargs: Any,
    ) -> None:
        if action_repeat != 1 and episode_length is None:
            raise ValueError("BraxEnv: action_repeat needs an episode_length.")
        self.env_name = env_name
        ours = take_options(kwargs, "jit")
        limits = {"episode_length": episode_length, "action_repeat": action_repeat}
        super().__init__(options={**limits, **kwargs}, **ours)

    def _build_env(self, options: dict[str, Any]) -> Any:  # type: ignore[override]  # makes one
        envs = require_package("brax.envs", needed_by=self, extra="brax")
        if self.env_name not in envs._envs:
            raise unknown_name(self, "environment", self.env_name, envs._envs)
        return super()._build_env(envs.create(self.env_name, auto_reset=False, **options))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(env={self.env_name}, batch_size={self.batch_size}, "
            f"device={self.device})"
        )
