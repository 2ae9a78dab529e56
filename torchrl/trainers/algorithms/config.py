"""`AlgorithmConfig`: the settings that all algorithms have, and how settings are looked up by name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch

from torchrl._core.devices import check_devices, is_present
from torchrl._core.errors import DeviceError, DTypeError, UnexpectedKeyError, describe, nearest

C = TypeVar("C", bound="AlgorithmConfig")
# What settings of a type may be given as; they are converted.
ACCEPTED: dict[str, tuple[type, tuple[type, ...]]] = {
    "bool": (bool, (bool, np.bool_)),
    "int": (int, (int, np.integer)),
    "float": (float, (int, float, np.integer, np.floating)),
    "str": (str, (str, os.PathLike, torch.device)),
}

# Settings whose infinity means that there is no limit.
LIMITS = ("max_grad_norm", "clip_epsilon", "kappa", "noise_clip", "rho_clip", "c_clip")
LARGEST_SEED = 2**32 - 1  # of numpy


@dataclass
class AlgorithmConfig:
    """Settings of every algorithm; each algorithm adds its own and may have other defaults.

    Numbers of frames are environment steps of all copies together.

    >>> AlgorithmConfig(seed=1).total_frames
    100000
    """

    total_frames: int = 100_000  # environment steps in all
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and data are
    num_envs: int = 1  # copies of the environment that step together
    num_cells: int = 64  # units of a hidden layer; 0: what make_actor() and its like choose, best for images
    depth: int = 2  # hidden layers
    activation: str = "tanh"  # between layers: "tanh", "relu", "elu", "silu", "gelu"
    normalize_observations: bool = False  # to running mean 0 and deviation 1, clipped at 10
    normalize_rewards: bool = False  # by the running deviation of the discounted return, clipped at 10

    @property
    def cells(self) -> tuple[int, ...] | None:
        """Sizes of the hidden layers."""
        return (self.num_cells,) * self.depth if self.num_cells else None

    @property
    def rounded_frames(self) -> int:
        """``total_frames``, rounded up to whole batches."""
        batch = getattr(self, "frames_per_batch", 1)
        return -(-self.total_frames // batch) * batch

    def check(self) -> None:
        """Raise ValueError for settings that are impossible; algorithms check theirs too."""
        names = [field.name for field in fields(self)]
        for name in names:
            value = getattr(self, name)
            # Comparisons with NaN are false: the checks below would not refuse it.
            if isinstance(value, float) and not (math.isfinite(value) or (value == math.inf and name in LIMITS)):
                raise ValueError(describe(self, f"{name} is not finite", expected="a finite number", found=value))
        self.at_least(1, "total_frames", "num_envs")
        self.at_least(0, "num_cells", "depth")
        self.between(0, LARGEST_SEED, "seed")
        check_devices(self, device=self.device)
        if not is_present(self.device):
            raise DeviceError(describe(self, "this machine has no such device", found=self.device))
        gamma = getattr(self, "gamma", 1.0)
        if not 0 <= gamma <= 1:
            raise ValueError(describe(self, "gamma is no discount", expected="a number from 0 to 1", found=gamma))
        self.between(0, 1, *(name for name in ("lmbda", "tau", "eps_end") if name in names))
        self.at_least(0, *(name for name in ("lr", "max_grad_norm", "critic_coeff") if name in names))
        frames = getattr(self, "frames_per_batch", self.num_envs)
        if frames % self.num_envs:
            expected = f"a multiple of num_envs={self.num_envs}"
            raise ValueError(describe(self, "frames_per_batch is of all copies", expected=expected, found=frames))

    def at_least(self, least: float, *names: str) -> None:
        """Raise ValueError if one of these settings is smaller."""
        for name in names:
            if getattr(self, name) < least:
                found = getattr(self, name)
                raise ValueError(describe(self, f"{name} is too small", expected=f"at least {least}", found=found))

    def between(self, least: float, most: float, *names: str) -> None:
        """Raise ValueError if one of these settings is smaller or larger."""
        for name in names:
            if not least <= (found := getattr(self, name)) <= most:
                raise ValueError(describe(self, f"{name} is out of range", expected=f"{least} to {most}", found=found))

    def more_than_zero(self, *names: str) -> None:
        """Raise ValueError if one of these settings is zero or less."""
        for name in names:
            if not (found := getattr(self, name)) > 0:
                raise ValueError(describe(self, f"{name} is too small", expected="more than 0", found=found))


def typed(owner: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in the types of the fields of a dataclass: numbers of numpy as numbers, devices as text.

    Args:
        owner: The dataclass, or an object of it.
        settings: Values by the names of its fields.

    Raises:
        DTypeError: for a value of another type.

    >>> typed(AlgorithmConfig, {"total_frames": 1e4, "device": torch.device("cpu")})
    {'total_frames': 10000, 'device': 'cpu'}
    """
    types = {field.name: field.type if isinstance(field.type, str) else field.type.__name__ for field in fields(owner)}
    found = dict(settings)
    for name, value in settings.items():
        expected, _, other = types[name].partition(" | ")
        if expected not in ACCEPTED or (other == "None" and value is None):
            continue
        kind, accepted = ACCEPTED[expected]
        is_whole = expected == "int" and isinstance(value, float) and value.is_integer()
        if not is_whole and (not isinstance(value, accepted) or (isinstance(value, bool) and expected != "bool")):
            who = owner if isinstance(owner, type) else type(owner)
            raise DTypeError(
                describe(who.__name__, "has another type", key=name, expected=types[name], found=repr(value))
            )
        found[name] = kind(value)
    return found


def with_settings(config: C, settings: Mapping[str, Any]) -> C:
    """Return a copy of a configuration with other settings, checked.

    Args:
        config: The configuration, which stays as it is.
        settings: Values by the names of its fields.

    Raises:
        UnexpectedKeyError: for a name that it does not have; the nearest is named.
        DTypeError: for a value of another type.
        ValueError: for settings that are impossible.

    >>> with_settings(AlgorithmConfig(), {"seed": 3}).seed
    3
    """
    known = [field.name for field in fields(config)]
    for name in settings:
        if name not in known:
            hint = nearest(name, known) or f"Settings: {', '.join(known)}."
            raise UnexpectedKeyError(describe(config, "has no such setting", key=name, hint=hint))
    config = replace(config, **typed(config, settings))
    config.check()
    return config
