"""Validation of what users pass to an environment, what its hooks return, and first actions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import DTypeError, ResetError, ShapeError, SpecError, describe
from torchrl._core.records.flat_record import FlatRecord
from torchrl.data import Binary, Bounded, OneHot, TensorSpec

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

_HINTS = {
    "step": "Write the action into the root: env.step(root.set('action', action)).",
    "reset": "Call set_seed() to seed it; options of the simulator are keywords.",
}


def check_given(env: EnvBase, given: Any, method: str) -> None:
    """Raise ``TypeError`` unless a caller of ``method`` passed a tensordict."""
    if not hasattr(given, "batch_size"):
        raise TypeError(
            describe(
                env,
                f"{method}() takes a tensordict",
                expected="a tensordict",
                found=type(given).__name__,
                hint=_HINTS[method],
            )
        )


def check_returned(env: object, record: Any, given: Any, hook: str) -> None:
    """Refuse what a hook returned if it is no record, or the one that it was given.

    Raises:
        TypeError: if it is no record.
        ResetError: if it is not a new one.
    """
    if not (is_tensor_collection(record) or isinstance(record, FlatRecord)):
        raise TypeError(
            describe(
                env,
                f"returned from {hook}() something that is no tensordict",
                expected="a tensordict with the entries that the specs name",
                found=type(record).__name__,
                hint=f"End {hook}() with return TensorDict(observation=..., ...).",
            )
        )
    if record is given:
        raise ResetError(
            describe(
                env,
                f"returned from {hook}() the tensordict it was given",
                expected="a new tensordict",
                hint="Build one from the entries, or copy() first.",
            )
        )


def placed(record: Any, device: torch.device | None) -> Any:
    """Return what a hook returned, on a device; flat records are there already."""
    if device is None or isinstance(record, FlatRecord) or record.device == device:
        return record
    return record.to(device)


def wrong_batch(env: EnvBase, fact: str, found: torch.Size) -> ShapeError:
    """Return the error that ``fact`` is about a record of another batch size than ours."""
    return ShapeError(
        describe(
            env,
            f"{fact} of another batch size",
            expected=tuple(env.batch_size),
            found=tuple(found),
            hint="Give tensordicts the batch_size of the environment, as reset() does.",
        )
    )


def check_choice(who: str, key: NestedKey, action: Tensor, spec: TensorSpec) -> None:
    """Refuse an action that cannot be, and warn of one that lies outside of its bounds.

    One-hot vectors and bits may have any dtype as long as they hold zeros and ones.

    Args:
        who: The environment, for the message.
        key: Of the action.
        action: ``[*B, *S]``.
        spec: Its spec; masks are left to the environment.

    Raises:
        DTypeError: for an index that is no integer, and a number of low precision in the place of
            one of high precision.
        SpecError: if it holds NaN, or is no choice of a discrete spec.
    """
    if action.is_meta or spec.dtype is None or spec.dtype.is_complex:
        return
    try:
        is_nan = action.is_floating_point() and bool(action.isnan().any())
    except RuntimeError:  # under torch.vmap no value can be looked at
        return
    if is_nan:
        raise SpecError(
            describe(
                who,
                "is NaN",
                key=key,
                expected="an action of the action_spec",
                found=_shown(action),
                hint="Look for what makes the policy's output NaN.",
            )
        )
    if spec.dtype.is_floating_point:
        _check_number(who, key, action, spec)
        return
    as_bits = isinstance(spec, OneHot | Binary) or "OneHot" in type(spec).__name__
    if action.is_floating_point() and not as_bits and "Stacked" not in type(spec).__name__:
        raise _wrong_dtype(who, key, action, spec)
    free: Any = spec
    if getattr(spec, "mask", None) is not None:
        free = spec.clone()
        free.update_mask(None)
    cast = action.to(spec.dtype)
    if bool((cast.to(action.dtype) != action).any()) or not free.is_in(cast):
        raise SpecError(
            describe(
                who,
                "is no action of the action_spec",
                key=key,
                expected=_choices(spec),
                found=_shown(action),
                hint="Choose another distribution, or another action_spec.",
            )
        )


def _check_number(who: str, key: NestedKey, action: Tensor, spec: TensorSpec) -> None:
    low = (torch.bfloat16, torch.float16)
    if action.dtype in low and action.dtype != spec.dtype:
        raise _wrong_dtype(who, key, action, spec)
    if isinstance(spec, Bounded) and not spec.is_in(action.detach().to(spec.dtype)):
        warnings.warn(
            describe(
                who,
                "lies outside of the bounds of the action_spec",
                key=key,
                expected=_choices(spec),
                found=_shown(action),
                hint="Bound it in the policy (TanhNormal, TanhModule, safe=True), or append ActionScaling.",
            ),
            stacklevel=2,
        )


def _wrong_dtype(who: str, key: NestedKey, action: Tensor, spec: TensorSpec) -> DTypeError:
    return DTypeError(
        describe(
            who,
            "has another dtype than action_spec promises",
            key=key,
            expected=spec.dtype,
            found=action.dtype,
            hint=f"Cast it in the policy: action.to({spec.dtype}).",
        )
    )


def _choices(spec: TensorSpec) -> str:
    _, _, facts = str(spec.error_report(torch.full(spec.shape, -(2**31)).to(spec.dtype))).partition("; expected ")
    return facts.partition(", found ")[0] or f"a value of {type(spec).__name__}"


def _shown(action: Tensor) -> str:
    """Return the first action of a batch, as short as can be."""
    row = action.detach().reshape(-1, action.shape[-1] if action.ndim else 1)[:1]
    return f"{[round(x, 4) if isinstance(x, float) else x for x in row[0].tolist()[:12]]}"
