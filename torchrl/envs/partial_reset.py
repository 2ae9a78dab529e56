"""Resets of some rows: which rows, what the others keep, and that no episode begins at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import (
    LazyStackedTensorDict,
    NestedKey,
    TensorDict,
    TensorDictBase,
    is_leaf_nontensor,
    is_non_tensor,
)
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
                        hint="Give a row True to reset it, in the shape of its done flag.",
                    )
                )
            outer.append((group.prefix, mask))
        masks[group.reset] = mask
    return {} if all(bool(mask.all()) for mask in masks.values()) else masks


def is_void(env: EnvBase, masks: Masks) -> bool:
    """Return whether masks name no row at any level."""
    named = len(masks) == len(env.plan.groups)  # a level without a mask is reset whole
    return named and not any(bool(mask.any()) for mask in masks.values())


def keep_rows(
    env: EnvBase, before: Any, root: Any, masks: Masks, path: tuple[Any, ...] = ()
) -> None:
    """Put back, in ``root``, what the rows that are not reset had in ``before``.

    Args:
        env: The environment.
        before: The root that was handed in.
        root: What the reset returned; changed in place.
        masks: Which rows are reset, at each level of flags.
        path: Where both stand, if they are part of a root.

    Raises:
        ResetError: if it is not in ``before``.
    """
    if isinstance(root, LazyStackedTensorDict):  # its parts may differ in entries and shapes
        dim = root.stack_dim
        inside = {g.reset for g in env.plan.groups if g.prefix[: len(path)] == path}
        for i, (new, old) in enumerate(zip(root.unbind(dim), before.unbind(dim), strict=True)):
            parts = {k: mask.select(dim, i) if k in inside else mask for k, mask in masks.items()}
            keep_rows(env, old, new, parts, path)
        return
    for name in part_names(root):
        key = (*path, *((name,) if isinstance(name, str) else name))
        mask = env.plan.mask_of(key, masks)
        if mask is None:
            continue
        new, old = root.get(name), before.get(name, None)
        if old is None:
            raise ResetError(
                describe(
                    env,
                    "is needed by the rows that are not reset, and is not in the input",
                    key=key[0] if len(key) == 1 else key,
                    hint="Hand reset() the root that step_mdp() returned.",
                )
            )
        if is_lazy(new):
            keep_rows(env, old, new, masks, key)
        else:
            root.set(name, choose(mask, new, old))


def step_mask(env: EnvBase, record: Any) -> Tensor | None:
    """Return the mask ``[*B, 1]`` of the rows that step, if there is one; it may be given ``[*B]``.

    Raises:
        ShapeError: if it has another shape.
    """
    mask: Tensor | None = record.get("_step", None)
    if mask is None or mask.shape == (*record.batch_size, 1):
        return mask
    if mask.shape != record.batch_size:
        raise ShapeError(
            describe(
                env,
                "does not say for each row whether it steps",
                key="_step",
                expected=(*record.batch_size, 1),
                found=tuple(mask.shape),
            )
        )
    mask = mask.unsqueeze(-1)
    record.set("_step", mask)
    return mask


def hold_rows(before: Any, following: Any, mask: Tensor) -> None:
    """Put back, in ``following``, what the rows outside of ``mask [*B, 1]`` had; rewards are 0."""
    if isinstance(following, LazyStackedTensorDict):  # its parts may differ in entries and shapes
        dim = following.stack_dim
        olds = [None] * len(following.tensordicts) if before is None else before.unbind(dim)
        for i, (old, new) in enumerate(zip(olds, following.unbind(dim), strict=True)):
            hold_rows(old, new, mask.select(dim, i) if dim < mask.ndim - 1 else mask)
        return
    for key in part_names(following):
        new, old = following.get(key), None if before is None else before.get(key, None)
        if is_lazy(new):
            hold_rows(old, new, mask)
            continue
        if old is None:  # a reward; what is no tensor has no zero
            old = torch.zeros_like(new) if isinstance(new, Tensor) else new
        following.set(key, choose(mask, new, old))


def part_names(record: Any) -> list[NestedKey]:
    """Return the keys of every leaf of a record, and of every lazy stack in the place of its own.

    The parts of such a stack may differ in entries and shapes, so that it cannot be read whole.
    """
    if isinstance(record, Entries):
        return list(record)
    keys: list[NestedKey] = []
    for name, value in record.items():
        if isinstance(value, TensorDictBase) and not (is_non_tensor(value) or is_lazy(value)):
            inner = part_names(value)
            keys += [(name, *((key,) if isinstance(key, str) else key)) for key in inner]
        else:
            keys.append(name)
    return keys


def is_lazy(value: Any) -> bool:
    """Return whether an entry is a lazy stack of records."""
    return isinstance(value, LazyStackedTensorDict) and not is_non_tensor(value)


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
                        hint="Begin episodes that are not over, or build the environment with "
                        "allow_done_after_reset=True.",
                    )
                )
