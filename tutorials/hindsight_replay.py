"""Hindsight replay
================

A robot that must reach a goal, and is told only whether it did, learns nothing from a failure. With
distant goals and random actions there are only failures. Hindsight experience replay (`Andrychowicz
et al., 2017 <https://arxiv.org/abs/1707.01495>`_) takes each failure for a success at something
else: had the goal been where the episode ended, its actions would have been right.

What you will learn:

- what a goal-conditioned environment returns;
- how :class:`~torchrl.data.HERReplayBuffer` relabels a share of each sample;
- what the reward function must return, and why ``terminated`` belongs to it;
- that it decides between learning and not learning.

Five minutes to read, about half a minute to run.
"""

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential

from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, HERReplayBuffer, LazyTensorStorage, OneHot
from torchrl.envs import EnvBase, StepCounter, TransformedEnv, set_exploration_type
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

torch.manual_seed(0)
torch.set_num_threads(1)  # small networks are faster so

# %%
# The task
# --------
#
# A robot on a floor of 21 by 21 tiles is sent to one of them. It moves by one tile at a time, in four
# directions, and has 25 steps. The reward is -1 until it is there. A random walk stays near its start
# and hardly ever meets the goal.
#
# Such an environment returns three things: the state, the goal that is wanted (``desired_goal``),
# and what has been achieved, in terms of goals (``achieved_goal``). Gymnasium's goal environments
# use the same names.

half, limit = 10, 25  # tiles from the centre to a wall; steps of an episode
moves = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def reward_of(achieved, desired):
    """Return the reward and whether the episode ends, both [*B, 1]."""
    reached = ((achieved - desired).abs() <= 0.5 / half).all(-1, keepdim=True)
    return reached.float() - 1, reached


class Floor(EnvBase):
    """Reach the goal; ``rows`` copies of the task. Positions are from -1 to 1."""

    def __init__(self, rows):
        super().__init__(batch_size=[rows])
        names = ("observation", "achieved_goal", "desired_goal")
        places = {name: Bounded(-1, 1, (rows, 2)) for name in names}
        self.observation_spec = Composite(places, shape=[rows])
        self.action_spec = OneHot(4, shape=(rows, 4))

    def _reset(self, td):
        start, goal = torch.randint(-half, half + 1, (2, *self.batch_size, 2)) / half
        return self._record(start, goal)

    def _step(self, td):
        place = (td["observation"] + td["action"].float() @ moves / half).clamp(-1, 1)
        reward, reached = reward_of(place, td["desired_goal"])
        return self._record(place, td["desired_goal"]).update({"reward": reward, "terminated": reached})

    def _record(self, place, goal):
        return TensorDict(
            observation=place, achieved_goal=place.clone(), desired_goal=goal.clone(), batch_size=self.batch_size
        )

    def _set_seed(self, seed):
        torch.manual_seed(seed)


env = TransformedEnv(Floor(32), StepCounter(max_steps=limit))
steps = env.rollout(limit, break_when_any_done=False)
print(steps.batch_size, steps["next", "terminated"].sum())  # torch.Size([32, 25]) tensor(1)

# %%
# A policy that is given the goal
# -------------------------------
#
# The network reads the state *and* the goal. One policy serves all goals, and what it learns about
# one of them carries over to others. That is what makes relabelling worthwhile.


def make_policy(env):
    """Return a network of the values of the four moves, which takes the best."""
    net = MLP(4, 4, num_cells=[128, 128])  # its inputs are concatenated
    return QValueActor(net, in_keys=["observation", "desired_goal"], spec=env.action_spec)


# %%
# The buffer
# ----------
#
# The buffer stores what happened. When it is sampled, each row is relabelled with probability
# ``her_ratio``: its ``desired_goal`` becomes the ``achieved_goal`` of a later step of the same
# episode (strategy ``"future"``), and the reward is computed again by the function that you give it.
# It gets the batch with the new goals. Where reaching the goal ends the episode, as here, it returns
# ``terminated`` as well: otherwise the target of a success would still bootstrap from the state
# behind it.


def relabelled(td):
    """Return reward and end of each step of a sample, with the goals that it has now."""
    return reward_of(td["next", "achieved_goal"], td["desired_goal"])


