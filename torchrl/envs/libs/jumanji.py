"""Jumanji: puzzles, games and routing problems in JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.optional import require_package
from torchrl._core.records.flat_record import FlatRecord
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.libs.array_specs import action_spec, array_leaves, key_of, observation_spec
from torchrl.envs.libs.gym.spaces import choice_index
from torchrl.envs.libs.jax_env import JaxEnv
from torchrl.envs.specs import flag_specs
from torchrl.envs.wrapper import Catalogue, take_options, unknown_name, wrong_kind

_LAST = 2  # the step_type of dm_env at the end of an episode


def _names() -> list[str]:
    jumanji = require_package("jumanji", needed_by="JumanjiEnv", extra="jumanji")
    return sorted(jumanji.registered_environments())


class JumanjiWrapper(JaxEnv):
    """Presents an environment of Jumanji.

    An end with a discount of 0 is the end of the task, any other the end of the time. Random
    actions heed ``action_mask``, if there is one for each choice.

    Args:
        env: The environment, already built, without wrappers that vectorise or reset.
        categorical_action_encoding: Encode discrete actions as integers instead of one-hot vectors.
        kwargs: Those of :class:`~torchrl.envs.libs.jax_env.JaxEnv`: ``batch_size``, ``device``,
            ``jit``.

    Reads: ``action``.
    Writes: one entry for each observation (numbers get a dimension of 1), or ``observation`` if
        there is one without a name; ``reward [*B, 1]``, or of the environment's own shape;
        ``terminated``, ``truncated`` and ``done`` ``[*B, 1]``.

    Raises:
        TypeError: if ``env`` is no such environment.

    Source: Bonnet et al., 2023, https://arxiv.org/abs/2306.09884.

    >>> import jumanji
    >>> env = JumanjiWrapper(jumanji.make("Snake-v1"), batch_size=[4])
    >>> env.reset().shape
    torch.Size([4])
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True
    libname = "jumanji"
    git_url = "https://github.com/instadeepai/jumanji"
    available_envs = Catalogue(_names, "jumanji")

    def __init__(self, env: Any = None, *, categorical_action_encoding: bool = False, **kwargs: Any) -> None:
        self._categorical = categorical_action_encoding
        super().__init__(env=env, **kwargs)

    def _build_env(self, env: Any = None) -> Any:
        jumanji = require_package("jumanji", needed_by=self, extra="jumanji")
        resets = {"AutoResetWrapper", "VmapAutoResetWrapper", "VmapWrapper"}
        kinds = {kind.__name__ for kind in type(env).__mro__}
        if not isinstance(env, jumanji.Environment) or kinds & resets:
            raise wrong_kind(self, env, "a plain jumanji.Environment", "JumanjiEnv")
        return env

    def _make_specs(self, env: Any) -> None:
        batch = self.batch_size
        observation = Composite(shape=batch)
        self._paths: list[tuple[NestedKey, tuple[str, ...]]] = []
        for path, array in array_leaves(env.observation_spec):
            key = key_of(path)
            observation[key] = self._rows(observation_spec(array))
            self._paths.append((key, path))
        self.observation_spec = observation
        self.action_spec = self._rows(action_spec(env.action_spec, categorical=self._categorical))
        self.reward_spec = self._rows(Unbounded(tuple(env.reward_spec.shape) or (1,)))
        self.done_spec = flag_specs(batch, self.device)
        self._compile()

    def _rows(self, spec: TensorSpec) -> TensorSpec:
        spec = spec.expand(*self.batch_size, *spec.shape) if self.batch_size else spec
        return spec if self.device is None else spec.to(self.device)

    def _start(self, key: Any) -> Any:
        return self._env.reset(key)

    def _advance(self, state: Any, action: Any) -> Any:
        return self._env.step(state[0], action)

    def _native(self, action: Tensor) -> np.ndarray:
        action = choice_index(action, self.full_action_spec["action"])
        shape, dtype = self._env.action_spec.shape, self._env.action_spec.dtype
        array = action.numpy(force=True).astype(dtype, copy=False)
        return array.reshape((*((-1,) if self.batch_size else ()), *shape))

    def _read(self, state: Any) -> FlatRecord:
        step = state[1]
        entries = FlatRecord()
        for key, path in self._paths:
            value = step.observation
            for name in path:
                value = getattr(value, name)
            entries[key] = self._tensor(value, self.full_observation_spec[key])
        entries["reward"] = self._tensor(step.reward, self.full_reward_spec["reward"])
        flag = self.full_done_spec["done"]
        entries["done"] = done = self._tensor(np.asarray(step.step_type) == _LAST, flag)
        discount = np.asarray(step.discount).reshape(*flag.shape[:-1], -1)
        fails = self._tensor((discount == 0).all(-1), flag)
        entries["terminated"], entries["truncated"] = done & fails, done & ~fails
        self._mask_actions(entries.get("action_mask"))
        return entries

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry that says which actions are legal, if the environment has one."""
        return {"action": "action_mask"} if "action_mask" in self.observation_keys else {}

    def _mask_actions(self, mask: Tensor | None) -> None:
        spec = self.full_action_spec["action"]
        choices = int(sum(spec.nvec)) if hasattr(spec, "nvec") else int(getattr(spec, "n", 0))
        lead = len(self.batch_size)
        if mask is None or mask.shape[lead:].numel() != choices:
            return
        legal = mask.reshape(*self.batch_size, choices)
        spec.update_mask(legal | ~legal.any(-1, keepdim=True))  # nothing is legal at an end


class JumanjiEnv(JumanjiWrapper):
    """Builds a registered environment of Jumanji.

    Args:
        env_name: Its name, such as ``"Snake-v1"``.
        kwargs: Those of :class:`JumanjiWrapper`; all others go to ``jumanji.make``.

    Raises:
        ValueError: if there is no such environment.

    >>> "Snake-v1" in JumanjiEnv.available_envs
    True
    """

    supports_flat_records = True
    partial_reset_safe = True
    reads_action_only = True

    def __init__(self, env_name: str, *, categorical_action_encoding: bool = False, **kwargs: Any) -> None:
        self.env_name = env_name
        ours = take_options(kwargs, "jit")
        super().__init__(categorical_action_encoding=categorical_action_encoding, options=kwargs, **ours)

    def _build_env(self, options: dict[str, Any]) -> Any:  # type: ignore[override]  # makes one
        jumanji = require_package("jumanji", needed_by=self, extra="jumanji")
        known = jumanji.registered_environments()
        if self.env_name not in known:
            raise unknown_name(self, "environment", self.env_name, known)
        return super()._build_env(jumanji.make(self.env_name, **options))
