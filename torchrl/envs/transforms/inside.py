"""The environment inside a transform, for the few transforms that step or reset it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.keys import sibling
from torchrl._core.mdp import DONE, TERMINATED, last_name
from torchrl.data import Composite
from torchrl.envs.partial_reset import choose, entry_names
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.step_plan import expand_flag

Step = Callable[[Any], Any]
Reset = Callable[[Any], Any]


class Inside:
    """What a transform knows of the environment that it drives: names of rewards, flags, actions.

    Records are what the environment inside emits and accepts; a mask ``[*B, 1]`` tells rows.

    Args:
        specs: The five groups of specs seen by the transform.
    """

    def __init__(self, specs: dict[str, Composite]) -> None:
        self.batch_size = specs["done"].shape
        self.rewards = leaf_names(specs["reward"])
        self.dones = [key for key in leaf_names(specs["done"]) if last_name(key) == DONE]
        self.flags = leaf_names(specs["done"])
        # Steps go on while no done is up; the others may be.
        self.flags_to_join = [key for key in self.flags if key not in self.dones]
        self.actions = {key: specs["action"][key].clone() for key in leaf_names(specs["action"])}
        observed = {*leaf_names(specs["observation"]), *leaf_names(specs["state"])}
        self._left_behind = {key for key in self.rewards if key not in observed}

    def over(self, record: Any) -> Tensor:
        """Return which rows ``[*B, 1]`` have ended, at any level."""
        return self._any([record.get(key) for key in self.dones])

    def terminated(self, record: Any) -> Tensor:
        """Return which rows ``[*B, 1]`` have terminated, at any level."""
        return self._any([record.get(sibling(key, TERMINATED)) for key in self.dones])

    def being_reset(self, record: Any) -> Tensor | None:
        """Return which rows ``[*B, 1]`` are being reset; ``None`` if all are."""
        if record is None:
            return None
        masks = [record.get(sibling(key, "_reset"), None) for key in self.dones]
        found = [mask for mask in masks if mask is not None]
        return self._any(found) if found else None

    def _any(self, flags: list[Tensor]) -> Tensor:
        dims = len(self.batch_size)
        if len(flags) == 1 and flags[0].ndim == dims + 1:
            return flags[0]
        return torch.stack([flag.flatten(dims).any(-1, True) for flag in flags]).any(0)

    def lead(self, rows: Tensor) -> torch.Size:
        """Return the dimensions of ``rows`` that an environment of any batch size does not name."""
        return rows.shape[: rows.ndim - 1 - len(self.batch_size)]

    def root_after(self, root: Any, following: Any) -> Any:
        """Return the root of the next step."""
        new = root.copy()
        for key in entry_names(following):
            if key not in self._left_behind:
                new.set(key, following.get(key))
        return new

    def select_reset(self, record: Any, rows: Tensor) -> Any:
        """Return a copy of ``record`` that asks for a reset of ``rows``."""
        new = record.copy()
        for key in self.dones:
            new.set(sibling(key, "_reset"), expand_flag(rows, record.get(key).shape))
        return new


def take_rows(new: Any, old: Any, rows: Tensor) -> Any:
    """Put what ``old`` holds, in ``new``, where ``rows [*B, 1]`` is false; return ``new``."""
    for key in entry_names(new):
        if (before := old.get(key, None)) is not None:
            new.set(key, choose(rows, new.get(key), before))
    return new


def events_of_step(step: Step) -> dict[NestedKey, bool]:
    """Return the flags that tell what happened in a step of the environment inside."""
    return getattr(step, "event_flags", {})


def join_flags(record: Any, before: Any, keys: Iterable[NestedKey]) -> None:
    """Raise, in ``record``, the flags that ``before`` raised."""
    for key in keys:
        flag, earlier = record.get(key, None), before.get(key, None)
        if flag is not None and earlier is not None:
            record.set(key, flag | earlier)


def begin_events(root: Any, step: Step, rows: Tensor | None) -> Any:
    """Give the flags of events, in ``rows [*B, 1]``, the value that they have after a reset.

    For a reset that steps: what happened before an episode began is no event of it.
    """
    for key, value in events_of_step(step).items():
        flag = root.get(key, None)
        if flag is not None:
            begun = torch.full_like(flag, value)
            mask = None if rows is None else expand_flag(rows, flag.shape)
            root.set(key, begun if mask is None else torch.where(mask, begun, flag))
    return root


def step_rows(step: Step, root: Any, rows: Tensor | None) -> Any:
    """Step ``rows [*B, 1]``; the others are told, by ``_step``, to stand still."""
    if rows is not None and not bool(rows.all()):
        root = root.copy().set("_step", rows)
    return step(root)
