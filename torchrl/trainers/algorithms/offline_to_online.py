"""From a dataset to the environment: SAC on batches of old and new data, with many gradient steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl._core.errors import describe
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, OfflineToOnlineReplayBuffer, ReplayBuffer
from torchrl.envs import SelectTransform, TransformedEnv
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import REDQLoss, SoftUpdate
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer
from torchrl.trainers.algorithms.offline import DatasetReader


@dataclass
class OfflineToOnlineConfig(OffPolicyConfig):
    """Settings of learning from old and new data. "paper" is Ball et al., 2023, https://arxiv.org/abs/2302.02948.

    >>> config = OfflineToOnlineConfig(dataset="minari:mujoco/hopper/medium-v0", offline_fraction=0.5)
    >>> config.anneal_frames, config.num_critics
    (0, 10)
    """

    dataset: str = ""  # its path or name, see torchrl.data.datasets.load_dataset(); or pass a replay buffer
    offline_fraction: float = 0.5  # share of the dataset in a batch; paper
    anneal_frames: int = 0  # environment steps until that share has fallen to 0; 0: it stays; paper
    learning_starts: int = 5_000  # environment steps before the first gradient step; paper
    updates_per_frame: float = 20.0  # gradient steps per environment step; paper
    num_critics: int = 10  # critics in all; paper
    critics_per_target: int = 2  # critics whose lowest value is the target; paper, 1 or 2 by task
    layer_norm: bool = True  # in the critics, which keeps values of actions outside the data in bounds; paper
    lr_actor: float = 3e-4  # learning rate of the policy; paper
    lr_critic: float = 3e-4  # learning rate of the critics; paper
    lr_alpha: float = 3e-4  # learning rate of the entropy temperature; paper
    tau: float = 0.005  # share of the critics that the targets take over per gradient step; paper
    alpha_init: float = 1.0  # entropy temperature at the start; paper
    num_cells: int = 256  # units of a hidden layer; paper

    def check(self) -> None:
        super().check()
        self.at_least(1, "num_critics", "critics_per_target")
        self.between(0, 1, "offline_fraction")
        self.at_least(0, "anneal_frames", "lr_actor", "lr_critic", "lr_alpha", "tau")
        self.more_than_zero("alpha_init")
        if self.critics_per_target > self.num_critics:
            expected, found = f"at most num_critics={self.num_critics}", self.critics_per_target
            raise ValueError(describe(self, "critics_per_target is too large", expected=expected, found=found))


def make_policy(env: TransformedEnv, config: OfflineToOnlineConfig) -> TensorDictModuleBase:
    """Return the policy, which writes ``action``."""
    return make_actor(
        env, num_cells=config.cells, activation=config.activation, scale="network", gain=None, return_log_prob=False
    )


def make_trainer(
    env: TransformedEnv, config: OfflineToOnlineConfig, dataset: ReplayBuffer | None = None, **options: Any
) -> OfflineToOnlineTrainer:
    """Return the trainer; ``options`` are arguments of :class:`OfflineToOnlineTrainer`."""
    actor = make_policy(env, config)
    critic = make_critic(
        env,
        with_action=True,
        layer_norm=config.layer_norm,
        num_cells=config.cells,
        activation=config.activation,
        gain=None,
    )

    # Loss
    loss_module = REDQLoss(
        actor,
        critic,
        num_qvalue_nets=config.num_critics,
        sub_sample_len=config.critics_per_target,
        min_alpha=None,
        max_alpha=None,
        loss_function="l2",
        gamma=config.gamma,
        alpha_init=config.alpha_init,
    ).to(config.device)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": config.lr_actor},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": config.lr_critic},
            {"params": [loss_module.log_alpha], "lr": config.lr_alpha},
        ]
    )

    # Data
    collector = Collector(
        env,
        actor,
        frames_per_batch=config.frames_per_batch,
        total_frames=config.rounded_frames,
        init_random_frames=config.learning_starts,
        device=config.device,
    )
    read = [*actor.in_keys, *(("next", key) for key in actor.in_keys), env.action_key]
    read += [("next", name) for name in (env.reward_key, "done", "terminated")]
    buffer = OfflineToOnlineReplayBuffer(
        DatasetReader(env, dataset or config.dataset, config).rows().select(*read),
        online_storage=LazyTensorStorage(config.buffer_size, device=config.device),
        offline_fraction=config.offline_fraction,
        batch_size=config.batch_size,
    )
    buffer.online_buffer.append_transform(SelectTransform(*read, keep_dones=False))

    return OfflineToOnlineTrainer(
        collector=collector,
        total_frames=config.rounded_frames,
        optim_steps_per_batch=config.updates_per_batch,
        loss_module=loss_module,
        optimizer=optimizer,
        replay_buffer=buffer,
        anneal_frames=config.anneal_frames or None,
        target_net_updater=SoftUpdate(loss_module, tau=config.tau),
        seed=config.seed,
        **options,
    )


class OfflineToOnlineTrainer(OffPolicyTrainer):
    """Learning from old and new data; see :class:`OffPolicyTrainer`.

    Args:
        replay_buffer: An :class:`~torchrl.data.OfflineToOnlineReplayBuffer`, or another buffer.
        anneal_frames: Frames until the share of old data has fallen to zero; it stays if ``None``.
        **kwargs: Of :class:`OffPolicyTrainer`.

    Raises:
        TypeError: if the share of a buffer that has none is to fall.

    Source: Ball et al., 2023, https://arxiv.org/abs/2302.02948, which does not let it fall.

    >>> import tempfile
    >>> from torchrl.data.datasets import write_dataset
    >>> from torchrl.envs import GymEnv
    >>> path = write_dataset(tempfile.mkdtemp(), [GymEnv("Pendulum-v1").rollout(50)], 50)
    >>> trainer = OfflineToOnlineTrainer.from_env("Pendulum-v1", dataset=f"file:{path}", num_cells=64)
    >>> type(trainer.loss_module).__name__
    'REDQLoss'
    >>> trainer.train()  # doctest: +SKIP
    """

    algorithm, action_kinds = "offline_to_online", ("continuous",)
    config_class, make_policy = OfflineToOnlineConfig, staticmethod(make_policy)
    from_config = staticmethod(make_trainer)

    def __init__(self, *, replay_buffer: Any, anneal_frames: int | None = None, **kwargs: Any) -> None:
        super().__init__(replay_buffer=replay_buffer, **kwargs)
        if anneal_frames is None:
            return
        if not hasattr(replay_buffer, "anneal"):
            expected, found = "OfflineToOnlineReplayBuffer", type(replay_buffer).__name__
            raise TypeError(describe(self, "anneals the share of old data", expected=expected, found=found))
        self.register_op("pre_optim_steps", lambda: replay_buffer.anneal(self.collected_frames, anneal_frames))
