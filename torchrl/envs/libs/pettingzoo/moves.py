"""The two ways in which agents move, behind one interface: all at once, and in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Outcome:
    """What a reset or a step tells, by agent; agents that are gone are absent.

    Args:
        observations: What each sees.
        rewards: What each got.
        terminations: Whose life has ended.
        truncations: Whose time is over.
        infos: What else there is to say.
    """

    observations: dict[str, Any]
    rewards: dict[str, float]
    terminations: dict[str, bool]
    truncations: dict[str, bool]
    infos: dict[str, dict]


class AllAtOnce:
    """Agents that move at the same time.

    Args:
        env: A ``pettingzoo.ParallelEnv``.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, **kwargs: Any) -> Outcome:
        """Begin an episode."""
        observations, infos = self.env.reset(**kwargs)
        return Outcome(observations, {}, {}, {}, infos)

    def step(self, actions: dict[str, Any]) -> Outcome:
        """Let every agent that lives move."""
        return Outcome(*self.env.step({agent: actions[agent] for agent in self.env.agents}))

    @property
    def movers(self) -> list[str]:
        """The agents whose next action counts: those that live."""
        return self.env.agents


class InTurns:
    """Agents that move one after the other.

    Args:
        env: A ``pettingzoo.AECEnv``.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, **kwargs: Any) -> Outcome:
        """Begin an episode."""
        self.env.reset(**kwargs)
        return self._outcome()

    def step(self, actions: dict[str, Any]) -> Outcome:
        """Let the agent whose turn it is move."""
        env = self.env
        env.step(actions[env.agent_selection])
        outcome = self._outcome()
        # Those who died take their leave, each with a step that does nothing; then it is the turn
        # of another, which the others may see.
        while self._living() and self._is_over(env.agent_selection):
            env.step(None)
            outcome.observations |= {agent: env.observe(agent) for agent in env.agents}
            outcome.infos |= env.infos
        return outcome

    def _outcome(self) -> Outcome:
        env = self.env
        seen = {agent: env.observe(agent) for agent in env.agents}
        tables = (env.rewards, env.terminations, env.truncations, env.infos)
        return Outcome(seen, *(dict(table) for table in tables))

    def _is_over(self, agent: str) -> bool:
        return self.env.terminations[agent] or self.env.truncations[agent]

    def _living(self) -> list[str]:
        return [agent for agent in self.env.agents if not self._is_over(agent)]

    @property
    def movers(self) -> list[str]:
        """The agents whose next action counts: the one whose turn it is."""
        return [self.env.agent_selection] if self._living() else []
