"""PPO as in ``ppo.py``, with the training loop of :class:`~torchrl.trainers.Trainer` and hooks.

    python examples/trainer.py
    python examples/trainer.py --resume true  # continues an interrupted run from its last save

CartPole-v1: mean return 500, 500, 500 of 100 deterministic episodes after 100 000 frames,
seeds 0, 1, 2; about 2 minutes each on one core.

Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import GymEnv, RewardSum, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE
from torchrl.record import evaluate_policy, get_logger, parse_args
from torchrl.trainers import (
    LogScalar,
    LogValidationReward,
    LRSchedulerHook,
    ReplayBufferTrainer,
    Trainer,
    ValueEstimatorHook,
)


@dataclass
class Args:
    """Settings; those of ``ppo.py``, which names their sources, and of the trainer."""

    env: str = "CartPole-v1"  # a gymnasium task with discrete actions
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and data are
    total_frames: int = 100_000  # environment steps, of all copies together
    num_envs: int = 8  # copies of the environment
    frames_per_batch: int = 400  # environment steps between gradient steps
    minibatch_size: int = 100  # environment steps per gradient step
    num_epochs: int = 10  # times that each batch is learned from
    lr: float = 1e-3  # learning rate at the start, falls to 0
    gamma: float = 0.98  # discount per environment step
    lmbda: float = 0.9  # of the generalised advantage
    max_grad_norm: float = 0.5  # limit of the gradient's norm
    num_cells: int = 64  # units of each of two hidden layers
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    resume: bool = False  # load the last save, if there is one
    progress_bar: bool = True  # show one
    logger: str = "csv"  # "csv", "tensorboard", "wandb" or "mlflow"
    log_dir: str = "runs"  # folder of the run's own folder


def make_env(args: Args, num_envs: int) -> TransformedEnv:
    """Return ``num_envs`` environments in one, with the returns of their episodes."""
    return TransformedEnv(GymEnv(args.env, num_envs=num_envs, device=args.device), RewardSum())


def make_loss(env: TransformedEnv, args: Args) -> ClipPPOLoss:
    """Return the loss, which holds the policy and the critic."""
    spec = env.action_spec_unbatched
    num_obs, cells = env.observation_spec["observation"].shape[-1], [args.num_cells] * 2
    policy_net = MLP(num_obs, spec.shape[-1], num_cells=cells, activation_class=nn.Tanh)
    critic_net = MLP(num_obs, 1, num_cells=cells, activation_class=nn.Tanh)
    policy = ProbabilisticActor(
        TensorDictModule(policy_net, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    return ClipPPOLoss(
        policy,
        ValueOperator(critic_net, in_keys=["observation"]),
        entropy_coeff=0.0,
        critic_coeff=0.5,
        loss_critic_type="l2",
        normalize_advantage=True,
    )


def make_trainer(args: Args) -> Trainer:
    """Return the trainer with its hooks."""
    env = make_env(args, args.num_envs)
    loss_module = make_loss(env, args).to(args.device)
    policy, critic = loss_module.actor_network, loss_module.critic_network
    collector = Collector(env, policy, frames_per_batch=args.frames_per_batch, total_frames=args.total_frames)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr, eps=1e-5)
    name = f"trainer_{args.env}_seed{args.seed}"
    trainer = Trainer(
        collector=collector,
        total_frames=args.total_frames,
        optim_steps_per_batch=None,  # until every row of the batch has been drawn once
        num_epochs=args.num_epochs,
        loss_module=loss_module,
        optimizer=optimizer,
        clip_norm=args.max_grad_norm,
        logger=get_logger(args.logger, args.log_dir, name),
        log_interval=args.frames_per_batch,
        save_trainer_file=Path(args.log_dir, name, "trainer.pt"),
        progress_bar=args.progress_bar,
        seed=args.seed,
    )

    # Advantages once a batch; its rows in another random order in every epoch
    gae = GAE(gamma=args.gamma, lmbda=args.lmbda, value_network=critic)
    trainer.register_op("batch_process", ValueEstimatorHook(gae))
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.frames_per_batch, device=args.device),
        sampler=SamplerWithoutReplacement(),
        batch_size=args.minibatch_size,
    )
    ReplayBufferTrainer(buffer, flatten_tensordicts=True, iterate=True).register(trainer)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))
    LRSchedulerHook(scheduler).register(trainer)

    # Logging and evaluation
    evaluation_env = make_env(args, 4)
    evaluation_env.set_seed(args.seed + 1_000)  # the trainer seeds the others
    LogScalar(("next", "reward"), "train/reward").register(trainer)
    LogValidationReward(
        record_interval=25,
        record_frames=500,
        policy_exploration=policy,
        environment=evaluation_env,
        exploration_type="deterministic",
        out_keys={("next", "reward"): "eval"},
        log_pbar=True,
    ).register(trainer)
    return trainer


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # fastest for small networks
    trainer = make_trainer(args)
    if args.resume and trainer.save_trainer_file.exists():
        trainer.load_from_file(trainer.save_trainer_file)
    trainer.train()
    test_env = make_env(args, args.eval_episodes)
    test_env.set_seed(args.seed + 1_000_000)
    returns = evaluate_policy(test_env, trainer.loss_module.actor_network)
    print(f"evaluation: {returns.mean():.1f} ± {returns.std():.1f} over {len(returns)} episodes")
    return returns.mean().item()


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
