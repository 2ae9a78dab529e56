"""Multi-agent PPO: a team that shares a reward
============================================

Three agents each have a goal of their own, and all of them are paid for the progress of the team.
We train them with MAPPO: proximal policy optimisation with actors that see what one agent sees, and
a critic that sees all of them (Yu et al., 2022, https://arxiv.org/abs/2103.01955). The simulator is
VMAS, which steps many worlds at once in PyTorch.

What you will learn:

- where the entries of agents are in the data: in groups, with a dimension for the agents;
- how one network acts for all agents, and when each should have its own;
- what makes a critic "centralised", and why only the critic may be;
- how a loss is told the names of the group's entries.

Five minutes to read, half a minute to run on one core. Needs ``pip install "torchrl[marl]"``.
"""

import matplotlib.pyplot as plt
import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import RewardSum, TransformedEnv, VmasEnv, set_exploration_type
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhNormal
from torchrl.objectives import MAPPOLoss

torch.manual_seed(0)
num_worlds, num_agents, max_steps, num_batches = 64, 3, 50, 16

# %%
# Groups
# ------
#
# Agents of one kind form a group, ``"agents"`` here. Entries of the group have a dimension for the
# agents before their features; entries that all share, such as the end of the episode, are at the
# root.

env = VmasEnv(
    "navigation",
    num_envs=num_worlds,
    continuous_actions=True,
    max_steps=max_steps,
    seed=0,
    n_agents=num_agents,
    collisions=False,
    shared_rew=True,
)
env = TransformedEnv(env, RewardSum(in_keys=[("agents", "reward")], out_keys=[("agents", "episode_reward")]))
steps = env.rollout(5)
print(env.group_map)  # {'agents': ['agent_0', 'agent_1', 'agent_2']}
print(steps.batch_size, steps["next", "done"].shape)  # torch.Size([64, 5]) torch.Size([64, 5, 1])
print(steps["agents", "observation"].shape)  # torch.Size([64, 5, 3, 6])
print(steps["next", "agents", "reward"].shape)  # torch.Size([64, 5, 3, 1])

# %%
# One actor for all
# -----------------
#
# :class:`~torchrl.modules.MultiAgentMLP` maps ``[..., agents, features]`` to an output for each
# agent. Two switches make all its kinds:
#
# - ``share_params``: one set of weights for all agents, or one each. Sharing learns from three times
#   the data, and is right wherever agents are alike; add the agent's number to the observation if
#   they have to take different roles.
# - ``centralized``: each output depends on the observations of all agents, or on the agent's own.
#   An actor must be decentralised, because in the end every agent acts on what it sees itself.

num_obs, num_act = steps["agents", "observation"].shape[-1], env.action_spec.shape[-1]
net = {"n_agents": num_agents, "share_params": True, "depth": 2, "num_cells": 64, "activation_class": nn.Tanh}
actor_net = nn.Sequential(MultiAgentMLP(num_obs, 2 * num_act, centralized=False, **net), NormalParamExtractor())
space = env.action_spec_unbatched.space
actor = ProbabilisticActor(
    TensorDictModule(actor_net, [("agents", "observation")], [("agents", "loc"), ("agents", "scale")]),
    in_keys=[("agents", "loc"), ("agents", "scale")],
    out_keys=[("agents", "action")],
    spec=env.full_action_spec_unbatched,
    distribution_class=TanhNormal,
    distribution_kwargs={"low": space.low, "high": space.high},
    return_log_prob=True,
    log_prob_key=("agents", "action_log_prob"),
)

# %%
# A critic that sees the team
# ---------------------------
#
# The team's reward depends on all agents, so its prediction from the observation of one of them is
# poor. The critic is only needed in training, where all observations are at hand: ``centralized``
# is the whole difference between MAPPO and IPPO, in which each agent learns by itself.

critic = TensorDictModule(
    MultiAgentMLP(num_obs, 1, centralized=True, **net), [("agents", "observation")], [("agents", "state_value")]
)

