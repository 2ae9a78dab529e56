"""Brax: rigid bodies in JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from torchrl._core.errors import describe
from torchrl._core.optional import require_package
from torchrl._core.records.flat_record import FlatRecord
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.libs.jax_env import JaxEnv
from torchrl.envs.specs import flag_specs
from torchrl.envs.wrapper import Catalogue, take_options, unknown_name, wrong_kind


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

    >>> import brax.envs
    >>> env = BraxWrapper(brax.envs.get_environment("fast"), batch_size=[4])
    >>> env.rollout(3).shape
    torch.Size([4, 3])
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True
    libname = "brax"
    git_url = "https://github.com/google/brax"
    available_envs = Catalogue(_names, "brax")

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
                        hint="Build it with brax.envs.create(..., auto_reset=False) and pass batch_size= here.",
                    )
                )
            layer = layer.env
        return env

    def _make_specs(self, env: Any) -> None:
        batch, device = self.batch_size, self.device or "cpu"
        size = env.observation_size
        named = size if isinstance(size, Mapping) else {"observation": size}
        specs: dict[Any, Any] = {
            name: Unbounded((*batch, *np.atleast_1d(n).tolist()), device=device) for name, n in named.items()
        }
        self.observation_spec = Composite(specs, shape=batch)
        self.action_spec = Bounded(-1.0, 1.0, (*batch, env.action_size), device=device)
        self.reward_spec = Unbounded((*batch, 1), device=device)
        self.done_spec = flag_specs(batch, device)
        self._compile()

    def _start(self, key: Any) -> Any:
        return self._env.reset(key)

    def _advance(self, state: Any, action: Any) -> Any:
        return self._env.step(state, action)

    def _read(self, state: Any) -> FlatRecord:
        entries = FlatRecord()
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

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True

    def __init__(
        self, env_name: str, *, episode_length: int | None = None, action_repeat: int = 1, **kwargs: Any
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
