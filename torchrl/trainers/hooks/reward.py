"""`RewardNormalizer`: rewards of a scale that does not drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tensordict import NestedKey, TensorDictBase

from torchrl._core.keys import require
from torchrl.trainers.hooks.base import TrainerHookBase
from torchrl.trainers.hooks.batch import rows

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer

EPS = {torch.float16: 1e-3, torch.bfloat16: 1e-2}  # elsewhere 1e-6


class RewardNormalizer(TrainerHookBase):
    r"""Gives the rewards that the loss sees mean zero and a fixed deviation.

    .. math:: r \leftarrow \text{scale}\,\frac{r - \mu}{\max(\sigma, \epsilon)}

    Mean and deviation are those of all rewards so far, where a batch counts ``decay`` times less
    with every later one. What is stored keeps its own scale.

    Args:
        decay: Weight that the past keeps at each batch.
        scale: The deviation afterwards.
        eps: Least deviation that is divided by; 1e-6, more in half precision, if ``None``.
        log_pbar: Show mean and deviation beside the progress bar.
        reward_key: The rewards; ``("next", "reward")`` if ``None``.

    Raises:
        ValueError: if ``decay`` lies outside [0, 1].

    >>> from tensordict import TensorDict
    >>> batch = TensorDict({("next", "reward"): torch.tensor([[1.0], [3.0]])}, [2])
    >>> hook = RewardNormalizer()
    >>> hook(hook.update_reward_stats(batch))["next", "reward"].flatten()
    tensor([-1.,  1.])
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
        """The deviation of the rewards so far."""
        return max(self._squares / max(self._count, 1) - self.mean**2, 0.0) ** 0.5

    def update_reward_stats(self, batch: TensorDictBase) -> TensorDictBase:
        """Take note of the rewards of a batch, which stays as it is."""
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
        # into a copy: what was handed over may be the batch itself, which comes again
        normal = (reward - self.mean) / max(self.std, eps) * self.scale
        return sub_batch.copy().set(self.reward_key, normal)

    def log(self, batch: TensorDictBase | None) -> dict[str, float | bool]:
        """Return mean and deviation."""
        return {
            "reward_mean": self.mean,
            "reward_std": self.std,
            "log_pbar": self.log_pbar,
        }

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Join a trainer: take note of batches, change what the loss gets, log what is known."""
        trainer.register_op("batch_process", self.update_reward_stats)
        trainer.register_op("process_optim_batch", self)
        trainer.register_op("post_steps_log", self.log)
        self._save_with(trainer, name)
