"""`SampleTransforms`: the transforms of a replay buffer, and their inverses for written data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from tensordict import is_tensor_collection
from torch import nn

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import Convert, Data


class SampleTransforms:
    """Apply callables in order to samples, and their ``inv``, if they have one, to written data.

    Args:
        transforms: Callables ``data -> data``.
    """

    def __init__(self, transforms: Sequence[Convert] = ()) -> None:
        self.steps: list[tuple[Convert, bool]] = []
        self._outward: list[Convert] = []
        self._inward: list[Convert] = []
        self.changes = 0  # number of times that transforms were added or loaded a state
        for transform in transforms:
            self.insert(len(self), transform)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Data:
        return self.steps[index][0]

    def insert(self, index: int, transform: Convert, invert: bool = False) -> None:
        """Insert a transform; ``invert=True`` swaps its two directions.

        Raises:
            ValueError: if the same module is present already: the two would share their state; or
                if there is no place of that number.
        """
        if not callable(transform):
            raise TypeError(f"ReplayBuffer: a transform is a callable, found {transform!r}.")
        if isinstance(transform, nn.Module) and any(transform is own for own, _ in self.steps):
            raise ValueError(
                describe(
                    "ReplayBuffer",
                    f"has this {type(transform).__name__} as a transform already",
                    hint="Add transform.clone() instead.",
                )
            )
        if not -len(self) <= index <= len(self):
            raise ValueError(
                describe(
                    "ReplayBuffer", "there is no such place for a transform", expected=f"0 to {len(self)}", found=index
                )
            )
        self.steps.insert(index, (transform, invert))
        self.changes += 1
        both = [
            (getattr(one, "inv", None), one) if swap else (one, getattr(one, "inv", None)) for one, swap in self.steps
        ]
        self._outward = [out for out, _ in both if out is not None]
        self._inward = [back for _, back in reversed(both) if back is not None]

    def outward(self, data: Data) -> Data:
        """Transform a sample."""
        for step in self._outward:
            data = step(data)
        return data

    def inward(self, data: Data) -> Data:
        """Apply the inverse transforms to data to be written, in a copy of a tensordict."""
        if self._inward and is_tensor_collection(data):
            data = data.copy()
        for step in self._inward:
            data = step(data)
        return data

    def state_dict(self) -> list[object]:
        """Return the state of each transform that has one."""
        return [transform.state_dict() if hasattr(transform, "state_dict") else None for transform, _ in self.steps]

    def load_state_dict(self, states: Sequence[object]) -> None:
        """Load the state of each transform.

        Raises:
            ValueError: if a state was saved for a transform that is absent.
        """
        transforms = [transform for transform, _ in self.steps]
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
