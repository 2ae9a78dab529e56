"""What recurrent and other stateful policies need of an environment, and small maps."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from tensordict.nn import biased_softplus, inv_softplus, mappings
from torch import nn

from torchrl._core.errors import describe
from torchrl._core.plan import check_states

__all__ = [
    "biased_softplus",
    "get_env_transforms_from_module",
    "get_primers_from_module",
    "inv_softplus",
    "mappings",
]


def get_primers_from_module(module: nn.Module, warn: bool = True, strict: bool = True) -> Any:
    """Return the transform that writes, at resets, the entries that modules within keep there.

    Args:
        module: Any module; those within it that have ``make_tensordict_primer`` are asked.
        warn: Warn of a module without any, where it is not refused.
        strict: Refuse a module without any; otherwise return ``None``.

    Returns: a primer, or a ``Compose`` of several.

    Raises:
        ValueError: if there is none and ``strict``, or if two modules keep one entry.

    >>> from torchrl.modules import GRUModule
    >>> primer = get_primers_from_module(GRUModule(3, 4, in_key="observation", out_key="hidden"))
    >>> primer.primers["recurrent_state"].shape
    torch.Size([1, 4])
    """
    check_states(module)
    makers = (getattr(part, "make_tensordict_primer", None) for part in module.modules())
    primers = [make() for make in makers if make is not None]
    if not primers:
        fact = f"found nothing in {type(module).__name__} that keeps entries"
        if strict:
            hint = "Pass strict=False if that is all right."
            raise ValueError(describe("get_primers_from_module", fact, hint=hint))
        if warn:
            warnings.warn(describe("get_primers_from_module", fact), stacklevel=2)
        return None
    if len(primers) == 1:
        return primers[0]
    return importlib.import_module("torchrl.envs.transforms").Compose(*primers)


def get_env_transforms_from_module(module: nn.Module, init_key: str = "is_init") -> Any:
    """Return the transforms that a policy needs: a tracker of first steps, and primers.

    Args:
        module: The policy.
        init_key: Name of the flag of first steps.

    Returns: a ``Compose``, or ``None`` for a policy that needs neither.

    >>> from torchrl.modules import GRUModule
    >>> policy = GRUModule(3, 4, in_key="observation", out_key="hidden")
    >>> len(get_env_transforms_from_module(policy))
    2
    """
    transforms = importlib.import_module("torchrl.envs.transforms")
    primer = get_primers_from_module(module, warn=False, strict=False)
    if primer is None and init_key not in getattr(module, "in_keys", ()):
        return None
    parts = [transforms.InitTracker(init_key=init_key)]
    return transforms.Compose(*parts, *([] if primer is None else [primer]))
