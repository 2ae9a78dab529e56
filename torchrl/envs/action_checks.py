"""Whether the first action of a policy is one that its spec allows."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import DTypeError, SpecError, describe
from torchrl.data import Binary, Bounded, OneHot, TensorSpec


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
                hint="Bound it in the policy (TanhNormal, TanhModule, safe=True), or append "
                "ActionScaling.",
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
    _, _, facts = str(spec.complaint(torch.full(spec.shape, -(2**31)).to(spec.dtype))).partition(
        "; expected "
    )
    return facts.partition(", found ")[0] or f"a value of {type(spec).__name__}"


def _shown(action: Tensor) -> str:
    """Return the first action of a batch, as short as can be."""
    row = action.detach().reshape(-1, action.shape[-1] if action.ndim else 1)[:1]
    return f"{[round(x, 4) if isinstance(x, float) else x for x in row[0].tolist()[:12]]}"
