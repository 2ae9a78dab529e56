"""A recurrent Q-network that plays CartPole without seeing velocities."""

import tempfile

import torch
from tensordict.nn import TensorDictModule as Mod
from tensordict.nn import TensorDictSequential as Seq
from torch import nn

from torchrl.collectors import SyncDataCollector
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    ExplorationType,
    GymEnv,
    InitTracker,
    RewardScaling,
    RewardSum,
    StepCounter,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.modules import MLP, EGreedyModule, LSTMModule, QValueModule, set_recurrent_mode
from torchrl.objectives import DQNLoss, SoftUpdate


def main(total_frames=1000, frames_per_batch=50):
    torch.manual_seed(0)
    env = TransformedEnv(
        GymEnv("CartPole-v1", device="cpu"),
        Compose(StepCounter(), InitTracker(), RewardSum(), RewardScaling(loc=0.0, scale=0.1)),
    )
    env.set_seed(0)
    feature = Mod(nn.Sequential(nn.Linear(4, 32), nn.Tanh()), in_keys=["observation"], out_keys=["embed"])
    lstm = LSTMModule(input_size=32, hidden_size=32, device="cpu", in_key="embed", out_key="embed")
    env.append_transform(lstm.make_tensordict_primer())
    mlp = MLP(out_features=2, num_cells=[32], device="cpu")
    mlp[-1].bias.data.fill_(0.0)
    mlp = Mod(mlp, in_keys=["embed"], out_keys=["action_value"])
    qval = QValueModule(spec=env.action_spec)
    stoch_policy = Seq(feature, lstm, mlp, qval)
    exploration_module = EGreedyModule(annealing_num_steps=2000, spec=env.action_spec, eps_init=0.3, eps_end=0.05)
    stoch_policy = Seq(*stoch_policy, exploration_module)
    policy = Seq(feature, lstm, mlp, qval)
    policy(env.reset())

    loss_fn = DQNLoss(policy, action_space=env.action_spec, delay_value=True)
    loss_fn.make_value_estimator(gamma=0.98)
    updater = SoftUpdate(loss_fn, eps=0.95)
    optim = torch.optim.Adam(policy.parameters(), lr=2e-3)
    collector = SyncDataCollector(
        env, stoch_policy, frames_per_batch=frames_per_batch, total_frames=total_frames, device="cpu"
    )
    traj_lens, losses = [], []
    with tempfile.TemporaryDirectory() as scratch:
        rb = TensorDictReplayBuffer(storage=LazyMemmapStorage(1000, scratch_dir=scratch), batch_size=8, prefetch=2)
        for i, data in enumerate(collector):
            rb.extend(data.unsqueeze(0).to_tensordict().cpu())
            for _ in range(4):
                s = rb.sample().to("cpu", non_blocking=True)
                with set_recurrent_mode(True):
                    loss_vals = loss_fn(s)
                loss_vals["loss"].backward()
                losses.append(loss_vals["loss"].item())
                optim.step()
                optim.zero_grad()
            exploration_module.step(data.numel())
            updater.step()
            collector.update_policy_weights_()
            if i % 20 == 0:
                with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
                    rollout = env.rollout(200, stoch_policy)
                    traj_lens.append(rollout.get(("next", "step_count")).max().item())
        del rb
    collector.shutdown()
    return traj_lens, losses


if __name__ == "__main__":
    lengths, losses = main()
    assert min(lengths) >= 8
    assert sum(losses[-20:]) < sum(losses[:20]), losses
