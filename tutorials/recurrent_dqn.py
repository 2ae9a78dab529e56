"""Recurrent DQN: sequences from a replay buffer
=============================================

A network with a memory learns from sequences, while DQN learns from single steps that were stored
long ago. To bring the two together, one has to decide which stretches of an episode are drawn, and
which state the memory has where a stretch begins. The right answer depends on how far back lies what
must be remembered.

What you will learn:

- how a Q-network with an LSTM acts and is trained (DRQN: Hausknecht and Stone, 2015,
  https://arxiv.org/abs/1507.06527);
- how :class:`~torchrl.data.SliceSampler` draws stretches of episodes;
- why a stretch that is too short cannot teach what lies before it;
- the three ways to start the memory of a stretch, and who uses which.

Five minutes to read, half a minute to run on one core.
"""

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
from tensordict.nn import TensorDictSequential

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv
from torchrl.modules import EGreedyModule, make_q_actor
from torchrl.objectives import DQNLoss, SoftUpdate

# %%
# A task that cannot be solved without a memory
# ---------------------------------------------
#
# A sign at the entrance of a corridor says left or right. The corridor leads to a junction, where
# the sign is out of sight. Turning as it said gives 1, the other way -1. (A short form of the T-maze
# of Bakker, 2002.) Whatever a policy without a memory does, its mean return is 0.


class Corridor(gymnasium.Env):
    """The observation: the sign (-1 or 1 at the entrance, else 0), and whether this is the junction."""

    length = 8
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.sign = 0, int(self.np_random.choice([-1, 1]))
        return np.array([self.sign, 0], np.float32), {}

    def step(self, action):
        if self.place == self.length - 1:  # at the junction, an action turns; before, all go ahead
            return np.zeros(2, np.float32), 1.0 if 2 * action - 1 == self.sign else -1.0, True, False, {}
        self.place += 1
        return np.array([0, self.place == self.length - 1], np.float32), 0.0, False, False, {}


def make_env():
    env = TransformedEnv(GymWrapper(Corridor()), InitTracker())  # "is_init" marks where a memory is emptied
    env.set_seed(0)
    return env


# %%
# What the buffer gives
# ---------------------
#
# :func:`~torchrl.modules.make_q_actor` builds the network, an LSTM between its layers. Its state is
# an entry like any other: collected, stored, sampled. A :class:`~torchrl.data.SliceSampler` draws
# consecutive steps of one episode. The sample is flat; one ``reshape`` gives the rows that a loss
# wants, ``[slices, time]``.

torch.manual_seed(0)
actor = make_q_actor(make_env(), recurrent="lstm", hidden_size=32, num_cells=(32,))
options = {"frames_per_batch": 160, "total_frames": 6_400, "auto_register_policy_transforms": True}
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), sampler=SliceSampler(slice_len=4), batch_size=64 * 4)
buffer.extend(Collector(make_env(), actor, **options).next())
slices = buffer.sample().reshape(-1, 4)
print(slices.batch_size, slices["recurrent_state_h"].shape)  # torch.Size([64, 4]) torch.Size([64, 4, 1, 32])

# %%
# The sampler sets ``is_init`` at the first step of each slice. So the memory starts empty there,
# whatever was stored: the state in the buffer comes from weights that are long gone.

print(slices["is_init"][:, 0].all(), slices["is_init"][:, 1:].any())  # tensor(True) tensor(False)

# %%
# And this is the trouble with slices that are too short. Of the slices that end at the junction, where
# the one choice is made, none contains the sign:

at_junction = slices["observation"][:, :, 1].any(1)
sees_sign = (slices["observation"][:, :, 0] != 0).any(1)
print(at_junction.any(), (at_junction & sees_sign).any())  # tensor(True) tensor(False)

# %%
# Training
# --------
#
# The loop is that of DQN. :class:`~torchrl.objectives.DQNLoss` notices that the network has a memory,
# and runs each row as a sequence, for the values of now and of the next step.


def train(recurrent, slice_len):
    torch.manual_seed(0)
    env = make_env()
    actor = make_q_actor(env, recurrent=recurrent, hidden_size=32, num_cells=(32,))
    explore = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=3_000)
    collector = Collector(env, TensorDictSequential(actor, explore), **options)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(6_400), sampler=SliceSampler(slice_len=slice_len), batch_size=32 * slice_len
    )
    loss_module = DQNLoss(actor, gamma=0.95, double_dqn=True)
    update_target = SoftUpdate(loss_module, tau=0.02)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-3)
    returns = []
    for batch in collector:  # 160 steps: 20 episodes
        buffer.extend(batch)
        explore.step(batch.numel())
        for _ in range(12):
            loss = loss_module(buffer.sample().reshape(-1, slice_len))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_target.step()
        returns.append(batch["next", "reward"][batch["next", "done"]].mean().item())
    return returns


length = Corridor.length
curves = {
    "no memory": train(None, length),
    "LSTM, slices of 4 steps": train("lstm", 4),
    f"LSTM, slices of {length} steps": train("lstm", length),
}

# %%
# The same network with the same data learns nothing from short slices, and everything from slices
# that reach back to the sign.

_, axis = plt.subplots(figsize=(7, 4))
frames = [options["frames_per_batch"] * (i + 1) for i in range(len(curves["no memory"]))]
for name, curve in curves.items():
    smooth = np.convolve(curve, np.ones(5) / 5, mode="valid")
    axis.plot(frames[4:], smooth, label=name)
axis.set(xlabel="environment steps", ylabel="mean return of 100 episodes", title="Turn as the sign said")
axis.legend()

final = {name: sum(curve[-10:]) / 10 for name, curve in curves.items()}
*forgetful, remembers = final.values()
assert max(forgetful) < 0.3
assert remembers > 0.7

# %%
# Where does the memory of a slice start?
# ---------------------------------------
#
# Here whole episodes fit into a slice. Where they do not, there are three ways:
#
# .. list-table::
#    :header-rows: 1
#
#    * - start
#      - how
#      - when
#    * - empty
#      - ``SliceSampler(...)``, as above
#      - slices hold what must be remembered; what DRQN does, and the first thing to try
#    * - the stored state
#      - ``SliceSampler(..., init_key=None)``
#      - long episodes and small buffers, so that stored states are not too old
#    * - the stored state, then warmed up
#      - also :class:`~torchrl.envs.BurnInTransform` in the buffer
#      - long episodes and large buffers: R2D2 (Kapturowski et al., 2019) runs 40 steps without a gradient,
#        and learns from the 80 after them
#
# None of them replaces slices that are long enough: gradients never reach back beyond their start. The
# stored state needs no more than this; ``is_init`` is then true at true beginnings only.

stored = TensorDictReplayBuffer(
    storage=buffer.storage, sampler=SliceSampler(slice_len=4, init_key=None), batch_size=64 * 4
)
slices = stored.sample().reshape(-1, 4)
starts = (slices["observation"][..., 0] != 0).unsqueeze(-1)
print(slices["is_init"].equal(starts))  # True

# %%
# Read next:
#
# - :doc:`recurrent_ppo`: on-policy, where stored states are never old;
# - :doc:`replay_buffers_in_depth`: samplers by slices, priorities, and both;
# - :doc:`/guide/recurrence`: every place where a memory matters, on one page.
