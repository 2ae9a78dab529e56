"""`StalenessAwareSampler`: sample items of recent policy versions more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import Info, State
from torchrl.data.replay_buffers.samplers.base import Sampler, require_items, whole_number
from torchrl.data.replay_buffers.storages.base import Storage


class StalenessAwareSampler(Sampler):
    r"""Sample items in proportion to a weight of their staleness, with replacement.

    The staleness of an item is the number of versions by which the policy that collected it lies
    behind the newest: :attr:`consumer_version`, or, while that is ``None``, the newest stored.
    Every sample looks at the versions of all items.

    Args:
        max_staleness: Items of higher staleness are not sampled; -1 is no limit.
        staleness_weight_fn: ``staleness [N] -> weights [N]``, zero or more; ``None`` is
            :math:`1 / (1 + \text{staleness})`.
        version_key: Entry that numbers the versions of the policy, one number an item.

    Attributes:
        consumer_version: Version of the policy that is trained; set it as it is updated.

    Reads: ``version_key``.
    Writes: ``staleness [B]``, float32.

    Raises:
        RuntimeError: when no item is fresh enough.
        ValueError: if ``max_staleness`` is no whole number from -1 on, or a weight is negative,
            infinite or not a number.

    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> sampler = StalenessAwareSampler(max_staleness=1)
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=4)
    >>> _ = buffer.extend(TensorDict(policy_version=torch.tensor([0, 0, 3]), batch_size=[3]))
    >>> buffer.sample()["policy_version"]
    tensor([3, 3, 3, 3])
    """

    def __init__(
        self,
        max_staleness: int = -1,
        staleness_weight_fn: Callable[[Tensor], Tensor] | None = None,
        version_key: NestedKey = "policy_version",
    ) -> None:
        self.max_staleness = max_staleness
        self.version_key = version_key
        self.staleness_weight_fn = staleness_weight_fn
        self.consumer_version: int | None = None

    @property
    def max_staleness(self) -> int:
        """Staleness above which items are not sampled; -1 is no limit."""
        return self._max_staleness

    @max_staleness.setter
    def max_staleness(self, value: int) -> None:
        self._max_staleness = whole_number(self, "max_staleness", value, -1)

    def settings(self) -> State:
        """Return the parameters that may be set from outside, by name."""
        return {**super().settings(), "max_staleness": self._max_staleness}

    def _weights(self, storage: Storage) -> tuple[Tensor, Tensor]:
        """Return staleness and weight ``[N]`` of all items."""
        items = require_items(storage, self)
        versions = storage.take_entry(self.version_key, torch.arange(items)).cpu()
        versions = versions.reshape(items, -1)[:, 0].double()  # [N]
        newest = versions.max() if self.consumer_version is None else self.consumer_version
        staleness = (newest - versions).clamp_min(0)
        weigh = self.staleness_weight_fn
        weights = 1 / (1 + staleness) if weigh is None else weigh(staleness).double()
        if not ((weights >= 0) & (weights < torch.inf)).all():
            raise ValueError(describe(self, "weights must be finite and not negative", found=weights[:3].tolist()))
        if self.max_staleness >= 0:
            weights = torch.where(staleness > self.max_staleness, 0.0, weights)
        return staleness, weights

    def can_sample(self, storage: Storage, batch_size: int) -> bool:
        """Return whether an item has a positive weight."""
        return bool(self._weights(storage)[1].any())

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, Info]:
        """Return positions ``[B]`` and their staleness."""
        staleness, weights = self._weights(storage)
        if not weights.any():
            raise RuntimeError(
                describe(
                    self,
                    "no stored item is fresh enough",
                    expected=f"a staleness of at most {self.max_staleness}",
                    found=f"at least {int(staleness.min())}",
                    hint="Collect with the newest policy, or raise max_staleness.",
                )
            )
        odds = weights.cumsum(0)
        quantile = torch.rand(batch_size, dtype=torch.float64, generator=self.generator)
        positions = torch.searchsorted(odds, quantile * odds[-1], right=True)
        return positions, {"staleness": staleness[positions].float()}

    def pass_state(self) -> object:
        """Return ``None``: draws are independent."""

    def restore_pass(self, state: Any) -> None:
        """Do nothing."""

    def state_dict(self) -> State:
        """Return the version of the policy that is trained."""
        return {"consumer_version": self.consumer_version}

    def load_state_dict(self, state_dict: State) -> None:
        """Load the version of a :meth:`state_dict`."""
        self.consumer_version = state_dict["consumer_version"]
