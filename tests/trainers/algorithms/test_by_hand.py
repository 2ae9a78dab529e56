"""A loop by hand, as in the examples, learns bit for bit what from_env() learns."""

import torch
from tensordict.nn import TensorDictSequential

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import EGreedyModule, make_actor, make_critic, make_q_actor
from torchrl.objectives import ClipPPOLoss, DQNLoss, HardUpdate, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE
from torchrl.trainers.algorithms import DQNTrainer, PPOTrainer, SACTrainer

SEED = 5


def start(name, num_envs=0):
    """Seed, and return the environment."""
    torch.manual_seed(SEED)
    env = TransformedEnv(GymEnv(name, num_envs=num_envs), Compose(DoubleToFloat(), RewardSum(), StepCounter()))
    env.set_seed(SEED)
    return env


def begin(collector):
    """Seed again, as trainers do."""
    torch.manual_seed(SEED)
    collector.set_seed(SEED)


def same(kind, task, settings, loss_module):
    """Train with the default settings but these; assert that both have the same parameters."""
    trainer = kind.from_env(task, kind.config_class(), num_cells=16, seed=SEED, progress_bar=False, **settings)
    trainer.train()
    found, expected = trainer.loss_module.state_dict(), loss_module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_ppo():
    env = start("CartPole-v1", num_envs=2)
    cells = (16, 16)
    actor, critic = make_actor(env, num_cells=cells), make_critic(env, num_cells=cells)
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss_module = ClipPPOLoss(
        actor, critic, entropy_coeff=0.0, critic_coeff=0.5, loss_critic_type="l2", normalize_advantage=True
    )
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-4, eps=1e-5)
    collector = Collector(env, actor, frames_per_batch=64, total_frames=192)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), sampler=SamplerWithoutReplacement(), batch_size=16)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))
    begin(collector)
    for batch in collector:
        with torch.no_grad():
            advantage(batch)
        for _ in range(2):
            buffer.extend(batch.reshape(-1))
            for sample in buffer:
                losses = loss_module(sample)
                optimizer.zero_grad()
                losses.backward()
                torch.nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
        scheduler.step()
    collector.shutdown()
    settings = {"total_frames": 192, "frames_per_batch": 64, "minibatch_size": 16, "num_epochs": 2, "num_envs": 2}
    same(PPOTrainer, "CartPole-v1", settings, loss_module)


def test_dqn():
    env = start("CartPole-v1")
    actor = make_q_actor(env, num_cells=(16, 16))
    eps = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.1, annealing_num_steps=100)
    loss_module = DQNLoss(actor, loss_function="smooth_l1", gamma=0.99, double_dqn=True)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-4)
    target_update = HardUpdate(loss_module, value_network_update_interval=5)
    policy = TensorDictSequential(actor, eps)
    collector = Collector(env, policy, frames_per_batch=16, total_frames=160, init_random_frames=32)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    begin(collector)
    frames = 0
    for batch in collector:
        buffer.extend(batch)
        frames += batch.numel()
        if frames >= 32:
            for _ in range(4):
                losses = loss_module(buffer.sample())
                optimizer.zero_grad()
                losses.backward()
                torch.nn.utils.clip_grad_norm_(loss_module.parameters(), 10.0)
                optimizer.step()
                target_update.step()
        eps.step(batch.numel())
    collector.shutdown()
    settings = {"total_frames": 160, "frames_per_batch": 16, "learning_starts": 32, "batch_size": 8}
    settings |= {"target_interval": 5, "buffer_size": 100, "eps_frames": 100}
    same(DQNTrainer, "CartPole-v1", settings, loss_module)


def test_sac():
    env = start("Pendulum-v1")
    net = {"num_cells": (16, 16), "activation": "relu", "gain": None}
    actor = make_actor(env, scale="network", return_log_prob=False, **net)
    critic = make_critic(env, with_action=True, **net)
    loss_module = SACLoss(actor, critic, num_qvalue_nets=2, loss_function="l2", gamma=0.99)
    optimizer = torch.optim.Adam(
        [
            {"params": loss_module.actor_network.parameters(), "lr": 3e-4},
            {"params": loss_module.qvalue_network_params.parameters(), "lr": 3e-4},
            {"params": [loss_module.log_alpha], "lr": 3e-4},
        ]
    )
    target_update = SoftUpdate(loss_module, tau=0.005)
    collector = Collector(env, actor, frames_per_batch=8, total_frames=80, init_random_frames=16)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    begin(collector)
    frames = 0
    for batch in collector:
        buffer.extend(batch)
        frames += batch.numel()
        if frames >= 16:
            for _ in range(4):
                losses = loss_module(buffer.sample())
                optimizer.zero_grad()
                losses.backward()
                optimizer.step()
                target_update.step()
    collector.shutdown()
    settings = {"total_frames": 80, "frames_per_batch": 8, "learning_starts": 16, "batch_size": 8, "buffer_size": 100}
    settings |= {"updates_per_frame": 0.5}
    same(SACTrainer, "Pendulum-v1", settings, loss_module)