def make_buffer(her_ratio, strategy="future"):
    """Return a buffer that relabels a share of each sample."""
    return HERReplayBuffer(
        relabelled,
        her_ratio=her_ratio,
        strategy=strategy,
        storage=LazyTensorStorage(50_000, ndim=2),  # [time, copies]: episodes of a copy stay together
        batch_size=256,
    )


buffer = make_buffer(0.8)
buffer.extend(steps)
sample = buffer.sample()
reached_then = (steps["next", "reward"] == 0).float().mean()
reached_now = (sample["next", "reward"] == 0).float().mean()
print(reached_then < 0.01, 0.1 < reached_now < 0.4)  # tensor(True) tensor(True)

# %%
# Hardly any stored step reached its goal, but a good part of the sample did. A ``her_ratio`` of 0.8
# is four goals in hindsight for each real one, the best choice of the paper.
#
# The difference
# --------------
#
# Q-learning with a target network, once with hindsight and once without; nothing else differs.


def train(her_ratio, num_batches=30):
    """Return the share of goals that the greedy policy reaches, after every second batch."""
    torch.manual_seed(0)
    env = TransformedEnv(Floor(32), StepCounter(max_steps=limit))
    actor = make_policy(env)
    frames = 32 * limit * num_batches
    noise = EGreedyModule(env.action_spec, eps_init=1.0, eps_end=0.1, annealing_num_steps=frames // 3)
    policy = TensorDictSequential(actor, noise)
    collector = Collector(env, policy, frames_per_batch=32 * limit, total_frames=frames)
    buffer = make_buffer(her_ratio)
    loss_module = DQNLoss(actor, double_dqn=True, gamma=0.9)
    target_update = SoftUpdate(loss_module, tau=0.1)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=2e-3)
    test_env = TransformedEnv(Floor(200), StepCounter(max_steps=limit))
    rates = []
    for i, batch in enumerate(collector):
        buffer.extend(batch)
        noise.step(batch.numel())
        for _ in range(40):
            loss_module(buffer.sample()).backward()
            optimizer.step()
            optimizer.zero_grad()
            target_update.step()
        if i % 2 == 1:
            with torch.no_grad(), set_exploration_type("deterministic"):
                episodes = test_env.rollout(limit, actor, break_when_all_done=True)
            rates.append(episodes["next", "terminated"].any(1).float().mean().item())
    collector.shutdown()
    return rates


with_hindsight, without = train(her_ratio=0.8), train(her_ratio=0.0)
print(f"goals reached with hindsight {with_hindsight[-1]:.2f}, without {without[-1]:.2f}")
assert with_hindsight[-1] > 5 * without[-1]

# %%

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
frames = [2 * 32 * limit * (i + 1) / 1000 for i in range(len(without))]
axes.plot(frames, with_hindsight, color="tab:green", linewidth=2, label="hindsight, her_ratio=0.8")
axes.plot(frames, without, color="tab:red", linewidth=2, label="no hindsight")
axes.set(xlabel="thousand steps", ylabel="goals reached", ylim=(-0.03, 1.03), title="Reach one of 441 tiles")
axes.legend()
axes.spines[["top", "right"]].set_visible(False)

# %%
# Which strategy?
# ---------------
#
# =============  =======================================  ==============================================
# ``strategy``   The goal is what was achieved            Use it
# =============  =======================================  ==============================================
# ``"future"``   later in the same episode                by default; best in the paper
# ``"final"``    at the end of the episode                when only the end of an episode is a goal
# ``"episode"``  anywhere in the same episode             when order does not matter
# ``"random"``   anywhere in the buffer                   when episodes are short and goals are alike
# =============  =======================================  ==============================================
#
# Hindsight needs an off-policy algorithm: the relabelled actions were not chosen by a policy that
# had that goal. DQN, DDPG, TD3 and SAC work; PPO does not. In robotics ``success`` is usually a
# distance below a threshold, ``(achieved - desired).norm(dim=-1, keepdim=True) < 0.05``, and a
# reached goal does not end the episode: then return the reward alone.
#
# Read next:
#
# - :doc:`replay_buffers_in_depth`: what else a buffer can do when it is sampled;
# - :doc:`custom_sampler`: choosing rows by a rule of yours;
# - :doc:`/exploration`: what to do when hindsight never sees anything new.
