"""Primers (initial values of entries), no-op starts and fixed first actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot

from torchrl._core.errors import ResetError, ShapeError, SpecError, describe
from torchrl._core.keys import next_key
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.transforms.base import R, Transform, free_dims
from torchrl.envs.transforms.inner_env_info import Reset, Step, clear_events, step_rows, where_rows

Default = float | Callable[[], Tensor]


class TensorDictPrimer(Transform):
    """Writes entries at each reset: zeros, a constant, what a function returns, or random values.

    Args:
        primers: Spec of each entry, as a mapping or a :class:`Composite`; keywords add to it.
        random: Draw from the specs.
        default_value: What to write, a number, a function without arguments that returns a tensor
            ``[*B, *S]``, or a mapping of those by entry; 0 if ``None``.
        reset_key: Name of the mask of the rows to write; that of the innermost level of flags
            around an entry if ``None``.
        expand_specs: Whether specs are those of one row, to be expanded to the batch size of the
            environment. ``None`` expands specs without it, and refuses an ambiguous one.
        single_default_value: A function as ``default_value`` returns all entries at once, as a
            tensordict or mapping.
        call_before_env_reset: Write the entries before the inner environment is reset, so that it
            can read them.
        kwargs: More specs, by name.

    Writes: each entry ``[*B, *S]``, at resets only; a step copies it from the root.

    Raises:
        ValueError: for ``random`` together with a ``default_value`` other than 0.
        SpecError: for a spec that does not fit the batch size, or is ambiguous.

    >>> from torchrl.data import Unbounded
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), TensorDictPrimer(hidden=Unbounded((2,))))
    >>> env.reset()["hidden"]
    tensor([0., 0.])
    """

    supports_flat_records = True

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
        if random and isinstance(default_value, int | float) and default_value == 0:
            default_value = None  # 0 is what entries have by default
        if random and default_value is not None:
            raise ValueError("TensorDictPrimer: give either random=True or a default_value.")
        named = dict(primers.items(True, True) if isinstance(primers, Composite) else primers or {})
        shape = primers.shape if isinstance(primers, Composite) else ()
        named.update(kwargs)
        self.primers = self._given = Composite(named, shape=shape)
        self.random = bool(random)
        self.default_value = default_value
        self.single_default_value = single_default_value
        self.reset_key, self.expand_specs = reset_key, expand_specs
        self.call_before_env_reset = call_before_env_reset
        self._specs = list(self.primers.items(True, True))
        self._rows = [(key, _row(spec, len(shape))) for key, spec in self._specs]
        self._batch = torch.Size([])

    may_have_batch = False  # whether specs that start with the batch size have it
    _specs: list[tuple[NestedKey, TensorSpec]]  # [*B, *S]
    _rows: list[tuple[NestedKey, TensorSpec]]  # [*S]

    @property
    def drives(self) -> bool:
        """Whether the entries are written before the inner environment is reset."""
        return self.call_before_env_reset

    def _values(self, specs: list[tuple[NestedKey, TensorSpec]], free: torch.Size) -> dict[NestedKey, Tensor]:
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

    def _around_reset(self, reset: Reset, step: Step, tensordict: TensorDictBase | None) -> TensorDictBase:
        if not self.call_before_env_reset:
            return super()._around_reset(reset, step, tensordict)
        given = TensorDict({}, self._batch) if tensordict is None else tensordict.copy()
        self._prime(given, tensordict)
        root = reset(given)
        for key, _ in self._specs:
            if root.get(key, None) is None:
                root.set(key, given.get(key))
        return root

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        return self._prime(tensordict_reset, tensordict)

    def _prime(self, record: R, before: Record | None) -> R:
        """Write the entries to ``record``; rows that are not reset have those of ``before``."""
        mask = None
        if self.reset_key is not None and before is not None:
            mask = before.get(self.reset_key, None)
        values = self._values(self._specs, free_dims(record, self._batch))
        for key, value in values.items():
            if mask is not None and before is not None and (old := before.get(key, None)) is not None:
                value = torch.where(expand_right(mask, value.shape), value, old)
            record.set(key, value)
        return record

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        for key, _ in self._specs:
            if next_tensordict.get(key, None) is None:
                value = tensordict.get(next_key(key), None)
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
        for key, spec in self._given.items(True, True):
            whole = spec if self._has_batch(key, spec, batch) else spec.expand(*batch, *spec.shape)
            if (device := specs["observation"].device) is not None:
                whole = whole.to(device)
            specs["observation"][key] = whole
            self._specs.append((key, whole))
            self._rows.append((key, _row(whole, len(batch))))
        self.primers = Composite(dict(self._specs), shape=batch, device=specs["observation"].device)
        return specs

    def _has_batch(self, key: NestedKey, spec: TensorSpec, batch: torch.Size) -> bool:
        """Return whether a spec has the batch size; so does that of a composite with a shape."""
        if batch and self._given.shape == batch:
            return True
        has_batch = spec.shape[: len(batch)] == batch
        if self.may_have_batch and batch and has_batch and spec.ndim > len(batch):
            return True
        if self.expand_specs is False and not has_batch:
            raise self._misfit(key, spec, batch, "must start with the batch size")
        if self.expand_specs is None and batch and has_batch:
            raise self._misfit(key, spec, batch, "may be that of one row or of all")
        return self.expand_specs is False

    def _misfit(self, key: NestedKey, spec: TensorSpec, batch: torch.Size, fact: str) -> SpecError:
        return SpecError(
            describe(
                self,
                f"has a spec that {fact}",
                key=key,
                expected=f"for all rows {[*batch, '...']}",
                found=[*spec.shape],
                hint="Pass expand_specs=True for specs of one row, False for specs of all.",
            )
        )


def _row(spec: TensorSpec, batch_ndim: int) -> TensorSpec:
    return spec[(0,) * batch_ndim] if batch_ndim else spec


def gSDENoise(  # noqa: N802 - to its users it is one more transform
    state_dim: int | None = None, action_dim: int | None = None, shape: Sequence[int] | None = None, **kwargs: Any
) -> TensorDictPrimer:
    """Return a primer of the noise of state-dependent exploration, which is the same between resets.

    With both sizes it draws the noise at each reset. Otherwise it writes a placeholder of zeros, for which
    :class:`~torchrl.modules.gSDEModule` draws noise at a call; to be kept for an episode it needs the sizes.

    Args:
        state_dim: Number of features ``S`` of the state.
        action_dim: Number of actions ``A``.
        shape: Batch size ``B`` of the environment; that of the environment it is appended to if ``None``.
        kwargs: Passed to :class:`TensorDictPrimer`.

    Writes: ``_eps_gSDE [*B, A, S]``, standard normal, or zeros ``[*B, 1]``.

    Raises:
        ShapeError: at a step, if the policy drew noise in place of the placeholder.

    Source: Raffin et al., 2020, https://arxiv.org/abs/2005.05719.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), gSDENoise(state_dim=8, action_dim=1))
    >>> env.reset()["_eps_gSDE"].shape
    torch.Size([1, 8])
    """
    batch = torch.Size(shape or ())
    is_known = state_dim is not None and action_dim is not None
    sizes = (action_dim, state_dim) if is_known else (1,)
    spec = Composite({"_eps_gSDE": Unbounded(torch.Size([*batch, *sizes]))}, shape=batch)
    return (TensorDictPrimer if is_known else _NoisePlaceholder)(spec, is_known, expand_specs=True, **kwargs)


class _NoisePlaceholder(TensorDictPrimer):
    """A primer of noise of unknown sizes."""

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        found = tensordict.get("_eps_gSDE", None)
        expected = self.primers["_eps_gSDE"].shape
        if found is not None and found.ndim > len(expected):
            action_dim, state_dim = found.shape[-2:]
            hint = f"Pass gSDENoise(state_dim={state_dim}, action_dim={action_dim})."
            fact = "was not told the sizes of the noise that the policy draws"
            expected, found = list(expected), list(found.shape)
            raise ShapeError(describe(self, fact, key="_eps_gSDE", expected=expected, found=found, hint=hint))
        return super()._step(tensordict, next_tensordict)


_TRIALS = 100  # successive resets that end before the first step of the policy


class _SteppingReset(Transform):
    """Base of transforms that step the environment right after it was reset.

    Hooks:
        _num_steps: ``shape -> [*B, 1]``, how many steps each row takes.
        _choose_action: ``(spec, lead, t) -> action [*B, *A]`` of step ``t``; ``lead`` holds the
            batch dimensions that the spec lacks.
    """

    @abstractmethod
    def _num_steps(self, shape: torch.Size) -> Tensor: ...

    @abstractmethod
    def _choose_action(self, spec: TensorSpec, lead: torch.Size, t: int) -> Tensor: ...

    def _around_reset(self, reset: Reset, step: Step, tensordict: R | None) -> R:
        inside, rows = self.inner, self.inner.reset_rows(tensordict)
        selected = rows
        for _ in range(_TRIALS):
            root = reset(tensordict)
            if rows is None:
                rows = torch.ones_like(inside.ended(root))
            root, over = self._step_rows(step, root, rows)
            failed = over & rows
            if not bool(failed.any()):
                return clear_events(root, step, selected)
            tensordict, rows = inside.select_reset(root, failed), failed
        raise ResetError(
            describe(
                self,
                f"stepped to the end of an episode in each of {_TRIALS} resets",
                hint="Take fewer steps after a reset, or fix the environment.",
            )
        )

    def _step_rows(self, step: Step, root: R, rows: Tensor) -> tuple[R, Tensor]:
        """Step ``rows``, each its number of times; return the root and which rows have ended."""
        count = torch.where(rows, self._num_steps(rows.shape), 0)  # [*B, 1]
        over = torch.zeros_like(rows)
        for t in range(int(count.max())):
            moving = (t < count) & ~over
            if not bool(moving.any()):
                break
            acting = root.copy()
            for key, spec in self.inner.actions.items():
                acting.set(key, self._choose_action(spec, self.inner.free_dims(rows), t))
            next_root = step_rows(step, acting, moving)
            where_rows(next_root, root, moving)
            over = over | (self.inner.ended(next_root) & moving)
            root = self.inner.next_root(root, next_root)
        return root, over


class NoopResetEnv(_SteppingReset):
    """Takes a few random steps after each reset, so that episodes start differently.

    Each row of a batch takes a number of steps of its own; rows that are not reset do not move. An
    episode that ends in these steps is reset again.

    Args:
        noops: Number of steps, or its bound.
        random: Draw the number from ``0, ..., noops - 1``; otherwise take ``noops`` steps.
        noop_action: The action that is taken, by its number in the library of the environment;
            random actions if ``None``.

    Raises:
        ResetError: if every episode ends in these steps.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236, "null op" starts.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> env = env.append_transform(NoopResetEnv(4, random=False))
    >>> env.reset()["step_count"]
    tensor([4])
    """

    supports_flat_records = True

    def __init__(self, noops: int = 30, random: bool = True, *, noop_action: int | None = None) -> None:
        super().__init__()
        if noops < 0:
            raise ValueError(f"NoopResetEnv: noops must not be negative, found {noops}.")
        self.noops, self.random, self.noop_action = noops, random, noop_action

    def _num_steps(self, shape: torch.Size) -> Tensor:
        return torch.randint(max(self.noops, 1), shape) if self.random else torch.full(shape, self.noops)

    def _choose_action(self, spec: TensorSpec, lead: torch.Size, t: int) -> Tensor:
        if self.noop_action is None:
            return spec.rand(lead)
        return numbered(spec, lead, self.noop_action)


class FireReset(_SteppingReset):
    """Takes fixed actions after each reset, for games that start when a button is pressed.

    Args:
        actions: Their numbers, in order.

    Source: the environment wrappers of https://github.com/openai/baselines.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter())
    >>> env.append_transform(FireReset()).reset()["step_count"]
    tensor([1])
    """

    supports_flat_records = True

    def __init__(self, actions: Sequence[int] = (1,)) -> None:
        super().__init__()
        self.actions = list(actions)

    def _num_steps(self, shape: torch.Size) -> Tensor:
        return torch.full(shape, len(self.actions))

    def _choose_action(self, spec: TensorSpec, lead: torch.Size, t: int) -> Tensor:
        return numbered(spec, lead, self.actions[t])


def numbered(spec: TensorSpec, lead: torch.Size, number: int) -> Tensor:
    """Return the action with a number in the library of the environment, for all rows."""
    shape = spec.shape[:-1] if isinstance(spec, OneHot) else spec.shape
    numbers = torch.full((*lead, *shape), number, device=spec.device)
    if isinstance(spec, OneHot):
        numbers = one_hot(numbers, spec.n)
    return numbers.to(spec.dtype)
