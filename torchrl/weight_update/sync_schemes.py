"""How a collector gets new weights, as its users choose it: schemes, and updaters of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from torchrl._core.errors import describe
from torchrl.weight_update.scheme import Weights, weights_of

STRATEGIES = ("tensordict", "state_dict")


class WeightSyncScheme:
    """How the weights of a model reach the policies of a collector.

    Weights are taken before the next action. How they are sent follows from the workers: through shared
    memory to those of this machine, through Ray's object store to its actors. The schemes below are names of
    these ways; :class:`NoWeightSyncScheme` sends none.

    Args:
        strategy: Form of the weights that are passed to ``update_policy_weights_``,
            ``"tensordict"`` or ``"state_dict"``; either is accepted with each.

    Raises:
        ValueError: for another strategy.

    >>> SharedMemWeightSyncScheme().sends
    True
    """

    sends = True

    def __init__(self, strategy: str = "tensordict") -> None:
        if strategy not in STRATEGIES:
            raise ValueError(describe(self, "has no such strategy", expected=STRATEGIES, found=strategy))
        self.strategy = strategy


class SharedMemWeightSyncScheme(WeightSyncScheme):
    """Weights go through shared memory.

    >>> SharedMemWeightSyncScheme(strategy="state_dict").sends
    True
    """


class MultiProcessWeightSyncScheme(WeightSyncScheme):
    """Weights go to worker processes, through shared memory.

    >>> from torchrl.collectors import MultiSyncCollector
    >>> from torchrl.envs import GymEnv
    >>> collector = MultiSyncCollector(
    ...     [lambda: GymEnv("CartPole-v1")],
    ...     frames_per_batch=10,
    ...     total_frames=10,
    ...     weight_sync_schemes={"policy": MultiProcessWeightSyncScheme()},
    ... )
    >>> collector.shutdown()
    """


class RayWeightSyncScheme(WeightSyncScheme):
    """Weights go to the workers of a cluster through Ray's object store.

    >>> RayWeightSyncScheme(strategy="state_dict").sends
    True
    """


class NoWeightSyncScheme(WeightSyncScheme):
    """Weights are not sent: policies keep those that they started with.

    >>> NoWeightSyncScheme().sends
    False
    """

    sends = False


def sends_weights(schemes: Mapping[str, WeightSyncScheme] | None, owner: object) -> bool:
    """Return whether schemes send the weights of the policy; they do if there are none.

    Args:
        schemes: A scheme by the name of its model; a collector has the model ``"policy"`` only.
        owner: For error messages.

    Raises:
        ValueError: for another model.
        TypeError: for something else than a scheme.
    """
    for model, scheme in (schemes or {}).items():
        if model != "policy":
            raise ValueError(describe(owner, "has one model to send weights of", expected="'policy'", found=model))
        if not isinstance(scheme, WeightSyncScheme):
            hint = "Pass {'policy': SharedMemWeightSyncScheme()}."
            raise TypeError(describe(owner, "was passed no scheme", found=type(scheme).__name__, hint=hint))
    return all(scheme.sends for scheme in (schemes or {}).values())


class Sends(Protocol):
    """A collector, as an updater sees it."""

    def send_weights(self, weights: Weights | None, worker_ids: Sequence[int] | None) -> None: ...


class WeightUpdaterBase(ABC):
    """Sends weights to the policies of a collector in a way of its own.

    It is passed to a collector as ``weight_updater``, whose ``update_policy_weights_`` then calls
    :meth:`push_weights`.

    Hooks:
        _get_server_weights: ``-> weights``; the newest weights, where none are passed.
        _maybe_map_weights: ``weights -> weights``; convert them for the policies; as they are.
        _sync_weights_with_worker: ``worker, weights -> None``; send them to one policy.
        all_worker_ids: ``-> [worker]``; the policies there are; the only one is ``None``.

    >>> from torch import nn
    >>> class Doubled(WeightUpdaterBase):
    ...     def __init__(self, source, target):
    ...         self.source, self.target = source, target
    ...     def _get_server_weights(self):
    ...         return {name: 2 * value for name, value in self.source.state_dict().items()}
    ...     def _sync_weights_with_worker(self, worker_id, server_weights):
    ...         self.target.load_state_dict(server_weights)
    >>> source, target = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> Doubled(source, target).push_weights()
    >>> bool(target.weight == 2 * source.weight)
    True
    """

    collector: Sends | None = None

    def register_collector(self, collector: Sends) -> None:
        """Let the updater find the collector that it belongs to."""
        self.collector = collector

    @abstractmethod
    def _get_server_weights(self) -> Weights: ...

    @abstractmethod
    def _sync_weights_with_worker(self, worker_id: int | None, server_weights: Weights) -> None: ...

    def _maybe_map_weights(self, server_weights: Weights) -> Weights:
        return server_weights

    def all_worker_ids(self) -> Sequence[int | None]:
        """Return the numbers of the policies; ``None`` is the only one of a collector here."""
        return [None]

    def push_weights(
        self, policy_or_weights: Weights | None = None, worker_ids: int | Sequence[int] | None = None
    ) -> None:
        """Send weights to policies.

        Args:
            policy_or_weights: The weights; the newest ones if ``None``.
            worker_ids: The policies that get them; all if ``None``.
        """
        weights = self._get_server_weights() if policy_or_weights is None else policy_or_weights
        weights = self._maybe_map_weights(weights)
        chosen = [worker_ids] if isinstance(worker_ids, int) else worker_ids
        for worker in self.all_worker_ids() if chosen is None else chosen:
            self._sync_weights_with_worker(worker, weights)


class VanillaWeightUpdater(WeightUpdaterBase):
    """Copies weights into those of a policy in this process.

    Args:
        weight_getter: Returns the newest weights; if ``None``, they are passed at each update.
        policy_weights: The weights that are written, of the policy that acts.

    >>> from torch import nn
    >>> source, target = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> updater = VanillaWeightUpdater(weight_getter=lambda: source, policy_weights=target)
    >>> updater.push_weights()
    >>> torch.equal(source.weight, target.weight)
    True
    """

    def __init__(self, *, weight_getter: Callable[[], Weights] | None = None, policy_weights: Weights) -> None:
        self.weight_getter, self.policy_weights = weight_getter, policy_weights

    def _get_server_weights(self) -> Weights:
        if self.weight_getter is None:
            hint = "Pass it, or the weights to update_policy_weights_()."
            raise TypeError(describe(self, "has no weight_getter, which returns the newest weights", hint=hint))
        return self.weight_getter()

    def _maybe_map_weights(self, server_weights: Weights) -> Weights:
        return weights_of(server_weights)

    @torch.no_grad()
    def _sync_weights_with_worker(self, worker_id: int | None, server_weights: Weights) -> None:
        new = weights_of(server_weights)
        for name, value in weights_of(self.policy_weights).items():
            value.copy_(new[name])


Updater = WeightUpdaterBase | Callable[[], WeightUpdaterBase] | None


def updater_of(given: Updater, owner: Sends) -> WeightUpdaterBase | None:
    """Return the updater of a collector: one that was passed, or that a function builds.

    Raises:
        TypeError: if it is none.
    """
    updater = given() if given is not None and not isinstance(given, WeightUpdaterBase) else given
    if updater is not None:
        if not isinstance(updater, WeightUpdaterBase):
            raise TypeError(describe(owner, "was passed no WeightUpdaterBase", found=type(updater).__name__))
        updater.register_collector(owner)
    return updater
