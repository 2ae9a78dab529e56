"""Selection, exclusion and renaming of entries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tensordict import NestedKey, TensorDictBase

from torchrl._core.keys import as_keys
from torchrl._core.mdp import DONE_NAMES, last_name
from torchrl._core.records.flat_record import FlatRecord
from torchrl._core.records.rows import entry_names
from torchrl.data import Composite
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import Keys, R, Transform
from torchrl.envs.transforms.observation.shape import drop

_OUTPUTS = ("observation", "reward", "done")


class SelectTransform(Transform):
    """Keeps the entries that are named and removes the others from the output.

    Args:
        selected_keys: Entries to keep, with everything nested in them.
        keep_rewards: Keep the rewards as well.
        keep_dones: Keep the end flags as well; an environment always keeps them.

    Raises:
        MissingKeyError: if an entry that is named does not exist.

    >>> from tensordict import TensorDict
    >>> SelectTransform("a")(TensorDict(a=1, b=2, reward=0.0)).sorted_keys
    ['a', 'reward']
    """

    supports_flat_records = True

    def __init__(self, *selected_keys: NestedKey, keep_rewards: bool = True, keep_dones: bool = True) -> None:
        super().__init__()
        self.selected_keys = as_keys(list(selected_keys))
        self.keep_rewards, self.keep_dones = keep_rewards, keep_dones
        self._rewards: list[NestedKey] = ["reward"]
        self._dropped: list[NestedKey] | None = None

    def _is_kept(self, key: NestedKey) -> bool:
        if self.keep_dones and last_name(key) in DONE_NAMES:
            return True
        if self.keep_rewards and key in self._rewards:
            return True
        return any(_is_below(key, kept) for kept in self.selected_keys)

    def _call(self, tensordict: R) -> R:
        dropped = self._dropped
        if dropped is None:
            dropped = [key for key in entry_names(tensordict) if not self._is_kept(key)]
        for key in dropped:
            if tensordict.get(key, None) is not None:
                drop(tensordict, key)
        return tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Keep the entries that are named, at the root and under ``"next"``.

        An entry under ``"next"`` is kept if it is named there or at the root.
        """
        for key in entry_names(tensordict):
            own = key[1:] if isinstance(key, tuple) and key[0] == "next" else key
            own = own[0] if isinstance(own, tuple) and len(own) == 1 else own
            if not (self._is_kept(own) or self._is_kept(key)):
                drop(tensordict, key)
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Delete the specs of the other entries."""
        known = [key for group in specs.values() for key in leaf_names(group)]
        for key in self.selected_keys:
            if not (self.missing_tolerance or any(_is_below(leaf, key) for leaf in known)):
                raise self._missing(key, known)
        self._rewards = leaf_names(specs["reward"])
        self._dropped = []
        for group in ("observation", "reward"):
            for key in leaf_names(specs[group]):
                if not self._is_kept(key):
                    self._dropped.append(key)
                    del specs[group][key]
        return specs


class ExcludeTransform(Transform):
    """Removes the entries that are named.

    Args:
        excluded_keys: Entries to remove, with everything nested in them.
        inverse: Remove them in the inverse pass instead.

    Raises:
        MissingKeyError: if an entry that is named does not exist.

    >>> from tensordict import TensorDict
    >>> ExcludeTransform("b")(TensorDict(a=1, b=2)).sorted_keys
    ['a']
    """

    supports_flat_records = True

    def __init__(self, *excluded_keys: NestedKey, inverse: bool = False) -> None:
        super().__init__()
        self.excluded_keys, self.inverse = as_keys(list(excluded_keys)), inverse

    def _exclude(self, tensordict: Any) -> Any:
        flat = isinstance(tensordict, FlatRecord)
        for excluded in self.excluded_keys:
            if not flat:
                if tensordict.get(excluded, None) is not None:
                    drop(tensordict, excluded)
                continue
            for key in [key for key in tensordict if _is_below(key, excluded)]:
                tensordict.pop(key)
        return tensordict

    def _call(self, tensordict: R) -> R:
        return tensordict if self.inverse else self._exclude(tensordict)

    def _inv_call(self, tensordict: R) -> R:
        return self._exclude(tensordict) if self.inverse else tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Remove the entries of a record; nested tensordicts that are empty then stay."""
        for key in () if self.inverse else self.excluded_keys:
            if tensordict.get(key, None) is not None:
                tensordict.pop(key)
        return tensordict

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether entries are removed in the inverse pass."""
        return self.inverse

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Delete the specs of these entries."""
        groups = ("action", "state") if self.inverse else ("observation", "reward")
        known = [key for group in specs.values() for key in leaf_names(group)]
        for excluded in self.excluded_keys:
            found = [key for key in known if _is_below(key, excluded)]
            if not (found or self.missing_tolerance):
                raise self._missing(excluded, known)
            for group in groups:
                for key in leaf_names(specs[group]):
                    if key in found:
                        del specs[group][key]
        return specs


