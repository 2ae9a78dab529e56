"""Base class of transforms of what an environment returns and accepts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.attributes import module_attribute
from torchrl._core.errors import MissingKeyError, describe, nearest
from torchrl._core.keys import as_keys, leaf_keys
from torchrl._core.records.flat_record import Record
from torchrl.data import Composite, TensorSpec
from torchrl.envs.specs import GROUPS, INPUTS, OUTPUTS, leaf_names
from torchrl.envs.stepping.deferred import Deferred, ElementwiseDeferred
from torchrl.envs.transforms.inner_env_info import InnerEnvInfo, R, Reset, Step

if TYPE_CHECKING:
    from torchrl.envs.transforms.transformed_env import TransformedEnv

Keys = Sequence[NestedKey] | None
SpecHook = Callable[[Any, Any], Any]
State = dict[str, Any]  # extra state of a module


class Transform(nn.Module):
    """Base of transforms of what an environment returns and accepts.

    The same object transforms an environment (:class:`TransformedEnv`), a replay buffer
    (:meth:`forward` on samples, :meth:`inv` on what is stored), and is a module. Outputs of the
    environment pass forward, from ``in_keys`` to ``out_keys``; its inputs pass through the inverse,
    from ``out_keys_inv`` to ``in_keys_inv``.

    Args:
        in_keys: Entries read by the forward pass.
        out_keys: Where the forward pass writes; in place if ``None``.
        in_keys_inv: Entries of the environment that the inverse writes.
        out_keys_inv: Entries that the inverse reads: their names outside; the same if ``None``.

    Attributes:
        inner: The :class:`InnerEnvInfo` of the environment in front of this transform: its batch
            size, rewards, flags and actions. Set when the specs are derived.
        parent: The environment seen through the transforms before this one, with its specs.
        evaluating: Whether ``eval()`` was called: running statistics are not updated then.

    Hooks (each changes nothing by default). For each entry:
        _apply_transform: tensor ``[*B, *S] -> [*B, *S']``, forward.
        _inv_apply_transform: tensor ``[*B, *S'] -> [*B, *S]``, inverse.
        _transform_spec, _inv_transform_spec: spec outside, given the inner one.
    For the whole record, which may be a tensordict or a flat record:
        _call: ``td -> td``, forward, in steps and resets.
        _inv_call: ``td -> td``, inverse, on a shallow copy.
        _step: ``(td, next_td) -> next_td``; ``td`` is the root of the step.
        _reset: ``(td, td_reset) -> td_reset``; ``td`` is the argument of ``reset()`` or ``None``.
        _around_step: ``(step, td) -> next_td``; calls the ``step`` of the inner environment itself,
            any number of times.
        _around_reset: ``(reset, step, td) -> root``; likewise.
        _inv_reset: ``td -> td``, inverse of the argument of ``reset()``; see
            :meth:`inverts_at_reset`.
        forward, inv: the same two passes outside of an environment.
    For the specs:
        transform_specs: ``{group: Composite} -> {group: Composite}``, all five groups at once, for
            a transform that adds entries or keeps what it finds in the specs.
        transform_<group>_spec: ``Composite -> Composite``, one group; called with the spec of one
            entry, it returns that of the entry written.
        transform_output_spec, transform_input_spec: ``Composite -> Composite``, the groups of one
            side as ``full_<group>_spec``.
        transform_env_batch_size, transform_env_device: those of the environment outside.
    For what else depends on the class:
        action_masks, entries_touched, event_flags, inverts_at_reset, deferred.
        get_extra_state, set_extra_state: memory that a state dict keeps.

    Capabilities (class attributes, inherited until a subclass overrides a method that they cover):
        supports_flat_records: Hooks touch records only by the methods of a flat record (``get``,
            ``set``, ``pop``, ``update``, ``copy``), so that steps need no tensordict.
        partial_reset_safe: ``_reset`` returns rows that are not reset unchanged.
        deferrable: What a step writes can be written into many steps at once, where nothing else
            reads it in between; see :meth:`deferred`.
        enable_inv_on_reset: The argument of ``reset()`` passes through ``_inv_call``, although
            there are no ``in_keys_inv``.
        asks_environment: A hook reads attributes of the running environment.
        missing_tolerance: Absent entries are skipped; otherwise they are an error.
        omitted_next: Entries that batches of steps have at the root only, not under ``"next"``.
        follows_steps: Its output depends on earlier steps: a single record is refused. By default
            (``None``) that of a class with a ``_step`` and none of the hooks that a single record
            passes through.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> class Negate(Transform):
    ...     def _apply_transform(self, value):
    ...         return -value
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), Negate(["reward"]))
    >>> env.rollout(3)["next", "reward"].T
    tensor([[-1., -1., -1.]])
    """

    supports_flat_records: Any = False
    follows_steps: bool | None = None
    evaluating = False
    omitted_next: Sequence[NestedKey] = ()
    partial_reset_safe = False
    deferrable = False
    missing_tolerance = False
    enable_inv_on_reset = False
    asks_environment = False
    inner: InnerEnvInfo
    _container: Any

    def __getattr__(self, name: str) -> Any:
        return module_attribute(self, name)

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | NestedKey | None = None,
        out_keys: Sequence[NestedKey] | NestedKey | None = None,
        in_keys_inv: Sequence[NestedKey] | NestedKey | None = None,
        out_keys_inv: Sequence[NestedKey] | NestedKey | None = None,
    ) -> None:
        super().__init__()
        self.in_keys = as_keys(in_keys)
        self.out_keys = self.in_keys if out_keys is None else as_keys(out_keys)
        self.in_keys_inv = as_keys(in_keys_inv)
        self.out_keys_inv = self.in_keys_inv if out_keys_inv is None else as_keys(out_keys_inv)
        for ins, outs, name in (
            (self.in_keys, self.out_keys, "out_keys"),
            (self.in_keys_inv, self.out_keys_inv, "out_keys_inv"),
        ):
            if len(ins) != len(outs):
                raise ValueError(
                    f"{type(self).__name__}: expected as many {name} as keys read, found {outs} for {ins}."
                )
        self.__dict__["_container"] = None

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that masks the illegal choices of each action."""
        return {}

    # --- data ------------------------------------------------------------------------------------

    def _apply_transform(self, value: Tensor) -> Tensor:
        return value

    def _inv_apply_transform(self, value: Tensor) -> Tensor:
        return value

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._map(tensordict, self.in_keys, self.out_keys, self._apply_transform)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._map(tensordict, self.out_keys_inv, self.in_keys_inv, self._inv_apply_transform)

    def _map(
        self, record: R, sources: list[NestedKey], destinations: list[NestedKey], function: Callable[[Tensor], Tensor]
    ) -> R:
        for source, destination in zip(sources, destinations, strict=True):
            value = record.get(source, None)
            if value is not None:
                record.set(destination, function(value))
            elif not self.missing_tolerance:
                raise self._missing(source, record)
        return record

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._call(next_tensordict)

    def _reset(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call_tolerantly(self._call, tensordict_reset)

    def _call_tolerantly(self, hook: Callable[[R], R], record: R) -> R:
        """Call a hook on a record of a reset, which has neither reward nor action."""
        tolerance, self.__dict__["missing_tolerance"] = self.missing_tolerance, True
        try:
            return hook(record)
        finally:
            self.__dict__["missing_tolerance"] = tolerance

    def _around_step(self, step: Step, tensordict: TensorDictBase) -> TensorDictBase:
        return self._step(tensordict, step(self._inv_call(tensordict.copy())))

    def _around_reset(self, reset: Reset, step: Step, tensordict: TensorDictBase | None) -> TensorDictBase:
        return self._reset(tensordict, reset(tensordict))

    def _inv_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply the inverse to a copy of the argument of ``reset()``; entries may be absent."""
        return self._call_tolerantly(self._inv_call, tensordict.copy())

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether the argument of ``reset()`` passes through the inverse.

        It does where the inverse writes more than actions: the environment gets a state in its own
        names, scale and dtype.

        Args:
            actions: Names of the actions of the inner environment.
        """
        return self.enable_inv_on_reset or any(key not in actions for key in self.in_keys_inv)

    @property
    def drives(self) -> bool:
        """Whether this transform itself steps or resets the inner environment."""
        kind = type(self)
        own = kind._around_step, kind._around_reset
        return own != (Transform._around_step, Transform._around_reset)

    @property
    def invertible(self) -> bool:
        """Whether the inverse changes anything."""
        kind = type(self)
        own = kind._inv_call, kind.inv
        return bool(self.in_keys_inv) or own != (Transform._inv_call, Transform.inv)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Transform the output of an environment or a sample of a replay buffer.

        Raises:
            NotImplementedError: for a transform that follows the steps of an environment.
        """
        follows = self.follows_steps
        if self.drives or (self._only_steps() if follows is None else follows):
            raise NotImplementedError(
                describe(
                    self,
                    "follows the steps of an environment and cannot be applied to a single record",
                    hint="Append it to the environment that collects the data. A transform that does serve single "
                    "records sets follows_steps = False.",
                )
            )
        return self._call(tensordict)

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Transform a copy of the input of an environment or of a replay buffer."""
        return self._inv_call(tensordict.copy())

    def _read(self, record: Record, *, tolerant: bool | None = None) -> Iterator[tuple[NestedKey, NestedKey, Any]]:
        """Yield key read, key written and value of each entry of ``in_keys``.

        Raises:
            MissingKeyError: for an absent entry, unless ``tolerant``.
        """
        if tolerant is None:
            tolerant = self.missing_tolerance
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            value = record.get(source, None)
            if value is not None:
                yield source, destination, value
            elif not tolerant:
                raise self._missing(source, record)

    def _missing(self, key: NestedKey, record: Any) -> MissingKeyError:
        present = leaf_keys(record) if isinstance(record, TensorDictBase) else list(record)
        return missing_key(self, key, present)

    # --- what the steps of an environment depend on ----------------------------------------------

    @classmethod
    @cache
    def overrides(cls, *hooks: str) -> bool:
        """Return whether the class overrides any of these hooks."""
        return any(getattr(cls, hook) is not getattr(Transform, hook) for hook in hooks)

    @classmethod
    def _only_steps(cls) -> bool:
        """Return whether the class changes steps, and nothing of a single record."""
        return cls.overrides("_step") and not cls.overrides("_call", "_apply_transform", "_inv_call", "inv")

    def entries_touched(self) -> set[NestedKey] | None:
        """Return the entries that a step or a reset reads or writes; ``None`` if unknown."""
        if self.overrides("_call", "_inv_call", "_step", "_reset"):
            return None
        return {*self.in_keys, *self.out_keys, *self.in_keys_inv, *self.out_keys_inv}

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flags of events in a step that are written: ``{key: value at a reset}``.

        A transform that joins several steps to one sets such a flag if any of them did.
        """
        return {}

    def deferred(self) -> list[Deferred]:
        """Return what writes the entries of many steps and their resets at once, after them.

        Called if the class is ``deferrable``. By default elementwise functions of other entries:
        each number depends only on the number at its place. Return an empty list if this instance
        must run at each step.
        """
        found: list[Deferred] = []
        for source, key in zip(self.in_keys, self.out_keys, strict=True):
            found.append(ElementwiseDeferred(key, source, self._apply_transform))
        return found

    # --- specs -----------------------------------------------------------------------------------

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def _forward_specs(self, specs: Composite) -> Composite:
        names = leaf_names(specs)
        for source, destination in zip(self.in_keys, self.out_keys, strict=True):
            if source in names:
                specs[destination] = self._transform_spec(specs[source].clone())
        return specs

    def _inverse_specs(self, specs: Composite) -> Composite:
        names = leaf_names(specs)
        for source, destination in zip(self.in_keys_inv, self.out_keys_inv, strict=True):
            if source in names:
                image = self._inv_transform_spec(specs[source].clone())
                if destination != source:
                    del specs[source]
                specs[destination] = image
        return specs

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Return the observation specs outside, given the inner ones."""
        return self._outer_group("observation", observation_spec)

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        """Return the reward specs outside, given the inner ones."""
        return self._outer_group("reward", reward_spec)

    def transform_done_spec(self, done_spec: Composite) -> Composite:
        """Return the specs of the end flags outside, given the inner ones."""
        return self._outer_group("done", done_spec)

    def transform_action_spec(self, action_spec: Composite) -> Composite:
        """Return the action specs outside, given the inner ones."""
        return self._outer_group("action", action_spec)

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Return the state specs outside, given the inner ones."""
        return self._outer_group("state", state_spec)

    def transform_output_spec(self, output_spec: Composite) -> Composite:
        """Return ``full_observation_spec``, ``full_reward_spec`` and ``full_done_spec`` outside."""
        return self._outer_side(output_spec, OUTPUTS)

    def transform_input_spec(self, input_spec: Composite) -> Composite:
        """Return ``full_action_spec`` and ``full_state_spec`` outside."""
        return self._outer_side(input_spec, INPUTS)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the five groups of specs outside, given the inner ones.

        Args:
            specs: ``observation``, ``reward``, ``done``, ``action`` and ``state``; may be changed
                in place.

        Raises:
            MissingKeyError: if an entry that is read is in none of them.
        """
        self._check_keys(specs)
        for group in specs:
            hook = self._mapped_group if group == self._called_group else getattr(self, f"transform_{group}_spec")
            with self._calling(group):
                specs[group] = hook(specs[group])
        return specs

    _called_group = ""  # whose method calls transform_specs()
    _inner_specs: dict[str, Composite] | None = None  # during derive_specs()

    @contextmanager
    def _calling(self, group: str) -> Iterator[None]:
        before, self.__dict__["_called_group"] = self._called_group, group
        try:
            yield
        finally:
            self.__dict__["_called_group"] = before

    def _mapped_group(self, spec: Composite) -> Composite:
        """Return the specs of a group with those of the entries written."""
        return (self._inverse_specs if self._called_group in INPUTS else self._forward_specs)(spec)

    def _outer_group(self, group: str, spec: Composite) -> Composite:
        """Return the specs of a group outside, or the spec of one entry."""
        if not isinstance(spec, Composite):
            source, destination = self._first_pair(group in INPUTS)
            found = self._outer_group(group, Composite({source: spec}))
            return found[destination] if destination in found.keys(True) else spec
        if self._called_group == group or not self.overrides("transform_specs"):
            with self._calling(group):
                return self._mapped_group(spec)
        with self._calling(group):
            return self._outer_groups({group: spec})[group]

    def _first_pair(self, inverse: bool) -> tuple[NestedKey, NestedKey]:
        """Return the names inside and outside of the first entry."""
        inner, outer = (self.in_keys_inv, self.out_keys_inv) if inverse else (self.in_keys, self.out_keys)
        return (inner[0], outer[0]) if inner and outer else ("entry", "entry")

    def _outer_side(self, side: Composite, groups: Sequence[str]) -> Composite:
        names = {group: f"full_{group}_spec" for group in groups if f"full_{group}_spec" in side}
        outer = self._outer_groups({group: side[name] for group, name in names.items()})
        for group, name in names.items():
            side[name] = outer[group]
        return side

    def _outer_groups(self, given: dict[str, Composite]) -> dict[str, Composite]:
        """Return groups of specs outside; the others are those of the environment, or empty."""
        known, env = self._inner_specs, None
        if known is None:
            env = self.parent
            known = {} if env is None else env._get_specs()
        empty = Composite(shape=next(iter(given.values())).shape)
        specs = {g: given[g] if g in given else known.get(g, empty).clone().unlock_() for g in GROUPS}
        if self._inner_specs is not None:
            return self.transform_specs(specs)
        if env is not None:
            try:
                return self.transform_specs(specs)
            finally:
                self._changed()  # the environment derives its own specs again
        tolerant = [part for part in self.leaves() if not part.missing_tolerance]
        self.__dict__["inner"] = InnerEnvInfo(specs)
        for part in self.leaves():  # entries of the other groups are absent
            part.__dict__.update(missing_tolerance=True, _given_groups=tuple(given))
        try:
            return self._derived(specs)
        finally:
            del self.__dict__["inner"]
            for part in self.leaves():
                del part.__dict__["_given_groups"]
            for part in tolerant:
                part.set_missing_tolerance(False)

    _given_groups: Sequence[str] = ()  # of specs that are derived without an environment

    def _derived(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the groups of specs outside; without an environment, groups that are not given may lack."""
        try:
            return self.transform_specs(specs)
        except KeyError:
            outputs = {*self.in_keys} - {*self.in_keys_inv, *self.out_keys_inv}
            reads = (self.in_keys_inv if group in INPUTS else outputs for group in self._given_groups)
            if not self._given_groups or any(reads):
                raise
            return specs

    def derive_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Set :attr:`inner` and return the five groups of specs outside."""
        self.__dict__["inner"] = InnerEnvInfo(specs)
        if self.overrides("transform_output_spec", "transform_input_spec"):
            specs = self._derive_by_side(specs)
        else:
            specs = self._derived(specs)
        self.__dict__["_promised"] = {g: dict(specs[g].items(True, True)) for g in OUTPUTS}
        return specs

    def _derive_by_side(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        self.__dict__["_inner_specs"] = specs
        outer, empty = {}, Composite(shape=specs["done"].shape)
        try:
            for hook, groups in ((self.transform_output_spec, OUTPUTS), (self.transform_input_spec, INPUTS)):
                side = Composite({f"full_{g}_spec": specs[g].clone() for g in groups}, shape=specs["done"].shape)
                side = hook(side)
                outer.update({g: side.get(f"full_{g}_spec", empty.clone()) for g in groups})
        finally:
            del self.__dict__["_inner_specs"]
        return outer

    def leaves(self) -> list[Transform]:
        """Return this transform, or the transforms of a composition in order."""
        return [self]

    _promised: dict[str, dict[NestedKey, TensorSpec]]

    def _check_keys(self, specs: dict[str, Composite]) -> None:
        if self.missing_tolerance:
            return
        known = {key for spec in specs.values() for key in leaf_names(spec)}
        for key in (*self.in_keys, *self.in_keys_inv):
            if key not in known:
                raise missing_key(self, key, sorted(known, key=str))

    def transform_env_device(self, device: torch.device | None) -> torch.device | None:
        """Return the device of the environment outside."""
        return device

    def transform_env_batch_size(self, batch_size: torch.Size) -> torch.Size:
        """Return the batch size of the environment outside."""
        return batch_size

    # --- container -------------------------------------------------------------------------------

    @property
    def container(self) -> Any:
        """The environment or :class:`Compose` that holds this transform."""
        return self._container

    def set_container(self, container: Any) -> None:
        """Set the environment or :class:`Compose` that holds this transform.

        Raises:
            ValueError: if the transform is in a container already, be it the same one.
        """
        if self._container is not None:
            raise ValueError(
                describe(
                    self,
                    "belongs to an environment or a Compose already",
                    found=f"a {type(self._container).__name__}",
                    hint="A transform keeps the state of one environment: add a clone() instead.",
                )
            )
        self.__dict__["_container"] = container

    def _changed(self) -> None:
        """Discard what the environment derived from its transforms."""
        container = self._container
        while isinstance(container, Transform):
            container = container._container
        if container is not None:
            container.empty_cache()

    def reset_parent(self) -> None:
        """Unset the environment or :class:`Compose`."""
        self.__dict__["_container"] = None

    @property
    def parent(self) -> TransformedEnv | None:
        """The environment seen through the transforms before this one; ``None`` without one."""
        if self._container is None:
            return None
        return self._container.before(self)

    @property
    def _env_dims(self) -> int:
        """Number of batch dimensions of the environment, which positive dimensions skip; 0 without one."""
        return len(self.inner.batch_size) if self._container is not None and "inner" in self.__dict__ else 0

    def _environment(self) -> Any:
        """Return the base environment.

        Raises:
            RuntimeError: if there is none.
        """
        env = self._container
        while env is not None and not hasattr(env, "base_env"):
            env = env.container
        if env is None:
            raise RuntimeError(f"{type(self).__name__} needs an environment; append it to one.")
        return env.base_env

    def clone(self) -> Transform:
        """Return a copy without a container that shares buffers, parameters and modules.

        The normalisation of an evaluation environment follows that of the training environment
        so; ``copy.deepcopy`` shares nothing.
        """
        new = copy.copy(self)
        for name, value in new.__dict__.items():
            if isinstance(value, dict | list | set):
                new.__dict__[name] = copy.copy(value)
        new.__dict__["_container"] = None
        return new

    def train(self, mode: bool = True) -> Transform:
        """Set the mode; running statistics are not updated in that of evaluation."""
        self.__dict__["evaluating"] = not mode
        return super().train(mode)

    def set_missing_tolerance(self, mode: bool = False) -> Transform:
        """Choose whether an absent entry is skipped; otherwise it is an error."""
        self.__dict__["missing_tolerance"] = mode
        return self

    def init(self, tensordict: TensorDictBase) -> None:
        """Prepare for data like ``tensordict``; does nothing by default."""

    def close(self) -> None:
        """Release resources; does nothing by default."""

    def dump(self, suffix: str | None = None) -> object:
        """Write what was recorded, under a name with a suffix; does nothing by default."""

    def extra_repr(self) -> str:
        """Show the keys."""
        names = ("in_keys", "out_keys", "in_keys_inv", "out_keys_inv")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names if getattr(self, name))


class CallableTransform(Transform):
    """A function of a record as a transform of outputs.

    Args:
        function: ``td -> td``.
    """

    def __init__(self, function: Callable[[TensorDictBase], TensorDictBase]) -> None:
        super().__init__()
        self.function = function

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.function(tensordict)


@contextmanager
def _set_missing_tolerance(transform: Transform, mode: bool) -> Iterator[Transform]:
    """Let a transform skip absent entries, or not, in a block."""
    before = transform.missing_tolerance
    try:
        yield transform.set_missing_tolerance(mode)
    finally:
        transform.set_missing_tolerance(before)


def _apply_to_composite(function: SpecHook) -> SpecHook:
    """Let a method that transforms the spec of one entry transform those of ``in_keys``.

    For ``transform_observation_spec`` and its kin: called with a :class:`~torchrl.data.Composite`,
    the decorated method writes the specs of ``out_keys``.

    >>> from torchrl.data import Unbounded
    >>> class Wide(Transform):
    ...     @_apply_to_composite
    ...     def transform_observation_spec(self, spec):
    ...         return Unbounded((9,))
    >>> Wide(["a"], ["b"]).transform_observation_spec(Composite(a=Unbounded((3,))))["b"].shape
    torch.Size([9])
    """

    @wraps(function)
    def transform(self: Transform, spec: TensorSpec) -> TensorSpec:
        return _mapped(spec, self.in_keys, self.out_keys, partial(function, self))

    return transform


def _apply_to_composite_inv(function: SpecHook) -> SpecHook:
    """Let a method that transforms the spec of one entry transform those of ``in_keys_inv``."""

    @wraps(function)
    def transform(self: Transform, spec: TensorSpec) -> TensorSpec:
        return _mapped(spec, self.in_keys_inv, self.out_keys_inv, partial(function, self))

    return transform


def _mapped(
    spec: TensorSpec, sources: Keys, destinations: Keys, function: Callable[[TensorSpec], TensorSpec]
) -> TensorSpec:
    if not isinstance(spec, Composite):
        return function(spec)
    present = leaf_names(spec)
    for source, destination in zip(sources or (), destinations or (), strict=True):
        if source in present:
            spec[destination] = function(spec[source].clone())
    return spec


def time_dim(tensordict: TensorDictBase) -> int:
    """Return the dimension that is named ``"time"``, or else the last one.

    >>> from tensordict import TensorDict
    >>> time_dim(TensorDict(batch_size=[3, 4], names=["time", None])), time_dim(TensorDict(batch_size=[3, 4]))
    (0, 1)
    """
    names = tensordict.names
    return names.index("time") if "time" in names else tensordict.ndim - 1


def free_dims(record: Record, batch: torch.Size) -> torch.Size:
    """Return the batch dimensions of a record beyond those of its environment."""
    found = getattr(record, "batch_size", batch)
    return found[: len(found) - len(batch)]


def missing_key(transform: object, key: NestedKey, present: Sequence[NestedKey]) -> MissingKeyError:
    """Return the error of a transform that reads an absent entry."""
    return MissingKeyError(
        describe(
            transform,
            "is read but absent",
            key=key,
            expected="one of the entries present",
            found=list(present),
            hint=f"{nearest(key, present)} Name the right entry in in_keys, or call "
            "set_missing_tolerance(True).".strip(),
        )
    )
