"""PettingZoo environments, with parallel or alternating agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.mdp import DONE_NAMES
from torchrl._core.optional import require_package
from torchrl.data import Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs.gym_like import as_tensor
from torchrl.envs.libs.gym.env import leaf_readers, record_writer
from torchrl.envs.libs.gym.spaces import kind_of, spec_from_space
from torchrl.envs.marl import Group, MarlGroupMapType, group_by_name, group_specs, resolve_groups
from torchrl.envs.specs import flag_spec, flag_specs
from torchrl.envs.wrapper import Catalogue, EnvWrapper, is_installed, take_options, unknown_name, wrong_kind

ACTION_MASK = "action_mask"


def _makers(kind: str) -> dict[str, Callable[..., object]]:
    """Return what makes each task by its name, ``"family/name-v1"``; the family ``mpe`` is a package of its own."""
    zoo = require_package("pettingzoo", needed_by="PettingZooEnv", extra="marl")
    names, make = (zoo.parallel_registry, "parallel_env") if kind == "parallel" else (zoo.aec_registry, "env")
    makers = {name: partial(zoo.make, kind, name) for name in names}
    mpe = import_module("mpe2.all_modules").mpe_environments if is_installed("mpe2") else {}
    return makers | {name.replace("_v", "-v"): getattr(task, make) for name, task in mpe.items()}


class PettingZooWrapper(EnvWrapper):
    """Presents a ``pettingzoo.ParallelEnv`` or a ``pettingzoo.AECEnv``.

    Agents that have left stay in the record: their observations and rewards are 0, their flags are
    those of their last step.

    Args:
        env: The environment, already built.
        return_state: Write ``env.state()`` at the root.
        group_map: The agents of each group, or a :class:`~torchrl.envs.utils.MarlGroupMapType`;
            agents are grouped by the prefix before the number in their names if ``None``.
        use_mask: Write which agents may act: those that have not ended, or the one whose turn it
            is. Required where agents leave before the others.
        categorical_actions: Encode discrete actions as integers instead of one-hot vectors.
        seed: Seeds the environment at once.
        done_on_any: Whether the episode is over when any agent is (``True``) or when all are
            (``False``). If ``None``: all, where agents take turns or ``use_mask``, else any.
        kwargs: Those of :class:`~torchrl.envs.wrapper.EnvWrapper`: ``device`` and so on.

    Reads: ``(group, "action") [A, ...]``; actions of agents that may not act are ignored.
    Writes: ``(group, "observation") [A, ...]``, a record if the space is a ``Dict``; ``(group, "action_mask") [A, n]``,
        if the environment has one, all true for agents that may not act; ``(group, "mask") [A]``, with ``use_mask``;
        ``(group, "info", ...)``, the numbers in the infos; ``(group, "reward") [A, 1]``; ``terminated``, ``truncated``
        and ``done``, of each agent ``[A, 1]`` in its group, and of the episode ``[1]`` at the root; ``state``.

    Raises:
        TypeError: if ``env`` is no such environment.
        ValueError: from ``step``, if an agent leaves, the others go on and there is no mask; and if
            ``group_map`` does not place every agent once.

    Source: Terry et al., 2021, https://arxiv.org/abs/2009.14471.

    >>> import pettingzoo
    >>> env = PettingZooWrapper(pettingzoo.make("aec", "classic/tictactoe_v3"), use_mask=True)
    >>> env.group_map
    {'player': ['player_1', 'player_2']}
    >>> env.reset()["player", "mask"]
    tensor([ True, False])
    """

    libname = "pettingzoo"
    git_url = "https://github.com/Farama-Foundation/PettingZoo"
    available_envs = Catalogue(lambda: sorted({*_makers("aec"), *_makers("parallel")}), "pettingzoo")

    def __init__(
        self,
        env: object = None,
        return_state: bool = False,
        group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None = None,
        use_mask: bool = False,
        categorical_actions: bool = True,
        seed: int | None = None,
        done_on_any: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.return_state, self.use_mask = return_state, use_mask
        self.categorical_actions = categorical_actions
        self._wished_groups, self._seed = group_map, seed
        self.done_on_any = done_on_any
        super().__init__(env=env, **kwargs)

    def _build_env(self, env: object = None) -> object:
        zoo = require_package("pettingzoo", needed_by=self, extra="marl")
        self.parallel = isinstance(env, zoo.ParallelEnv)
        if not isinstance(env, zoo.ParallelEnv | zoo.AECEnv):
            raise wrong_kind(self, env, "a ParallelEnv or an AECEnv", "PettingZooEnv")
        self._moves_of_agents = ParallelAgents(env) if self.parallel else AlternatingAgents(env)
        if self.done_on_any is None:
            self.done_on_any = self.parallel and not self.use_mask
        return env

    # --- specs -----------------------------------------------------------------------------------

    def _make_specs(self, env: Any) -> None:
        agents = list(env.possible_agents)
        self.group_map = resolve_groups(self._wished_groups, agents, group_by_name(agents))
        self._over: dict[str, tuple[bool, bool]] = {}
        first = self._moves_of_agents.reset(**self._next_seed())
        self._agents = {agent: self._agent_io(agent, first) for agent in agents}
        batch = self.batch_size
        self._groups = [
            Group(
                name,
                names,
                {
                    kind: [self._agents[agent].specs[kind] for agent in names]
                    for kind in ("action", "observation", "reward", "done")
                },
                batch,
            )
            for name, names in self.group_map.items()
        ]
        shared = {"state": self._state_spec(env)} if self.return_state else {}
        self.observation_spec = group_specs(self._groups, "observation", batch, **shared)
        self.action_spec = group_specs(self._groups, "action", batch)
        self.reward_spec = group_specs(self._groups, "reward", batch)
        self.done_spec = group_specs(
            self._groups, "done", batch, **{name: flag_spec((1,), None) for name in DONE_NAMES}
        )

    def _agent_io(self, agent: str, first: StepResult) -> _AgentIO:
        return _AgentIO(
            self._env.observation_space(agent),
            self._env.action_space(agent),
            first.infos.get(agent, {}),
            categorical=self.categorical_actions,
            masked=self.use_mask,
        )

    def _state_spec(self, env: object) -> TensorSpec:
        space = getattr(env, "state_space", None)
        if space is not None:
            return spec_from_space(space, categorical=True)
        state = self._state()
        return Unbounded(state.shape, dtype=state.dtype)

    def _state(self) -> Tensor:
        return torch.from_numpy(np.array(self._env.state()))

    # --- reset and step --------------------------------------------------------------------------

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def _next_seed(self) -> dict[str, int]:
        """Return the seed of the next reset, which is used once."""
        seed, self._seed = self._seed, None
        return {} if seed is None else {"seed": seed}

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        self._over = {}
        return self._record(self._moves_of_agents.reset(**{**self._next_seed(), **kwargs}))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = {
            agent: self._agents[agent].write_action(record)
            for group in self._groups
            for agent, record in zip(group.agents, group.unbind(tensordict), strict=True)
        }
        result = self._moves_of_agents.step(actions)
        for agent, terminated in result.terminations.items():
            if terminated or result.truncations[agent]:
                self._over[agent] = bool(terminated), bool(result.truncations[agent])
        record = self._record(result)
        for group in self._groups:
            rewards = [float(result.rewards.get(agent, 0.0)) for agent in group.agents]
            reward = torch.tensor(rewards, device=self.device).unsqueeze(-1)
            record.set((group.name, "reward"), reward)
        self._write_flags(record)
        return record

    def _write_flags(self, record: TensorDictBase) -> None:
        none = (False, False)
        for group in self._groups:
            flags = torch.tensor([self._over.get(agent, none) for agent in group.agents])  # [A, 2]
            flags = flags.to(self.device) if self.device is not None else flags
            record.set((group.name, "terminated"), flags[:, :1])
            record.set((group.name, "truncated"), flags[:, 1:])
            record.set((group.name, "done"), flags.any(-1, True))
        count = len(self._over)
        over = count > 0 if self.done_on_any else count == len(self._agents)
        ends = [any(end) for end in zip(*self._over.values(), strict=True)] if over else none
        for name, flag in zip(DONE_NAMES, (over, *ends), strict=True):
            record.set(name, torch.tensor([flag], device=self.device))
        if count and not over and not self.use_mask:
            raise ValueError(
                describe(
                    self,
                    "has agents that left while the others continue, and no mask of agents",
                    found=sorted(self._over),
                    hint="Pass use_mask=True, or done_on_any=True to end the episode there.",
                )
            )

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry that masks the illegal actions of each group, where the game has one."""
        pairs = (((group.name, "action"), (group.name, ACTION_MASK)) for group in self._groups)
        return {action: mask for action, mask in pairs if mask in self.observation_keys}

    def _record(self, result: StepResult) -> TensorDictBase:
        record = TensorDict({}, self.batch_size)
        movers = set(self._moves_of_agents.movers)
        for group in self._groups:
            entries = [self._agents[agent].read(result, agent, agent in movers) for agent in group.agents]
            record.set(group.name, group.stack(entries))
            if all(ACTION_MASK in entry for entry in entries):
                group.mask_actions(self, [entry[ACTION_MASK] for entry in entries])
        if self.return_state:
            record.set("state", self._state())
        return record if self.device is None else record.to(self.device)


