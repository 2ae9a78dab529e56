"""The base of transforms: one change to what an environment emits or accepts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import MissingKeyError, describe, nearest
from torchrl._core.keys import as_keys, leaf_keys
from torchrl.data import Composite, TensorSpec
from torchrl.envs.postponed import Image, Postponed
from torchrl.envs.spec_access import leaf_names

if TYPE_CHECKING:
    from torchrl.envs.transforms.env import TransformedEnv


class Transform(nn.Module):
    """One change, entry by entry.

    The same object serves an environment (:class:`TransformedEnv`), a replay buffer
    (:meth:`forward` on what is sampled, :meth:`inv` on what is stored) and as a module.

    Args:
        in_keys: Entries read on the way out of the environment.
        out_keys: Where their images are written; in place if ``None``.
        in_keys_inv: Entries written on the way in: the environment's own names.
        out_keys_inv: Entries read on the way in: the names seen from outside; the same if ``None``.

    Hooks (each defaults to "no change"):
        _apply_transform: tensor ``[*B, *S] -> [*B, *S']``, on the way out.
        _inv_apply_transform: tensor ``[*B, *S'] -> [*B, *S]``, on the way in.
        _transform_spec, _inv_transform_spec: the spec seen from outside, given the inner one.
        _reset: ``(td, td_reset) -> td_reset``, for a transform that remembers; ``td`` is what
            reset() was given, or ``None``.
        _step: ``(td, next_td) -> next_td``, likewise.

    Two more, for a transform that steps or resets the environment inside more or less than once:
        _around_step: ``(step, td) -> next_td``, where ``step`` is that of the environment inside.
        _around_reset: ``(reset, step, td) -> root``, likewise.

    Code written for whole records overrides ``_call`` and ``_inv_call`` (``td -> td``), and
    ``transform_<group>_spec`` (``Composite -> Composite``) for a group of specs. A class whose
    hooks touch records only by ``get`` and ``set`` says ``entrywise = True`` and costs less. One
    whose ``_reset`` leaves rows that are not reset as they were says ``resets_rows_alone = True``;
    one that has no hook on the way out but an ``_apply_transform`` that makes each number of the
    one at its place says ``postponable = True``, and is applied to many steps at once where no
    other part reads each.

    What ``reset()`` is given passes the way in, too, where that concerns more than actions: the
    environment inside is given a state in its own names, scale and dtype. A class that has no
    ``in_keys_inv`` but an ``_inv_call`` of its own says ``enable_inv_on_reset = True`` for that.
    """

    entrywise: Any = False
    resets_rows_alone = False
    postponable = False
    missing_tolerance = False
    enable_inv_on_reset = False
    # Whether a hook asks the environment itself, which then must stand where the record does.
    asks_environment = False
    _container: Any

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
                    f"{type(self).__name__}: expected as many {name} as keys read, found {outs} "
                    f"for {ins}."
                )
        self.__dict__["_container"] = None

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that says which choices of an action are legal, by action."""
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
        self,
        record: Any,
        sources: list[NestedKey],
        destinations: list[NestedKey],
        function: Callable[[Tensor], Tensor],
    ) -> Any:
        for source, destination in zip(sources, destinations, strict=True):
            value = record.get(source, None)
            if value is not None:
                record.set(destination, function(value))
            elif not self.missing_tolerance:
                raise self._missing(source, record)
        return record

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._call(next_tensordict)

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._tolerantly(self._call, tensordict_reset)

    def _tolerantly(self, hook: Callable[[Any], Any], record: Any) -> Any:
        """Call a hook on a record of a reset, which has neither reward nor action."""
        tolerance, self.__dict__["missing_tolerance"] = self.missing_tolerance, True
        try:
            return hook(record)
        finally:
            self.__dict__["missing_tolerance"] = tolerance

    def _around_step(self, step: Any, tensordict: Any) -> Any:
        return self._step(tensordict, step(self._inv_call(tensordict.copy())))

    def _around_reset(self, reset: Any, step: Any, tensordict: Any) -> Any:
        return self._reset(tensordict, reset(tensordict))

    def _inv_reset(self, tensordict: Any) -> Any:
        """Apply the way in to a copy of what reset() was given; entries may be absent."""
        return self._tolerantly(self._inv_call, tensordict.copy())

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether what reset() is given passes the way in: it concerns more than actions.

        Args:
            actions: Names of the actions of the environment inside.
        """
        return self.enable_inv_on_reset or any(key not in actions for key in self.in_keys_inv)

    @property
    def drives(self) -> bool:
        """Whether this transform itself steps or resets the environment inside."""
        kind = type(self)
        own = kind._around_step, kind._around_reset
        return own != (Transform._around_step, Transform._around_reset)

    @property
    def invertible(self) -> bool:
        """Whether anything is changed on the way in."""
        kind = type(self)
        own = kind._inv_call, kind.inv
        return bool(self.in_keys_inv) or own != (Transform._inv_call, Transform.inv)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply to a record on its way out of an environment or of a replay buffer."""
        return self._call(tensordict)

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply to a copy of a record on its way into an environment or a replay buffer."""
        return self._inv_call(tensordict.copy())

    def _read(
        self, record: Any, *, tolerant: bool | None = None
    ) -> Iterator[tuple[NestedKey, NestedKey, Any]]:
        """Yield key read, key written and value of each entry of ``in_keys``.

        Raises:
            MissingKeyError: for an absent entry, unless such are passed over.
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

    # --- what it does, for those who arrange transforms ------------------------------------------

    @classmethod
    def overrides(cls, *hooks: str) -> bool:
        """Return whether the class has a hook of its own."""
        return any(getattr(cls, hook) is not getattr(Transform, hook) for hook in hooks)

    def entries_touched(self) -> set[NestedKey] | None:
        """Return the entries that a step or a reset reads or writes; ``None`` if unknown."""
        if self.overrides("_call", "_inv_call", "_step", "_reset"):
            return None
        return {*self.in_keys, *self.out_keys, *self.in_keys_inv, *self.out_keys_inv}

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flags written that tell what happened in a step: ``{key: value at a reset}``.

        A transform that takes several steps as one raises such a flag if any of them did.
        """
        return {}

    def postponed(self) -> list[Postponed]:
        """Return what writes, after many steps, all that they and their resets would have written.

        Asked of a class that is ``postponable``: here, images of which each number follows from
        the one at its place. Nothing, if this instance has to act at each step.
        """
        pairs = zip(self.in_keys, self.out_keys, strict=True)
        return [Image(key, source, self._apply_transform) for source, key in pairs]

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
        """Return the observation specs seen through this transform."""
        return self._forward_specs(observation_spec)

    def transform_reward_spec(self, reward_spec: Composite) -> Composite:
        """Return the reward specs seen through this transform."""
        return self._forward_specs(reward_spec)

    def transform_done_spec(self, done_spec: Composite) -> Composite:
        """Return the specs of the end flags seen through this transform."""
        return self._forward_specs(done_spec)

    def transform_action_spec(self, action_spec: Composite) -> Composite:
        """Return the action specs seen through this transform."""
        return self._inverse_specs(action_spec)

    def transform_state_spec(self, state_spec: Composite) -> Composite:
        """Return the state specs seen through this transform."""
        return self._inverse_specs(state_spec)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the five groups of specs seen through this transform.

        Args:
            specs: ``observation``, ``reward``, ``done``, ``action`` and ``state``, free to be
                changed.

        Raises:
            MissingKeyError: if an entry that is read is in none of them.
        """
        self._check_keys(specs)
        for group in specs:
            specs[group] = getattr(self, f"transform_{group}_spec")(specs[group])
        return specs

    def _check_keys(self, specs: dict[str, Composite]) -> None:
        if self.missing_tolerance:
            return
        known = {key for spec in specs.values() for key in leaf_names(spec)}
        for key in (*self.in_keys, *self.in_keys_inv):
            if key not in known:
                raise missing_key(self, key, sorted(known, key=str))

    def transform_env_device(self, device: torch.device | None) -> torch.device | None:
        """Return the device of an environment seen through this transform."""
        return device

    def transform_env_batch_size(self, batch_size: torch.Size) -> torch.Size:
        """Return the batch size of an environment seen through this transform."""
        return batch_size

    # --- place -----------------------------------------------------------------------------------

    @property
    def container(self) -> Any:
        """The environment or :class:`Compose` that holds this transform."""
        return self._container

    def set_container(self, container: Any) -> None:
        """Take a place in an environment or a :class:`Compose`.

        Raises:
            ValueError: if the transform has a place already, be it in the same container.
        """
        if self._container is not None:
            raise ValueError(
                describe(
                    self,
                    "belongs to an environment or a Compose already",
                    found=f"a {type(self._container).__name__}",
                    hint="One object keeps the memory of one place: add transform.clone() instead.",
                )
            )
        self.__dict__["_container"] = container

    def reset_parent(self) -> None:
        """Leave the environment or :class:`Compose`."""
        self.__dict__["_container"] = None

    @property
    def parent(self) -> TransformedEnv | None:
        """The environment seen through the transforms before this one; ``None`` without an env."""
        if self._container is None:
            return None
        return self._container.before(self)

    def _environment(self) -> Any:
        """Return the environment that this transform and those beside it stand around.

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
        """Return a copy that has no place yet."""
        container, self.__dict__["_container"] = self._container, None
        try:
            return copy.deepcopy(self)
        finally:
            self.__dict__["_container"] = container

    def set_missing_tolerance(self, mode: bool = False) -> Transform:
        """Choose whether an absent entry is passed over; otherwise it is an error."""
        self.__dict__["missing_tolerance"] = mode
        return self

    def init(self, tensordict: TensorDictBase) -> None:
        """Prepare for data like ``tensordict``; nothing by default."""

    def close(self) -> None:
        """Release what the transform holds; nothing by default."""

    def extra_repr(self) -> str:
        """Show the keys."""
        names = ("in_keys", "out_keys", "in_keys_inv", "out_keys_inv")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names if getattr(self, name))


class CallableTransform(Transform):
    """A plain function of a record, as a transform of what comes out.

    Args:
        function: ``td -> td``.
    """

    def __init__(self, function: Callable[[TensorDictBase], TensorDictBase]) -> None:
        super().__init__()
        self.function = function

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.function(tensordict)


def free_dims(record: Any, batch: torch.Size) -> torch.Size:
    """Return the batch dimensions of a record that its environment leaves free."""
    found = getattr(record, "batch_size", batch)
    return found[: len(found) - len(batch)]


def missing_key(transform: object, key: NestedKey, present: Sequence[Any]) -> MissingKeyError:
    """Return the error of a transform that reads an entry which is not there."""
    return MissingKeyError(
        describe(
            transform,
            "is read but absent",
            key=key,
            expected="one of the entries at hand",
            found=list(present),
            hint=f"{nearest(key, present)} Name the right entry in in_keys, or call "
            "set_missing_tolerance(True).".strip(),
        )
    )
