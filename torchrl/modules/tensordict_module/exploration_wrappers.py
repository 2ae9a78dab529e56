"""A policy and its exploration as one module: the older form of ``exploration.py``."""

from __future__ import annotations

from typing import Any, ClassVar

from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase

from torchrl.data import TensorSpec
from torchrl.modules.tensordict_module.exploration import (
    AdditiveGaussianModule,
    EGreedyModule,
    OrnsteinUhlenbeckProcessModule,
)
from torchrl.modules.tensordict_module.sequence import SafeSequential


class _ExplorationWrapper(SafeSequential):
    """A policy followed by an exploration module, which has the policy's spec.

    Hooks:
        module_class: The exploration module.
    """

    module_class: ClassVar[type]

    def __init__(
        self,
        policy: TensorDictModuleBase,
        *,
        action_key: NestedKey = "action",
        spec: TensorSpec | None = None,
        **kwargs: Any,
    ) -> None:
        if spec is None:
            spec = getattr(policy, "spec", None)
        exploration = self.module_class(spec, action_key=action_key, **kwargs)
        super().__init__(policy, exploration)

    @property
    def policy(self) -> Any:
        """The policy without exploration."""
        return self.module[0]

    @property
    def exploration_module(self) -> Any:
        """What disturbs its actions."""
        return self.module[1]

    def step(self, frames: int = 1) -> None:
        """Anneal the exploration by so many frames."""
        self.exploration_module.step(frames)


class EGreedyWrapper(_ExplorationWrapper):
    """A policy with epsilon-greedy exploration.

    Args:
        policy: Writes the action.
        action_key: Where the action is.
        spec: Spec of the action; the policy's by default.
        **kwargs: Of :class:`EGreedyModule`.

    Reads: what the policy reads. Writes: what the policy writes.

    >>> import torch
    >>> from torchrl.data import OneHot
    >>> from torchrl.modules import QValueActor
    >>> explorer = EGreedyWrapper(QValueActor(torch.nn.Linear(3, 2), spec=OneHot(2)))
    >>> explorer.step(1000)
    >>> explorer.eps
    tensor(0.1000)
    """

    entrywise = True
    module_class = EGreedyModule

    @property
    def eps(self) -> Any:
        """Probability of a random action."""
        return self.exploration_module.eps


class AdditiveGaussianWrapper(_ExplorationWrapper):
    """A policy with Gaussian noise on its actions.

    Args:
        policy: Writes the action.
        action_key: Where the action is.
        spec: Spec of the action; the policy's by default.
        **kwargs: Of :class:`AdditiveGaussianModule`; ``safe`` is on by default.

    Reads: what the policy reads. Writes: what the policy writes.

    >>> import torch
    >>> from torchrl.data import Bounded
    >>> from torchrl.modules import Actor
    >>> policy = Actor(torch.nn.Linear(3, 2), spec=Bounded(-1, 1, (2,)))
    >>> AdditiveGaussianWrapper(policy).sigma
    tensor(1.)
    """

    entrywise = True
    module_class = AdditiveGaussianModule

    def __init__(self, policy: TensorDictModuleBase, **kwargs: Any) -> None:
        super().__init__(policy, **{"safe": True, **kwargs})

    @property
    def sigma(self) -> Any:
        """Factor of the noise."""
        return self.exploration_module.sigma


class OrnsteinUhlenbeckProcessWrapper(_ExplorationWrapper):
    """A policy with noise that is correlated in time on its actions.

    Args:
        policy: Writes the action.
        action_key: Where the action is.
        spec: Spec of the action; the policy's by default.
        **kwargs: Of :class:`OrnsteinUhlenbeckProcessModule`.

    Reads: what the policy reads, ``is_init``. Writes: what the policy writes, the noise.

    >>> import torch
    >>> from torchrl.data import Bounded
    >>> from torchrl.modules import Actor
    >>> policy = Actor(torch.nn.Linear(3, 2), spec=Bounded(-1, 1, (2,)))
    >>> OrnsteinUhlenbeckProcessWrapper(policy).out_keys
    ['action', '_ou_prev_noise', '_ou_steps']
    """

    entrywise = True
    module_class = OrnsteinUhlenbeckProcessModule

    @property
    def eps(self) -> Any:
        """Factor of the noise."""
        return self.exploration_module.eps