# %%
# Names
# -----
#
# A loss looks for ``"action"``, ``"reward"`` and so on. ``set_keys`` tells it where these are. The end
# of the episode stays at the root: :class:`~torchrl.objectives.MAPPOLoss` gives it to each agent when
# it computes advantages, ``[worlds, steps, agents, 1]``, and standardises them agent by agent.

loss_module = MAPPOLoss(actor, critic, entropy_coeff=0.0, critic_coeff=1.0)
loss_module.set_keys(
    action=("agents", "action"),
    reward=("agents", "reward"),
    value=("agents", "state_value"),
    advantage=("agents", "advantage"),
    value_target=("agents", "value_target"),
    sample_log_prob=("agents", "action_log_prob"),
)
loss_module.make_value_estimator(gamma=0.95, lmbda=0.9)

# %%
# Training
# --------
#
# The rest is PPO as with one agent. A row of the buffer is a step of a whole world, with all its
# agents, so that the critic always sees the team together.

frames_per_batch = num_worlds * max_steps
collector = Collector(env, actor, frames_per_batch=frames_per_batch, total_frames=num_batches * frames_per_batch)
buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=400
)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)

returns = []
for batch in collector:
    with torch.no_grad():
        loss_module.value_estimator(batch)
    buffer.extend(batch.reshape(-1))
    for _ in range(8):
        for minibatch in buffer:
            losses = loss_module(minibatch)
            optimizer.zero_grad()
            losses.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 1.0)
            optimizer.step()
    over = batch["next", "done"].squeeze(-1)
    returns.append(batch["next", "agents", "episode_reward"][over].mean().item())

# %%
# The reward of a step is the progress of the team towards its goals, plus a bonus when all have
# arrived; an episode of random actions has a return near zero.

assert sum(returns[:2]) / 2 < 0.3
assert sum(returns[-3:]) / 3 > 1.0

# %%
# A curve says that the return rises; only an episode says what was learned. ``"observation"`` starts
# with the position of the agent, and ends with its position relative to the goal.

with torch.no_grad(), set_exploration_type("deterministic"):
    episode = env.rollout(max_steps, actor)
seen = episode["agents", "observation"]  # [worlds, steps, agents, 6]
position, goal = seen[..., :2], seen[..., :2] - seen[..., 4:6]
distance = seen[..., 4:6].norm(dim=-1)
print((distance[:, -1].mean() < 0.5 * distance[:, 0].mean()).item())  # True

_, axes = plt.subplots(1, 2, figsize=(9, 4))
axes[0].plot([frames_per_batch * (i + 1) for i in range(num_batches)], returns)
axes[0].set(xlabel="steps, all worlds together", ylabel="return of the team", title="Training")
for agent in range(num_agents):
    path = position[0, :, agent]
    (line,) = axes[1].plot(*path.T, label=f"agent {agent}")
    axes[1].scatter(*path[0], color=line.get_color(), s=60)
    axes[1].scatter(*goal[0, 0, agent], color=line.get_color(), marker="*", s=160)
axes[1].set(title="One episode: from the dots to the stars", aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
axes[1].legend()
plt.tight_layout()

# %%
# Which algorithm?
# ----------------
#
# .. list-table::
#    :header-rows: 1
#
#    * - situation
#      - take
#    * - agents share a reward
#      - MAPPO (this page); discrete actions and replay: :class:`~torchrl.objectives.QMixerLoss`
#    * - each has its own reward, and the others hardly matter to it
#      - :class:`~torchrl.objectives.IPPOLoss`, with ``centralized=False`` for the critic
#    * - agents compete
#      - an actor, a critic and a loss for each group: :doc:`competitive_ddpg`
#    * - agents differ in observations or actions
#      - a group for each kind (``group_map=``), each with networks of its own
#    * - returns are large, or grow in training
#      - ``MAPPOLoss(..., value_norm=PopArtValueNorm(...))``: see :class:`~torchrl.modules.ValueNorm`
#
# Read next:
#
# - :doc:`competitive_ddpg`: two groups with opposite interests;
# - :doc:`/guide/many_agents`: groups, masks, agents that leave;
# - :doc:`recurrent_ppo`: agents that must remember.
