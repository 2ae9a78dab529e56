"""IMPALA: workers that collect on their own, V-trace, one network for policy and value."""

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import MultiaSyncDataCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import DoubleToFloat, EnvCreator, ExplorationType, GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.modules import MLP, ActorValueOperator, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import VTrace

frames_per_batch, total_frames, num_workers = 80, 1600, 2


def make_env():
    env = TransformedEnv(GymEnv("CartPole-v1", device="cpu"))
    env.append_transform(DoubleToFloat())
    env.append_transform(RewardSum())
    env.append_transform(StepCounter())
    return env


def make_models(env):
    common = TensorDictModule(
        MLP(in_features=4, out_features=32, num_cells=[32], activation_class=nn.Tanh, activate_last_layer=True),
        in_keys=["observation"],
        out_keys=["common_features"],
    )
    policy = ProbabilisticActor(
        TensorDictModule(nn.Linear(32, 2), in_keys=["common_features"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.full_action_spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
        default_interaction_type=ExplorationType.RANDOM,
    )
    value = ValueOperator(nn.Linear(32, 1), in_keys=["common_features"])
    actor_critic = ActorValueOperator(common_operator=common, policy_operator=policy, value_operator=value)
    with torch.no_grad():
        actor_critic(env.fake_tensordict())
    return actor_critic.get_policy_operator(), actor_critic.get_value_head(), actor_critic.get_value_operator()


def main():
    torch.manual_seed(0)
    env = make_env()
    actor, _, critic = make_models(env)
    env.close()
    collector = MultiaSyncDataCollector(
        create_env_fn=[EnvCreator(make_env)] * num_workers,
        policy=actor,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        device="cpu",
        storing_device="cpu",
        max_frames_per_traj=-1,
        update_at_each_batch=True,
    )
    sampler = SamplerWithoutReplacement()
    rb = TensorDictReplayBuffer(storage=LazyTensorStorage(2), sampler=sampler, batch_size=2)
    adv_module = VTrace(gamma=0.99, value_network=critic, actor_network=actor, average_adv=False)
    loss_module = A2CLoss(
        actor_network=actor, critic_network=critic, loss_critic_type="l2", entropy_coef=0.01, critic_coef=0.5
    )
    optim = torch.optim.RMSprop(loss_module.parameters(), lr=1e-3, alpha=0.99)
    returns, accumulator, updates = [], [], 0
    for data in collector:
        episode_rewards = data["next", "episode_reward"][data["next", "done"]]
        if len(episode_rewards) > 0:
            returns.append(episode_rewards.mean().item())
        if len(accumulator) < 2:
            accumulator.append(data)
            continue
        with torch.no_grad():
            stacked = torch.stack(accumulator)
            stacked = adv_module(stacked)
        for d in stacked:
            rb.extend(d.unsqueeze(0))
        accumulator.clear()
        for batch in rb:
            loss = loss_module(batch)
            loss_sum = loss["loss_critic"] + loss["loss_objective"] + loss["loss_entropy"]
            loss_sum.backward()
            torch.nn.utils.clip_grad_norm_(list(loss_module.parameters()), max_norm=40.0)
            optim.step()
            optim.zero_grad()
            updates += 1
            break
    collector.shutdown()
    return returns, updates


if __name__ == "__main__":
    returns, updates = main()
    assert updates >= 5, updates
    assert returns
