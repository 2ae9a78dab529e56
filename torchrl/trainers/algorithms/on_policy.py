"""`OnPolicyTrainer`: learn from each batch in epochs, then discard it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchrl._core.errors import describe
from torchrl.collectors import BaseCollector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.objectives import LossModule
from torchrl.objectives.value import GAE, ValueEstimatorBase
from torchrl.trainers.algorithms.common import AlgorithmTrainer
from torchrl.trainers.algorithms.config import AlgorithmConfig
from torchrl.trainers.hooks.data import ReplayBufferTrainer, ValueEstimatorHook

INTERVALS = {"batch": "batch_process", "epoch": "pre_epoch", "minibatch": "process_optim_batch"}


@dataclass
class OnPolicyConfig(AlgorithmConfig):
    """Settings of algorithms that learn from each batch and drop it.

    >>> config = OnPolicyConfig(total_frames=10_000, frames_per_batch=2048)
    >>> config.rounded_frames  # whole batches
    10240
    """

    frames_per_batch: int = 2048  # environment steps between updates, of all copies together

    @property
    def steps_per_env(self) -> int:
        """Steps of each copy of the environment in a batch."""
        return self.frames_per_batch // self.num_envs

    def check(self) -> None:
        super().check()
        self.at_least(1, "frames_per_batch")


class OnPolicyTrainer(AlgorithmTrainer):
    """Learn from each batch in epochs, then discard it: advantages first, then shuffled samples.

    Args:
        collector: The collector.
        loss_module: The loss; its critic is that of the advantages.
        num_epochs: Epochs for each batch.
        optim_steps_per_batch: Optimisation steps of an epoch; the whole batch if ``None``.
        batch_size: Size of a sample; that of ``replay_buffer``, or the whole batch, if ``None``.
        replay_buffer: Buffer of a batch, sampled without replacement; built if ``None``.
        sequence_length: Draw sequences of this many steps, for recurrent policies; single steps if ``None``.
        add_gae: Compute advantages.
        gae_interval: Compute them before each ``"epoch"``, with the critic of that time, once for each
            ``"batch"``, as the papers do, or for each ``"minibatch"``, of sequences.
        gae: The value estimator; ``GAE(gamma, lmbda, average_gae=True)`` of the loss's critic if ``None``.
        gamma: Discount.
        lmbda: Trade-off of bias and variance of the advantages.
        **kwargs: Of :class:`AlgorithmTrainer`.

    Raises:
        ValueError: if the loss has no critic for the advantages, or for another ``gae_interval``.

    >>> import torch
    >>> from torch import nn
    >>> from torchrl.collectors import Collector
    >>> from torchrl.envs import GymEnv
    >>> from torchrl.modules import ProbabilisticActor, SafeModule, ValueOperator
    >>> from torchrl.objectives import ClipPPOLoss
    >>> env = GymEnv("CartPole-v1")
    >>> net = SafeModule(nn.Linear(4, 2), ["observation"], ["logits"])
    >>> policy = ProbabilisticActor(
    ...     net, ["logits"], spec=env.action_spec, distribution_class="onehotcategorical", return_log_prob=True
    ... )
    >>> loss = ClipPPOLoss(policy, ValueOperator(nn.Linear(4, 1)))
    >>> trainer = OnPolicyTrainer(
    ...     collector=Collector(env, policy, frames_per_batch=40, total_frames=80),
    ...     total_frames=80,
    ...     loss_module=loss,
    ...     optimizer=torch.optim.Adam(loss.parameters()),
    ...     batch_size=20,
    ...     progress_bar=False,
    ... )
    >>> trainer.train()
    >>> trainer.num_optim_steps
    4
    """

    default_epochs: ClassVar[int] = 1

    def __init__(
        self,
        *,
        collector: BaseCollector,
        loss_module: LossModule,
        num_epochs: int | None = None,
        optim_steps_per_batch: int | None = None,
        batch_size: int | None = None,
        replay_buffer: ReplayBuffer | None = None,
        sequence_length: int | None = None,
        add_gae: bool = True,
        gae: ValueEstimatorBase | None = None,
        gae_interval: str = "epoch",
        gamma: float = 0.99,
        lmbda: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            collector=collector,
            loss_module=loss_module,
            num_epochs=self.default_epochs if num_epochs is None else num_epochs,
            optim_steps_per_batch=optim_steps_per_batch,
            **kwargs,
        )
        if gae is None and add_gae:
            critic = getattr(loss_module, "critic_network", None)
            if critic is None:
                raise ValueError(describe(self, "the loss has no critic for the advantages", hint="Pass gae."))
            gae = GAE(gamma=gamma, lmbda=lmbda, value_network=critic, average_gae=True)
        if gae_interval not in INTERVALS:
            raise ValueError(describe(self, "has no such gae_interval", expected=list(INTERVALS), found=gae_interval))
        estimator = gae if add_gae else None
        if estimator is not None and self.read_keys:
            estimator.set_keys(**self.read_keys)
        if estimator is not None and gae_interval != "minibatch":
            self.register_op(INTERVALS[gae_interval], ValueEstimatorHook(estimator))
        if replay_buffer is None:
            frames: Any = getattr(collector, "frames_per_batch", None) or self.total_frames
            size = batch_size or frames
            storage = LazyTensorStorage(max(int(frames), size))
            replay_buffer = ReplayBuffer(storage=storage, sampler=SamplerWithoutReplacement(), batch_size=size)
        ReplayBufferTrainer(
            replay_buffer,
            batch_size,
            flatten_tensordicts=sequence_length is None,
            iterate=True,
            sequence_length=sequence_length,
        ).register(self)
        if estimator is not None and gae_interval == "minibatch":
            self.register_op(INTERVALS[gae_interval], ValueEstimatorHook(estimator))
