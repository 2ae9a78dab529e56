"""What scripts of three generations did, in the words of each, works without a warning."""

import importlib

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn


def test_specs_and_boxes_of_the_first_generation():
    from torchrl.data import BoundedTensorSpec

    spec = BoundedTensorSpec(-torch.ones(2), torch.ones(2))
    assert spec.is_in(spec.rand())
    assert (spec.space.minimum, spec.space.maximum)[0].tolist() == [-1, -1]


def test_functional_modules_of_the_first_generation():
    importlib.import_module("torchrl")  # offers it there
    from tensordict.nn import make_functional

    net = TensorDictSequential(
        TensorDictModule(nn.Linear(3, 4), ["x"], ["h"]), TensorDictModule(nn.Linear(4, 1), ["h"], ["y"])
    )
    params = make_functional(net)
    assert not list(net.parameters())
    out = torch.vmap(net, (None, 0))(TensorDict({"x": torch.ones(3)}, []), params.expand(5))
    assert out["y"].shape == (5, 1)


def test_prioritized_buffers_show_their_tree():
    from torchrl.data import TensorDictPrioritizedReplayBuffer

    buffer = TensorDictPrioritizedReplayBuffer(alpha=0.7, beta=1.1, priority_key="td_error", prefetch=2)
    buffer.extend(TensorDict({"a": torch.arange(4.0)}, [4]))
    sample = buffer.sample(3)
    sample["td_error"] = torch.full((3,), 2.0)
    buffer.update_tensordict_priority(sample)
    tree = buffer._sampler._sum_tree
    for index in sample["index"].tolist():
        assert tree[index] == pytest.approx(2**0.7, rel=1e-5)


def test_losses_take_old_keywords_and_give_scalars():
    from torchrl.modules import MLP, Actor, ValueOperator
    from torchrl.objectives import DDPGLoss, SoftUpdate

    actor = Actor(MLP(3, 1, num_cells=[4], activation=nn.ELU))
    value = ValueOperator(MLP(4, 1, num_cells=[4]), in_keys=["observation", "action"])
    loss = DDPGLoss(actor, value, gamma=0.9)
    next_td = TensorDict(
        observation=torch.randn(6, 3),
        reward=torch.randn(6, 1),
        done=torch.zeros(6, 1, dtype=torch.bool),
        batch_size=[6],
    )
    batch = TensorDict(
        observation=torch.randn(6, 3), action=torch.randn(6, 1), next=next_td, batch_size=[6]
    )  # without "terminated", which "done" stands in for
    out = loss(batch)
    assert all(out[name].ndim == 0 for name in ("loss_actor", "loss_value"))
    out.backward()
    assert all(p.grad is not None for p in loss.parameters() if p.requires_grad)
    SoftUpdate(loss, eps=0.9).step()


def test_exploration_by_mode_and_wrapper():
    from torchrl.data import OneHotDiscreteTensorSpec
    from torchrl.envs.utils import ExplorationType, set_exploration_mode, set_exploration_type
    from torchrl.modules import EGreedyWrapper, QValueModule, TanhNormal

    spec = OneHotDiscreteTensorSpec(4)
    q_net = TensorDictModule(nn.Linear(2, 4), ["observation"], ["action_value"])
    policy = EGreedyWrapper(TensorDictSequential(q_net, QValueModule(action_space=spec)), spec=spec)
    td = TensorDict(observation=torch.randn(50, 2), batch_size=[50])
    with set_exploration_mode("mode"):
        best = policy(td.clone())
    assert torch.equal(best["action"].long().argmax(-1), best["action_value"].argmax(-1))
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = policy(td.clone())
    assert not torch.equal(drawn["action"], best["action"])
    dist = TanhNormal(torch.zeros(2), torch.ones(2), min=-2.0, max=4.0)
    assert torch.allclose(dist.mode, torch.ones(2))


