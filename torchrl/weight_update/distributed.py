"""Weights between ranks of torch.distributed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from torchrl._core.errors import WorkerError, describe
from torchrl._core.workers.protocol import WEIGHTS
from torchrl._core.workers.rank_link import RankLink
from torchrl._core.workers.shared_memory import SharedTensors
from torchrl.weight_update.scheme import Layout, WeightReceiver, WeightSender
from torchrl.weight_update.sync_schemes import WeightSyncScheme

BACKENDS = ("gloo",)


def check_backend(owner: object, backend: str) -> None:
    """Raise ValueError for a backend that cannot connect the ranks of collectors.

    >>> check_backend("DistributedCollector", "nccl")
    Traceback (most recent call last):
    ValueError: DistributedCollector: has no such backend; expected ('gloo',), found nccl. ...
    """
    if backend not in BACKENDS:
        hint = "Batches and weights are sent from the CPU, with any device: leave it out."
        raise ValueError(describe(owner, "has no such backend", expected=BACKENDS, found=backend, hint=hint))


class DistributedWeightSyncScheme(WeightSyncScheme):
    """Weights go to ranks of torch.distributed, as one message of bytes each.

    A rank receives them while it collects and acts with them from its next action on. Weights that
    still wait for a slow rank are replaced by newer ones.

    Args:
        backend: That of the collector.
        sync: Whether ``update_policy_weights_`` returns only once every rank has received the
            weights, or at once.
        timeout: Seconds that ``sync`` waits for a rank.

    Raises:
        ValueError: for another backend.

    >>> DistributedWeightSyncScheme(sync=False).sends
    True
    """

    def __init__(self, backend: str = "gloo", sync: bool = True, timeout: float = 3600.0) -> None:
        super().__init__()
        check_backend(self, backend)
        self.backend, self.sync, self.timeout = backend, sync, timeout


class RPCWeightSyncScheme(WeightSyncScheme):
    """Not there: torch's RPC is no longer developed.

    Raises:
        NotImplementedError: always; the message names the two engines.

    >>> RPCWeightSyncScheme()
    Traceback (most recent call last):
    NotImplementedError: RPCWeightSyncScheme: torch's RPC is no longer developed. ...
    """

    def __init__(self, strategy: str = "tensordict") -> None:
        hint = "Use DistributedWeightSyncScheme (torch.distributed) or RayWeightSyncScheme (Ray)."
        raise NotImplementedError(describe(self, "torch's RPC is no longer developed", hint=hint))


class DistributedSender(WeightSender):
    """Sends weights to ranks.

    Args:
        layout: Shapes and dtypes of the weights.
        links: Lead to the ranks.
        timeout: Seconds in which each rank must have received them before :meth:`send` returns;
            it does not wait if ``None``.

    Raises:
        WorkerError: if a rank has not received them in time.

    >>> from torch import nn
    >>> from torchrl.weight_update import layout_of
    >>> policy = nn.Linear(1, 1)
    >>> DistributedSender(layout_of(policy), links=[]).send(policy)
    1
    """

    def __init__(self, layout: Layout, links: Sequence[RankLink], timeout: float | None = None) -> None:
        super().__init__(layout)
        self._links, self._timeout = links, timeout

    def _publish(self, weights: dict[str, Tensor], version: int) -> None:
        memory = SharedTensors(self.layout)  # new, as the last one may still be on its way
        for name in self.layout:
            memory[name].copy_(weights[name])
        for link in self._links:
            link.send_bytes(WEIGHTS, memory.bytes, version, replaces=True)
        if self._timeout is not None:
            deadline = time.monotonic() + self._timeout
            for number, link in enumerate(self._links, start=1):
                if not link.wait_sent(max(0.0, deadline - time.monotonic())):
                    fact = f"rank {number} has not received weights within {self._timeout} s"
                    raise WorkerError(describe(self, fact, hint="Pass DistributedWeightSyncScheme(sync=False)."))

    def close(self) -> None:
        """Release nothing: the links are those of the ranks."""


class DistributedReceiver(WeightReceiver):
    """Takes the last weights that a :class:`DistributedSender` sent to this rank.

    Args:
        policy: The policy that acts.
        layout: Shapes and dtypes of the weights.

    >>> import torch
    >>> from torch import nn
    >>> from torchrl.weight_update import layout_of
    >>> actor = nn.Linear(1, 1, bias=False)
    >>> receiver = DistributedReceiver(actor, layout_of(actor))
    >>> receiver.put(torch.zeros(64, dtype=torch.uint8), 3)
    >>> receiver.poll(), receiver.poll(), receiver.version, actor.weight.item()
    (True, False, 3, 0.0)
    """

    def __init__(self, policy: object, layout: Layout) -> None:
        super().__init__(policy)
        self._layout = layout
        self._newest: tuple[Tensor, int] | None = None

    def put(self, data: Tensor, version: int) -> None:
        """Keep the bytes ``[N]`` of weights for the next action; called by another thread."""
        self._newest = data, version

    def _is_new(self) -> bool:
        return self._newest is not None

    def _fetch(self) -> tuple[dict[str, Tensor], int] | None:
        newest, self._newest = self._newest, None
        if newest is None:
            return None
        return SharedTensors(self._layout, buffer=newest[0].numpy()).tensors, newest[1]
