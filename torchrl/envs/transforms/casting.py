"""Casts of dtypes and devices, pinned memory, checks for finite numbers, batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import TorchRLError, describe
from torchrl._core.keys import as_keys, leaf_keys
from torchrl._core.records.flat_record import FlatRecord
from torchrl._core.records.rows import entry_names
from torchrl.data import Composite, TensorSpec
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import Keys, R, Transform
from torchrl.envs.transforms.inner_env_info import Reset, Step


class DTypeCastTransform(Transform):
    """Casts entries of one dtype to another in the forward pass, and back in the inverse pass.

    Args:
        dtype_in: Dtype inside.
        dtype_out: Dtype outside.
        in_keys: Entries cast in the forward pass; every one of ``dtype_in`` if ``None``.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries cast back in the inverse pass; every action and state of ``dtype_in``
            if both it and ``in_keys`` are ``None``.
        out_keys_inv: Their names outside.

    Entries of another dtype than ``dtype_in`` pass unchanged.

    >>> from tensordict import TensorDict
    >>> cast = DTypeCastTransform(torch.uint8, torch.float32, in_keys=["pixels"])
    >>> cast(TensorDict(pixels=torch.zeros(2, dtype=torch.uint8)))["pixels"].dtype
    torch.float32
    """

    supports_flat_records = True
    partial_reset_safe = True
    deferrable = True

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
        """Return whether the argument of ``reset()`` is cast back; without keys, it is."""
        return self._all_keys_inv or super().inverts_at_reset(actions)

    def _inv_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
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

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Cast back the entries named; without any keys, and without an environment, all."""
        if not self._all_keys_inv or (self._container is not None and "inner" in self.__dict__):
            return super().inv(tensordict)
        out = tensordict.copy()
        for key in leaf_keys(out):
            value = out.get(key)
            if isinstance(value, Tensor):
                out.set(key, self._inv_apply_transform(value))
        return out

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Cast the specs; without keys, find the entries to cast."""
        if self._all_keys:
            self.in_keys = self.out_keys = self._matching(specs, ("observation", "reward"))
        if self._all_keys_inv:
            self.in_keys_inv = self.out_keys_inv = self._matching(specs, ("action", "state"))
        return super().transform_specs(specs)

    def _matching(self, specs: dict[str, Composite], groups: tuple[str, ...]) -> list[NestedKey]:
        return as_keys(
            [key for group in groups for key in leaf_names(specs[group]) if specs[group][key].dtype == self.dtype_in]
        )


class DoubleToFloat(DTypeCastTransform):
    """Casts float64 to float32 in the forward pass, and back in the inverse pass.

    Args:
        in_keys: Entries cast in the forward pass; every one of float64 if ``None``. One that is
            float32 already passes unchanged.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries cast back in the inverse pass.
        out_keys_inv: Their names outside.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("InvertedPendulum-v5"), DoubleToFloat())
    >>> env.reset()["observation"].dtype
    torch.float32
    """

    supports_flat_records = True
    partial_reset_safe = True
    deferrable = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        in_keys_inv: Sequence[NestedKey] | None = None,
        out_keys_inv: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(torch.float64, torch.float32, in_keys, out_keys, in_keys_inv, out_keys_inv)


class DeviceCastTransform(Transform):
    """Moves entries to a device in the forward pass, and back in the inverse pass.

    Args:
        device: Device of the entries outside.
        orig_device: Device of the inner environment; found in its specs if ``None``.
        in_keys: Entries moved in the forward pass; all if no keys are given.
        out_keys: Where to write them; in place if ``None``.
        in_keys_inv: Entries moved in the inverse pass; all if no keys are given.
        out_keys_inv: Their names outside.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), DeviceCastTransform("cpu"))
    >>> env.device, env.reset().device
    (device(type='cpu'), device(type='cpu'))
    """

    supports_flat_records = True

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
            if not isinstance(tensordict, FlatRecord):
                tensordict.clear_device_()
            return super()._call(tensordict)
        if not isinstance(tensordict, FlatRecord):
            return tensordict.to(self.device)
        return FlatRecord(
            {key: self._apply_transform(v) if isinstance(v, Tensor) else v for key, v in tensordict.items()}
        )

    def _inv_call(self, tensordict: Any) -> Any:
        if not self._all:
            if not isinstance(tensordict, FlatRecord):
                tensordict.clear_device_()
            return super()._inv_call(tensordict)
        if isinstance(tensordict, FlatRecord):
            return FlatRecord(
                {key: self._inv_apply_transform(v) if isinstance(v, Tensor) else v for key, v in tensordict.items()}
            )
        return tensordict if self.orig_device is None else tensordict.to(self.orig_device)

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether the argument of ``reset()`` may be on another device."""
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
        pairs = [*zip(self.in_keys, self.out_keys, strict=True), *zip(self.in_keys_inv, self.out_keys_inv, strict=True)]
        for spec in specs.values():
            names = leaf_names(spec)
            for source, destination in pairs:
                if source in names:
                    spec[destination] = spec[source].to(self.device)
        return specs

    def transform_env_device(self, device: torch.device | None) -> torch.device | None:
        """Return the device outside; none if only some entries are moved."""
        return self.device if self._all else None