class PettingZooEnv(PettingZooWrapper):
    """Builds an environment of PettingZoo.

    Args:
        task: Its name, with or without its family: ``"pistonball_v6"``,
            ``"butterfly/pistonball_v6"``; ``"simple_spread_v3"`` is in the package ``mpe2``.
        parallel: Agents act at the same time; otherwise one after the other.
        kwargs: Those of :class:`PettingZooWrapper`; all others go to the environment.

    Raises:
        ValueError: if there is no such task, or not of that kind.

    >>> env = PettingZooEnv("rps_v2", parallel=True, max_cycles=3)
    >>> env.rollout(9)["next", "player", "reward"].shape
    torch.Size([3, 2, 1])
    """

    def __init__(
        self,
        task: str,
        parallel: bool,
        return_state: bool = False,
        group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None = None,
        use_mask: bool = False,
        categorical_actions: bool = True,
        seed: int | None = None,
        done_on_any: bool | None = None,
        **kwargs: object,
    ) -> None:
        self.task = task
        ours = take_options(kwargs)
        super().__init__(
            return_state=return_state,
            group_map=group_map,
            use_mask=use_mask,
            categorical_actions=categorical_actions,
            seed=seed,
            done_on_any=done_on_any,
            kind="parallel" if parallel else "aec",
            options=kwargs,
            **ours,
        )

    def _build_env(self, kind: str, options: dict[str, object]) -> object:  # type: ignore[override]  # makes one
        makers = {name.replace("-v", "_v"): make for name, make in _makers(kind).items()}
        makers |= {name.split("/")[-1]: make for name, make in makers.items()}
        if (wanted := self.task.replace("-v", "_v")) not in makers:
            raise unknown_name(self, f"{kind} task", wanted, makers)
        return super()._build_env(makers[wanted](**options))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(task={self.task}, parallel={self.parallel}, "
            f"group_map={self.group_map}, device={self.device})"
        )


