"""`Pipeline`: what happens to rows on their way into a buffer and out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from tensordict import is_tensor_collection
from torch import nn

from torchrl._core.errors import describe


class Pipeline:
    """Callables, run in order on samples; their ``inv``, if they have one, runs on what comes in.

    Args:
        transforms: Callables ``data -> data``.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]] = ()) -> None:
        self._steps: list[tuple[Any, bool]] = []
        self._outward: list[Any] = []
        self._inward: list[Any] = []
        self.changes = 0  # how often transforms were added or took over a state
        for transform in transforms:
            self.insert(len(self), transform)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Any:
        return self._steps[index][0]

    def insert(self, index: int, transform: Any, invert: bool = False) -> None:
        """Put a transform in; ``invert=True`` swaps its two directions.

        Raises:
            ValueError: if the same transform stands here already: its memory would serve two.
        """
        if not callable(transform):
            raise TypeError(f"ReplayBuffer: a transform is a callable, found {transform!r}.")
        if isinstance(transform, nn.Module) and any(transform is own for own, _ in self._steps):
            raise ValueError(
                describe(
                    "ReplayBuffer",
                    f"has this {type(transform).__name__} as a transform already",
                    hint="Add transform.clone() instead.",
                )
            )
        self._steps.insert(index, (transform, invert))
        self.changes += 1
        both = [_directions(*step) for step in self._steps]
        self._outward = [out for out, _ in both if out is not None]
        self._inward = [back for _, back in reversed(both) if back is not None]

    def outward(self, data: Any) -> Any:
        """Transform a sample."""
        for step in self._outward:
            data = step(data)
        return data

    def inward(self, data: Any) -> Any:
        """Undo the transforms on what is about to be stored; the caller's own record stays."""
        if self._inward and is_tensor_collection(data):
            data = data.copy()
        for step in self._inward:
            data = step(data)
        return data

    def state_dict(self) -> list[Any]:
        """Return the state of each transform that has one."""
        return [_state(transform) for transform, _ in self._steps]

    def load_state_dict(self, states: Sequence[Any]) -> None:
        """Hand each transform its state.

        Raises:
            ValueError: if a state was saved for which there is no such transform.
        """
        transforms = [transform for transform, _ in self._steps]
        self.changes += 1
        for transform, state in zip_longest(transforms, states):
            if hasattr(transform, "load_state_dict"):
                if state is not None:
                    transform.load_state_dict(state)
            elif state:
                raise ValueError(
                    describe(
                        "ReplayBuffer",
                        "the save holds the state of transforms that are not here",
                        expected=f"{len(states)} transforms",
                        found=[type(one).__name__ for one in transforms],
                        hint="Append the same transforms, in the same order, before loading.",
                    )
                )


def _directions(transform: Any, invert: bool) -> tuple[Any, Any]:
    inverse = getattr(transform, "inv", None)
    return (inverse, transform) if invert else (transform, inverse)


def _state(transform: Any) -> Any:
    return transform.state_dict() if hasattr(transform, "state_dict") else None
