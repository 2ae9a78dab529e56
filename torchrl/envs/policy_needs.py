"""Transforms that a policy needs of its environment: flags of first steps, recurrent states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from torchrl.envs.transforms import InitTracker, Transform

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase


def transforms_for(policy: object, env: EnvBase) -> list[Transform]:
    """Return the transforms that write what a policy reads and its environment does not write.

    That is an ``InitTracker`` for each flag of first steps that the policy reads (``is_init``, or
    the ``init_key`` of one of its modules), and a primer for each module with a method
    ``make_tensordict_primer``, unless the environment has its entries already.

    Args:
        policy: Any policy; one that is no :class:`torch.nn.Module` needs nothing.
        env: The environment; it is not changed.

    >>> from torchrl.envs import PendulumEnv
    >>> from torchrl.modules import GRUModule
    >>> gru = GRUModule(3, 4, in_key="observation", out_key="hidden")
    >>> [type(transform).__name__ for transform in transforms_for(gru, PendulumEnv())]
    ['InitTracker', 'TensorDictPrimer']
    """
    known = set(env.observation_keys)
    reads = getattr(policy, "in_keys", ())
    parts = list(policy.modules()) if isinstance(policy, nn.Module) else []
    flags = dict.fromkeys(["is_init", *(getattr(part, "init_key", None) for part in parts)])
    found: list[Transform] = [
        InitTracker(init_key=flag) for flag in flags if isinstance(flag, str) and flag in reads and flag not in known
    ]
    for part in parts:
        if (make := getattr(part, "make_tensordict_primer", None)) is not None:
            primer = make()
            states = set(primer.primers.keys(True, True))
            if not states <= known:
                found.append(primer)
                known |= states
    return found