class PinMemoryTransform(Transform):
    """Copies outputs to pinned memory, from which a GPU copies asynchronously.

    Raises:
        RuntimeError: without a GPU.

    >>> PinMemoryTransform()
    PinMemoryTransform()
    """

    supports_flat_records = True

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
    """Raises an error if an entry of the output is infinite or not a number.

    Raises:
        NotFiniteError: (a ``ValueError``), with the name of the entry.

    >>> from tensordict import TensorDict
    >>> FiniteTensorDictCheck()(TensorDict(reward=torch.tensor([float("nan")])))
    Traceback (most recent call last):
    NotFiniteError: FiniteTensorDictCheck: entry 'reward' is not finite; found 1 of 1 numbers.
    """

    supports_flat_records = True

    def _call(self, tensordict: R) -> R:
        for key in entry_names(tensordict):
            value = tensordict.get(key)
            if isinstance(value, Tensor) and value.is_floating_point():
                finite = value.isfinite()
                if not bool(finite.all()):
                    wrong = int((~finite).sum())
                    raise NotFiniteError(
                        describe(self, "is not finite", key=key, found=f"{wrong} of {value.numel()} numbers")
                    )
        return tensordict


Reshape = Callable[[TensorDictBase], TensorDictBase]


class BatchSizeTransform(Transform):
    """Gives a batch size to an environment without one, or reshapes the one that it has.

    Args:
        batch_size: The batch size to give, for an environment that takes records of any
            (``batch_locked = False``).
        reshape_fn: ``td -> td``, from the environment's batch size to the one outside:
            ``reshape``, ``flatten``, ``unflatten``, ``squeeze`` or ``unsqueeze``.
        reset_func: ``(td, td_reset) -> td``, makes the first root of the batch of what reset() was
            given (or ``None``) and what the environment itself returns.
        env_kwarg: Pass the environment to ``reset_func``, too, as ``env=...``.

    Raises:
        ValueError: unless exactly one of ``batch_size`` and ``reshape_fn`` is given.

    >>> import gymnasium
    >>> from torchrl.envs import GymWrapper, TransformedEnv
    >>> base = GymWrapper(gymnasium.make_vec("Pendulum-v1", 4, vectorization_mode="sync",
    ...     vector_kwargs={"autoreset_mode": "Disabled"}))
    >>> env = TransformedEnv(base, BatchSizeTransform(reshape_fn=lambda td: td.reshape(2, 2)))
    >>> env.rollout(3)["observation"].shape
    torch.Size([2, 2, 3, 3])
    """

    def __init__(
        self,
        *,
        batch_size: Sequence[int] | None = None,
        reshape_fn: Reshape | None = None,
        reset_func: Callable[..., TensorDictBase] | None = None,
        env_kwarg: bool = False,
    ) -> None:
        super().__init__()
        if (batch_size is None) == (reshape_fn is None):
            raise ValueError("BatchSizeTransform: give either batch_size or reshape_fn.")
        if reset_func is not None and batch_size is None:
            raise ValueError("BatchSizeTransform: reset_func goes with batch_size.")
        self.batch_size = None if batch_size is None else torch.Size(batch_size)
        if env_kwarg and reset_func is None:
            raise ValueError("BatchSizeTransform: env_kwarg goes with reset_func.")
        self.reshape_fn, self.reset_func, self.env_kwarg = reshape_fn, reset_func, env_kwarg
        self._inner = torch.Size([])

    def _outward(self, td: TensorDictBase) -> TensorDictBase:
        return td if self.reshape_fn is None else self.reshape_fn(td)

    def _inward(self, td: TensorDictBase) -> TensorDictBase:
        return td if self.reshape_fn is None else td.reshape(self._inner)

    def _around_step(self, step: Step, tensordict: TensorDictBase) -> TensorDictBase:
        return self._outward(step(self._inward(tensordict)))

    def _around_reset(self, reset: Reset, step: Step, tensordict: TensorDictBase | None) -> TensorDictBase:
        if self.reshape_fn is not None:
            return self._outward(reset(None if tensordict is None else self._inward(tensordict)))
        if self.reset_func is not None:
            named = {"env": self.parent} if self.env_kwarg else {}
            return self.reset_func(tensordict, reset(None), **named)
        if tensordict is None:
            tensordict = TensorDict({}, self.batch_size)
        return reset(tensordict)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reshape a record."""
        return self._outward(tensordict)

    def transform_env_batch_size(self, batch_size: torch.Size) -> torch.Size:
        """Return the batch size outside."""
        self._inner = batch_size
        if self.batch_size is None:
            return self._outward(TensorDict({}, batch_size)).batch_size
        if len(batch_size):
            raise ValueError(
                f"BatchSizeTransform: the environment has batch size {tuple(batch_size)} already; "
                "change it with reshape_fn."
            )
        return self.batch_size

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Expand or reshape the specs."""
        return {group: self._widened(spec) for group, spec in specs.items()}

    def _widened(self, spec: Composite) -> Composite:
        if self.batch_size is not None:
            return spec.expand(*self.batch_size, *spec.shape)
        inner = len(self._inner)
        outer = self._outward(TensorDict({}, self._inner)).batch_size
        leaves: dict[NestedKey, TensorSpec] = {
            key: leaf.reshape(*outer, *leaf.shape[inner:]) for key, leaf in spec.items(True, True)
        }
        return Composite(leaves, shape=outer, device=spec.device)
