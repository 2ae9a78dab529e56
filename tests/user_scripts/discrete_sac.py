"""Discrete SAC on CartPole with a prioritized buffer, two optimizers and soft updates."""

import torch
from tensordict.nn import InteractionType, TensorDictModule
from torch import nn, optim

from torchrl.collectors import SyncDataCollector
from torchrl.data import CompositeSpec, TensorDictPrioritizedReplayBuffer
from torchrl.data.replay_buffers.storages import LazyTensorStorage
from torchrl.envs import Compose, DoubleToFloat, RewardSum, StepCounter, TransformedEnv
from torchrl.envs.libs.gym import GymEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, SafeModule
from torchrl.modules.distributions import OneHotCategorical
from torchrl.modules.tensordict_module.actors import ProbabilisticActor
from torchrl.objectives import SoftUpdate
from torchrl.objectives.sac import DiscreteSACLoss


def make_env():
    env = GymEnv("CartPole-v1", device="cpu")
    return TransformedEnv(env, Compose(DoubleToFloat(), StepCounter(max_steps=200), RewardSum()))


def main(total_frames=3000, frames_per_batch=100):
    torch.manual_seed(0)
    train_env, eval_env = make_env(), make_env()
    train_env.set_seed(0)
    num_actions = train_env.action_spec.space.n
    actor_net = MLP(num_cells=[64], out_features=num_actions, activation_class=nn.ReLU, in_features=4)
    actor_module = SafeModule(module=actor_net, in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(
        spec=CompositeSpec(action=eval_env.action_spec),
        module=actor_module,
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=OneHotCategorical,
        distribution_kwargs={},
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=False,
    )
    qvalue = TensorDictModule(
        in_keys=["observation"],
        out_keys=["action_value"],
        module=MLP(num_cells=[64], out_features=num_actions, activation_class=nn.ReLU),
    )
    model = nn.ModuleList([actor, qvalue])
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        td = eval_env.fake_tensordict()
        for net in model:
            net(td)
    loss_module = DiscreteSACLoss(
        actor_network=model[0],
        qvalue_network=model[1],
        action_space=train_env.action_spec,
        num_actions=num_actions,
        num_qvalue_nets=2,
        target_entropy_weight=0.2,
        loss_function="smooth_l1",
    )
    loss_module.make_value_estimator(gamma=0.99)
    target_net_updater = SoftUpdate(loss_module, eps=0.99)
    collector = SyncDataCollector(
        train_env,
        model[0],
        init_random_frames=500,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        device="cpu",
    )
    replay_buffer = TensorDictPrioritizedReplayBuffer(
        alpha=0.7, beta=0.5, pin_memory=False, prefetch=3, storage=LazyTensorStorage(10_000), batch_size=64
    )
    critic_params = list(loss_module.qvalue_network_params.flatten_keys().values())
    actor_params = list(loss_module.actor_network_params.flatten_keys().values())
    optimizer_actor = optim.Adam(actor_params, lr=2e-3)
    optimizer_critic = optim.Adam(critic_params, lr=2e-3)
    optimizer_alpha = optim.Adam([loss_module.log_alpha], lr=1e-3)
    collected_frames, lengths = 0, []
    for tensordict in collector:
        collector.update_policy_weights_()
        tensordict = tensordict.reshape(-1)
        collected_frames += tensordict.numel()
        replay_buffer.extend(tensordict.cpu())
        if collected_frames >= 500:
            for _ in range(50):
                sampled_tensordict = replay_buffer.sample().clone()
                loss_out = loss_module(sampled_tensordict)
                actor_loss, q_loss, alpha_loss = (loss_out[k] for k in ("loss_actor", "loss_qvalue", "loss_alpha"))
                optimizer_critic.zero_grad()
                q_loss.backward(retain_graph=True)
                optimizer_critic.step()
                optimizer_actor.zero_grad()
                actor_loss.backward(retain_graph=True)
                optimizer_actor.step()
                optimizer_alpha.zero_grad()
                alpha_loss.backward()
                optimizer_alpha.step()
                target_net_updater.step()
                replay_buffer.update_tensordict_priority(sampled_tensordict)
        done = tensordict["next", "done"]
        lengths.append(tensordict["next", "episode_reward"][done].mean().item() if done.any() else frames_per_batch)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        eval_rollout = eval_env.rollout(200, model[0], auto_cast_to_device=True, break_when_any_done=True)
    collector.shutdown()
    return lengths, eval_rollout["next", "reward"].sum().item()


if __name__ == "__main__":
    lengths, final = main()
    assert max(lengths[-5:]) > 2 * lengths[0], lengths
    assert final > 60, final
