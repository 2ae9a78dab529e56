"""Whether what an environment is handed, and what its hooks return, is a record it can work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import is_tensor_collection

from torchrl._core.entries import Entries
from torchrl._core.errors import ResetError, ShapeError, describe

if TYPE_CHECKING:
    from torchrl.envs.common import EnvBase

_HINTS = {
    "step": "Write the action into the root: env.step(root.set('action', action)).",
    "reset": "Call set_seed() to seed it; options of the simulator are keywords.",
}


def check_given(env: EnvBase, given: Any, method: str) -> None:
    """Raise ``TypeError`` unless a caller of ``method`` handed in a tensordict."""
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


def check_returned(env: EnvBase, record: Any, given: Any, hook: str) -> None:
    """Refuse what a hook returned if it is no record, or the one that it was given.

    Raises:
        TypeError: if it is no record.
        ResetError: if it is not a new one.
    """
    if not (is_tensor_collection(record) or isinstance(record, Entries)):
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
    if device is None or isinstance(record, Entries) or record.device == device:
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
