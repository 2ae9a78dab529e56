"""`TrajectoryPredicate`: conditions on trajectories, such as ``traj.reward.sum() > 100``.

Legend: ``T`` steps of a trajectory, ``*F`` the feature shape of an entry.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence

import torch
from tensordict import NestedKey, TensorDictBase, tensorclass
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import next_key, require
from torchrl.data.replay_buffers.data_types import Data
from torchrl.data.trajectories import find_pieces

NEXT_NAMES = ("reward", "done", "terminated", "truncated")  # found under "next"


@tensorclass
class Trajectory:
    """The steps of one trajectory, in order.

    Args:
        data: The steps, a tensordict ``[T]``.

    >>> from tensordict import TensorDict
    >>> steps = TensorDict(next=dict(reward=torch.ones(3, 1)), batch_size=[3])
    >>> trajectory = Trajectory(steps, batch_size=[])
    >>> trajectory.length, (traj.reward.sum() > 2)(trajectory)
    (3, True)
    """

    data: TensorDictBase

    @property
    def length(self) -> int:
        """Number of steps ``T``."""
        return len(self.data)


class TrajectoryPredicate:
    """A condition on a trajectory, ``trajectory -> bool``; combine with ``&``, ``|`` and ``~``.

    Args:
        fn: ``steps [T] -> bool``.
        description: Text of the repr.
        keys: The entries that ``fn`` reads; any if ``None``.

    >>> long = TrajectoryPredicate(lambda steps: len(steps) > 9, "long", keys=[])
    >>> long | ~(traj["next", "reward"].max() < 1)
    TrajectoryPredicate((long) | (~(next.reward.max() < 1)))
    """

    def __init__(
        self,
        fn: Callable[[TensorDictBase], Data],
        description: str = "predicate",
        keys: Sequence[NestedKey] | None = None,
    ) -> None:
        self.fn, self.description = fn, description
        self.keys = None if keys is None else list(dict.fromkeys(keys))

    def __call__(self, trajectory: Trajectory | TensorDictBase) -> bool:
        """Return whether the condition holds for a trajectory, or for its steps ``[T]``."""
        return bool(self.fn(_steps(trajectory)))

    def __and__(self, other: TrajectoryPredicate) -> TrajectoryPredicate:
        return self._with(other, "&", lambda td: self(td) and other(td))

    def __or__(self, other: TrajectoryPredicate) -> TrajectoryPredicate:
        return self._with(other, "|", lambda td: self(td) or other(td))

    def __invert__(self) -> TrajectoryPredicate:
        return TrajectoryPredicate(lambda td: not self(td), f"~({self.description})", self.keys)

    def _with(self, other: TrajectoryPredicate, sign: str, fn: Callable[[TensorDictBase], bool]) -> TrajectoryPredicate:
        if not isinstance(other, TrajectoryPredicate):
            return NotImplemented
        words = f"({self.description}) {sign} ({other.description})"
        keys = None if self.keys is None or other.keys is None else [*self.keys, *other.keys]
        return TrajectoryPredicate(fn, words, keys)

    def __bool__(self) -> bool:
        raise TypeError(describe(self, "is a question, not an answer", hint="Combine with &, | and ~."))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description})"


class TrajectoryValue:
    """A value computed from the steps of a trajectory.

    Attributes and indices lead to entries; reductions, arithmetic and indices along time to other
    values; comparisons to a :class:`TrajectoryPredicate`. :data:`traj` is where it starts.

    Args:
        fn: ``steps [T] -> value``.
        description: Text of the repr.
        keys: The entries that ``fn`` reads.
    """

    def __init__(self, fn: Callable[[TensorDictBase], Data], description: str, keys: Sequence[NestedKey]) -> None:
        self._fn, self._description, self._keys = fn, description, list(keys)

    def __call__(self, trajectory: Trajectory | TensorDictBase) -> Data:
        """Compute the value of a trajectory, or of its steps ``[T]``."""
        return self._fn(_steps(trajectory))

    def __getitem__(self, time: int | slice) -> TrajectoryValue:
        return self._then(lambda value: value[time], f"[{time}]")

    def _then(self, fn: Callable[[Data], Data], words: str) -> TrajectoryValue:
        return TrajectoryValue(lambda td: fn(self(td)), self._description + words, self._keys)

    def _reduced(self, name: str) -> TrajectoryValue:
        averages = name in ("mean", "std")

        def reduce(value: Tensor) -> Tensor:
            value = value.float() if averages and not value.is_floating_point() else value
            return getattr(value, name)()

        return self._then(reduce, f".{name}()")

    def sum(self) -> TrajectoryValue:
        """Sum over steps and features."""
        return self._reduced("sum")

    def mean(self) -> TrajectoryValue:
        """Average over steps and features."""
        return self._reduced("mean")

    def std(self) -> TrajectoryValue:
        """Return the standard deviation over steps and features."""
        return self._reduced("std")

    def max(self) -> TrajectoryValue:
        """Return the largest of all steps and features."""
        return self._reduced("max")

    def min(self) -> TrajectoryValue:
        """Return the smallest of all steps and features."""
        return self._reduced("min")

    def any(self) -> TrajectoryPredicate:
        """Ask whether it is true anywhere."""
        return TrajectoryPredicate(self._reduced("any"), f"{self._description}.any()", self._keys)

    def all(self) -> TrajectoryPredicate:
        """Ask whether it is true everywhere."""
        return TrajectoryPredicate(self._reduced("all"), f"{self._description}.all()", self._keys)

    def _with(self, other: object, sign: str, fn: Callable[[Data, Data], Data]) -> TrajectoryValue:
        if not isinstance(other, TrajectoryValue):
            return self._then(lambda value: fn(value, other), f" {sign} {other}")
        words = f"{self._description} {sign} {other._description}"
        keys = [*self._keys, *other._keys]
        return TrajectoryValue(lambda td: fn(self(td), other(td)), words, keys)

    def __add__(self, other: object) -> TrajectoryValue:
        return self._with(other, "+", operator.add)

    def __sub__(self, other: object) -> TrajectoryValue:
        return self._with(other, "-", operator.sub)

    def __mul__(self, other: object) -> TrajectoryValue:
        return self._with(other, "*", operator.mul)

    def __truediv__(self, other: object) -> TrajectoryValue:
        return self._with(other, "/", operator.truediv)

    def _asked(self, other: object, sign: str, fn: Callable[[Data, Data], Data]) -> TrajectoryPredicate:
        value = self._with(other, sign, fn)
        return TrajectoryPredicate(value, value._description, value._keys)

    def __gt__(self, other: object) -> TrajectoryPredicate:
        return self._asked(other, ">", operator.gt)

    def __ge__(self, other: object) -> TrajectoryPredicate:
        return self._asked(other, ">=", operator.ge)

    def __lt__(self, other: object) -> TrajectoryPredicate:
        return self._asked(other, "<", operator.lt)

    def __le__(self, other: object) -> TrajectoryPredicate:
        return self._asked(other, "<=", operator.le)

    def __eq__(self, other: object) -> TrajectoryPredicate:  # type: ignore[override]  # a question, no answer
        return self._asked(other, "==", operator.eq)

    def __ne__(self, other: object) -> TrajectoryPredicate:  # type: ignore[override]  # a question, no answer
        return self._asked(other, "!=", operator.ne)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._description})"


class _Start:
    """Where questions start: ``traj.reward``, ``traj["next", "observation"]``, ``traj.length``.

    An attribute is the entry of that name, under ``"next"`` for rewards and ends.
    """

    length = TrajectoryValue(len, "length", [])

    def __getitem__(self, key: NestedKey) -> TrajectoryValue:
        def read(steps: TensorDictBase) -> Tensor:
            require(steps, [key], "traj")
            return steps.get(key)

        words = key if isinstance(key, str) else ".".join(map(str, key))
        return TrajectoryValue(read, words, [key])

    def __getattr__(self, name: str) -> TrajectoryValue:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[next_key(name) if name in NEXT_NAMES else name]

    def __repr__(self) -> str:
        return "traj"


#: Where conditions on trajectories start: ``traj.reward.sum() > 100`` is a :class:`TrajectoryPredicate`.
traj = _Start()


def iter_trajectories(data: TensorDictBase, trajectory_key: NestedKey | None = None) -> Iterator[Trajectory]:
    """Yield the trajectories of a batch ``[*B, T]``, row after row.

    Args:
        data: Steps, time last.
        trajectory_key: Entry that numbers trajectories; found as
            :func:`~torchrl.data.trajectories.split_trajectories` finds it if ``None``.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([False, True, False]).unsqueeze(-1)
    >>> steps = TensorDict(step=torch.arange(3), next=dict(done=done), batch_size=[3])
    >>> [trajectory.data["step"].tolist() for trajectory in iter_trajectories(steps)]
    [[0, 1], [2]]
    """
    prefix = "collector" if "collector" in data else None
    steps, starts = find_pieces(data, prefix, trajectory_key, None)
    lengths = starts.diff(append=starts.new_tensor([steps.numel()]))
    for piece in steps.split(lengths.tolist()):
        yield Trajectory(piece)


def filter_trajectories(
    data: TensorDictBase, predicate: TrajectoryPredicate | None = None, *, trajectory_key: NestedKey | None = None
) -> TensorDictBase:
    """Return the steps ``[N]`` of the trajectories of a batch ``[*B, T]`` that a predicate takes.

    Args:
        data: Steps, time last.
        predicate: Says yes or no; all trajectories are taken if ``None``.
        trajectory_key: As for :func:`iter_trajectories`.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([False, True, False]).unsqueeze(-1)
    >>> steps = TensorDict(step=torch.arange(3), next=dict(done=done), batch_size=[3])
    >>> filter_trajectories(steps, traj.length > 1)["step"]
    tensor([0, 1])
    """
    every = iter_trajectories(data, trajectory_key)
    taken: list[Data] = [one.data for one in every if predicate is None or predicate(one)]
    return torch.cat(taken) if taken else data.reshape(-1)[:0]  # type: ignore[return-value]  # of its kind


def _steps(trajectory: Trajectory | TensorDictBase) -> TensorDictBase:
    return trajectory.data if isinstance(trajectory, Trajectory) else trajectory
