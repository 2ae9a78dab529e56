"""Where tensors are, and whether they are numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.entries import Entries
from torchrl._core.errors import TorchRLError, describe
from torchrl.data import Composite
from torchrl.envs.partial_reset import entry_names
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.pixels import Keys


class DeviceCastTransform(Transform):
    """Moves entries to a device on the way out, and back on the way in.

    Args:
        device: Where entries are seen from outside.
        orig_device: Where the environment wants them; its own device if ``None``.
        in_keys: Entries moved on the way out; all if no keys are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries moved on the way in; all if no keys are given.
        out_keys_inv: Their names seen from outside.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), DeviceCastTransform("cpu"))
    >>> env.device, env.reset().device
    (device(type='cpu'), device(type='cpu'))
    """

    entrywise = True

    def __init__(
        self,
        device: torch.device | str | int,
        orig_device: torch.device | str | int | None = None,
        *,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
    ) -> None:
        check_devices(self, device=device, orig_device=orig_device)
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        self.device = torch.device(device)
        self.orig_device = None if orig_device is None else torch.device(orig_device)
        self._all = in_keys is None and in_keys_inv is None

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.to(self.device, non_blocking=self.device.type == "cuda")

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return value if self.orig_device is None else value.to(self.orig_device)

    def _call(self, tensordict: Any) -> Any:
        if not self._all:
            if not isinstance(tensordict, Entries):
                tensordict.clear_device_()
            return super()._call(tensordict)
        if not isinstance(tensordict, Entries):
            return tensordict.to(self.device)
        return Entries({key: self._moved(value) for key, value in tensordict.items()})

    def _moved(self, value: Any) -> Any:
        return self._apply_transform(value) if isinstance(value, Tensor) else value

    def _inv_call(self, tensordict: Any) -> Any:
        if not self._all:
            if not isinstance(tensordict, Entries):
                tensordict.clear_device_()
            return super()._inv_call(tensordict)
        if isinstance(tensordict, Entries):
            return Entries(
                {
                    key: self._inv_apply_transform(v) if isinstance(v, Tensor) else v
                    for key, v in tensordict.items()
                }
            )
        return tensordict if self.orig_device is None else tensordict.to(self.orig_device)

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether what reset() is given may be on another device than the environment."""
        moves = self._all and self.orig_device not in (None, self.device)
        return moves or super().inverts_at_reset(actions)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Move the specs."""
        device = specs["observation"].device
        if self.orig_device is None and device is not None:
            self.orig_device = device
        if self.orig_device is None and self.device.type != "cpu":
            self.orig_device = torch.device("cpu")
        if self._all:
            return {group: spec.to(self.device) for group, spec in specs.items()}
        self._check_keys(specs)
        for spec in specs.values():
            spec.clear_device_()
        pairs = (*zip(self.in_keys, self.out_keys, strict=True), *self._inner_pairs())
        for spec in specs.values():
            names = leaf_names(spec)
            for source, destination in pairs:
                if source in names:
                    spec[destination] = spec[source].to(self.device)
        return specs

    def _inner_pairs(self) -> list[tuple[NestedKey, NestedKey]]:
        return list(zip(self.in_keys_inv, self.out_keys_inv, strict=True))

    def transform_env_device(self, device: torch.device | None) -> torch.device | None:
        """Return the device seen from outside; none if only some entries are moved."""
        return self.device if self._all else None


class PinMemoryTransform(Transform):
    """Copies what comes out to pinned memory, from which a GPU reads without waiting.

    Raises:
        RuntimeError: without a GPU.

    >>> PinMemoryTransform()
    PinMemoryTransform()
    """

    entrywise = True

    def _call(self, tensordict: Any) -> Any:
        if isinstance(tensordict, TensorDictBase):
            return tensordict.pin_memory()
        for key, value in tensordict.items():
            if isinstance(value, Tensor):
                tensordict.set(key, value.pin_memory())
        return tensordict


class NotFiniteError(TorchRLError, ValueError):
    """An entry holds a number that is not finite."""


class FiniteTensorDictCheck(Transform):
    """Raises where an entry that comes out is infinite or not a number.

    Raises:
        NotFiniteError: (a ``ValueError``), with the name of the entry.

    >>> from tensordict import TensorDict
    >>> FiniteTensorDictCheck()(TensorDict(reward=torch.tensor([float("nan")])))
    Traceback (most recent call last):
    NotFiniteError: FiniteTensorDictCheck: entry 'reward' is not finite; found 1 of 1 numbers.
    """

    entrywise = True

    def _call(self, tensordict: Any) -> Any:
        for key in entry_names(tensordict):
            value = tensordict.get(key)
            if isinstance(value, Tensor) and value.is_floating_point():
                finite = value.isfinite()
                if not bool(finite.all()):
                    wrong = int((~finite).sum())
                    raise NotFiniteError(
                        describe(
                            self,
                            "is not finite",
                            key=key,
                            found=f"{wrong} of {value.numel()} numbers",
                        )
                    )
        return tensordict
