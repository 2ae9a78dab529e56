"""Hooks for data: select entries, normalise rewards, replay buffers, sub-batches, advantages.

``N`` trajectories, ``T`` the length of the longest, ``L`` steps of a sub-trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDictBase, pad
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, require
from torchrl.data import PrioritizedSampler, ReplayBuffer
from torchrl.data.trajectories import split_trajectories
from torchrl.objectives.value import ValueEstimatorBase
from torchrl.trainers.hooks.base import TrainerHookBase

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

MASK = ("collector", "mask")
EPS = {torch.float16: 1e-3, torch.bfloat16: 1e-2}  # 1e-6 for other dtypes


def rows(batch: TensorDictBase) -> Tensor | None:
    """Return the mask ``[*B]`` of the rows that are no padding; ``None`` without padding."""
    return batch.get(MASK, None)


def mask_batch(batch: TensorDictBase) -> TensorDictBase:
    """Return the rows ``[N]`` that are no padding; a batch without padding unchanged.

    Args:
        batch: Steps, of which some may be padding.

    Reads: ``("collector", "mask") [*B]``, if present.

    >>> from tensordict import TensorDict
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> batch = TensorDict(reward=torch.ones(2, 2), collector=TensorDict(mask=mask), batch_size=[2, 2])
    >>> mask_batch(batch).shape
    torch.Size([3])
    """
    mask = rows(batch)
    return batch if mask is None else batch[mask]


def num_frames(batch: TensorDictBase) -> int:
    """Return the number of frames of a batch, without padding."""
    mask = rows(batch)
    return batch.numel() if mask is None else int(mask.sum())


class SelectKeys(TrainerHookBase):
    """Select entries of each batch, so that a buffer stores only what is used.

    Args:
        keys: The entries to keep.

    Raises:
        MissingKeyError: if one is absent.

    >>> from tensordict import TensorDict
    >>> batch = TensorDict(action=torch.zeros(2), junk=torch.zeros(2), batch_size=[2])
    >>> list(SelectKeys(["action"])(batch).keys())
    ['action']
    """

    stage, name = "batch_process", "select_keys"

    def __init__(self, keys: Sequence[NestedKey]) -> None:
        self.keys = as_keys(keys)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        require(batch, self.keys, self, "Collect that entry, or leave it out of keys.")
        return batch.select(*self.keys)


class RewardNormalizer(TrainerHookBase):
    r"""Normalise the rewards that the loss reads to mean zero and a fixed standard deviation.

    .. math:: r \leftarrow \text{scale}\,\frac{r - \mu}{\max(\sigma, \epsilon)}

    Mean and standard deviation are taken over all rewards so far, where the weight of a batch falls
    by the factor ``decay`` with each later one. Stored rewards keep their scale.

    Args:
        decay: Factor of the weight of earlier batches.
        scale: The standard deviation afterwards.
        eps: Lower limit of the divisor; 1e-6, or more in half precision, if ``None``.
        log_pbar: Show mean and standard deviation beside the progress bar.
        reward_key: The rewards; ``("next", "reward")`` if ``None``.

    Raises:
        ValueError: if ``decay`` lies outside [0, 1].

    >>> from tensordict import TensorDict
    >>> batch = TensorDict({("next", "reward"): torch.tensor([[1.0], [3.0]])}, [2])
    >>> hook = RewardNormalizer()
    >>> hook(hook.update_reward_stats(batch))["next", "reward"].flatten()
    tensor([-0.7071,  0.7071])
    """

    name, saved = "reward_normalizer", ("_count", "_sum", "_squares")

    def __init__(
        self,
        decay: float = 0.999,
        scale: float = 1.0,
        eps: float | None = None,
        log_pbar: bool = False,
        reward_key: NestedKey | None = None,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"RewardNormalizer: expected decay in [0, 1], found {decay}.")
        self.decay, self.scale, self.eps, self.log_pbar = decay, scale, eps, log_pbar
        self.reward_key: NestedKey = reward_key or ("next", "reward")
        self._count = self._sum = self._squares = 0.0

    @property
    def mean(self) -> float:
        """The mean reward so far."""
        return self._sum / max(self._count, 1)

    @property
    def std(self) -> float:
        """The standard deviation of the rewards so far."""
        variance = self._squares / max(self._count, 1) - self.mean**2
        return max(variance * self._count / max(self._count - 1, 1), 0.0) ** 0.5

    def update_reward_stats(self, batch: TensorDictBase) -> TensorDictBase:
        """Add the rewards of a batch to the statistics; return the batch unchanged."""
        require(batch, [self.reward_key], self, "Name yours: reward_key=...")
        reward, mask = batch.get(self.reward_key), rows(batch)
        counted = (reward if mask is None else reward[mask]).double()  # sums of squares are large
        self._count = self.decay * self._count + counted.numel()
        self._sum = self.decay * self._sum + float(counted.sum())
        self._squares = self.decay * self._squares + float(counted.square().sum())
        return batch

    def __call__(self, sub_batch: TensorDictBase) -> TensorDictBase:
        require(sub_batch, [self.reward_key], self, "Name yours: reward_key=...")
        reward = sub_batch.get(self.reward_key)
        eps = EPS.get(reward.dtype, 1e-6) if self.eps is None else self.eps
        normal = (reward - self.mean) / max(self.std, eps) * self.scale
        # into a copy: the sub-batch may be the batch itself, which is used again
        return sub_batch.copy().set(self.reward_key, normal)

    normalize_reward = __call__

    def log(self, batch: TensorDictBase | None) -> dict[str, float | bool]:
        """Return mean and standard deviation."""
        return {"reward_mean": self.mean, "reward_std": self.std, "log_pbar": self.log_pbar}

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer: update the statistics, normalise sub-batches, log."""
        trainer.register_op("batch_process", self.update_reward_stats)
        trainer.register_op("process_optim_batch", self)
        trainer.register_op("post_steps_log", self.log)
        self._save_with(trainer, name)


