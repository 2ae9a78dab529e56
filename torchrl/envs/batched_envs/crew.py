"""Who steps the environments: teams of them, wherever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torchrl._core.errors import WorkerError, describe
from torchrl.envs.batched_envs.buffers import Block, Memory
from torchrl.envs.batched_envs.worker import Team
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator
from torchrl.envs.metadata import EnvMeta


class Crew(ABC):
    """Teams of environments, wherever they are.

    Hooks:
        attach: let the environments of all teams take the rows of a memory.
        step: ``code -> bool``; let all step from their rows into their rows; return whether an
            episode has ended.
        scatter: ``name, values, *args -> [one a environment]``; give each team the values of its
            environments and call its method of that name.
        chain: ``name, value, *args -> value``; hand a value from team to team.
        close: release everything.
    """

    metas: list[EnvMeta]
    is_remote = False
    is_closed = False

    @abstractmethod
    def attach(self, blocks: Sequence[Block], memory: Memory) -> None: ...

    @abstractmethod
    def step(self, code: bytes) -> bool: ...

    @abstractmethod
    def scatter(self, name: str, values: Sequence[Any] | None, *args: Any) -> list[Any]: ...

    @abstractmethod
    def chain(self, name: str, value: Any, *args: Any) -> Any: ...

    @abstractmethod
    def close(self) -> None: ...


class AsyncCrew(Crew):
    """Teams that work at the same time; one may be spoken to while the others are busy.

    Hooks:
        submit: ``worker, name, *args``; have one worker call a method of its team.
        collect: ``timeout -> [(worker, answer)]``; what was submitted and is ready, at least one
            answer unless time runs out.
    """

    ranges: list[tuple[int, int]]  # of the environments of each worker
    _busy: dict[int, float]  # since when a worker has something to answer

    @abstractmethod
    def submit(self, worker: int, name: str, *args: Any) -> None: ...

    @abstractmethod
    def collect(self, timeout: float | None = None) -> list[tuple[int, Any]]: ...

    def _refuse_busy(self) -> None:
        """Raise if some are busy: all cannot be spoken to at once then."""
        if self._busy:
            raise RuntimeError(
                f"Workers {sorted(self._busy)} have not answered yet; receive what was sent first."
            )


def share_out(num_envs: int, num_workers: int) -> list[tuple[int, int]]:
    """Return the range of environments of each worker, in order and as even as they go.

    >>> share_out(5, 2)
    [(0, 3), (3, 5)]
    """
    small, larger = divmod(num_envs, num_workers)
    ends = [(k + 1) * small + min(k + 1, larger) for k in range(num_workers)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def failure(owner: str, worker: int, env: int, brief: str, trace: str) -> WorkerError:
    """Return the error that a worker's complaint becomes."""
    text = describe(owner, f"worker {worker} failed at environment {env}: {brief.rstrip('.')}")
    return WorkerError(f"{text}\n\nIts own traceback:\n\n{trace}")


class LocalCrew(Crew):
    """One team, in this process.

    Args:
        recipes: Build the environments.
    """

    def __init__(self, recipes: Sequence[EnvCreator | EnvBase]) -> None:
        self._team = Team()
        try:
            self.metas = self._team.build(recipes)
        except BaseException:
            self._team.close()
            raise

    def attach(self, blocks: Sequence[Block], memory: Memory) -> None:
        """Let the environments take their rows."""
        self._team.attach(blocks, memory)

    def step(self, code: bytes) -> bool:
        """Step from the rows into the rows; return whether an episode has ended."""
        return self._team.step(code)

    def scatter(self, name: str, values: Sequence[Any] | None, *args: Any) -> list[Any]:
        """Call a method of the team."""
        method = getattr(self._team, name)
        return method(*args) if values is None else method(values, *args)

    def chain(self, name: str, value: Any, *args: Any) -> Any:
        """Call a method of the team with a value; return its answer."""
        return getattr(self._team, name)(value, *args)

    def close(self) -> None:
        """Close the environments."""
        if not self.is_closed:
            self.is_closed = True
            self._team.close()
