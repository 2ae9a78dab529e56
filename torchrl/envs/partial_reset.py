"""Resets of some rows: which rows, what the others keep, and that no episode begins at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDict, is_leaf_nontensor
from torch import Tensor

from torchrl._core.entries import Entries
from torchrl._core.errors import ResetError, ShapeError, describe
from torchrl.envs.step_plan import expand_flag

if TYPE_CHECKING:
    from torchrl.envs.common import EnvBase

Masks = dict[NestedKey, Tensor]


def entry_names(record: Any) -> list[NestedKey]:
    """Return the keys of every leaf of a record, those of non-tensors too."""
    if isinstance(record, Entries):
        return list(record)
    return list(record.keys(True, True, is_leaf=is_leaf_nontensor))


def choose(mask: Tensor, new: Any, old: Any) -> Any:
    """Return the rows of ``new`` where ``mask [*B, 1]`` is true, of ``old`` elsewhere."""
    if isinstance(new, Tensor):
        return torch.where(expand_flag(mask, new.shape), new, old)
    rows = mask.squeeze(-1)  # [*B]
    if not rows.ndim:
        return new if rows else old
    both = (TensorDict({"x": value}, rows.shape) for value in (new, old))
    picked: Any = torch.where(rows, *both)
    return picked.get("x")


def pop_masks(env: EnvBase, tensordict: Any) -> Masks:
    """Take the ``_reset`` masks out of ``tensordict``; a mask holds for every level below it.

    Returns: the mask of each level; none if everything is to be reset.

    Raises:
        ShapeError: if a mask is not shaped as the ``done`` beside it.
    """
    masks: Masks = {}
    outer: list[tuple[Any, Tensor]] = []
    for group in env.plan.groups:  # outermost first
        mask: Any = tensordict.pop(group.reset, None)
        shape = env.plan.expected(group.shape, tensordict)
        for prefix, above in outer:
            if prefix == group.prefix[: len(prefix)]:
                mask = expand_flag(above, shape)
                break
        else:
            if mask is None:
                continue
            if mask.shape != shape:
                raise ShapeError(
                    describe(
                        env,
                        "has another shape than the done flag beside it",
                        key=group.reset,
                        expected=tuple(shape),
                        found=tuple(mask.shape),
                        mend="Give a row True to reset it, in the shape of its done flag.",
                    )
                )
            outer.append((group.prefix, mask))
        masks[group.reset] = mask
    return {} if all(bool(mask.all()) for mask in masks.values()) else masks


def is_void(env: EnvBase, masks: Masks) -> bool:
    """Say whether masks name no row at any level."""
    named = len(masks) == len(env.plan.groups)  # a level without a mask is reset whole
    return named and not any(bool(mask.any()) for mask in masks.values())


def keep_rows(env: EnvBase, before: Any, root: Any, masks: Masks) -> None:
    """Put back, in ``root``, what the rows that are not reset had in ``before``.

    Raises:
        ResetError: if it is not in ``before``.
    """
    if isinstance(root, LazyStackedTensorDict):  # its rows may differ in entries and shapes
        dim = root.stack_dim
        for i, (new, old) in enumerate(zip(root.unbind(dim), before.unbind(dim), strict=True)):
            keep_rows(env, old, new, {key: mask.select(dim, i) for key, mask in masks.items()})
        return
    for key in entry_names(root):
        mask = env.plan.mask_of(key, masks)
        if mask is None:
            continue
        old = before.get(key, None)
        if old is None:
            raise ResetError(
                describe(
                    env,
                    "is needed by the rows that are not reset, and is not in the input",
                    key=key,
                    mend="Hand reset() the root that step_mdp() returned.",
                )
            )
        root.set(key, choose(mask, root.get(key), old))


def refuse_done(env: EnvBase, root: Any, masks: Masks) -> None:
    """Raise :class:`ResetError` if an episode that was reset is over."""
    for group in env.plan.groups:
        for key in group.keys:
            over = root.get(key)
            if group.reset in masks:
                over = over & masks[group.reset]
            if over.any():
                raise ResetError(
                    describe(
                        env,
                        "is true after reset()",
                        key=key,
                        expected="an episode that is not over",
                        found=over.tolist(),
                        mend="Begin episodes that are not over, or build the environment with "
                        "allow_done_after_reset=True.",
                    )
                )