@dataclass
class StepResult:
    """The result of a reset or a step, by agent; agents that have left are absent."""

    observations: dict[str, object]
    rewards: dict[str, float]
    terminations: dict[str, bool]
    truncations: dict[str, bool]
    infos: dict[str, dict]


class ParallelAgents:
    """Steps and resets of agents that act at the same time.

    Args:
        env: A ``pettingzoo.ParallelEnv``.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, **kwargs: object) -> StepResult:
        """Start an episode."""
        observations, infos = self.env.reset(**kwargs)
        return StepResult(observations, {}, {}, {}, infos)

    def step(self, actions: dict[str, object]) -> StepResult:
        """Step every agent that has not ended."""
        return StepResult(*self.env.step({agent: actions[agent] for agent in self.env.agents}))

    @property
    def movers(self) -> list[str]:
        """The agents whose next action is taken: those that have not ended."""
        return self.env.agents


class AlternatingAgents:
    """Steps and resets of agents that act one after the other.

    Args:
        env: A ``pettingzoo.AECEnv``.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, **kwargs: object) -> StepResult:
        """Start an episode."""
        self.env.reset(**kwargs)
        return self._result()

    def step(self, actions: dict[str, object]) -> StepResult:
        """Step the agent whose turn it is."""
        env = self.env
        env.step(actions[env.agent_selection])
        result = self._result()
        # Agents that have ended must take a step without an action; then it is the turn of another,
        # which observations may show.
        while self._living() and self._is_over(env.agent_selection):
            env.step(None)
            result.observations |= {agent: env.observe(agent) for agent in env.agents}
            result.infos |= env.infos
        return result

    def _result(self) -> StepResult:
        env = self.env
        seen = {agent: env.observe(agent) for agent in env.agents}
        tables = (env.rewards, env.terminations, env.truncations, env.infos)
        return StepResult(seen, *(dict(table) for table in tables))

    def _is_over(self, agent: str) -> bool:
        return self.env.terminations[agent] or self.env.truncations[agent]

    def _living(self) -> list[str]:
        return [agent for agent in self.env.agents if not self._is_over(agent)]

    @property
    def movers(self) -> list[str]:
        """The agents whose next action is taken: the one whose turn it is."""
        return [self.env.agent_selection] if self._living() else []


