"""Trainers of algorithms."""

import pytest
import torch
from tensordict.nn import NormalParamExtractor
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import CartPoleEnv, PendulumEnv
from torchrl.modules import (
    MLP,
    Actor,
    EGreedyModule,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    SafeModule,
    SafeSequential,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CQLLoss,
    DDPGLoss,
    DQNLoss,
    IQLLoss,
    ReinforceLoss,
    SACLoss,
    SoftUpdate,
    TD3Loss,
)
from torchrl.objectives.value import GAE
from torchrl.trainers import Trainer, algorithms
from torchrl.trainers.algorithms import (
    A2CTrainer,
    CQLTrainer,
    DDPGTrainer,
    DQNTrainer,
    IQLTrainer,
    PPOTrainer,
    ReinforceTrainer,
    SACTrainer,
    TD3Trainer,
)

COMMON = {"frame_skip": 1, "progress_bar": False}


def on_policy(kind, loss_class, total=80, **kwargs):
    torch.manual_seed(0)
    env = CartPoleEnv(seed=0)
    net = SafeModule(MLP(4, 2, num_cells=[16]), ["observation"], ["logits"])
    policy = ProbabilisticActor(
        net, ["logits"], spec=env.action_spec, distribution_class=OneHotCategorical, return_log_prob=True
    )
    loss = loss_class(policy, ValueOperator(MLP(4, 1, num_cells=[16])))
    collector = Collector(env, policy, frames_per_batch=40, total_frames=total)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    options = {"loss_module": loss, "optimizer": optimizer, **COMMON, **kwargs}
    return kind(collector=collector, total_frames=total, **options)


def off_policy(kind, loss_class, total=80, **kwargs):
    torch.manual_seed(0)
    if loss_class is DQNLoss:
        env = CartPoleEnv(seed=0)
        policy = QValueActor(MLP(4, 2, num_cells=[8]), spec=env.action_spec)
        greedy = EGreedyModule(env.action_spec, annealing_num_steps=100)
        loss, acting = DQNLoss(policy), SafeSequential(policy, greedy)
        kwargs = {"greedy_module": greedy, **kwargs}
    else:
        env = PendulumEnv()
        policy = acting = Actor(_Join(MLP(2, 1, num_cells=[8])), ["th", "thdot"], spec=env.action_spec, safe=True)
        value = ValueOperator(_Join(MLP(3, 1, num_cells=[8])), in_keys=["th", "thdot", "action"])
        bounds = {"bounds": (-2.0, 2.0)} if loss_class is TD3Loss else {}
        loss = loss_class(policy, value, **bounds)
    buffer = ReplayBuffer(storage=LazyTensorStorage(100), batch_size=16)
    collector = Collector(env, acting, frames_per_batch=20, total_frames=total)
    options = {
        "loss_module": loss,
        "optimizer": torch.optim.Adam(loss.parameters()),
        "replay_buffer": buffer,
        "target_net_updater": SoftUpdate(loss, tau=0.1),
        **COMMON,
    }
    return kind(collector=collector, total_frames=total, optim_steps_per_batch=3, **{**options, **kwargs})


class _Join(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *parts):
        batch = parts[0].shape
        return self.net(torch.cat([part.reshape(*batch, -1) for part in parts], -1))


@pytest.mark.parametrize(
    ("kind", "loss", "options", "steps"),
    [
        (PPOTrainer, ClipPPOLoss, {"batch_size": 10}, 2 * 4 * 4),
        (PPOTrainer, ClipPPOLoss, {"batch_size": 10, "num_epochs": 2, "optim_steps_per_batch": 3}, 2 * 2 * 3),
        (A2CTrainer, A2CLoss, {}, 2),
    ],
)
def test_on_policy_trainers_visit_each_batch_in_epochs(kind, loss, options, steps):
    trainer = on_policy(kind, loss, **options)
    seen = []
    trainer.register_op("post_loss", lambda batch: (seen.append(batch), batch)[1])
    before = [p.detach().clone() for p in trainer.loss_module.parameters()]
    trainer.train()
    assert trainer.num_optim_steps == len(seen) == steps
    assert all(batch.get("advantage", None) is not None for batch in seen)
    assert any((p != q).any() for p, q in zip(trainer.loss_module.parameters(), before, strict=True))
    assert {"reward", "action"} <= set(trainer.metrics)


def test_ppo_learns():
    lengths = []
    trainer = on_policy(PPOTrainer, ClipPPOLoss, total=4000, batch_size=40)
    trainer.register_op("batch_process", lambda batch: (lengths.append(batch["next", "done"].float().mean()), batch)[1])
    trainer.train()
    first, last = torch.stack(lengths[:20]).mean(), torch.stack(lengths[-20:]).mean()
    assert last < first  # fewer steps end an episode


