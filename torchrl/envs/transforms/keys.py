"""Which entries there are: some kept, some left out, some renamed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tensordict import NestedKey, TensorDictBase

from torchrl._core.entries import Entries
from torchrl._core.keys import as_keys
from torchrl._core.mdp import DONE_NAMES, last_name
from torchrl.data import Composite
from torchrl.envs.partial_reset import entry_names
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.pixels import Keys
from torchrl.envs.transforms.shape import drop

_OUTPUTS = ("observation", "reward", "done")


class SelectTransform(Transform):
    """Keeps the entries that are named; the others are left out of what comes out.

    Args:
        selected_keys: Entries to keep; what stands below one is kept with it.
        keep_rewards: Keep the rewards as well.
        keep_dones: Keep the end flags as well; an environment keeps them in any case.

    Raises:
        MissingKeyError: if an entry that is named does not exist.

    >>> from tensordict import TensorDict
    >>> SelectTransform("a")(TensorDict(a=1, b=2, reward=0.0)).sorted_keys
    ['a', 'reward']
    """

    entrywise = True

    def __init__(
        self, *selected_keys: NestedKey, keep_rewards: bool = True, keep_dones: bool = True
    ) -> None:
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

    def _call(self, tensordict: Any) -> Any:
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
        """Leave the specs of the other entries out."""
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
    """Leaves the entries that are named out.

    Args:
        excluded_keys: Entries to leave out, with what stands below them.
        inverse: Leave them out on the way in instead.

    Raises:
        MissingKeyError: if an entry that is named does not exist.

    >>> from tensordict import TensorDict
    >>> ExcludeTransform("b")(TensorDict(a=1, b=2)).sorted_keys
    ['a']
    """

    entrywise = True

    def __init__(self, *excluded_keys: NestedKey, inverse: bool = False) -> None:
        super().__init__()
        self.excluded_keys, self.inverse = as_keys(list(excluded_keys)), inverse

    def _exclude(self, tensordict: Any) -> Any:
        flat = isinstance(tensordict, Entries)
        for excluded in self.excluded_keys:
            if not flat:
                if tensordict.get(excluded, None) is not None:
                    drop(tensordict, excluded)
                continue
            for key in [key for key in tensordict if _is_below(key, excluded)]:
                tensordict.pop(key)
        return tensordict

    def _call(self, tensordict: Any) -> Any:
        return tensordict if self.inverse else self._exclude(tensordict)

    def _inv_call(self, tensordict: Any) -> Any:
        return self._exclude(tensordict) if self.inverse else tensordict

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether entries are left out on the way in."""
        return self.inverse

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Leave the specs of these entries out."""
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
        out_keys: Their names seen from outside.
        in_keys_inv: Actions and states of the environment.
        out_keys_inv: Their names seen from outside.
        create_copy: Keep the entries under their old names too.

    >>> from tensordict import TensorDict
    >>> RenameTransform(["a"], ["b"])(TensorDict(a=1)).sorted_keys
    ['b']
    """

    entrywise = True

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

    def _call(self, tensordict: Any) -> Any:
        return self._rename(tensordict, self.in_keys, self.out_keys)

    def _inv_call(self, tensordict: Any) -> Any:
        return self._rename(tensordict, self.out_keys_inv, self.in_keys_inv)

    def _rename(self, record: Any, old: list[NestedKey], new: list[NestedKey]) -> Any:
        values = []
        for source, destination in zip(old, new, strict=True):
            value = record.get(source, None)
            if value is None and not self.missing_tolerance:
                raise self._missing(source, record)
            if value is not None:
                values.append((destination, value))
                if not self.create_copy and source != destination:
                    drop(record, source)
        for destination, value in values:  # after all were read: names may be exchanged
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
    """Leaves out the nested specs and records that hold nothing.

    >>> from torchrl.data import Composite
    >>> specs = {"observation": Composite(a=Composite())}
    >>> "a" in RemoveEmptySpecs().transform_specs(specs)["observation"].keys()
    False
    """

    entrywise = True

    def _call(self, tensordict: Any) -> Any:
        if isinstance(tensordict, TensorDictBase):
            _remove_empty(tensordict)
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Leave the empty specs out."""
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

    A transform of replay buffers only: it acts on the way in, where data ``[*B, T]`` are stored as
    ``[B * T]``, and changes nothing on the way out.

    >>> from tensordict import TensorDict
    >>> FlattenTensorDict().inv(TensorDict(a=[[1, 2, 3]], batch_size=[1, 3])).batch_size
    torch.Size([3])
    """

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the same steps in one row."""
        return tensordict.reshape(-1)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Refuse: an environment has one batch size.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "FlattenTensorDict is for replay buffers; BatchSizeTransform reshapes the batch of an "
            "environment."
        )


def _is_below(key: NestedKey, above: NestedKey) -> bool:
    """Return whether an entry is ``above`` or stands below it."""
    key = key if isinstance(key, tuple) else (key,)
    above = above if isinstance(above, tuple) else (above,)
    return key[: len(above)] == above
