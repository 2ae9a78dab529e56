"""DQN from the pixels of Pong: frame stacks, lives, a memory-mapped buffer."""

import tempfile

import torch
from tensordict.nn import TensorDictSequential

from torchrl.collectors import SyncDataCollector
from torchrl.data import CompositeSpec, LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import (
    CatFrames,
    DoubleToFloat,
    EndOfLifeTransform,
    GrayScale,
    GymEnv,
    NoopResetEnv,
    Resize,
    RewardSum,
    SignTransform,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
)
from torchrl.modules import MLP, ConvNet, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate


def make_env(env_name="ALE/Pong-v5", frame_skip=4, is_test=False):
    env = GymEnv(env_name, frame_skip=frame_skip, from_pixels=True, pixels_only=False, device="cpu")
    env = TransformedEnv(env)
    env.append_transform(NoopResetEnv(noops=30, random=True))
    if not is_test:
        env.append_transform(EndOfLifeTransform())
    env.append_transform(ToTensorImage())
    env.append_transform(GrayScale())
    env.append_transform(Resize(84, 84))
    env.append_transform(CatFrames(N=4, dim=-3))
    env.append_transform(RewardSum())
    env.append_transform(StepCounter(max_steps=4500))
    if not is_test:
        env.append_transform(SignTransform(in_keys=["reward"]))
    env.append_transform(DoubleToFloat())
    return env


def make_dqn_model(env):
    input_shape = env.observation_spec["pixels"].shape
    num_outputs = env.action_spec.space.n
    cnn = ConvNet(activation_class=torch.nn.ReLU, num_cells=[8, 16], kernel_sizes=[8, 4], strides=[4, 2])
    cnn_output = cnn(torch.ones(input_shape))
    mlp = MLP(
        in_features=cnn_output.shape[-1], activation_class=torch.nn.ReLU, out_features=num_outputs, num_cells=[64]
    )
    return QValueActor(
        module=torch.nn.Sequential(cnn, mlp), spec=CompositeSpec(action=env.action_spec), in_keys=["pixels"]
    )


def main(total_frames=300, frames_per_batch=50, batch_size=16):
    torch.manual_seed(0)
    proof_env = make_env()
    model = make_dqn_model(proof_env)
    proof_env.close()
    greedy_module = EGreedyModule(
        annealing_num_steps=total_frames, eps_init=1.0, eps_end=0.05, spec=model.spec["action"]
    )
    model_explore = TensorDictSequential(model, greedy_module)
    collector = SyncDataCollector(
        create_env_fn=make_env(),
        policy=model_explore,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        device="cpu",
        storing_device="cpu",
        max_frames_per_traj=-1,
        init_random_frames=100,
    )
    with tempfile.TemporaryDirectory() as scratch_dir:
        replay_buffer = TensorDictReplayBuffer(
            pin_memory=False,
            prefetch=2,
            storage=LazyMemmapStorage(max_size=1000, scratch_dir=scratch_dir),
            batch_size=batch_size,
        )
        loss_module = DQNLoss(value_network=model, loss_function="l2", delay_value=True)
        loss_module.set_keys(done="end-of-life", terminated="end-of-life")
        loss_module.make_value_estimator(gamma=0.99)
        target_net_updater = HardUpdate(loss_module, value_network_update_interval=5)
        optimizer = torch.optim.Adam(loss_module.parameters(), lr=2.5e-4)
        collected_frames, q_losses = 0, []
        for data in collector:
            data = data.reshape(-1)
            current_frames = data.numel()
            collected_frames += current_frames
            greedy_module.step(current_frames)
            replay_buffer.extend(data)
            if collected_frames < 100:
                continue
            for _ in range(3):
                sampled_tensordict = replay_buffer.sample().to("cpu")
                loss_td = loss_module(sampled_tensordict)
                q_loss = loss_td["loss"]
                optimizer.zero_grad()
                q_loss.backward()
                torch.nn.utils.clip_grad_norm_(list(loss_module.parameters()), max_norm=10.0)
                optimizer.step()
                target_net_updater.step()
                q_losses.append(q_loss.detach())
            collector.update_policy_weights_()
        sample = replay_buffer.sample()
        assert sample["pixels"].shape == (batch_size, 4, 84, 84)
        assert sample["next", "end-of-life"].shape == (batch_size, 1)
        collector.shutdown()
        del replay_buffer, sample, sampled_tensordict
    return q_losses


if __name__ == "__main__":
    losses = main()
    assert torch.stack(losses).isfinite().all()