def test_options_of_on_policy_trainers():
    scheduled, stage = [], "pre_epoch"

    class Scheduler(torch.optim.lr_scheduler.ConstantLR):
        def step(self, *args):
            scheduled.append(1)
            super().step(*args)

    trainer = on_policy(PPOTrainer, ClipPPOLoss, enable_logging=False, gamma=0.5, lmbda=0.5)
    hooks = [op for op in trainer._stages[stage] if hasattr(op, "value_estimator")]
    assert (hooks[0].value_estimator.gamma, hooks[0].value_estimator.lmbda) == (0.5, 0.5)
    trainer.train()
    assert "reward" not in trainer.metrics
    bare = on_policy(PPOTrainer, ClipPPOLoss, add_gae=False)
    assert not [op for op in bare._stages[stage] if hasattr(op, "value_estimator")]
    optimizer = torch.optim.SGD(bare.loss_module.parameters(), lr=0.1)
    timed = on_policy(A2CTrainer, A2CLoss, optimizer=optimizer, lr_scheduler=Scheduler(optimizer))
    scheduled.clear()
    timed.train()
    assert len(scheduled) == 2
    critic = ValueOperator(nn.Linear(4, 1))
    own = GAE(gamma=0.9, lmbda=0.9, value_network=critic)
    given = on_policy(A2CTrainer, A2CLoss, gae=own)
    assert [op.value_estimator for op in given._stages[stage] if hasattr(op, "value_estimator")] == [own]
    for each in (bare, given):
        each.shutdown()


def test_dqn_anneals_exploration():
    trainer = off_policy(DQNTrainer, DQNLoss)
    greedy = trainer.collector.policy[1]
    trainer.train()
    assert (trainer.num_optim_steps, trainer.collected_frames) == (12, 80)
    torch.testing.assert_close(greedy.eps, torch.tensor(1.0 - 0.9 * 0.8))


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_td3_delays_the_actor(delay):
    trainer = off_policy(TD3Trainer, TD3Loss, policy_update_delay=delay)
    actors = []
    actor = [*trainer.collector.policy.parameters()]
    trainer.register_op("post_optim", lambda: actors.append(torch.cat([p.detach().flatten() for p in actor])))
    start = torch.cat([p.detach().flatten() for p in actor])
    trainer.train()
    changed = [not torch.equal(a, b) for a, b in zip([start, *actors], actors, strict=False)]
    assert changed == [(i + 1) % delay == 0 for i in range(12)]


def test_ddpg_trains():
    trainer = off_policy(DDPGTrainer, DDPGLoss, log_observations=True)
    trainer.train()
    assert trainer.num_optim_steps == 12
    assert {"reward", "action", "loss_actor", "loss_value"} <= set(trainer.metrics)


def test_each_algorithm_has_a_trainer():
    names = "PPO A2C Reinforce SAC DQN DDPG TD3 IQL CQL OnPolicy OffPolicy"
    for name in names.split():
        assert issubclass(getattr(algorithms, f"{name}Trainer"), Trainer)


def _parts(kind):
    """What a trainer of this kind is built of, the same each time."""
    torch.manual_seed(5)
    if kind is ReinforceTrainer:
        env = CartPoleEnv(seed=0)
        net = SafeModule(MLP(4, 2, num_cells=[8]), ["observation"], ["logits"])
        policy = ProbabilisticActor(net, ["logits"], spec=env.action_spec, distribution_class=OneHotCategorical)
        loss = ReinforceLoss(policy, ValueOperator(MLP(4, 1, num_cells=[8])))
        buffer = target = None
    else:
        env, keys = PendulumEnv(seed=0), ["th", "thdot"]
        net = _Join(nn.Sequential(MLP(2, 2, num_cells=[8]), NormalParamExtractor()))
        policy = ProbabilisticActor(
            SafeModule(net, keys, ["loc", "scale"]),
            ["loc", "scale"],
            spec=env.action_spec,
            distribution_class=TanhNormal,
            distribution_kwargs={"low": -2.0, "high": 2.0},
        )
        critic = ValueOperator(_Join(MLP(3, 1, num_cells=[8])), in_keys=[*keys, "action"])
        more = [ValueOperator(_Join(MLP(2, 1, num_cells=[8])), in_keys=keys)] if kind is IQLTrainer else []
        loss = {SACTrainer: SACLoss, IQLTrainer: IQLLoss, CQLTrainer: CQLLoss}[kind](policy, critic, *more)
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=16)
        target = SoftUpdate(loss, tau=0.1)
    collector = Collector(env, policy, frames_per_batch=20, total_frames=60)
    return collector, loss, buffer, torch.optim.Adam(loss.parameters(), lr=0.01), target


def _loop(collector, loss, buffer, optimizer, target):
    """Train without a trainer."""
    gae = None
    if buffer is None:
        gae = GAE(gamma=0.99, lmbda=0.95, value_network=loss.critic_network, average_gae=True)
        buffer = ReplayBuffer(storage=LazyTensorStorage(20), sampler=SamplerWithoutReplacement(), batch_size=10)
    for batch in collector:
        if gae is not None:
            gae(batch)
        buffer.extend(batch)
        for _ in range(2):
            optimizer.zero_grad()
            terms = loss(buffer.sample())
            sum(value for key, value in terms.items() if key.startswith("loss")).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
            if target is not None:
                target.step()


@pytest.mark.parametrize("kind", [SACTrainer, IQLTrainer, CQLTrainer, ReinforceTrainer])
def test_trainers_learn_what_a_loop_written_by_hand_learns(kind):
    parts = _parts(kind)
    _loop(*parts)
    by_hand = {name: value.clone() for name, value in parts[1].state_dict().items()}
    collector, loss, buffer, optimizer, target = _parts(kind)
    options = {"replay_buffer": buffer, "target_net_updater": target} if buffer is not None else {"batch_size": 10}
    trainer = kind(
        collector=collector,
        total_frames=60,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=optimizer,
        clip_norm=0.5,
        **options,
        **COMMON,
    )
    trainer.train()
    assert trainer.num_optim_steps == 6
    torch.testing.assert_close(dict(loss.state_dict()), by_hand, rtol=0, atol=0)
