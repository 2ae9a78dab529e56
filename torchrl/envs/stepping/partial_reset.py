"""Partial resets and partial steps: which rows, and what the others keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ResetError, ShapeError, describe
from torchrl._core.records.rows import expand_right, where_rows

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

Masks = dict[NestedKey, Tensor]


def pop_masks(env: EnvBase, tensordict: Any) -> Masks:
    """Take the ``_reset`` masks out of ``tensordict``; a mask holds for every level below it.

    Returns: the mask of each level; none if everything is to be reset.

    Raises:
        ShapeError: if a mask is not shaped as the ``done`` beside it.
    """
    masks: Masks = {}
    outer: list[tuple[Any, Tensor]] = []
    for group in env.compiled_specs.groups:  # outermost first
        mask: Any = tensordict.pop(group.reset, None)
        shape = env.compiled_specs.expected(group.shape, tensordict)
        for prefix, above in outer:
            if prefix == group.prefix[: len(prefix)]:
                mask = expand_right(above, shape)
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
    named = len(masks) == len(env.compiled_specs.groups)  # a level without a mask is reset whole
    return named and not any(bool(mask.any()) for mask in masks.values())


def restore_rows(env: EnvBase, before: Any, root: Any, masks: Masks) -> None:
    """Put back, in ``root``, what the rows that are not reset had in ``before``.

    Args:
        env: The environment.
        before: The root that was passed to reset().
        root: What the reset returned; changed in place.
        masks: Which rows are reset, at each level of flags.

    Raises:
        ResetError: if it is not in ``before``.
    """

    def absent(key: NestedKey, value: object) -> Any:
        raise ResetError(
            describe(
                env,
                "is needed by the rows that are not reset, and is not in the input",
                key=key,
                hint="Pass reset() the root that step_mdp() returned.",
            )
        )

    compiled = env.compiled_specs
    where_rows(lambda key: compiled.mask_of(key, masks), root, before, absent)


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
                "is no mask of the rows that step",
                key="_step",
                expected=(*record.batch_size, 1),
                found=tuple(mask.shape),
            )
        )
    mask = mask.unsqueeze(-1)
    record.set("_step", mask)
    return mask


def freeze_rows(before: Any, next_root: Any, mask: Tensor) -> None:
    """Put back, in ``next_root``, what the rows outside of ``mask [*B, 1]`` had; rewards are 0."""
    where_rows(
        lambda key: mask,
        next_root,
        before,
        lambda key, value: torch.zeros_like(value) if isinstance(value, Tensor) else value,
    )
