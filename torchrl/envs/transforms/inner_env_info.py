"""Names and row masks of the inner environment, for transforms that step or reset it themselves.

A row mask ``[*B, 1]`` selects rows of the batch. Records are those of the inner environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.keys import sibling
from torchrl._core.mdp import DONE, TERMINATED, last_name
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import entry_names, expand_right, where
from torchrl.data import Composite, TensorSpec
from torchrl.data.tensor_specs import Stacked
from torchrl.data.tensor_specs.categorical import Masked
from torchrl.envs.specs import leaf_names

R = TypeVar("R", bound=Record)


class Step(Protocol):
    """A step of the inner environment: ``root -> result``."""

    def __call__(self, root: R, /) -> R: ...


class Reset(Protocol):
    """A reset of the inner environment: argument of ``reset()``, or ``None``, to a root."""

    def __call__(self, root: R | None, /) -> R: ...


class InnerEnvInfo:
    """Batch size and names of rewards, flags and actions of the environment in a transform.

    Args:
        specs: The five groups of specs of the inner environment.
    """

    def __init__(self, specs: dict[str, Composite]) -> None:
        self.batch_size = specs["done"].shape
        self.rewards = leaf_names(specs["reward"])
        self.flags = leaf_names(specs["done"])
        self.dones = [key for key in self.flags if last_name(key) == DONE]
        # Several steps are joined to one only until a done flag is set; the others may be.
        self.flags_to_join = [key for key in self.flags if key not in self.dones]
        # Copied when they are needed, with the mask that they have now.
        self._actions = [
            (key, leaf.clone() if isinstance(leaf, Stacked) else leaf, getattr(leaf, "mask", None))
            for key, leaf in specs["action"].items(True, True)
        ]
        observed = {*leaf_names(specs["observation"]), *leaf_names(specs["state"])}
        self._not_carried = {key for key in self.rewards if key not in observed}

    @cached_property
    def actions(self) -> dict[NestedKey, TensorSpec]:
        """The spec of each action."""
        found = {}
        for key, leaf, mask in self._actions:
            found[key] = spec = leaf.clone()
            if isinstance(spec, Masked):
                spec.mask = mask
        return found

    def ended(self, record: Record) -> Tensor:
        """Return which rows ``[*B, 1]`` have ended, at any level."""
        return self._any([record.get(key) for key in self.dones])

    def terminated(self, record: Record) -> Tensor:
        """Return which rows ``[*B, 1]`` have terminated, at any level."""
        return self._any([record.get(sibling(key, TERMINATED)) for key in self.dones])

    def reset_rows(self, record: Record | None) -> Tensor | None:
        """Return which rows ``[*B, 1]`` the argument of ``reset()`` selects; ``None`` for all."""
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

    def free_dims(self, rows: Tensor) -> torch.Size:
        """Return the batch dimensions of ``rows`` beyond those of the environment."""
        return rows.shape[: rows.ndim - 1 - len(self.batch_size)]

    def next_root(self, root: R, result: Record) -> R:
        """Return the root of the next step, given a root and the result of its step."""
        new = root.copy()
        for key in entry_names(result):
            if key not in self._not_carried:
                new.set(key, result.get(key))
        return new

    def select_reset(self, record: R, rows: Tensor) -> R:
        """Return a copy of ``record`` with reset masks that select ``rows``."""
        new = record.copy()
        for key in self.dones:
            new.set(sibling(key, "_reset"), expand_right(rows, record.get(key).shape))
        return new


def where_rows(new: R, old: Record, rows: Tensor) -> R:
    """Replace the entries of ``new`` by those of ``old`` where ``rows`` is false; return it."""
    for key in entry_names(new):
        if (before := old.get(key, None)) is not None:
            new.set(key, where(rows, new.get(key), before))
    return new


def events_of_step(step: Step) -> dict[NestedKey, bool]:
    """Return the event flags of a step of the inner environment: ``{key: value at a reset}``."""
    return getattr(step, "event_flags", {})


def join_flags(record: Record, before: Record, keys: Iterable[NestedKey]) -> None:
    """Set the flags of ``record`` also where those of ``before`` are set."""
    for key in keys:
        flag, earlier = record.get(key, None), before.get(key, None)
        if flag is not None and earlier is not None:
            record.set(key, flag | earlier)


def clear_events(root: R, step: Step, rows: Tensor | None) -> R:
    """Give the flags of events the value that they have after a reset, in ``rows`` or in all.

    For a reset that steps: what happened before the first step of the policy is no event.
    """
    for key, value in events_of_step(step).items():
        flag = root.get(key, None)
        if flag is not None:
            cleared = torch.full_like(flag, value)
            mask = None if rows is None else expand_right(rows, flag.shape)
            root.set(key, cleared if mask is None else torch.where(mask, cleared, flag))
    return root


def step_rows(step: Step, root: R, rows: Tensor | None) -> R:
    """Step ``rows``; the ``_step`` mask leaves the others out."""
    if rows is not None and not bool(rows.all()):
        root = root.copy()
        root.set("_step", rows)
    return step(root)