def test_ppo_in_the_words_of_the_second_generation():
    from torchrl.collectors import SyncDataCollector
    from torchrl.data.replay_buffers import ReplayBuffer
    from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
    from torchrl.data.replay_buffers.storages import LazyTensorStorage
    from torchrl.envs import Compose, DoubleToFloat, ObservationNorm, StepCounter, TransformedEnv
    from torchrl.envs.libs.gym import GymEnv
    from torchrl.envs.utils import check_env_specs, set_exploration_mode
    from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

    norm = ObservationNorm(in_keys=["observation"])
    base = GymEnv("Pendulum-v1", device="cpu", frame_skip=1)
    env = TransformedEnv(base, Compose(norm, DoubleToFloat(in_keys=["observation"]), StepCounter()))
    norm.init_stats(num_iter=20, reduce_dim=0, cat_dim=0)
    check_env_specs(env)
    net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(2), NormalParamExtractor())
    policy = ProbabilisticActor(
        module=TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        spec=env.action_spec,
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"min": env.action_spec.space.minimum, "max": env.action_spec.space.maximum},
        return_log_prob=True,
    )
    value = ValueOperator(nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1)))
    policy(env.reset()), value(env.reset())
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value, average_gae=True)
    loss_module = ClipPPOLoss(
        actor=policy,
        critic=value,
        advantage_key="advantage",
        clip_epsilon=0.2,
        entropy_bonus=True,
        entropy_coef=1e-4,
        value_target_key=advantage.value_target_key,
        critic_coef=1.0,
        gamma=0.99,
        loss_critic_type="smooth_l1",
    )
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), sampler=SamplerWithoutReplacement())
    optimizer = torch.optim.Adam(loss_module.parameters(), 3e-4)
    before = [p.clone() for p in policy.parameters()]
    collector = SyncDataCollector(env, policy, frames_per_batch=20, total_frames=40, split_trajs=False, device="cpu")
    for batch in collector:
        for _ in range(2):
            with torch.no_grad():
                advantage(batch)
            buffer.extend(batch.reshape(-1).cpu())
            terms = loss_module(buffer.sample(10))
            (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
            optimizer.step(), optimizer.zero_grad()
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    with set_exploration_mode("mean"), torch.no_grad():
        assert env.rollout(5, policy)["step_count"].shape == (5, 1)


@pytest.mark.slow
def test_workers_by_their_old_names():
    from torchrl.collectors.collectors import MultiaSyncDataCollector, MultiSyncDataCollector
    from torchrl.envs import EnvCreator, GymEnv
    from torchrl.envs.vec_env import ParallelEnv

    def build():
        return ParallelEnv(3, EnvCreator(lambda: GymEnv("Pendulum-v1")))

    common = {"policy": None, "total_frames": 60, "frames_per_batch": 60}
    devices = {"devices": ["cpu", "cpu"], "storing_devices": ["cpu", "cpu"]}
    sync = MultiSyncDataCollector([build, build], max_frames_per_traj=-1, **common, **devices)
    batches = [batch.shape for batch in sync]
    sync.update_policy_weights_()
    sync.shutdown()
    assert batches == [(6, 10)]
    either = MultiaSyncDataCollector([build(), build()], **common)
    batches = [batch.numel() for batch in either]
    either.shutdown()
    assert batches == [60]


def test_operators_share_a_trunk_with_a_bare_network():
    from torchrl.modules import (
        MLP,
        ActorValueOperator,
        NormalParamWrapper,
        SafeModule,
        SafeProbabilisticModule,
        SafeProbabilisticSequential,
        TanhNormal,
    )

    common = SafeModule(nn.Linear(3, 4), spec=None, in_keys=["observation"], out_keys=["hidden"])
    params = SafeModule(NormalParamWrapper(nn.Linear(4, 2)), spec=None, in_keys=["hidden"], out_keys=["loc", "scale"])
    draw = SafeProbabilisticModule(["loc", "scale"], out_keys="action", distribution_class=TanhNormal)
    model = ActorValueOperator(common, SafeProbabilisticSequential(params, draw), MLP(4, 1))
    out = model(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))
    assert (out["action"].shape, out["state_value"].shape) == ((5, 1), (5, 1))
    alone = model.get_policy_operator()(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))
    assert "state_value" not in alone
