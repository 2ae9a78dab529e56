"""Entries that every episode begins with: recurrent states, noise and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.step_plan import expand_flag
from torchrl.envs.transforms.base import Transform, free_dims
from torchrl.envs.transforms.inside import Reset, Step

Default = float | Callable[[], Tensor]


class TensorDictPrimer(Transform):
    """Writes entries at each reset: zeros, a constant, what a function returns, or random values.

    Args:
        primers: Spec of each entry, as a mapping or a :class:`Composite`; keywords add to it.
        random: Draw from the specs.
        default_value: What to write, a number, a function without arguments that returns a tensor
            ``[*B, *S]``, or a mapping of those by entry; 0 if ``None``.
        reset_key: Name of the mask whose rows are written; that of the innermost level of flags
            around an entry if ``None``.
        expand_specs: Specs are those of one row, to be given the batch size of the environment;
            they have it already if ``False``. ``None`` gives it where it is lacking, and refuses a
            spec that may or may not have it.
        single_default_value: A function as ``default_value`` returns all entries at once, as a
            tensordict or mapping.
        call_before_env_reset: Write the entries before the environment inside is reset, so that it
            can read them.
        kwargs: More specs, by name.

    Writes: each entry ``[*B, *S]``, at resets only; step by step it is carried along.

    Raises:
        ValueError: for ``random`` together with ``default_value``.
        SpecError: for a spec that does not fit the batch size, or may or may not begin with it.

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
        call_before_env_reset: bool = False,
        **kwargs: TensorSpec,
    ) -> None:
        super().__init__()
        if random and default_value is not None:
            raise ValueError("TensorDictPrimer: give either random=True or a default_value.")
        named: dict[Any, Any] = {}
        if primers is not None:
            own: Any = primers.items(True, True) if isinstance(primers, Composite) else primers
            named = dict(own)
        shape = primers.shape if isinstance(primers, Composite) else ()
        named.update(kwargs)
        self.primers = Composite(named, shape=shape)
        self.random = bool(random)
        self.default_value = default_value
        self.single_default_value = single_default_value
        self.reset_key, self.expand_specs = reset_key, expand_specs
        self.call_before_env_reset = call_before_env_reset
        self._specs = list(self.primers.items(True, True))
        self._rows = [(key, _row(spec, len(shape))) for key, spec in self._specs]
        self._batch = torch.Size([])

    _specs: list[tuple[NestedKey, TensorSpec]]  # [*B, *S]
    _rows: list[tuple[NestedKey, TensorSpec]]  # [*S]

    @property
    def drives(self) -> bool:
        """Whether the entries are written before the environment inside is reset."""
        return self.call_before_env_reset

    def _values(
        self, specs: list[tuple[NestedKey, TensorSpec]], free: torch.Size
    ) -> dict[NestedKey, Tensor]:
        """Return each entry, ``[*free, *spec.shape]``."""
        if self.random:
            return {key: spec.rand(free) for key, spec in specs}
        default = self.default_value
        if self.single_default_value and callable(default):
            made: Any = default()
            return {key: made[key].expand((*free, *spec.shape)) for key, spec in specs}
        return {key: self._default(key, spec, default, free) for key, spec in specs}

    @staticmethod
    def _default(key: NestedKey, spec: TensorSpec, default: Any, free: torch.Size) -> Tensor:
        if isinstance(default, Mapping):
            default = default.get(key, None)
        if default is None:
            return spec.zero(free)
        shape = (*free, *spec.shape)
        if callable(default):
            value = default()
            return value.expand(shape).to(spec.dtype)
        return torch.full(shape, default, dtype=spec.dtype, device=spec.device)

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        if not self.call_before_env_reset:
            return super()._around_reset(reset, step, tensordict)
        given = TensorDict({}, self._batch) if tensordict is None else tensordict.copy()
        self._prime(given, tensordict)
        root = reset(given)
        for key, _ in self._specs:
            if root.get(key, None) is None:
                root.set(key, given.get(key))
        return root

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return self._prime(tensordict_reset, tensordict)

    def _prime(self, record: Any, before: Any) -> Any:
        """Write the entries to ``record``; rows that are not reset have those of ``before``."""
        mask = None
        if self.reset_key is not None and before is not None:
            mask = before.get(self.reset_key, None)
        values = self._values(self._specs, free_dims(record, self._batch))
        for key, value in values.items():
            if mask is not None and (old := before.get(key, None)) is not None:
                value = torch.where(expand_flag(mask, value.shape), value, old)
            record.set(key, value)
        return record

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        for key, _ in self._specs:
            if next_tensordict.get(key, None) is None:
                value = tensordict.get(("next", *_path(key)), None)
                next_tensordict.set(key, tensordict.get(key) if value is None else value)
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the entries that are absent, for every row of ``tensordict``."""
        for key, value in self._values(self._rows, tensordict.batch_size).items():
            if tensordict.get(key, None) is None:
                tensordict.set(key, value)
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the entries to the observations."""
        batch = self._batch = specs["observation"].shape
        self._specs, self._rows = [], []
        for key, spec in self.primers.items(True, True):
            whole = spec if self._has_batch(key, spec, batch) else spec.expand(*batch, *spec.shape)
            if (device := specs["observation"].device) is not None:
                whole = whole.to(device)
            specs["observation"][key] = whole
            self._specs.append((key, whole))
            self._rows.append((key, _row(whole, len(batch))))
        return specs

    def _has_batch(self, key: NestedKey, spec: TensorSpec, batch: torch.Size) -> bool:
        """Return whether a spec is that of all rows; a composite with a shape says so itself."""
        if batch and self.primers.shape == batch:
            return True
        begins = spec.shape[: len(batch)] == batch
        if self.expand_specs is False and not begins:
            raise self._misfit(key, spec, batch, "must begin with the batch size")
        if self.expand_specs is None and batch and begins:
            raise self._misfit(key, spec, batch, "may be that of one row, or that of all")
        return self.expand_specs is False

    def _misfit(self, key: NestedKey, spec: TensorSpec, batch: torch.Size, fact: str) -> SpecError:
        return SpecError(
            describe(
                self,
                f"has a spec that {fact}",
                key=key,
                expected=f"for all rows {[*batch, '...']}",
                found=[*spec.shape],
                hint="Say expand_specs=True for specs of one row, False for specs of all.",
            )
        )


