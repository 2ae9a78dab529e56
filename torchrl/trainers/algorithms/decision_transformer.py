"""Decision Transformer: a policy that is told the return to reach, learnt from data as a sequence model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from torchrl._core.errors import describe
from torchrl.data import ReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.modules import DecisionTransformerPolicy, make_decision_transformer
from torchrl.objectives import DTLoss
from torchrl.trainers.algorithms.common import action_kind
from torchrl.trainers.algorithms.off_policy import OffPolicyTrainer
from torchrl.trainers.algorithms.offline import OfflineConfig, SequenceReader


@dataclass
class DecisionTransformerConfig(OfflineConfig):
    """Settings of the Decision Transformer.

    "paper" is Chen et al., 2021, https://arxiv.org/abs/2106.01345, for MuJoCo; "code" is that of the paper.

    >>> config = DecisionTransformerConfig(dataset="minari:mujoco/hopper/medium-v0", desired_return=-200.0)
    >>> config.context, config.return_scale
    (20, None)
    """

    total_frames: int = 100_000  # gradient steps; paper
    batch_size: int = 64  # sequences per gradient step; paper
    context: int = 20  # steps of a sequence, and last steps that the policy sees; paper; Reacher: 5, Atari: 30
    num_cells: int = 128  # width of the transformer; paper
    depth: int = 3  # layers; paper; Atari: 6
    num_heads: int = 1  # attention heads; paper; Atari: 8
    activation: str = "relu"  # "relu" or "gelu"; paper; Atari: "gelu"
    dropout: float = 0.1  # share of numbers dropped in training; paper
    lr: float = 1e-4  # learning rate; paper; Atari: 6e-4
    weight_decay: float = 1e-4  # of AdamW; paper
    max_grad_norm: float = 0.25  # limit of the gradient's norm; 0: none; paper; Atari: 1
    warmup: float = 0.1  # share of the gradient steps in which the learning rate rises; code, 1e4 of 1e5
    desired_return: float | None = None  # of an episode, which the policy is to reach; None: the best of the data
    return_scale: float | None = None  # returns are divided by it; code: 1000, by task; None: the largest of the data
    normalize_observations: bool = True  # to mean 0 and deviation 1 in the dataset; code

    @property
    def recurrent(self) -> str:
        """What keeps a state in the policy, so that environments tell it the first steps of episodes."""
        return "context"

    def check(self) -> None:
        super().check()
        self.at_least(1, "context", "num_cells", "depth", "num_heads")
        self.at_least(0, "lr", "weight_decay", "dropout", "warmup")
        if self.num_cells % self.num_heads:
            expected, found = f"a multiple of num_heads={self.num_heads}", self.num_cells
            raise ValueError(describe(self, "num_cells is shared by the heads", expected=expected, found=found))
        if self.activation not in ("relu", "gelu"):
            raise ValueError(
                describe(self, "has no such activation", expected="'relu' or 'gelu'", found=self.activation)
            )
        if self.return_scale is not None and self.return_scale <= 0:
            raise ValueError(describe(self, "return_scale is too small", expected="> 0", found=self.return_scale))


def make_policy(env: TransformedEnv, config: DecisionTransformerConfig) -> DecisionTransformerPolicy:
    """Return the policy, which writes ``action`` and its state."""
    return make_decision_transformer(
        env,
        context=config.context,
        num_cells=config.num_cells,
        num_layers=config.depth,
        num_heads=config.num_heads,
        activation=config.activation,
        dropout=config.dropout,
        desired_return=config.desired_return or 0.0,
        return_scale=config.return_scale or 1.0,
    )


def make_trainer(
    env: TransformedEnv, config: DecisionTransformerConfig, dataset: ReplayBuffer | None = None, **options: Any
) -> DecisionTransformerTrainer:
    """Return the trainer; ``options`` are arguments of :class:`DecisionTransformerTrainer`."""
    policy = make_policy(env, config)
    reader = SequenceReader(env, dataset or config.dataset, config, config.context)
    if config.desired_return is None:
        policy.desired_return = reader.episode_returns.max().item()
    if config.return_scale is None:
        policy.return_scale = reader.largest_return

    # Loss
    if action_kind(env.action_spec_unbatched) == "discrete":
        loss_module = DTLoss(policy, loss_function="cross_entropy")
        loss_module.set_keys(action_pred="logits")
    else:
        loss_module = DTLoss(policy, loss_function="l2")
    loss_module.to(config.device)
    optimizer = torch.optim.AdamW(loss_module.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    warm_steps = max(1, round(config.warmup * config.total_frames))

    def warm_up(step: int) -> float:
        return config.lr_factor(step) * min(1.0, (step + 1) / warm_steps)

    return DecisionTransformerTrainer(
        collector=reader,
        total_frames=config.rounded_frames,
        loss_module=loss_module,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up),
        clip_norm=config.max_grad_norm or None,
        seed=config.seed,
        **options,
    )


class DecisionTransformerTrainer(OffPolicyTrainer):
    """The Decision Transformer, for a :class:`~torchrl.objectives.DTLoss`; see :class:`OffPolicyTrainer`.

    >>> import tempfile
    >>> from torchrl.data.datasets import write_dataset
    >>> from torchrl.envs import GymEnv
    >>> path = write_dataset(tempfile.mkdtemp(), [GymEnv("Pendulum-v1").rollout(50)], 50)
    >>> trainer = DecisionTransformerTrainer.from_env("Pendulum-v1", dataset=f"file:{path}", num_cells=64, context=5)
    >>> type(trainer.loss_module).__name__
    'DTLoss'
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "decision_transformer", ("discrete", "continuous")
    config_class, make_policy = DecisionTransformerConfig, staticmethod(make_policy)
    from_config = staticmethod(make_trainer)
