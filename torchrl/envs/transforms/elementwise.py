"""Functions and modules of the user as transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, is_non_tensor

from torchrl._core.devices import check_devices
from torchrl._core.keys import as_keys
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import Keys, Transform
from torchrl.envs.transforms.derived_specs import unbounded_image


class UnaryTransform(Transform):
    """Applies a function of the user to each entry.

    Args:
        in_keys: Entries read in the forward pass.
        out_keys: Where to write the results.
        in_keys_inv: Entries written in the inverse pass.
        out_keys_inv: Their names outside.
        fn: ``[*B, *S] -> [*B, *S']``, in the forward pass. Shape and dtype of its output are found
            by calling it on zeros.
        inv_fn: ``[*B, *S'] -> [*B, *S]``, in the inverse pass.
        use_raw_nontensor: Pass entries that are no tensors as they are in the record, instead of
            the Python objects that they hold.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> square = UnaryTransform(["observation"], ["squared"], fn=torch.square)
    >>> TransformedEnv(GymEnv("Pendulum-v1"), square).rollout(2)["squared"].shape
    torch.Size([2, 3])
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey],
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        fn: Callable[[Any], Any],
        inv_fn: Callable[[Any], Any] | None = None,
        use_raw_nontensor: bool = False,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        if self.in_keys_inv and inv_fn is None:
            raise ValueError("UnaryTransform: in_keys_inv need an inv_fn.")
        self.fn, self.inv_fn, self.use_raw_nontensor = fn, inv_fn, use_raw_nontensor

    def _apply_transform(self, value: object) -> Any:
        return self.fn(value if self.use_raw_nontensor else python_value(value))

    def _inv_apply_transform(self, value: object) -> Any:
        if self.inv_fn is None:
            return value
        return self.inv_fn(value if self.use_raw_nontensor else python_value(value))

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return _output_spec(spec, self._apply_transform)

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        # The spec outside is that of the input of inv_fn: the output of its inverse, fn.
        return _output_spec(spec, self._apply_transform)


class ModuleTransform(Transform):
    """Runs a tensordict module on the output, or on the input, of an environment or a buffer.

    Args:
        module: Reads ``in_keys`` and writes ``out_keys``.
        module_factory: Returns the module, if it is not given; called in the constructor.
        no_grad: Run without gradients.
        inverse: Run in the inverse pass instead.
        device: Run there; entries are moved there and back.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> module = TensorDictModule(torch.nn.Linear(3, 2), ["observation"], ["embedding"])
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ModuleTransform(module=module, no_grad=True))
    >>> env.rollout(4)["embedding"].shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        *,
        module: Any = None,
        module_factory: Callable[[], Any] | None = None,
        no_grad: bool = False,
        inverse: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        if (module is None) == (module_factory is None):
            raise ValueError("ModuleTransform: give either module or module_factory.")
        made = module if module_factory is None else module_factory()
        keys, out = as_keys(made.in_keys), as_keys(made.out_keys)
        super().__init__()
        self.in_keys, self.out_keys = ([], []) if inverse else (keys, out)
        self.in_keys_inv, self.out_keys_inv = (out, keys) if inverse else ([], [])
        self.module = made if device is None else made.to(device)
        self.no_grad, self.inverse, self.device = no_grad, inverse, device

    def _run(self, tensordict: TensorDictBase) -> TensorDictBase:
        read = tensordict.select(*self.module.in_keys)
        if self.device is not None:
            read = read.to(self.device)
        with torch.no_grad() if self.no_grad else nullcontext():
            written = self.module(read).select(*self.module.out_keys)
        return tensordict.update(written.to(tensordict.device) if self.device else written)

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.inverse:
            return tensordict
        if self.missing_tolerance and any(tensordict.get(k, None) is None for k in self.in_keys):
            return tensordict
        for key in self.in_keys:
            if tensordict.get(key, None) is None:
                raise self._missing(key, tensordict)
        return self._run(tensordict)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if not self.inverse:
            return tensordict
        if self.missing_tolerance and any(tensordict.get(key, None) is None for key in self.out_keys_inv):
            return tensordict
        return self._run(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the specs of the output of the module, found by running it on zeros."""
        if self.inverse:
            return specs
        self._check_keys(specs)
        zeros = specs["observation"].zero()
        for group in ("reward", "done"):
            zeros.update(specs[group].zero())
        training = self.module.training
        with torch.no_grad():
            out = self._run(zeros) if not training else self._evaluated(zeros)
        for key in self.out_keys:
            value = out.get(key)
            group = "reward" if key in leaf_names(specs["reward"]) else "observation"
            spec = Unbounded(value.shape, dtype=value.dtype, device=value.device)
            specs[group][key] = spec
        return specs

    def _evaluated(self, zeros: TensorDictBase) -> TensorDictBase:
        self.module.eval()
        try:
            return self._run(zeros)
        finally:
            self.module.train()


def python_value(value: Any) -> Any:
    """Return the Python objects that an entry holds, or a tensor as it is."""
    return value.tolist() if is_non_tensor(value) else value


def _output_spec(spec: TensorSpec, function: Callable[[Any], Any]) -> TensorSpec:
    return unbounded_image(spec, lambda zero: torch.as_tensor(function(zero)))