def _row(spec: TensorSpec, batch_ndim: int) -> TensorSpec:
    return spec[(0,) * batch_ndim] if batch_ndim else spec


def gSDENoise(  # noqa: N802 - to its users it is one more transform
    state_dim: int | None = None,
    action_dim: int | None = None,
    shape: Sequence[int] | None = None,
    **kwargs: Any,
) -> TensorDictPrimer:
    """Return a primer that draws, at each reset, the noise of a state-dependent exploration.

    Args:
        state_dim: Number of features ``S`` of the state.
        action_dim: Number of actions ``A``.
        shape: Shape of the noise of one row; ``[A, S]`` if ``None``.
        kwargs: Handed to :class:`TensorDictPrimer`.

    Writes: ``_eps_gSDE [*B, A, S]``, standard normal, the same from one reset to the next.

    Raises:
        ValueError: unless either ``shape``, or both sizes, are given.

    Source: Raffin et al., 2020, https://arxiv.org/abs/2005.05719.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), gSDENoise(state_dim=8, action_dim=1))
    >>> env.reset()["_eps_gSDE"].shape
    torch.Size([1, 8])
    """
    if (shape is None) == (state_dim is None) or (state_dim is None) != (action_dim is None):
        raise ValueError("gSDENoise: give either shape, or both state_dim and action_dim.")
    sizes = (action_dim, state_dim) if shape is None else shape
    spec = Unbounded(torch.Size(sizes))  # type: ignore[arg-type]  # none is None
    return TensorDictPrimer({"_eps_gSDE": spec}, True, expand_specs=True, **kwargs)


def _path(key: NestedKey) -> tuple[Any, ...]:
    return (key,) if isinstance(key, str) else key
