"""Composition of transforms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import nn

from torchrl._core.records.flat_record import takes_flat_records
from torchrl.data import Composite
from torchrl.envs.transforms.base import CallableTransform, Transform

if TYPE_CHECKING:
    from torchrl.envs.transforms.transformed_env import TransformedEnv


class Compose(Transform):
    """Applies transforms in order forward, their inverses in reverse order.

    Args:
        transforms: Transforms, or functions ``td -> td``.

    >>> from tensordict import TensorDict
    >>> from torchrl.envs.transforms import RewardScaling
    >>> twice = Compose(RewardScaling(0.0, 2.0), RewardScaling(1.0, 1.0))
    >>> twice(TensorDict(reward=torch.ones(1)))["reward"]
    tensor([3.])
    """

    def __init__(self, *transforms: Transform | Callable[[TensorDictBase], TensorDictBase]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList()
        self.__dict__["_chain"] = ()
        try:
            for transform in transforms:
                self._place(len(self.transforms), transform)
        except Exception:
            for placed in self._chain:  # free to be used elsewhere
                placed.reset_parent()
            raise

    _chain: tuple[Transform, ...]

    @property
    def supports_flat_records(self) -> bool:
        """Whether every part takes flat records."""
        return all(takes_flat_records(transform) for transform in self._chain)

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        for transform in self._chain:
            tensordict = transform._call(tensordict)
        return tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply every transform in order."""
        for transform in self._chain:
            tensordict = transform(tensordict)
        return tensordict

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        for transform in reversed(self._chain):
            tensordict = transform._inv_call(tensordict)
        return tensordict

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply every inverse in reverse order."""
        for transform in reversed(self._chain):
            tensordict = transform.inv(tensordict)
        return tensordict

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for transform in self._chain:
            next_tensordict = transform._step(tensordict, next_tensordict)
        return next_tensordict

    def _reset(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> TensorDictBase:
        for transform in self._chain:
            tensordict_reset = transform._reset(tensordict, tensordict_reset)
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the five groups of specs outside, given the inner ones."""
        for transform in self._chain:
            specs = transform.derive_specs(specs)
        return specs

    def derive_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the five groups of specs outside; :attr:`inner` is that of each transform."""
        return self.transform_specs(specs)

    def _first_pair(self, inverse: bool) -> tuple[NestedKey, NestedKey]:
        pairs = [part._first_pair(inverse) for part in self.leaves()]
        source, destination = next((pair for pair in pairs if pair[0] != "entry"), ("entry", "entry"))
        for inner, outer in pairs:
            destination = outer if inner == destination else destination
        return source, destination

    def transform_env_device(self, device: torch.device | None) -> torch.device | None:
        """Return the device of the environment outside."""
        for transform in self._chain:
            device = transform.transform_env_device(device)
        return device

    def transform_env_batch_size(self, batch_size: torch.Size) -> torch.Size:
        """Return the batch size of the environment outside."""
        for transform in self._chain:
            batch_size = transform.transform_env_batch_size(batch_size)
        return batch_size

    def leaves(self) -> list[Transform]:
        """Return the transforms in order, with nested compositions flattened."""
        parts: list[Transform] = []
        for transform in self._chain:
            parts += transform.leaves()
        return parts

    # --- editing ---------------------------------------------------------------------------------

    def append(self, transform: Transform | Callable[[TensorDictBase], TensorDictBase]) -> Compose:
        """Add a transform after the last one."""
        return self.insert(len(self), transform)

    def insert(self, index: int, transform: Transform | Callable[[TensorDictBase], TensorDictBase]) -> Compose:
        """Add a transform before the one at ``index``."""
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Compose: expected an index between {-len(self)} and {len(self)}, found {index}.")
        self._place(index % (len(self) + 1) if index >= 0 else index + len(self), transform)
        self._changed()
        return self

    def pop(self, index: int = -1) -> Transform:
        """Remove a transform and return it."""
        transform: Any = self.transforms.pop(index)
        self.__dict__["_chain"] = tuple(self.transforms)
        transform.reset_parent()
        self._changed()
        return transform

    def _place(self, index: int, transform: Any) -> None:
        if not isinstance(transform, Transform):
            if isinstance(transform, type) or not callable(transform):
                raise TypeError(f"Compose: expected transforms or functions td -> td, found {transform!r}.")
            transform = CallableTransform(transform)
        transform.set_container(self)
        if not self.training:
            for module in transform.modules():
                module.training &= not isinstance(module, Transform)
        self.transforms.insert(index, transform)
        self.__dict__["_chain"] = tuple(self.transforms)

    def __getitem__(self, index: int | slice) -> Transform:
        if isinstance(index, slice):
            return Compose(*(transform.clone() for transform in self._chain[index]))
        return self._chain[index]

    def __len__(self) -> int:
        return len(self._chain)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self._chain)

    def before(self, transform: Transform, earlier: Sequence[Transform] = ()) -> TransformedEnv | None:
        """Return the environment seen through the transforms before ``transform``.

        Args:
            transform: One of these transforms.
            earlier: Transforms inside ``transform`` that are applied, too.
        """
        if self._container is None:
            return None
        position = [part is transform for part in self._chain].index(True)
        return self._container.before(self, (*self._chain[:position], *earlier))

    def init(self, tensordict: TensorDictBase) -> None:
        """Prepare every transform for data like ``tensordict``."""
        for transform in self._chain:
            transform.init(tensordict)

    def close(self) -> None:
        """Close every transform."""
        for transform in self._chain:
            transform.close()

    def dump(self, suffix: str | None = None) -> None:
        """Write what every transform recorded."""
        for transform in self._chain:
            transform.dump(suffix)

    def set_missing_tolerance(self, mode: bool = False) -> Compose:
        """Choose for every transform whether an absent entry is skipped."""
        for transform in self._chain:
            transform.set_missing_tolerance(mode)
        return self

    def clone(self) -> Compose:
        """Return a composition of clones; what they share with the originals stays shared."""
        copied = Compose(*(transform.clone() for transform in self._chain))
        copied.__dict__.update(training=self.training, evaluating=self.evaluating)
        return copied

    def __deepcopy__(self, memo: dict) -> Compose:
        new = memo[id(self)] = Compose()
        new.__dict__.update(training=self.training, evaluating=self.evaluating)
        for transform in self._chain:
            new.transforms.append(copy.deepcopy(transform, memo))  # its container is in the memo
        new.__dict__["_chain"] = tuple(new.transforms)
        new.__dict__["_container"] = copy.deepcopy(self._container, memo)
        return new

    def __repr__(self) -> str:
        inner = "".join(f"\n    {transform}," for transform in self._chain)
        return f"Compose({inner})"
