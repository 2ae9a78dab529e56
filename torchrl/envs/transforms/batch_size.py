"""The batch size of an environment, given or reshaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase

from torchrl.data import Composite, TensorSpec
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.inside import Reset, Step

Reshape = Callable[[Any], Any]


class BatchSizeTransform(Transform):
    """Gives an environment without a batch size one, or reshapes the one that it has.

    Args:
        batch_size: The batch size to give, for an environment that takes records of any
            (``batch_locked = False``).
        reshape_fn: ``td -> td``, from the environment's batch size to the one seen from outside:
            ``reshape``, ``flatten``, ``unflatten``, ``squeeze`` or ``unsqueeze``.
        reset_func: ``(td, td_reset) -> td``, makes the first root of the batch of what reset() was
            given (or ``None``) and what the environment itself returns.
        env_kwarg: Hand ``reset_func`` the environment too, as ``env=...``.

    Raises:
        ValueError: unless exactly one of ``batch_size`` and ``reshape_fn`` is given.

    >>> import gymnasium
    >>> from torchrl.envs import GymWrapper, TransformedEnv
    >>> base = GymWrapper(gymnasium.make_vec("Pendulum-v1", 4, vectorization_mode="sync",
    ...     vector_kwargs={"autoreset_mode": "Disabled"}))
    >>> env = TransformedEnv(base, BatchSizeTransform(reshape_fn=lambda td: td.reshape(2, 2)))
    >>> env.rollout(3)["observation"].shape
    torch.Size([2, 2, 3, 3])
    """

    def __init__(
        self,
        *,
        batch_size: Sequence[int] | None = None,
        reshape_fn: Reshape | None = None,
        reset_func: Callable[..., TensorDictBase] | None = None,
        env_kwarg: bool = False,
    ) -> None:
        super().__init__()
        if (batch_size is None) == (reshape_fn is None):
            raise ValueError("BatchSizeTransform: give either batch_size or reshape_fn.")
        if reset_func is not None and batch_size is None:
            raise ValueError("BatchSizeTransform: reset_func goes with batch_size.")
        self.batch_size = None if batch_size is None else torch.Size(batch_size)
        if env_kwarg and reset_func is None:
            raise ValueError("BatchSizeTransform: env_kwarg goes with reset_func.")
        self.reshape_fn, self.reset_func, self.env_kwarg = reshape_fn, reset_func, env_kwarg
        self._inner = torch.Size([])

    def _outward(self, td: Any) -> Any:
        return td if self.reshape_fn is None else self.reshape_fn(td)

    def _inward(self, td: Any) -> Any:
        return td if self.reshape_fn is None else td.reshape(self._inner)

    def _around_step(self, step: Step, tensordict: Any) -> Any:
        return self._outward(step(self._inward(tensordict)))

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        if self.reshape_fn is not None:
            return self._outward(reset(None if tensordict is None else self._inward(tensordict)))
        if self.reset_func is not None:
            named = {"env": self.parent} if self.env_kwarg else {}
            return self.reset_func(tensordict, reset(None), **named)
        if tensordict is None:
            tensordict = TensorDict({}, self.batch_size)
        return reset(tensordict)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reshape a record."""
        return self._outward(tensordict)

    def transform_env_batch_size(self, batch_size: torch.Size) -> torch.Size:
        """Return the batch size seen from outside."""
        self._inner = batch_size
        if self.batch_size is None:
            return self._outward(TensorDict({}, batch_size)).batch_size
        if len(batch_size):
            raise ValueError(
                f"BatchSizeTransform: the environment has batch size {tuple(batch_size)} already; "
                "change it with reshape_fn."
            )
        return self.batch_size

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Give the specs the batch size seen from outside."""
        return {group: self._widened(spec) for group, spec in specs.items()}

    def _widened(self, spec: Composite) -> Composite:
        if self.batch_size is not None:
            return spec.expand(*self.batch_size, *spec.shape)
        inner = len(self._inner)
        outer = self._outward(TensorDict({}, self._inner)).batch_size
        leaves: dict[Any, TensorSpec] = {
            key: leaf.reshape(*outer, *leaf.shape[inner:]) for key, leaf in spec.items(True, True)
        }
        return Composite(leaves, shape=outer, device=spec.device)
