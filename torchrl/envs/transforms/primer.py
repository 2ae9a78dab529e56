"""Entries that every episode begins with: recurrent states and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl.data import Composite, TensorSpec
from torchrl.envs.transforms.base import Transform, free_dims

Default = float | Callable[[], Tensor]
_NO_DIMS = torch.Size([])


class TensorDictPrimer(Transform):
    """Writes entries at each reset: zeros, a constant, what a function returns, or random values.

    Args:
        primers: Spec of each entry, as a mapping or a :class:`Composite`; keywords add to it.
        random: Draw from the specs.
        default_value: What to write, a number, a function without arguments that returns a tensor
            ``[*B, *S]``, or a mapping of those by entry; 0 if ``None``.
        reset_key: Name of the mask whose rows are written; that of the innermost level of flags
            around an entry if ``None``.
        expand_specs: Give specs that lack the batch size of the environment that batch size; they
            must have it already if ``False``. ``None`` gives it where it is lacking.
        single_default_value: A function as ``default_value`` returns all entries at once, as a
            tensordict or mapping.
        kwargs: More specs, by name.

    Writes: each entry ``[*B, *S]``, at resets only; step by step it is carried along.

    Raises:
        ValueError: for ``random`` together with ``default_value``, or a spec that does not fit.

    >>> from torchrl.data import Unbounded
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), TensorDictPrimer(hidden=Unbounded((2,))))
    >>> env.reset()["hidden"]
    tensor([0., 0.])
    """

    entrywise = True

    def __init__(
        self,
        primers: Mapping[NestedKey, TensorSpec] | Composite | None = None,
        random: bool | None = None,
        default_value: Default | Mapping[NestedKey, Default] | None = None,
        reset_key: NestedKey | None = None,
        expand_specs: bool | None = None,
        single_default_value: bool = False,
        **kwargs: TensorSpec,
    ) -> None:
        super().__init__()
        if random and default_value is not None:
            raise ValueError("TensorDictPrimer: give either random=True or a default_value.")
        named: dict[Any, Any] = {}
        if primers is not None:
            composite = isinstance(primers, Composite)
            named = dict(primers.items(True, True)) if composite else dict(primers)  # type: ignore[call-arg]
        shape = primers.shape if isinstance(primers, Composite) else ()
        named.update(kwargs)
        self.primers = Composite(named, shape=shape)
        self.random = bool(random)
        self.default_value = default_value
        self.single_default_value = single_default_value
        self.reset_key, self.expand_specs = reset_key, expand_specs
        self._specs: list[tuple[NestedKey, TensorSpec]] = list(self.primers.items(True, True))
        self._batch = torch.Size([])

    def _values(self, free: torch.Size = _NO_DIMS) -> dict[NestedKey, Tensor]:
        """Return each entry, ``[*free, *B, *S]``."""
        if self.random:
            return {key: spec.rand(free) for key, spec in self._specs}
        default = self.default_value
        if self.single_default_value and callable(default):
            made: Any = default()
            return {key: made[key].expand((*free, *spec.shape)) for key, spec in self._specs}
        return {key: self._default(key, spec, default, free) for key, spec in self._specs}

    def _default(self, key: NestedKey, spec: TensorSpec, default: Any, free: torch.Size) -> Tensor:
        if isinstance(default, Mapping):
            default = default.get(key, None)
        if default is None:
            return spec.zero(free)
        shape = (*free, *spec.shape)
        if callable(default):
            value = default()
            return value.expand(shape).to(spec.dtype)
        return torch.full(shape, default, dtype=spec.dtype, device=spec.device)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        mask = None
        if self.reset_key is not None and tensordict is not None:
            mask = tensordict.get(self.reset_key, None)
        values = self._values(free_dims(tensordict_reset, self._batch))
        for key, value in values.items():
            if mask is not None and (old := tensordict.get(key, None)) is not None:
                rows = mask.reshape(*mask.shape[:-1], *(1,) * (value.ndim - mask.ndim + 1))
                value = torch.where(rows, value, old)
            tensordict_reset.set(key, value)
        return tensordict_reset

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        for key, _ in self._specs:
            if next_tensordict.get(key, None) is None:
                value = tensordict.get(("next", *_path(key)), None)
                next_tensordict.set(key, tensordict.get(key) if value is None else value)
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the entries that are absent, for every row of ``tensordict``."""
        for key, value in self._values().items():
            if tensordict.get(key, None) is None:
                lead = tensordict.batch_size
                known = value.shape[: len(lead)] == lead
                tensordict.set(key, value if known else value.expand(*lead, *value.shape))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the entries to the observations."""
        batch = self._batch = specs["observation"].shape
        self._specs = []
        for key, spec in self.primers.items(True, True):
            if spec.shape[: len(batch)] != batch or (self.expand_specs and not self.primers.shape):
                if self.expand_specs is False:
                    raise ValueError(
                        f"TensorDictPrimer: the spec of {key!r} must begin with the batch size "
                        f"{tuple(batch)}, found {tuple(spec.shape)}; expand it, or say "
                        "expand_specs=True."
                    )
                spec = spec.expand(*batch, *spec.shape)
            if (device := specs["observation"].device) is not None:
                spec = spec.to(device)
            specs["observation"][key] = spec
            self._specs.append((key, spec))
        return specs


def _path(key: NestedKey) -> tuple[Any, ...]:
    return (key,) if isinstance(key, str) else key