class _AgentIO:
    """The specs of an agent, and the conversion of its part of a result to entries.

    Args:
        space: Its observation space.
        actions: Its action space.
        info: Its info after the first reset.
        categorical: Encode discrete actions as integers.
        masked: Write whether it may act.
    """

    def __init__(self, space: Any, actions: object, info: Mapping, *, categorical: bool, masked: bool) -> None:
        self._masked, self._num_actions = masked, int(getattr(actions, "n", 0))
        self._mask_from = ""
        if kind_of(space) == "Dict" and ACTION_MASK in space.spaces:
            self._mask_from = "observation"
            parts = {name: part for name, part in space.spaces.items() if name != ACTION_MASK}
            space = type(space)(parts)
        elif ACTION_MASK in info:
            self._mask_from = "info"
        spec = spec_from_space(space)
        self._readers: list[tuple[NestedKey, Callable[[object], object]]] = leaf_readers(
            space, spec, batched=False, device=None, path=("observation",)
        )
        self._infos: dict[str, Tensor] = {}
        for name, value in info.items():
            tensor = as_tensor(value)
            if tensor is not None and name != ACTION_MASK:
                self._infos[name] = torch.zeros_like(tensor)
        action = spec_from_space(actions, categorical=categorical)
        self.write_action = record_writer(actions, action, batched=False, path=("action",))
        self.specs = self._make_specs(spec, action)
        self._gone = self.specs["observation"].zero()

    def _make_specs(self, observation: TensorSpec, action: TensorSpec) -> dict[str, Composite]:
        seen = Composite(observation=observation)
        if self._mask_from:
            seen[ACTION_MASK] = Categorical(2, shape=(self._num_actions,), dtype=torch.bool)
        if self._masked:
            seen["mask"] = Categorical(2, shape=(), dtype=torch.bool)
        if self._infos:
            specs: dict[str, TensorSpec] = {
                n: Unbounded(value.shape, dtype=value.dtype) for n, value in self._infos.items()
            }
            seen["info"] = Composite(specs)
        return {
            "observation": seen,
            "action": Composite(action=action),
            "reward": Composite(reward=Unbounded((1,))),
            "done": flag_specs(torch.Size([]), None),
        }

    def read(self, result: StepResult, agent: str, moves: bool) -> dict[NestedKey, Any]:
        """Return the entries of an agent."""
        observation, info = result.observations.get(agent), result.infos.get(agent, {})
        entries: dict[NestedKey, object] = {}
        for key, read in self._readers:
            entries[key] = self._gone.get(key) if observation is None else read(observation)
        if self._mask_from:
            source = observation if self._mask_from == "observation" else info
            entries[ACTION_MASK] = self._action_mask(source, moves)
        if self._masked:
            entries["mask"] = torch.tensor(moves)
        for name, zero in self._infos.items():
            value = as_tensor(info[name]) if name in info else None
            entries["info", name] = zero if value is None else value.to(zero.dtype)
        return entries

    def _action_mask(self, source: Any, moves: bool) -> Tensor:
        """Return which actions are legal ``[n]``; all, for who may not act."""
        legal = None if source is None else source.get(ACTION_MASK)
        if not moves or legal is None:
            return torch.ones(self._num_actions, dtype=torch.bool)
        return torch.from_numpy(np.array(legal, bool))