class RenameTransform(Transform):
    """Renames entries.

    Args:
        in_keys: Entries of the environment.
        out_keys: Their names outside.
        in_keys_inv: Actions and states of the environment.
        out_keys_inv: Their names outside.
        create_copy: Keep the entries under their old names, too.

    >>> from tensordict import TensorDict
    >>> RenameTransform(["a"], ["b"])(TensorDict(a=1)).sorted_keys
    ['b']
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey],
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        create_copy: bool = False,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        self.create_copy = create_copy

    def _call(self, tensordict: R) -> R:
        return self._rename(tensordict, self.in_keys, self.out_keys)

    def _inv_call(self, tensordict: R) -> R:
        return self._rename(tensordict, self.out_keys_inv, self.in_keys_inv)

    def _rename(self, record: R, old: list[NestedKey], new: list[NestedKey]) -> R:
        values = []
        for source, destination in zip(old, new, strict=True):
            value = record.get(source, None)
            if value is None and not self.missing_tolerance:
                raise self._missing(source, record)
            if value is not None:
                values.append((destination, value))
                if not self.create_copy and source != destination:
                    drop(record, source)
        for destination, value in values:  # after all were read: names may be swapped
            record.set(destination, value)
        return record

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Rename the specs."""
        self._check_keys(specs)
        for group in _OUTPUTS:
            _rename_specs(specs[group], self.in_keys, self.out_keys, self.create_copy)
        for group in ("action", "state"):
            _rename_specs(specs[group], self.in_keys_inv, self.out_keys_inv, self.create_copy)
        return specs


def _rename_specs(group: Composite, old: list[NestedKey], new: list[NestedKey], keep: bool) -> None:
    names = leaf_names(group)
    pairs = [(o, n) for o, n in zip(old, new, strict=True) if o in names]
    found = [(n, group[o].clone()) for o, n in pairs]
    for source, destination in pairs:
        if not keep and source != destination:
            del group[source]
    for destination, spec in found:
        group[destination] = spec


class RemoveEmptySpecs(Transform):
    """Removes nested specs and records that are empty.

    >>> from torchrl.data import Composite
    >>> specs = {"observation": Composite(a=Composite())}
    >>> "a" in RemoveEmptySpecs().transform_specs(specs)["observation"].keys()
    False
    """

    supports_flat_records = True

    def _call(self, tensordict: R) -> R:
        if isinstance(tensordict, TensorDictBase):
            _remove_empty(tensordict)
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Delete the empty specs."""
        for spec in specs.values():
            _remove_empty_specs(spec)
        return specs


def _remove_empty(td: TensorDictBase) -> None:
    for name in list(td.keys()):
        value = td.get(name)
        if isinstance(value, TensorDictBase):
            _remove_empty(value)
            if not len(value.keys()):
                td.pop(name)


def _remove_empty_specs(spec: Composite) -> None:
    for name in list(spec.keys()):
        inner = spec[name]
        if isinstance(inner, Composite):
            _remove_empty_specs(inner)
            if not len(list(inner.keys())):
                del spec[name]


class FlattenTensorDict(Transform):
    """Flattens the batch of what is stored: trajectories become single steps.

    A transform of replay buffers only: data ``[*B, T]`` are stored as ``[B * T]``; samples do not
    change.

    >>> from tensordict import TensorDict
    >>> FlattenTensorDict().inv(TensorDict(a=[[1, 2, 3]], batch_size=[1, 3])).batch_size
    torch.Size([3])
    """

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the same steps with one batch dimension."""
        return tensordict.reshape(-1)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Raise ValueError: an environment has one batch size.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "FlattenTensorDict is for replay buffers; BatchSizeTransform reshapes the batch of an environment."
        )


def _is_below(key: NestedKey, above: NestedKey) -> bool:
    """Return whether an entry is ``above`` or nested in it."""
    key = key if isinstance(key, tuple) else (key,)
    above = above if isinstance(above, tuple) else (above,)
    return key[: len(above)] == above
