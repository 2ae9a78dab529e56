"""`ReplayBufferTrainer`: what is collected goes into a buffer, what is learned from comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase, pad

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl.data import PrioritizedSampler, ReplayBuffer
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.batch import mask_batch

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer


class ReplayBufferTrainer(TrainerHookBase):
    """Stores each batch, hands out samples, and passes the priorities that the loss writes back.

    Args:
        replay_buffer: The buffer.
        batch_size: Size of a sample; the buffer's own if ``None``.
        memmap: Put batches on disk before they are stored, for buffers that keep references.
        device: Where samples go.
        flatten_tensordicts: Store steps ``[N]``, padding left out, rather than batches as they are.
        max_dims: Pad batches with zeros to these sizes, for storages of trajectories.
        iterate: Learn on policy. Each epoch stores the batch anew, as the hooks of ``"pre_epoch"``
            that were registered before made it, and visits the buffer once, as iterating over it
            does. Otherwise each batch is stored once, and each optimisation step draws a sample.

    Raises:
        ValueError: if ``max_dims`` and ``flatten_tensordicts`` are both given, or a batch is larger
            than ``max_dims``.

    >>> from torchrl.data import LazyTensorStorage
    >>> from tensordict import TensorDict
    >>> hook = ReplayBufferTrainer(ReplayBuffer(storage=LazyTensorStorage(10)), batch_size=3)
    >>> batch = hook.extend(TensorDict(a=torch.zeros(6), batch_size=[6]))
    >>> hook.sample(batch).shape
    torch.Size([3])
    """

    name, saved = "replay_buffer", ("replay_buffer",)

    def __init__(
        self,
        replay_buffer: ReplayBuffer,
        batch_size: int | None = None,
        memmap: bool = False,
        device: torch.device | str | int | None = None,
        flatten_tensordicts: bool = False,
        max_dims: Sequence[int] | None = None,
        iterate: bool = False,
    ) -> None:
        check_devices(self, device=device)
        if max_dims is not None and flatten_tensordicts:
            hint = "Pad trajectories, or store their steps."
            raise ValueError(describe(self, "got max_dims and flatten_tensordicts", hint=hint))
        if iterate and batch_size is not None:
            replay_buffer.batch_size = batch_size
        self.replay_buffer, self.batch_size, self.memmap = replay_buffer, batch_size, memmap
        self.device, self.flatten_tensordicts = device, flatten_tensordicts
        self.max_dims, self.iterate, self.ends_epochs = max_dims, iterate, iterate
        self._samples: Iterator[Any] | None = None

    def extend(self, batch: TensorDictBase) -> TensorDictBase:
        """Store a batch; return it as it was."""
        stored = batch
        if self.flatten_tensordicts:
            stored = mask_batch(batch).reshape(-1)
        elif self.max_dims is not None:
            stored = self._padded(batch)
        self.replay_buffer.extend(stored.cpu().memmap_() if self.memmap else stored)
        return batch

    def _padded(self, batch: TensorDictBase) -> TensorDictBase:
        sizes = list(self.max_dims or ())
        missing = [most - n for n, most in zip(batch.shape, sizes, strict=False)]
        if len(sizes) != batch.ndim or min(missing) < 0:
            raise ValueError(
                describe(
                    self,
                    "a batch cannot be padded",
                    expected=f"one of at most {sizes}",
                    found=list(batch.shape),
                )
            )
        return pad(batch, [side for room in missing for side in (0, room)])

    def sample(self, batch: TensorDictBase | None = None) -> TensorDictBase:
        """Return a sample; what is handed in is not looked at.

        Raises:
            StopIteration: with ``iterate``, when every item has been visited.
        """
        sample = self._next() if self.iterate else self.replay_buffer.sample(self.batch_size)
        return sample if self.device is None else sample.to(self.device)

    __call__ = sample

    def _next(self) -> Any:
        if self._samples is None:
            self._samples = iter(self.replay_buffer)
        try:
            return next(self._samples)
        except StopIteration:
            self._samples = None
            raise

    def update_priority(self, sub_batch: TensorDictBase) -> TensorDictBase:
        """Tell the buffer how surprising the items of a sample were."""
        buffer: Any = self.replay_buffer
        if hasattr(buffer, "priority_key") and isinstance(buffer.sampler, PrioritizedSampler):
            buffer.update_tensordict_priority(sub_batch)
        return sub_batch

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer: store, sample, and pass priorities back.

        A collector that fills the buffer itself is left to do so.
        """
        if trainer.sees_batches:
            trainer.register_op("pre_epoch" if self.iterate else "batch_process", self.extend)
        trainer.register_op("process_optim_batch", self)
        trainer.register_op("post_loss", self.update_priority)
        self._save_with(trainer, name)
