"""PPO from pixels: one network for policy and value, minibatches without replacement, annealing."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import SyncDataCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.data.tensor_specs import CategoricalBox
from torchrl.envs import (
    CatFrames,
    DoubleToFloat,
    EndOfLifeTransform,
    ExplorationType,
    GrayScale,
    GymEnv,
    NoopResetEnv,
    Resize,
    RewardClipping,
    RewardSum,
    SerialEnv,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
    VecNorm,
)
from torchrl.envs.utils import set_exploration_type
from torchrl.modules import (
    MLP,
    ActorValueOperator,
    ConvNet,
    OneHotCategorical,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.advantages import GAE


def make_base_env(env_name="ALE/Pong-v5", frame_skip=4, is_test=False):
    env = GymEnv(env_name, frame_skip=frame_skip, from_pixels=True, pixels_only=False, device="cpu")
    env = TransformedEnv(env)
    env.append_transform(NoopResetEnv(noops=30, random=True))
    if not is_test:
        env.append_transform(EndOfLifeTransform())
    return env


def make_parallel_env(num_envs, is_test=False):
    env = SerialEnv(num_envs, lambda: make_base_env(is_test=is_test))
    env = TransformedEnv(env)
    env.append_transform(ToTensorImage())
    env.append_transform(GrayScale())
    env.append_transform(Resize(84, 84))
    env.append_transform(CatFrames(N=4, dim=-3))
    env.append_transform(RewardSum())
    env.append_transform(StepCounter(max_steps=4500))
    if not is_test:
        env.append_transform(RewardClipping(-1, 1))
    env.append_transform(DoubleToFloat())
    env.append_transform(VecNorm(in_keys=["pixels"]))
    return env


def make_ppo_models(proof_environment):
    input_shape = proof_environment.observation_spec["pixels"].shape
    if isinstance(proof_environment.action_spec_unbatched.space, CategoricalBox):
        num_outputs = proof_environment.action_spec_unbatched.space.n
        distribution_class, distribution_kwargs = OneHotCategorical, {}
    else:
        num_outputs = proof_environment.action_spec_unbatched.shape
        distribution_class = TanhNormal
        distribution_kwargs = {
            "low": proof_environment.action_spec_unbatched.space.low,
            "high": proof_environment.action_spec_unbatched.space.high,
        }
    common_cnn = ConvNet(activation_class=nn.ReLU, num_cells=[8, 8], kernel_sizes=[8, 4], strides=[4, 2])
    common_cnn_output = common_cnn(torch.ones(input_shape))
    common_mlp = MLP(
        in_features=common_cnn_output.shape[-1],
        activation_class=nn.ReLU,
        activate_last_layer=True,
        out_features=32,
        num_cells=[],
    )
    common_module = TensorDictModule(
        module=nn.Sequential(common_cnn, common_mlp), in_keys=["pixels"], out_keys=["common_features"]
    )
    policy_net = MLP(in_features=32, out_features=num_outputs, activation_class=nn.ReLU, num_cells=[])
    policy_module = TensorDictModule(module=policy_net, in_keys=["common_features"], out_keys=["logits"])
    policy_module = ProbabilisticActor(
        policy_module,
        in_keys=["logits"],
        spec=proof_environment.full_action_spec_unbatched,
        distribution_class=distribution_class,
        distribution_kwargs=distribution_kwargs,
        return_log_prob=True,
        default_interaction_type=ExplorationType.RANDOM,
    )
    value_module = ValueOperator(
        MLP(activation_class=nn.ReLU, in_features=32, out_features=1, num_cells=[]), in_keys=["common_features"]
    )
    actor_critic = ActorValueOperator(
        common_operator=common_module, policy_operator=policy_module, value_operator=value_module
    )
    with torch.no_grad():
        td = proof_environment.fake_tensordict().expand(10, 2)
        actor_critic(td)
    return actor_critic.get_policy_operator(), actor_critic.get_value_operator()


def main(total_frames=192, frames_per_batch=64, mini_batch_size=16, ppo_epochs=2):
    torch.manual_seed(0)
    proof_environment = make_parallel_env(2)
    actor, critic = make_ppo_models(proof_environment)
    proof_environment.close()
    collector = SyncDataCollector(
        create_env_fn=make_parallel_env(2),
        policy=actor,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        device="cpu",
        storing_device="cpu",
        max_frames_per_traj=-1,
    )
    data_buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(frames_per_batch),
        sampler=SamplerWithoutReplacement(drop_last=True),
        batch_size=mini_batch_size,
    )
    adv_module = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=False)
    loss_module = ClipPPOLoss(
        actor_network=actor,
        critic_network=critic,
        clip_epsilon=0.1,
        loss_critic_type="l2",
        entropy_coef=0.01,
        critic_coef=1.0,
        normalize_advantage=True,
    )
    adv_module.set_keys(done="end-of-life", terminated="end-of-life")
    loss_module.set_keys(done="end-of-life", terminated="end-of-life")
    optim = torch.optim.Adam(loss_module.parameters(), lr=2.5e-4, eps=1e-5)
    total_network_updates = (total_frames // frames_per_batch) * ppo_epochs * (frames_per_batch // mini_batch_size)
    num_network_updates = 0
    losses = TensorDict(batch_size=[ppo_epochs, frames_per_batch // mini_batch_size])
    for data in collector:
        assert data.shape == (2, frames_per_batch // 2)
        for j in range(ppo_epochs):
            with torch.no_grad():
                data = adv_module(data)
            data_reshape = data.reshape(-1)
            data_buffer.extend(data_reshape)
            for k, batch in enumerate(data_buffer):
                alpha = 1 - (num_network_updates / total_network_updates)
                for group in optim.param_groups:
                    group["lr"] = 2.5e-4 * alpha
                loss_module.clip_epsilon.copy_(0.1 * alpha)
                num_network_updates += 1
                loss = loss_module(batch)
                losses[j, k] = loss.select("loss_critic", "loss_entropy", "loss_objective").detach()
                loss_sum = loss["loss_critic"] + loss["loss_objective"] + loss["loss_entropy"]
                loss_sum.backward()
                torch.nn.utils.clip_grad_norm_(list(loss_module.parameters()), max_norm=0.5)
                optim.step()
                optim.zero_grad()
        losses_mean = losses.apply(lambda x: x.float().mean(), batch_size=[])
        collector.update_policy_weights_()
    collector.shutdown()
    assert num_network_updates == total_network_updates
    test_env = make_parallel_env(1, is_test=True).eval()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        td_test = test_env.rollout(
            policy=actor, auto_reset=True, auto_cast_to_device=True, break_when_any_done=True, max_steps=5
        )
    assert td_test["pixels"].shape == (1, 5, 4, 84, 84)
    test_env.close()
    return losses_mean


if __name__ == "__main__":
    losses = main()
    assert all(value.isfinite() for value in losses.values())
