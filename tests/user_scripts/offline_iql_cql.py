"""Offline RL from a file in the format of D4RL: IQL and CQL on the steps of a mixed-quality policy."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn, optim

from torchrl.data import BoundedTensorSpec, CompositeSpec, UnboundedContinuousTensorSpec, UnboundedDiscreteTensorSpec
from torchrl.data.datasets.d4rl import D4RLExperienceReplay
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.envs import DoubleToFloat, EnvBase, RewardScaling
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import CQLLoss, IQLLoss, SoftUpdate

HORIZON = 20


class Reach(EnvBase):
    """A point in a square that is pushed to the middle; its cost is its distance."""

    def __init__(self, device="cpu"):
        super().__init__(device=device)
        self.observation_spec = CompositeSpec(
            observation=BoundedTensorSpec(-1.0, 1.0, (2,)), count=UnboundedDiscreteTensorSpec((1,))
        )
        self.action_spec = BoundedTensorSpec(-1.0, 1.0, (2,))
        self.reward_spec = UnboundedContinuousTensorSpec((1,))

    def _reset(self, tensordict):
        position = torch.rand(2, generator=self.rng) * 2 - 1
        return TensorDict({"observation": position, "count": torch.zeros(1, dtype=torch.int64)}, [])

    def _step(self, tensordict):
        position, reward = move(tensordict["observation"], tensordict["action"])
        count = tensordict["count"] + 1
        out = {"observation": position, "reward": reward.unsqueeze(-1), "count": count}
        return TensorDict({**out, "truncated": count >= HORIZON, "terminated": torch.zeros(1, dtype=torch.bool)}, [])

    def _set_seed(self, seed):
        self.rng = torch.manual_seed(seed)


def move(position, action):
    position = (position + 0.2 * action).clamp(-1, 1)
    return position, -position.norm(dim=-1)


def write_file(path, episodes=200):
    """Write the steps of a policy that pushes at random in a share of them, which differs between episodes."""
    position = torch.rand(episodes, 2) * 2 - 1
    share = torch.rand(episodes, 1) * 0.7 + 0.3
    columns = {"observations": [], "actions": [], "rewards": [], "next_observations": []}
    for _ in range(HORIZON):
        at_random = torch.rand(episodes, 1) < share
        action = torch.where(at_random, torch.rand(episodes, 2) * 2 - 1, (-5 * position).clamp(-1, 1))
        after, reward = move(position, action)
        for name, value in zip(columns, (position, action, reward, after), strict=True):
            columns[name].append(value.numpy())
        position = after
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = np.stack(values, 1).reshape(episodes * HORIZON, *values[0].shape[1:])
        file["terminals"] = np.zeros(episodes * HORIZON, dtype=bool)
        file["timeouts"] = np.tile(np.arange(HORIZON) == HORIZON - 1, episodes)
    return float(np.sum(columns["rewards"], 0).mean())


def make_models(spec, hidden=32):
    net = nn.Sequential(MLP(in_features=2, out_features=4, num_cells=[hidden, hidden]), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        spec=spec,
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high, "tanh_loc": False},
        default_interaction_type=ExplorationType.RANDOM,
    )
    qvalue = ValueOperator(
        MLP(in_features=4, out_features=1, num_cells=[hidden, hidden]), in_keys=["observation", "action"]
    )
    value = ValueOperator(MLP(in_features=2, out_features=1, num_cells=[hidden, hidden]), in_keys=["observation"])
    return actor, qvalue, value


@torch.no_grad()
def evaluate(env, actor, episodes=20):
    env.set_seed(1)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        returns = [env.rollout(HORIZON, actor)["next", "reward"].sum().item() for _ in range(episodes)]
    return sum(returns) / episodes


def train_iql(dataset, actor, qvalue, value, updates):
    loss_module = IQLLoss(actor, qvalue, value_network=value, loss_function="l2", temperature=3.0, expectile=0.8)
    loss_module.make_value_estimator(gamma=0.9)
    target_net_updater = SoftUpdate(loss_module, tau=0.01)
    optimizer = optim.Adam(loss_module.parameters(), lr=3e-3)
    for _ in range(updates):
        loss_vals = loss_module(dataset.sample())
        loss = loss_vals["loss_actor"] + loss_vals["loss_qvalue"] + loss_vals["loss_value"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        target_net_updater.step()
    return loss_vals


def train_cql(dataset, actor, qvalue, spec, updates, bc_updates):
    loss_module = CQLLoss(
        actor, qvalue, action_spec=spec, loss_function="l2", alpha_init=0.05, min_q_weight=1.0, num_random=4
    )
    loss_module.make_value_estimator(gamma=0.9)
    target_net_updater = SoftUpdate(loss_module, tau=0.01)
    policy_optim = optim.Adam(loss_module.actor_network_params.flatten_keys().values(), lr=3e-3)
    critic_optim = optim.Adam(loss_module.qvalue_network_params.flatten_keys().values(), lr=3e-3)
    alpha_optim = optim.Adam([loss_module.log_alpha], lr=1e-3)
    for i in range(updates):
        data = dataset.sample()
        q_loss, metadata = loss_module.q_loss(data)
        cql_loss, cql_metadata = loss_module.cql_loss(data)
        metadata.update(cql_metadata)
        critic_optim.zero_grad()
        (q_loss + cql_loss).backward()
        critic_optim.step()
        policy_loss = loss_module.actor_bc_loss if i < bc_updates else loss_module.actor_loss
        actor_loss, actor_metadata = policy_loss(data)
        metadata.update(actor_metadata)
        policy_optim.zero_grad()
        actor_loss.backward()
        policy_optim.step()
        if i >= bc_updates:
            alpha_loss, alpha_metadata = loss_module.alpha_loss(actor_metadata)
            metadata.update(alpha_metadata)
            alpha_optim.zero_grad()
            alpha_loss.backward()
            alpha_optim.step()
        target_net_updater.step()
    return metadata


def main(updates=200):
    torch.manual_seed(0)
    env = Reach()
    spec = env.action_spec
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reach-mixed-v0.hdf5"
        behaviour = write_file(path)
        dataset = D4RLExperienceReplay(
            str(path),
            split_trajs=False,
            batch_size=256,
            sampler=SamplerWithoutReplacement(drop_last=False),
            direct_download=True,
            root=folder,
        )
        dataset.append_transform(DoubleToFloat())
        dataset.append_transform(RewardScaling(0.0, 1.0, in_keys=[("next", "reward")]))
        actor, qvalue, value = make_models(spec)
        train_iql(dataset, actor, qvalue, value, updates)
        iql = evaluate(env, actor)
        actor, qvalue, _ = make_models(spec)
        train_cql(dataset, actor, qvalue, spec, updates, bc_updates=updates // 4)
        cql = evaluate(env, actor)
    return behaviour, iql, cql


if __name__ == "__main__":
    behaviour, iql, cql = main()
    assert iql > 0.7 * behaviour, (behaviour, iql)
    assert cql > 0.7 * behaviour, (behaviour, cql)
