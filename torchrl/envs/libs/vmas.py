"""VMAS: many agents in many worlds, simulated in torch.

``N`` worlds, ``A`` agents of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import ResetError, describe
from torchrl._core.optional import require_package
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.libs.gym.spaces import choice_index, spec_from_space
from torchrl.envs.marl import Group, MarlGroupMapType, group_by_name, group_specs, resolve_groups
from torchrl.envs.specs import flag_specs
from torchrl.envs.wrapper import Catalogue, EnvWrapper, take_options, unknown_name, wrong_kind


def _scenarios() -> list[str]:
    vmas = require_package("vmas", needed_by="VmasEnv", extra="marl")
    return sorted({*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios})


class VmasWrapper(EnvWrapper):
    """Presents a ``vmas.simulator.environment.Environment``, one row a world.

    Agents whose observations or actions differ in shape may share a group; its records are then a
    lazy stack. All environments of VMAS in one process draw from one source of chance, which
    ``set_seed`` seeds for all.

    Args:
        env: The environment, already built. It is told to keep the end of the task and the end of
            the time apart.
        categorical_actions: Encode discrete actions as integers instead of one-hot vectors.
        group_map: The agents of each group, or a :class:`~torchrl.envs.utils.MarlGroupMapType`;
            agents are grouped by what stands before the number in their names if ``None``. A single
            group of that kind, or names without numbers, make one group ``"agents"``.
        kwargs: Those of :class:`~torchrl.envs.wrapper.EnvWrapper`: ``device`` moves the simulator.

    Reads: ``(group, "action") [N, A, ...]``.
    Writes: ``(group, "observation") [N, A, ...]``, a record if the scenario's are; ``(group,
        "info", ...)``, if there are any, zero at a reset; ``(group, "reward") [N, A, 1]``; at root
        ``terminated`` (the scenario is done), ``truncated`` (after ``max_steps``) and ``done``,
        ``[N, 1]``.

    Raises:
        TypeError: if ``env`` is no such environment.
        ValueError: if ``group_map`` does not place every agent once.
        ResetError: if ``_step`` holds back a world in mid-episode.

    Source: Bettini et al., 2022, https://arxiv.org/abs/2207.03530.

    >>> import vmas
    >>> env = VmasWrapper(vmas.make_env("balance", num_envs=2, n_agents=3))
    >>> env.rollout(4)["next", "agents", "reward"].shape
    torch.Size([2, 4, 3, 1])
    """

    libname = "vmas"
    git_url = "https://github.com/proroklab/VectorizedMultiAgentSimulator"
    available_envs = Catalogue(_scenarios, "vmas")

    def __init__(
        self,
        env: object = None,
        *,
        categorical_actions: bool = True,
        group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.categorical_actions = categorical_actions
        self._wished_groups = group_map
        super().__init__(env=env, **kwargs)

    def _build_env(self, env: object = None) -> object:
        simulator = require_package("vmas.simulator.environment", needed_by=self, extra="marl")
        if not isinstance(env, simulator.Environment):
            raise wrong_kind(self, env, "what vmas.make_env returns without wrapper=", "VmasEnv")
        env.terminated_truncated = True
        self._batch_size = torch.Size([env.num_envs])
        if self._device is None:
            self._device = torch.device(env.device)
        elif self._device != torch.device(env.device):
            env.to(self._device)
        return env

    # --- specs -----------------------------------------------------------------------------------

    def _make_specs(self, env: Any) -> None:
        names, batch = [agent.name for agent in env.agents], self.batch_size
        self.group_map = resolve_groups(self._wished_groups, names, _default_groups(names))
        infos = [env.scenario.info(agent) for agent in env.agents]
        specs = {agent.name: self._agent_specs(env, agent, info) for agent, info in zip(env.agents, infos, strict=True)}
        self._over = torch.zeros(batch, dtype=torch.bool, device=self.device)
        self._order = {name: i for i, name in enumerate(names)}
        self._groups = [
            Group(group, agents, {kind: [specs[name][kind] for name in agents] for kind in specs[names[0]]}, batch)
            for group, agents in self.group_map.items()
        ]
        self.observation_spec = group_specs(self._groups, "observation", batch)
        self.action_spec = group_specs(self._groups, "action", batch)
        self.reward_spec = group_specs(self._groups, "reward", batch)
        self.done_spec = flag_specs(batch, self.device)

    def _agent_specs(self, env: Any, agent: object, info: Mapping[str, Tensor]) -> dict[str, Any]:
        i = env.agents.index(agent)
        seen = Composite(observation=self._expand(spec_from_space(env.observation_space[i])))
        if info:
            seen["info"] = self._info_spec(info)
        action = spec_from_space(env.action_space[i], categorical=self.categorical_actions)
        kinds = {
            "observation": seen,
            "action": Composite(action=self._expand(action)),
            "reward": Composite(reward=self._expand(Unbounded((1,)))),
        }
        for spec in kinds.values():
            spec.shape = self.batch_size
        return kinds

    def _info_spec(self, info: Mapping[str, Any]) -> Composite:
        specs = {
            name: self._info_spec(value)
            if isinstance(value, Mapping)
            else Unbounded(_column(value).shape, dtype=value.dtype, device=value.device)
            for name, value in info.items()
        }
        return Composite(specs, shape=self.batch_size)

    def _expand(self, spec: TensorSpec) -> TensorSpec:
        return spec.to(self.device).expand(*self.batch_size, *spec.shape)

    # --- reset and step --------------------------------------------------------------------------

    def _set_seed(self, seed: int | None) -> None:
        self._env.seed(int(torch.randint(2**31, ())) if seed is None else seed)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        env = self._env
        mask = None if tensordict is None else tensordict.get("_reset", None)
        self._over = torch.zeros_like(self._over) if mask is None else self._over & ~mask.squeeze(-1)
        if mask is None:
            env.reset(return_observations=False, **kwargs)
        else:
            for row in mask.reshape(-1).nonzero().flatten().tolist():
                env.reset_at(row, return_observations=False)
        observations, infos = env.get_from_scenario(
            get_observations=True, get_rewards=False, get_infos=True, get_dones=False, dict_agent_names=False
        )
        # What infos say after a reset is about the step before it.
        return self._record(observations, [_zeros(info) for info in infos])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._refuse_to_hold(tensordict.get("_step", None))
        actions: list[object] = [None] * len(self._order)
        for group in self._groups:
            for name, record in zip(group.agents, group.unbind(tensordict), strict=True):
                spec = group.agent_spec("action", name)["action"]
                action = choice_index(record.get("action"), spec)  # [N] or [N, n]
                actions[self._order[name]] = action.unsqueeze(-1) if action.ndim == 1 else action
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        if isinstance(observations, Mapping):  # as the scenario's dict_spaces has it
            observations, rewards, infos = (list(table.values()) for table in (observations, rewards, infos))
        record = self._record(observations, infos, rewards)
        self._over = terminated | truncated
        record.set("terminated", terminated.unsqueeze(-1))
        record.set("truncated", truncated.unsqueeze(-1))
        return record.set("done", self._over.unsqueeze(-1))

    def _refuse_to_hold(self, mask: Tensor | None) -> None:
        """Refuse to hold back worlds whose episodes go on: all move at once."""
        if mask is None:
            return
        live = (~mask.reshape(-1) & ~self._over).nonzero().flatten()
        if len(live):
            raise ResetError(
                describe(
                    self,
                    "moves all worlds at once and cannot hold some back in mid-episode",
                    key="_step",
                    found=live.tolist(),
                )
            )

    def _record(self, observations: Sequence[Any], infos: Sequence[Any], rewards: Any = None) -> TensorDictBase:
        record = TensorDict({}, self.batch_size, device=self.device)
        for group in self._groups:
            entries = []
            for name in group.agents:
                i = self._order[name]
                entry = {"observation": observations[i]}
                if infos[i]:
                    entry["info"] = infos[i]
                if rewards is not None:
                    entry["reward"] = rewards[i]
                entries.append(dict(_leaves(entry)))
            record.set(group.name, group.stack(entries))
        return record

    def _follow(self) -> None:
        self._env.to(self.device)
        self._over = self._over.to(self.device)


class VmasEnv(VmasWrapper):
    """Builds a scenario of VMAS.

    Args:
        scenario: Its name, or a ``BaseScenario``.
        num_envs: Number of worlds ``N``, batch size ``[N]``.
        continuous_actions: Forces; otherwise choices.
        max_steps: Steps until an episode is truncated; without it there is no such end.
        categorical_actions: Encode discrete actions as integers instead of one-hot vectors.
        seed: Seeds the environment at once.
        group_map: As in :class:`VmasWrapper`.
        kwargs: Those of :class:`~torchrl.envs.wrapper.EnvWrapper`; all others go to
            ``vmas.make_env`` and the scenario.

    Raises:
        ValueError: if there is no such scenario.

    >>> env = VmasEnv("simple_tag", num_envs=2, max_steps=3)
    >>> list(env.group_map), env.rollout(9)["next", "truncated"][..., 0].tolist()
    (['adversary', 'agent'], [[False, False, True], [False, False, True]])
    """

    def __init__(
        self,
        scenario: object,
        *,
        num_envs: int,
        continuous_actions: bool = True,
        max_steps: int | None = None,
        categorical_actions: bool = True,
        seed: int | None = None,
        group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None = None,
        device: torch.device | str | int | None = None,
        **kwargs: object,
    ) -> None:
        check_devices(self, device=device)
        self.scenario_name = scenario if isinstance(scenario, str) else repr(scenario)
        ours = take_options(kwargs)
        super().__init__(
            categorical_actions=categorical_actions,
            group_map=group_map,
            device=device,
            options={
                "scenario": scenario,
                "num_envs": num_envs,
                "continuous_actions": continuous_actions,
                "max_steps": max_steps,
                "seed": seed,
                "device": "cpu" if device is None else device,
                **kwargs,
            },
            **ours,
        )

    def _build_env(self, options: dict[str, object]) -> object:  # type: ignore[override]  # makes one
        vmas = require_package("vmas", needed_by=self, extra="marl")
        scenario, known = options["scenario"], self.available_envs
        if isinstance(scenario, str) and scenario not in known:
            raise unknown_name(self, "scenario", scenario, known)
        return super()._build_env(vmas.make_env(**options))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(scenario={self.scenario_name}, group_map={self.group_map}, "
            f"batch_size={self.batch_size}, device={self.device})"
        )


def _default_groups(names: Sequence[str]) -> dict[str, list[str]]:
    groups = group_by_name(names)
    plain = any(len(agents) == 1 and agents[0] == group for group, agents in groups.items())
    if plain or list(groups) == ["agent"]:
        return MarlGroupMapType.ALL_IN_ONE_GROUP.get_group_map(names)
    return groups


def _column(value: Tensor) -> Tensor:
    """Give numbers ``[N]`` the dimension that entries have."""
    return value.unsqueeze(-1) if value.ndim == 1 else value


def _zeros(info: Mapping[str, Any]) -> dict[str, object]:
    return {
        name: _zeros(value) if isinstance(value, Mapping) else torch.zeros_like(value) for name, value in info.items()
    }


def _leaves(entries: Mapping[str, Any], path: tuple[str, ...] = ()) -> Any:
    """Yield each tensor of nested mappings, ``[N, ...]``, with its key."""
    for name, value in entries.items():
        key: NestedKey = (*path, name)
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield key[0] if len(key) == 1 else key, _column(value)
