"""TD3 on a pendulum: TanhModule, Gaussian exploration, delayed actor updates."""

import tempfile

import torch
from tensordict.nn import TensorDictSequential
from torch import nn, optim

from torchrl.collectors import SyncDataCollector
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvCreator,
    InitTracker,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)
from torchrl.envs.libs.gym import GymEnv, set_gym_backend
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, AdditiveGaussianModule, SafeModule, SafeSequential, TanhModule, ValueOperator
from torchrl.objectives import SoftUpdate
from torchrl.objectives.td3 import TD3Loss


def make_env():
    with set_gym_backend("gymnasium"):
        env = GymEnv("Pendulum-v1", device="cpu", frame_skip=2, from_pixels=False, pixels_only=False)
    return TransformedEnv(env, Compose(InitTracker(), StepCounter(100), DoubleToFloat(), RewardSum()))


def main(total_frames=1000, frames_per_batch=100):
    torch.manual_seed(0)
    train_env = TransformedEnv(SerialEnv(2, EnvCreator(make_env), serial_for_single=True))
    train_env.set_seed(0)
    action_spec = train_env.action_spec_unbatched
    actor_net = MLP(num_cells=[64, 64], out_features=action_spec.shape[-1], activation_class=nn.ReLU)
    actor_module = SafeModule(actor_net, in_keys=["observation"], out_keys=["param"], spec=None)
    actor = SafeSequential(actor_module, TanhModule(in_keys=["param"], out_keys=["action"], spec=action_spec))
    qvalue = ValueOperator(
        in_keys=["action", "observation"], module=MLP(num_cells=[64, 64], out_features=1, activation_class=nn.ReLU)
    )
    model = nn.ModuleList([actor, qvalue])
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        td = train_env.reset()
        for net in model:
            net(td)
    actor_model_explore = TensorDictSequential(
        model[0],
        AdditiveGaussianModule(
            sigma_init=1.0, sigma_end=1.0, mean=0.0, std=0.1, spec=action_spec, annealing_num_steps=1000, safe=False
        ),
    )
    loss_module = TD3Loss(
        actor_network=model[0],
        qvalue_network=model[1],
        num_qvalue_nets=2,
        loss_function="l2",
        delay_actor=True,
        delay_qvalue=True,
        action_spec=train_env.action_spec_unbatched,
        policy_noise=0.2,
        noise_clip=0.5,
    )
    loss_module.make_value_estimator(gamma=0.98)
    target_net_updater = SoftUpdate(loss_module, eps=0.99)
    collector = SyncDataCollector(
        train_env,
        actor_model_explore,
        init_random_frames=400,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        device="cpu",
        reset_at_each_iter=False,
    )
    critic_params = list(loss_module.qvalue_network_params.flatten_keys().values())
    actor_params = list(loss_module.actor_network_params.flatten_keys().values())
    optimizer_actor, optimizer_critic = optim.Adam(actor_params, lr=1e-3), optim.Adam(critic_params, lr=1e-3)
    rewards = []
    with tempfile.TemporaryDirectory() as scratch_dir:
        replay_buffer = TensorDictReplayBuffer(
            pin_memory=False, prefetch=3, storage=LazyMemmapStorage(10_000, scratch_dir=scratch_dir), batch_size=64
        )
        update_counter, collected_frames = 0, 0
        for tensordict in collector:
            collector.update_policy_weights_()
            rewards.append(tensordict["next", "reward"].mean().item())
            tensordict = tensordict.reshape(-1)
            collected_frames += tensordict.numel()
            replay_buffer.extend(tensordict.cpu())
            if collected_frames < 400:
                continue
            for _ in range(50):
                update_counter += 1
                update_actor = update_counter % 2 == 0
                sampled_tensordict = replay_buffer.sample().to("cpu")
                loss_vals = loss_module(sampled_tensordict)
                assert loss_vals["loss_qvalue"].isfinite()
                loss_vals["loss_qvalue"].backward()
                if update_actor:
                    loss_vals["loss_actor"].backward()
                    optimizer_actor.step()
                    optimizer_actor.zero_grad()
                optimizer_critic.step()
                optimizer_critic.zero_grad()
                if update_actor:
                    target_net_updater.step()
        del replay_buffer
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        eval_rollout = train_env.rollout(100, model[0], break_when_any_done=False)
    collector.shutdown()
    return rewards, eval_rollout["next", "reward"].mean().item()


if __name__ == "__main__":
    rewards, final = main()
    assert len(rewards) == 10
    assert -17 * 2 < final < 0
