"""What happens at the beginning of an episode: steps taken before the policy sees anything."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl._core.errors import ResetError, describe
from torchrl.data import Composite, OneHot, TensorSpec
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.inside import Inside, Reset, Step, begin_events, step_rows, take_rows

_TRIALS = 100  # resets in a row that end before the policy may begin


class _Opening(Transform):
    """Base of transforms that step the environment right after it was reset.

    Hooks:
        _num_steps: ``shape -> [*B, 1]``, how many steps each row takes.
        _choose_action: ``(spec, lead, t) -> action [*B, *A]`` of step ``t``; ``lead`` holds the
            batch dimensions that the spec lacks.
    """

    _inside: Inside

    @abstractmethod
    def _num_steps(self, shape: torch.Size) -> Tensor: ...

    @abstractmethod
    def _choose_action(self, spec: TensorSpec, lead: torch.Size, t: int) -> Tensor: ...

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        inside, rows = self._inside, self._inside.being_reset(tensordict)
        begun = rows
        for _ in range(_TRIALS):
            root = reset(tensordict)
            if rows is None:
                rows = torch.ones_like(inside.over(root))
            root, over = self._play(step, root, rows)
            failed = over & rows
            if not bool(failed.any()):
                return begin_events(root, step, begun)
            tensordict, rows = inside.select_reset(root, failed), failed
        raise ResetError(
            describe(
                self,
                f"stepped to the end of an episode in each of {_TRIALS} resets",
                hint="Take fewer steps after a reset, or fix the environment.",
            )
        )

    def _play(self, step: Step, root: Any, rows: Tensor) -> tuple[Any, Tensor]:
        """Step ``rows`` as often as they should; return the root and which rows have ended."""
        count = torch.where(rows, self._num_steps(rows.shape), 0)  # [*B, 1]
        over = torch.zeros_like(rows)
        for t in range(int(count.max())):
            moving = (t < count) & ~over
            if not bool(moving.any()):
                break
            acting = root.copy()
            for key, spec in self._inside.actions.items():
                acting.set(key, self._choose_action(spec, self._inside.lead(rows), t))
            following = step_rows(step, acting, moving)
            take_rows(following, root, moving)
            over = over | (self._inside.over(following) & moving)
            root = self._inside.root_after(root, following)
        return root, over

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Note how the environment is stepped; the specs stay."""
        self.__dict__["_inside"] = Inside(specs)
        return specs


class NoopResetEnv(_Opening):
    """Takes a few random steps after each reset, so that episodes begin differently.

    Rows of a batch take each their own number of steps, and rows that are not reset stand still. An
    episode that ends meanwhile is reset again.

    Args:
        noops: Number of steps, or its bound.
        random: Draw the number from ``0, ..., noops - 1``; otherwise take ``noops`` steps.
        noop_action: The action that is taken, a number as the environment's own library knows it;
            random actions if ``None``.

    Raises:
        ResetError: if no episode survives its first steps.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236, "null op" starts.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> env = env.append_transform(NoopResetEnv(4, random=False))
    >>> env.reset()["step_count"]
    tensor([4])
    """

    entrywise = True

    def __init__(
        self, noops: int = 30, random: bool = True, *, noop_action: int | None = None
    ) -> None:
        super().__init__()
        if noops < 1:
            raise ValueError(f"NoopResetEnv: noops must be at least 1, found {noops}.")
        self.noops, self.random, self.noop_action = noops, random, noop_action

    def _num_steps(self, shape: torch.Size) -> Tensor:
        return torch.randint(self.noops, shape) if self.random else torch.full(shape, self.noops)

    def _choose_action(self, spec: TensorSpec, lead: torch.Size, t: int) -> Tensor:
        if self.noop_action is None:
            return spec.rand(lead)
        return numbered(spec, lead, self.noop_action)


class FireReset(_Opening):
    """Takes fixed actions after each reset: games that wait for a button begin at once.

    Args:
        actions: Their numbers, in order.

    Source: the environment wrappers of https://github.com/openai/baselines.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter())
    >>> env.append_transform(FireReset()).reset()["step_count"]
    tensor([1])
    """

    entrywise = True

    def __init__(self, actions: Sequence[int] = (1,)) -> None:
        super().__init__()
        self.actions = list(actions)

    def _num_steps(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, len(self.actions))

    def _choose_action(self, spec: TensorSpec, lead: torch.Size, t: int) -> Tensor:
        return numbered(spec, lead, self.actions[t])


def numbered(spec: TensorSpec, lead: torch.Size, number: int) -> Tensor:
    """Return the action that the environment's own library calls ``number``, for all rows."""
    shape = spec.shape[:-1] if isinstance(spec, OneHot) else spec.shape
    numbers = torch.full((*lead, *shape), number, device=spec.device)
    if isinstance(spec, OneHot):
        numbers = one_hot(numbers, spec.n)
    return numbers.to(spec.dtype)
