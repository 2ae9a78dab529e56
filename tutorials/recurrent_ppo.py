"""Recurrent PPO: when one observation is not enough
=================================================

An observation that leaves something out (a velocity, what lies behind a corner, what was said a
minute ago) does not tell a policy what to do. A policy with a memory can work out the rest from
what it saw before. Here the cart and its pole come without their velocities, and proximal policy
optimisation learns the task twice: without a memory and with one.

What you will learn:

- how a recurrent policy is built, and which two entries it needs from its environment;
- in which shape a loss takes sequences, and how minibatches of sequences are drawn;
- where the memory at the start of a sequence comes from;
- why the critic may see what the policy does not.

Five minutes to read, less than a minute to run on one core.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import CartPoleEnv, Compose, InitTracker, RewardSum, TransformedEnv, UnaryTransform
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

num_envs, steps = 32, 32
total_frames = 40 * num_envs * steps

# %%
# Hide the velocities
# -------------------
#
# CartPole observes position, velocity, angle and angular velocity. A
# :class:`~torchrl.envs.UnaryTransform` writes every second number, the position and the angle, into
# an entry of its own, ``"pose"``. The full state stays in the record, and a network reads only the
# keys that it names: the policy will read ``"pose"`` and nothing else.
#
# :class:`~torchrl.envs.InitTracker` writes ``"is_init"``, true at the first step of each episode:
# there a memory must start from nothing.


def make_env():
    pose = UnaryTransform(["observation"], ["pose"], fn=lambda state: state[..., ::2])
    env = TransformedEnv(CartPoleEnv([num_envs]), Compose(pose, InitTracker(), RewardSum()))
    env.set_seed(0)
    return env


# %%
# A policy with a memory
# ----------------------
#
# :func:`~torchrl.modules.make_actor` puts a recurrent layer between the hidden layers and the
# action. The layer reads its state, ``"recurrent_state"``, and writes the next one under ``"next"``.
# What is under ``"next"`` at one step is at the root of the following one, so the memory travels
# from step to step as an observation does; no call passes it along.

torch.manual_seed(0)
actor = make_actor(make_env(), in_keys=["pose"], recurrent="gru", hidden_size=32, num_cells=(32,))
print("recurrent_state" in actor.in_keys, ("next", "recurrent_state") in actor.out_keys)  # True True

# %%
# In an environment the layer takes one step at a time. A loss calls it with whole sequences,
# ``[rows, time]``: it starts from the state stored with the first step of each row, runs along the
# row, and starts again wherever ``is_init`` is true. Both ways give the same numbers, which is worth
# a check, because much that goes wrong in recurrent learning goes wrong here. Outside a loss,
# :class:`~torchrl.modules.set_recurrent_mode` says that a call has sequences.

from torchrl.modules import set_recurrent_mode

batch = Collector(
    make_env(), actor, frames_per_batch=num_envs * 40, total_frames=-1, auto_register_policy_transforms=True
).next()
with torch.no_grad(), set_recurrent_mode():
    again = actor.get_dist(batch).log_prob(batch["action"])
assert batch["is_init"][:, 1:].any()  # episodes ended, and others began, within the rows
print(torch.allclose(again, batch["action_log_prob"], atol=1e-5))  # True

# %%
# ``auto_register_policy_transforms`` makes the collector append what the policy needs and the
# environment lacks: here the primer that writes ``"recurrent_state"``, zeros, at each reset, so that
# every step has the same entries. Its counterpart for ``env.rollout`` is
# ``env.append_transform(module.make_tensordict_primer())``.
#
# A critic that sees everything
# -----------------------------
#
# The critic is thrown away after training, and nothing forbids that it sees more than the policy
# will. Ours reads the full state. It then needs no memory, is
# cheaper, and knows more; so is done wherever a simulator knows what a robot's sensors do not (Pinto et al., 2018,
# https://arxiv.org/abs/1710.06542). Where the full state is not to be had, the critic needs a
# memory too: ``make_critic(env, recurrent="gru")``, collected with
# :class:`~torchrl.modules.ActorCriticWrapper` so that its states are in the batch.
#
# Training
# --------
#
# One thing differs from PPO without a memory: minibatches are drawn among rows, not among steps. A
# buffer whose items are the rows of the batch, ``[32 steps]`` each, does that, and everything else
# stays what it was. The stored state was computed by the weights that collected the batch. After a
# few gradient steps it is a little out of date, which does no harm within the few epochs of PPO.


def train(recurrent):
    torch.manual_seed(0)
    env = make_env()
    actor = make_actor(env, in_keys=["pose"], recurrent=recurrent, hidden_size=32, num_cells=(32,))
    critic = make_critic(env, in_keys=["observation"])
    collector = Collector(
        env, actor, frames_per_batch=num_envs * steps, total_frames=total_frames, auto_register_policy_transforms=True
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(num_envs), sampler=SamplerWithoutReplacement(), batch_size=8
    )
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss_module = ClipPPOLoss(actor, critic, entropy_coeff=0.0, critic_coeff=0.5, loss_critic_type="l2")
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=2e-3, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))
    ended, returns = [], []
    for batch in collector:  # [32 rows, 32 steps]
        buffer.extend(advantage(batch))
        for _ in range(4):
            for rows in buffer:  # [8 rows, 32 steps]
                losses = loss_module(rows)
                optimizer.zero_grad()
                losses.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
        scheduler.step()
        ended += batch["next", "episode_reward"][batch["next", "done"]].tolist()
        returns.append(sum(ended[-50:]) / len(ended[-50:]))
    collector.shutdown()
    return returns


curves = {"without memory": train(None), "with memory (GRU)": train("gru")}

# %%
# Without the velocities, and without a memory, no policy does better than to push against the lean
# of the pole, which swings further each time. With a memory the policy sees how the pose changes.

_, axis = plt.subplots(figsize=(7, 4))
frames = torch.arange(1, len(curves["without memory"]) + 1) * num_envs * steps
for name, curve in curves.items():
    axis.plot(frames, curve, label=name)
axis.set(xlabel="environment steps", ylabel="return of the last 50 episodes", title="CartPole without velocities")
axis.legend()

before, after = (sum(curve[-10:]) / 10 for curve in curves.values())
assert before < 80
assert after > 2 * before

# %%
# Which memory?
# -------------
#
# .. list-table::
#    :header-rows: 1
#
#    * - choice
#      - when
#    * - stacked frames, :class:`~torchrl.envs.CatFrames`
#      - the last few observations say it all, as velocities here or in Atari; cheapest
#    * - GRU
#      - longer memories; three quarters of the weights of an LSTM, and mostly as good
#    * - LSTM
#      - what much of the literature uses, R2D2 and OpenAI Five among it
#    * - longer rows
#      - what must be learned lies further back: gradients end where a row starts, states do not
#
# Read next:
#
# - :doc:`recurrent_dqn`: the same with a replay buffer, where states do go stale;
# - :doc:`transforms_in_depth`: stacked frames and other ways to change observations;
# - :doc:`export_deployment`: a policy with a memory outside this library.
