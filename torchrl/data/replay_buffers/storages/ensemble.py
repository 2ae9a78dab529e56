"""`StorageEnsemble`: the storages of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.storages.base import Storage


class StorageEnsemble:
    """The storages of several buffers, indexed as one: number of the storage, then rows.

    Args:
        *storages: One for each buffer.
        transforms: For each storage, a callable ``data -> data`` that its samples go through, or
            ``None``.

    Raises:
        ValueError: if there are not as many transforms as storages.

    >>> from torchrl.data import ListStorage
    >>> first, second = ListStorage(2), ListStorage(2)
    >>> second.set(0, "here")
    >>> storages = StorageEnsemble(first, second)
    >>> storages[1, 0], len(storages)
    ('here', 1)
    """

    def __init__(
        self,
        *storages: Storage,
        transforms: Sequence[Callable[[Any], Any] | None] | None = None,
    ) -> None:
        self.storages = list(storages)
        self.transforms = [None] * len(storages) if transforms is None else list(transforms)
        if len(self.transforms) != len(storages):
            raise ValueError(
                describe(
                    self,
                    "takes a transform, or None, for each storage",
                    expected=len(storages),
                    found=len(self.transforms),
                )
            )

    def __getitem__(self, index: Any) -> Any:
        """Return a storage, or, of a pair, the rows ``index[1]`` of storage ``index[0]``."""
        if not isinstance(index, tuple):
            return self.storages[index]
        number, rows = index
        data, transform = self.storages[number].get(rows), self.transforms[number]
        return data if transform is None else transform(data)

    def __len__(self) -> int:
        return sum(len(storage) for storage in self.storages)
