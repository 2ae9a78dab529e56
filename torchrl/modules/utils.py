"""Transforms that a recurrent policy needs of its environment, and maps to positive numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensordict.nn import biased_softplus, inv_softplus, mappings
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.records.policies import check_states
from torchrl.data import Composite

if TYPE_CHECKING:
    from torchrl.envs.transforms import TensorDictPrimer, Transform

__all__ = ["biased_softplus", "get_env_transforms_from_module", "get_primers_from_module", "inv_softplus", "mappings"]
# Modules and environments are neighbours in the layers. The public functions and methods that turn
# the needs of a module into transforms import these when they are called, and only in this file.


def make_primer(
    spec: Composite,
    default_value: Callable[[], Tensor] | None = None,
    *,
    may_have_batch: bool = False,
    last_reward_key: str | None = None,
) -> TensorDictPrimer:
    """Return the transform that writes entries of a module at resets of an environment.

    Args:
        spec: Specs of the entries in one environment.
        default_value: Function that returns their values; zeros if ``None``.
        may_have_batch: Whether specs that start with the batch size of the environment, and have further
            dimensions, are those of all its rows.
        last_reward_key: The entry among them that is the reward of the last step, if one is.
    """
    from torchrl.envs.transforms import LastRewardPrimer, TensorDictPrimer  # noqa: PLC0415 - see above

    primer = (
        TensorDictPrimer(spec, expand_specs=True, default_value=default_value)
        if last_reward_key is None
        else LastRewardPrimer(spec, last_reward_key, expand_specs=True)
    )
    primer.may_have_batch = may_have_batch
    return primer


def get_primers_from_module(module: nn.Module, warn: bool = True, strict: bool = True) -> Transform | None:
    """Return the transform that writes, at resets, the entries in which modules keep a state.

    Args:
        module: Any module; each part with a method ``make_tensordict_primer`` provides a primer.
        warn: Warn if no part does.
        strict: Raise the error of a part that cannot make its primer, such as dropout of unknown shape;
            otherwise warn of it.

    Returns: a primer, or a ``Compose`` of several; ``None`` if there are none.

    Raises:
        ValueError: if two modules keep their state in one entry.

    >>> from torchrl.modules import GRUModule
    >>> primer = get_primers_from_module(GRUModule(3, 4, in_key="observation", out_key="hidden"))
    >>> primer.primers["recurrent_state"].shape
    torch.Size([1, 4])
    """
    from torchrl.envs.transforms import Compose  # noqa: PLC0415 - see above

    check_states(module)
    primers: list[Transform] = []
    for part in module.modules():
        make: Any = getattr(part, "make_tensordict_primer", None)
        try:
            primers += [] if make is None else [make()]
        except (RuntimeError, ValueError) as error:
            if strict:
                raise
            warnings.warn(
                f"get_primers_from_module: there is no primer of {type(part).__name__}: {error}", stacklevel=2
            )
    if primers:
        return primers[0] if len(primers) == 1 else Compose(*primers)
    if warn:
        fact = f"found nothing in {type(module).__name__} that keeps entries"
        warnings.warn(describe("get_primers_from_module", fact), stacklevel=2)
    return None


def get_env_transforms_from_module(module: nn.Module, init_key: str = "is_init") -> Transform:
    """Return the transforms that a policy needs: a tracker of first steps, and primers.

    Args:
        module: The policy.
        init_key: Name of the flag of first steps.

    Returns: a ``Compose``; an ``InitTracker`` alone for a policy without a state.

    >>> from torchrl.modules import GRUModule
    >>> policy = GRUModule(3, 4, in_key="observation", out_key="hidden")
    >>> len(get_env_transforms_from_module(policy))
    2
    """
    from torchrl.envs.transforms import Compose, InitTracker  # noqa: PLC0415 - see above

    tracker, primer = InitTracker(init_key=init_key), get_primers_from_module(module, warn=False)
    return tracker if primer is None else Compose(tracker, primer)
