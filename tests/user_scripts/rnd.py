"""Random network distillation: a bonus for what is new, plain networks, PPO on the sum of rewards."""

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.collectors import SyncDataCollector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import DoubleToFloat, GymEnv, StepCounter, TransformedEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss, RNDLoss
from torchrl.objectives.value import GAE


def main(total_frames=1024, frames_per_batch=256):
    torch.manual_seed(0)
    env = TransformedEnv(GymEnv("MountainCar-v0"), DoubleToFloat())
    env.append_transform(StepCounter(100))
    policy = ProbabilisticActor(
        TensorDictModule(MLP(2, 3, num_cells=[32]), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=OneHotCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(2, 1, num_cells=[32]), in_keys=["observation"])
    rnd = RNDLoss(
        MLP(2, 16, num_cells=[32, 32], activation_class=nn.ReLU),
        MLP(2, 16, num_cells=[32], activation_class=nn.ReLU),
        update_fraction=1.0,
    )
    optim_rnd = torch.optim.Adam(rnd.parameters(), lr=1e-3)
    gae = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    ppo = ClipPPOLoss(policy, critic, clip_epsilon=0.2, entropy_coef=0.01)
    optim_ppo = torch.optim.Adam(ppo.parameters(), lr=3e-4)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=64
    )
    collector = SyncDataCollector(env, policy, frames_per_batch=frames_per_batch, total_frames=total_frames)
    bonuses, errors = [], []
    for data in collector:
        with torch.no_grad():
            bonus = rnd.intrinsic_reward(data) if hasattr(rnd, "intrinsic_reward") else torch.zeros(data.shape)
        bonuses.append(bonus.mean().item())
        data["next", "reward"] = data["next", "reward"] + bonus.reshape(data["next", "reward"].shape)
        with torch.no_grad():
            gae(data)
        for _ in range(4):
            buffer.extend(data.reshape(-1))
            for batch in buffer:
                losses = ppo(batch)
                sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
                optim_ppo.step()
                optim_ppo.zero_grad()
                out = rnd(batch)
                out["loss_predictor"].backward()
                optim_rnd.step()
                optim_rnd.zero_grad()
                errors.append(out["loss_predictor"].item())
        collector.update_policy_weights_()
    collector.shutdown()
    return errors


if __name__ == "__main__":
    errors = main()
    assert errors[-1] < 0.5 * errors[0], errors