class ReplayBufferTrainer(TrainerHookBase):
    """Store each batch in a replay buffer, sample from it, and update priorities after the loss.

    Args:
        replay_buffer: The buffer.
        batch_size: Size of a sample; the buffer's own if ``None``.
        memmap: Write batches to disk before they are stored, for buffers that keep references.
        device: Where samples are moved.
        flatten_tensordicts: Store steps ``[N]`` without padding, rather than batches as they are.
        max_dims: Pad batches with zeros to these sizes, for storages of trajectories.
        iterate: Learn on policy. Each epoch stores the batch again, as the hooks of ``"pre_epoch"``
            that were registered before changed it, and visits every item once, as iterating over
            the buffer does. Otherwise each batch is stored once, and each optimisation step draws a
            sample.
        sequence_length: Store and draw sequences of this many steps; single steps if ``None``.

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
        sequence_length: int | None = None,
    ) -> None:
        check_devices(self, device=device)
        if (max_dims is not None) + flatten_tensordicts + (sequence_length is not None) > 1:
            hint = "Pad trajectories, or store their steps, or sequences of them."
            fact = "got more than one of max_dims, flatten_tensordicts and sequence_length"
            raise ValueError(describe(self, fact, hint=hint))
        if iterate and batch_size is not None:
            replay_buffer.batch_size = batch_size
        self.replay_buffer, self.batch_size, self.memmap = replay_buffer, batch_size, memmap
        self.device, self.flatten_tensordicts = device, flatten_tensordicts
        self.max_dims, self.iterate, self.ends_epochs = max_dims, iterate, iterate
        self.sequence_length = sequence_length
        self._samples: Iterator[TensorDictBase] | None = None

    def extend(self, batch: TensorDictBase) -> TensorDictBase:
        """Store a batch; return it unchanged."""
        stored = batch
        if self.flatten_tensordicts:
            stored = mask_batch(batch).reshape(-1)
        elif self.max_dims is not None:
            stored = self._padded(batch, list(self.max_dims))
        elif self.sequence_length is not None:
            stored = self._sequences(batch, self.sequence_length)
        self._samples = None
        self.replay_buffer.extend(stored.cpu().memmap_() if self.memmap else stored)
        return batch

    def _padded(self, batch: TensorDictBase, sizes: list[int]) -> TensorDictBase:
        missing = [most - n for n, most in zip(batch.shape, sizes, strict=False)]
        if len(sizes) != batch.ndim or min(missing) < 0:
            raise ValueError(
                describe(self, "a batch cannot be padded", expected=f"one of at most {sizes}", found=list(batch.shape))
            )
        return pad(batch, [side for room in missing for side in (0, room)])

    def _sequences(self, batch: TensorDictBase, length: int) -> TensorDictBase:
        if batch.shape[-1] % length or rows(batch) is not None:
            expected, found = f"[*B, n * {length}] steps without padding", list(batch.shape)
            raise ShapeError(describe(self, "a batch has no such sequences", expected=expected, found=found))
        return batch.reshape(-1, length)

    def sample(self, batch: TensorDictBase | None = None) -> TensorDictBase:
        """Return a sample; the argument is ignored.

        Raises:
            StopIteration: with ``iterate``, when every item has been visited.
        """
        if not self.iterate:
            sample = self.replay_buffer.sample(self.batch_size)
        else:
            if self._samples is None:
                self._samples = iter(self.replay_buffer)
            try:
                sample = next(self._samples)
            except StopIteration:
                self._samples = None
                raise
        return sample if self.device is None else sample.to(self.device)

    __call__ = sample

    def update_priority(self, sub_batch: TensorDictBase) -> TensorDictBase:
        """Update the priorities of a sample in the buffer; return the sample unchanged."""
        buffer: Any = self.replay_buffer
        if hasattr(buffer, "priority_key") and isinstance(buffer.sampler, PrioritizedSampler):
            buffer.update_tensordict_priority(sub_batch)
        return sub_batch

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer: store, sample, update priorities.

        Nothing is stored here if the collector fills the buffer itself.
        """
        if trainer.sees_batches:
            trainer.register_op("pre_epoch" if self.iterate else "batch_process", self.extend)
        trainer.register_op("process_optim_batch", self)
        trainer.register_op("post_loss", self.update_priority)
        self._save_with(trainer, name)


