"""Casts from one dtype to another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.keys import as_keys, leaf_keys
from torchrl.data import Composite, TensorSpec
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform


class DTypeCastTransform(Transform):
    """Casts entries of one dtype to another on the way out, and back on the way in.

    Args:
        dtype_in: Dtype inside.
        dtype_out: Dtype outside.
        in_keys: Entries cast on the way out; every one of ``dtype_in`` if ``None``.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries cast back on the way in; every action and state of ``dtype_in`` if both
            it and ``in_keys`` are ``None``.
        out_keys_inv: Their names seen from outside.

    Entries of another dtype than ``dtype_in`` pass unchanged.

    >>> from tensordict import TensorDict
    >>> cast = DTypeCastTransform(torch.uint8, torch.float32, in_keys=["pixels"])
    >>> cast(TensorDict(pixels=torch.zeros(2, dtype=torch.uint8)))["pixels"].dtype
    torch.float32
    """

    entrywise = True
    resets_rows_alone = True
    postponable = True

    def __init__(
        self,
        dtype_in: torch.dtype,
        dtype_out: torch.dtype,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        in_keys_inv: Sequence[NestedKey] | None = None,
        out_keys_inv: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        self._all_keys = in_keys is None
        self._all_keys_inv = in_keys is None and in_keys_inv is None
        self.dtype_in, self.dtype_out = dtype_in, dtype_out

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value.to(self.dtype_out) if value.dtype == self.dtype_in else value

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return value.to(self.dtype_in) if value.dtype == self.dtype_out else value

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether what reset() is given is cast back: without keys, all that is cast."""
        return self._all_keys_inv or super().inverts_at_reset(actions)

    def _inv_reset(self, tensordict: Any) -> Any:
        inner = super()._inv_reset(tensordict)
        for key in self.in_keys if self._all_keys_inv else ():
            if (value := inner.get(key, None)) is not None:
                inner.set(key, self._inv_apply_transform(value))
        return inner

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return spec.to(self.dtype_out) if spec.dtype == self.dtype_in else spec

    _inv_transform_spec = _transform_spec

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Cast the entries named, or all of ``dtype_in``."""
        if self._all_keys and not self.in_keys:
            for key in leaf_keys(tensordict):
                value = tensordict.get(key)
                if isinstance(value, Tensor) and value.dtype == self.dtype_in:
                    tensordict.set(key, value.to(self.dtype_out))
            return tensordict
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Cast the specs, and note which entries are concerned."""
        if self._all_keys:
            self.in_keys = self.out_keys = self._matching(specs, ("observation", "reward"))
        if self._all_keys_inv:
            self.in_keys_inv = self.out_keys_inv = self._matching(specs, ("action", "state"))
        return super().transform_specs(specs)

    def _matching(self, specs: dict[str, Composite], groups: tuple[str, ...]) -> list[NestedKey]:
        return as_keys(
            [
                key
                for group in groups
                for key in leaf_names(specs[group])
                if specs[group][key].dtype == self.dtype_in
            ]
        )


class DoubleToFloat(DTypeCastTransform):
    """Casts float64 to float32 on the way out, and back on the way in.

    Args:
        in_keys: Entries cast on the way out; every one of float64 if ``None``. One that is float32
            already passes unchanged.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries cast back on the way in.
        out_keys_inv: Their names seen from outside.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("InvertedPendulum-v5"), DoubleToFloat())
    >>> env.reset()["observation"].dtype
    torch.float32
    """

    entrywise = True
    resets_rows_alone = True
    postponable = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        in_keys_inv: Sequence[NestedKey] | None = None,
        out_keys_inv: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(torch.float64, torch.float32, in_keys, out_keys, in_keys_inv, out_keys_inv)
