"""Atari games
===========

Half of the papers on deep reinforcement learning report Atari scores, and a score only means
something if the game was prepared as in the other papers: frames skipped, screens reduced, rewards
signed, lives treated as episodes. One preset does it. What is easy to get wrong is what *you* report
and store, so this tutorial is about that.

What you will learn:

- what :func:`~torchrl.envs.AtariPreprocessing` does, in its order;
- how lives end episodes in training, though the game goes on;
- how to record the true score of a game beside what the agent learns from;
- how evaluation differs from training;
- how much memory and time a game takes.

Five minutes to read, a few seconds to run: this is about the data, nothing is trained. It needs
``pip install "torchrl[atari]"``; the games come with it.
"""

import time

import matplotlib.pyplot as plt
import torch

from torchrl.envs import AtariPreprocessing, Compose, GymEnv, RewardSum, TransformedEnv, UnaryTransform

torch.manual_seed(0)

# %%
# The preset
# ----------
#
# ``frameskip=1`` is essential. Gymnasium's ``v5`` games repeat each action four times by themselves,
# and the preset does so as well; together they would skip sixteen frames. A warning says so if you
# forget it.

game = GymEnv("ALE/Breakout-v5", frameskip=1)
preset = AtariPreprocessing()
names = [type(part).__name__ for part in preset]
print(names[:4])  # ['TimeMaxPool', 'EndOfLifeTransform', 'NoopResetEnv', 'FrameSkipTransform']
print(names[4:8])  # ['EpisodicLife', 'FireReset', 'ToTensorImage', 'GrayScale']
print(names[8:])  # ['Resize', 'SignTransform', 'CatFrames']

# %%
# In words, from the game to the policy: the maximum of the last two frames, since sprites flicker;
# up to 30 steps of doing nothing at the start, so that games differ; each action four times; an
# episode for each life; the fire button, without which some games do not start; channels first,
# gray, 84 x 84; rewards replaced by their sign; a stack of four frames.
#
# Training
# --------
#
# The transforms that we add go to both ends of the chain. A :class:`~torchrl.envs.RewardSum` *in
# front of* the preset sums the rewards of the game; one behind it would sum signs. At the end,
# screens become bytes: a quarter of the memory, and nothing is lost that came from bytes.


def to_bytes(screens):
    """Return numbers between 0 and 1 as bytes."""
    return (screens * 255).round().to(torch.uint8)


def make_env(training, seed):
    """Return Breakout with the preprocessing for training, or that for an evaluation."""
    chain = Compose(
        RewardSum(out_keys=["score"]),
        AtariPreprocessing(terminal_on_life_loss=training, sign_reward=training),
        RewardSum(out_keys=["episode_reward"]),
        UnaryTransform(["pixels"], ["pixels"], fn=to_bytes),
    )
    env = TransformedEnv(GymEnv("ALE/Breakout-v5", frameskip=1), chain)
    env.set_seed(seed)
    return env


env = make_env(training=True, seed=0)
start = time.perf_counter()
steps = env.rollout(400, break_when_any_done=False)
fps = 4 * 400 / (time.perf_counter() - start)
print(steps["pixels"].shape, steps["pixels"].dtype)  # torch.Size([400, 4, 84, 84]) torch.uint8

# %%
# Lives
# -----
#
# Breakout has five lives. Each loss is an end, ``terminated``, for the learner: death then has
# consequences that it can see within one episode. But the emulator is only reset when the game is
# over. After the first four losses the next episode goes on with the bricks that are left.

ends = steps["next", "done"].squeeze(-1)
lives = steps["next", "lives"][ends].flatten()
print(steps["next", "terminated"][ends].all(), lives)  # tensor(True) tensor([4, 3, 2, 1, 0, 4, 3, 2, 1, 0])

# %%
# So ``episode_reward`` is the reward of one life, and ``score`` runs on until the game is over. The
# score of a game is that of its last life:

over = lives == 0
per_life = steps["next", "episode_reward"][ends].flatten()
score = steps["next", "score"][ends].flatten()
print(per_life)  # tensor([0., 0., 0., 0., 0., 0., 2., 0., 1., 0.])
print(score)  # tensor([0., 0., 0., 0., 0., 0., 2., 2., 3., 3.])
print(score[over])  # tensor([0., 3.])

# %%
# The figure shows the game as the emulator has it, and as the policy does.

figure = plt.figure(figsize=(9, 4.6), layout="constrained")
grid = figure.add_gridspec(2, 5, height_ratios=[1.25, 1])
screen = game.reset()["pixels"]
axis = figure.add_subplot(grid[0, 0])
axis.imshow(screen.numpy())
axis.set(xticks=[], yticks=[], title="210 x 160 x 3")
when = int(ends.nonzero()[0]) - 8
for i in range(4):
    axis = figure.add_subplot(grid[0, i + 1])
    axis.imshow(steps["pixels"][when, i].numpy(), cmap="gray")
    axis.set(xticks=[], yticks=[], title=f"stack: frame {i + 1}")
axis = figure.add_subplot(grid[1, :])
axis.step(range(400), steps["next", "lives"].flatten().numpy(), color="tab:gray", label="lives")
axis.step(range(400), steps["next", "score"].flatten().numpy(), color="tab:green", label="score")
axis.step(range(400), steps["next", "episode_reward"].flatten().numpy(), color="tab:red", ls=":", label="of this life")
axis.set(xlabel="step (four frames each)", ylim=(-0.2, 5.6))
axis.legend(ncols=3, loc="upper right")

# %%
# Evaluation
# ----------
#
# An evaluation plays whole games for the game's own rewards: ``terminal_on_life_loss=False`` and
# ``sign_reward=False``. Everything that changes what the policy *sees* stays. Report the mean of many
# games with different seeds; this is one game of random actions.

test = make_env(training=False, seed=1_000)
played = test.rollout(5_000)
final = played["next"][-1]
print(final["terminated"].item(), (final["score"] == final["episode_reward"]).item())  # True True

# %%
# The ``v5`` games repeat the last action with a probability of 0.25 instead of taking the new one
# (*sticky actions*; `Machado et al., 2018 <https://arxiv.org/abs/1709.06009>`_), so that no policy can
# learn a sequence by heart. Older papers have no sticky actions: pass
# ``repeat_action_probability=0.0`` to :class:`~torchrl.envs.GymEnv` to compare with those, and always
# say which of the two you used.
#
# Memory and time
# ---------------
#
# With stacks of bytes at the root and under ``"next"`` a transition takes 56 kB, so a million takes
# 56 GB. :doc:`memory_efficient_pixels` brings it down to 7 GB. The speed is that of the emulator and of
# reducing its screens, some hundred steps of four frames a second in one process:

print(steps["pixels"][0].nbytes + steps["next", "pixels"][0].nbytes)  # 56448
print(f"{fps:.0f} frames a second")

# %%
# For more, build the environment in worker processes, each with the whole chain, so that the screens
# are reduced where they are made: ``ParallelEnv(8, partial(make_env, True, 0))``.
#
# All of the above is what :func:`torchrl.train` does with a name that starts with ``ALE/``, with the
# settings of the literature: ``torchrl.train("dqn", "ALE/Breakout-v5", total_frames=10_000_000)``.
#
# Read next:
#
# - :doc:`memory_efficient_pixels`: the replay buffer for it;
# - :doc:`transforms_in_depth`: why the order of a chain matters;
# - :doc:`/guide/atari`: training, from the preset to the score.