class BatchSubSampler(TrainerHookBase):
    """Draw a part of the collected batch for each optimisation step, for learning on policy.

    Args:
        batch_size: Steps of a part ``[batch_size]``, drawn without replacement; all of them if the
            batch has fewer.
        sub_traj_len: Draw sub-trajectories instead: ``[batch_size // L, L]``, where ``L`` is this
            or, if that is shorter, the length of the shortest trajectory that is used. Every
            sub-trajectory of that length is equally likely.
        min_sub_traj_len: Trajectories shorter than this are not used; with 0, those shorter than
            ``sub_traj_len`` are not.

    Raises:
        ValueError: if ``batch_size`` is smaller than one sub-trajectory.
        ShapeError: if no trajectory is long enough.

    >>> from tensordict import TensorDict
    >>> batch = TensorDict(step=torch.arange(10).expand(2, 10), batch_size=[2, 10])
    >>> BatchSubSampler(batch_size=8)(batch).shape
    torch.Size([8])
    """

    stage, name = "process_optim_batch", "batch_subsampler"

    def __init__(self, batch_size: int, sub_traj_len: int = 0, min_sub_traj_len: int = 0) -> None:
        if batch_size < max(1, sub_traj_len):
            raise ValueError(
                f"BatchSubSampler: batch_size={batch_size} has no room for a piece of {max(1, sub_traj_len)} steps."
            )
        self.batch_size, self.sub_traj_len = batch_size, sub_traj_len
        self.min_sub_traj_len = min_sub_traj_len

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        if self.sub_traj_len > 0:
            return self._sub_trajectories(batch)
        flat = mask_batch(batch).reshape(-1)
        return flat[torch.randperm(flat.shape[0], device=flat.device)[: self.batch_size]]

    def _sub_trajectories(self, batch: TensorDictBase) -> TensorDictBase:
        if rows(batch) is None:
            batch = split_trajectories(batch, prefix="collector")
        lengths = batch.get(MASK).sum(-1)  # [N]
        least = self.min_sub_traj_len or self.sub_traj_len
        long_enough = lengths >= least
        if not long_enough.any():
            raise ShapeError(
                describe(
                    self,
                    "no trajectory is long enough",
                    expected=f"at least {least} steps",
                    found=f"at most {int(lengths.max())}",
                    hint="Collect larger batches, or lower sub_traj_len or min_sub_traj_len.",
                )
            )
        length = min(self.sub_traj_len, int(lengths[long_enough].min()))
        starts = ((lengths - length + 1) * long_enough).to(torch.float)  # [N] possible first steps
        row = torch.multinomial(starts, self.batch_size // length, replacement=True)
        start = (torch.rand(row.shape, device=row.device) * starts[row]).long()
        steps = start.unsqueeze(-1) + torch.arange(length, device=row.device)  # [batch // L, L]
        return batch[row.unsqueeze(-1), steps]


class ValueEstimatorHook(TrainerHookBase):
    """Compute advantages and value targets before each epoch, with the critic of that time.

    Args:
        value_estimator: Writes the advantages and value targets.

    Reads, writes: as the estimator does.

    >>> from torchrl.objectives.value import GAE
    >>> from torchrl.testing.networks import critic
    >>> ValueEstimatorHook(GAE(gamma=0.99, lmbda=0.95, value_network=critic())).stage
    'pre_epoch'
    """

    stage, name = "pre_epoch", "value_estimator"

    def __init__(self, value_estimator: ValueEstimatorBase) -> None:
        self.value_estimator = value_estimator

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        return self.value_estimator(batch)
