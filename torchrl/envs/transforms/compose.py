"""Several transforms, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import nn

from torchrl._core.entries import is_entrywise
from torchrl.data import Composite
from torchrl.envs.transforms.base import CallableTransform, Transform

if TYPE_CHECKING:
    from torchrl.envs.transforms.env import TransformedEnv


class Compose(Transform):
    """Applies transforms in order on the way out, in reverse order on the way in.

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
            for placed in self._chain:  # those can be used elsewhere
                placed.reset_parent()
            raise

    _chain: tuple[Transform, ...]

    @property
    def entrywise(self) -> bool:
        """Whether every part takes flat records."""
        return all(is_entrywise(transform) for transform in self._chain)

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        for transform in self._chain:
            tensordict = transform._call(tensordict)
        return tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply every transform, the first first."""
        for transform in self._chain:
            tensordict = transform(tensordict)
        return tensordict

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        for transform in reversed(self._chain):
            tensordict = transform._inv_call(tensordict)
        return tensordict

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Apply every inverse, the last first."""
        for transform in reversed(self._chain):
            tensordict = transform.inv(tensordict)
        return tensordict

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for transform in self._chain:
            next_tensordict = transform._step(tensordict, next_tensordict)
        return next_tensordict

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        for transform in self._chain:
            tensordict_reset = transform._reset(tensordict, tensordict_reset)
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the five groups of specs seen through all transforms."""
        for transform in self._chain:
            specs = transform.transform_specs(specs)
        return specs

    def transform_env_device(self, device: torch.device | None) -> torch.device | None:
        """Return the device of an environment seen through all transforms."""
        for transform in self._chain:
            device = transform.transform_env_device(device)
        return device

    def transform_env_batch_size(self, batch_size: torch.Size) -> torch.Size:
        """Return the batch size of an environment seen through all transforms."""
        for transform in self._chain:
            batch_size = transform.transform_env_batch_size(batch_size)
        return batch_size

    def leaves(self) -> list[Transform]:
        """Return the transforms in order, those of inner compositions in their place."""
        parts: list[Transform] = []
        for transform in self._chain:
            parts += transform.leaves() if isinstance(transform, Compose) else [transform]
        return parts

    # --- editing ---------------------------------------------------------------------------------

    def append(self, transform: Transform | Callable[[TensorDictBase], TensorDictBase]) -> Compose:
        """Add a transform on the outside."""
        return self.insert(len(self), transform)

    def insert(
        self, index: int, transform: Transform | Callable[[TensorDictBase], TensorDictBase]
    ) -> Compose:
        """Add a transform before the one at ``index``."""
        if not -len(self) <= index <= len(self):
            raise IndexError(
                f"Compose: expected an index between {-len(self)} and {len(self)}, found {index}."
            )
        self._place(index % (len(self) + 1) if index >= 0 else index + len(self), transform)
        self._changed()
        return self

    def pop(self, index: int = -1) -> Transform:
        """Take a transform out and return it."""
        transform: Any = self.transforms.pop(index)
        self.__dict__["_chain"] = tuple(self.transforms)
        transform.reset_parent()
        self._changed()
        return transform

    def _place(self, index: int, transform: Any) -> None:
        if not isinstance(transform, Transform):
            if isinstance(transform, type) or not callable(transform):
                raise TypeError(
                    f"Compose: expected transforms or functions td -> td, found {transform!r}."
                )
            transform = CallableTransform(transform)
        transform.set_container(self)
        self.transforms.insert(index, transform)
        self.__dict__["_chain"] = tuple(self.transforms)

    def _changed(self) -> None:
        container = self._container
        while isinstance(container, Compose):
            container = container._container
        if container is not None:
            container.empty_cache()

    def __getitem__(self, index: int | slice) -> Transform:
        if isinstance(index, slice):
            return Compose(*(transform.clone() for transform in self._chain[index]))
        return self._chain[index]

    def __len__(self) -> int:
        return len(self._chain)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self._chain)

    def before(self, transform: Transform) -> TransformedEnv | None:
        """Return the environment seen through what stands before ``transform``."""
        if self._container is None:
            return None
        earlier = self._chain[: [t is transform for t in self._chain].index(True)]
        return self._container.before(self, earlier)

    def init(self, tensordict: TensorDictBase) -> None:
        """Prepare every transform for data like ``tensordict``."""
        for transform in self._chain:
            transform.init(tensordict)

    def close(self) -> None:
        """Close every transform."""
        for transform in self._chain:
            transform.close()

    def set_missing_tolerance(self, mode: bool = False) -> Compose:
        """Choose for every transform whether an absent entry is passed over."""
        for transform in self._chain:
            transform.set_missing_tolerance(mode)
        return self

    def clone(self) -> Compose:
        """Return a composition of clones: what they share with the originals stays shared."""
        copied = Compose(*(transform.clone() for transform in self._chain))
        copied.training = self.training
        return copied

    def __deepcopy__(self, memo: dict) -> Compose:
        new = memo[id(self)] = Compose()
        for transform in self._chain:
            new.transforms.append(copy.deepcopy(transform, memo))  # its container is in the memo
        new.__dict__["_chain"] = tuple(new.transforms)
        new.__dict__["_container"] = copy.deepcopy(self._container, memo)
        return new

    def __repr__(self) -> str:
        inner = "".join(f"\n    {transform}," for transform in self._chain)
        return f"Compose({inner})"
