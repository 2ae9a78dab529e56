"""Evaluation
==========

The returns of training are not the quality of a policy: it was exploring, it was changing, and its
rewards may have been rescaled. This tutorial measures a policy, and says how far to trust the number.

What you will learn:

- why evaluations are separate, deterministic, and play whole episodes;
- how many episodes are enough, by a confidence interval;
- why the best evaluation of a run promises too much;
- how to report true returns where rewards and observations are normalised;
- how to evaluate in another process while training goes on.

Six minutes to read, a minute to run.
"""

import tempfile
from pathlib import Path

import torch

import torchrl
from torchrl.trainers import bootstrap_interval, read_run

# %%
# A policy that is hardly trained: some of its episodes are long, some are short. Every 512 frames it
# plays five episodes, and the best agent so far is kept.

folder = tempfile.TemporaryDirectory()
agent = torchrl.train(
    "ppo",
    "CartPole-v1",
    total_frames=4_096,
    seed=0,
    log_dir=folder.name,
    eval_interval=512,
    eval_episodes=5,
    final_episodes=0,
    video=False,
    progress_bar=False,
)
run = Path(folder.name, "ppo_CartPole-v1_seed0")

# %%
# Play, deterministically
# -----------------------
#
# :meth:`Agent.evaluate <torchrl.trainers.Agent.evaluate>` plays whole episodes with the most likely
# action of each state, and gives their returns. Policies of SAC, DQN and DDPG are meant to be judged
# so: their noise is for exploring. A stochastic policy, as PPO's, can be judged both ways; say which.

result = agent.evaluate(200)
noisy = agent.evaluate(100, deterministic=False)
print(result.returns.shape)  # torch.Size([200])
print(f"deterministic {result.mean:.0f}, with noise {noisy.mean:.0f}")

# %%
# With your own policy it is a rollout. ``break_when_all_done`` lets each row finish its first episode.
# Do not count the episodes that end within a fixed number of steps instead: short ones are over more
# often, and the mean comes out too low.

from torchrl.envs import Compose, GymEnv, RewardScaling, RewardSum, TransformedEnv, VecNormV2, set_exploration_type

test_env = TransformedEnv(GymEnv("CartPole-v1", num_envs=10), RewardSum())
test_env.set_seed(1_000)  # not the seed of training
with torch.no_grad(), set_exploration_type("deterministic"):
    episodes = test_env.rollout(500, agent.policy, break_when_all_done=True)
print(episodes["next", "episode_reward"][:, -1].shape)  # torch.Size([10, 1])

# %%
# How many episodes?
# ------------------
#
# As many as the question needs. :func:`~torchrl.trainers.bootstrap_interval` says between which bounds
# the mean lies: it draws the episodes again and again, with replacement, and needs no assumption about
# how returns are distributed. Four times as many episodes halve it.

from matplotlib import pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
widths = {}
for count in (5, 10, 20, 50, 100, 200):
    some = result.returns[:count]
    low, high = bootstrap_interval(some)
    widths[count] = high - low
    left.errorbar(str(count), some.mean(), [[some.mean() - low], [high - some.mean()]], fmt="o", color="C0", capsize=4)
left.set(xlabel="episodes", ylabel="return", title="95 % intervals of one policy")
print(widths[200] < widths[10])  # True

# %%
# A comparison of *algorithms* has another unit: the training run. Ten thousand episodes of one run say
# nothing about the next seed, so the interval is then one over seeds, five at least:
# :func:`~torchrl.trainers.plot_runs` draws it, :func:`~torchrl.trainers.iqm_interval` summarises
# several tasks.
#
# The best of many
# ----------------
#
# Here are twelve evaluations of five episodes each, all of the *same* policy. The highest is luck, and
# nothing else; the highest evaluation of a run is in part luck, too.

lucky = result.returns[:60].view(12, 5).mean(-1)
right.plot(range(1, 13), lucky, "o", label="five episodes each")
right.axhline(result.mean, color="C1", label="200 episodes")
right.set(xlabel="evaluation", ylabel="return", title="Twelve evaluations of the same policy")
right.legend()
print((lucky.max() > high).item())  # True

# %%
# ``best.agent`` is the agent with the highest evaluation so far. Keep it, but do not report that
# evaluation: play again, with seeds that had no part in the choice.

steps, means = read_run(run).metrics["eval/return"].T
best = torchrl.Agent.load(run / "best.agent")
again = best.evaluate(100, seed=77)
print(f"highest evaluation {means.max():.0f}, the same agent again {again.mean:.0f}, the last one {result.mean:.0f}")

# %%
# True returns
# ------------
#
# Rewards are often scaled for the sake of the critic. Transforms are applied in their order, so a
# ``RewardSum`` *before* the scaling adds up the rewards of the task itself. Report that one.

env = TransformedEnv(
    GymEnv("Pendulum-v1"),
    Compose(
        RewardSum(out_keys=["true_return"]),
        RewardScaling(loc=0.0, scale=0.1),
        RewardSum(out_keys=["scaled_return"]),
        VecNormV2(in_keys=["observation"], out_keys=["normed"]),
    ),
)
last = env.rollout(200)[-1]["next"]
print(torch.allclose(last["true_return"], 10 * last["scaled_return"]))  # True

# %%
# Observations are another matter. The policy has learned from normalised ones, so the evaluation needs
# the statistics of training, as they are: an evaluation must not change them. ``frozen_copy`` is
# that. An :class:`~torchrl.trainers.Agent` carries its own, and sums the rewards of the task.

statistics = env.transform[-1].frozen_copy()
before = {name: value.clone() for name, value in statistics.state_dict().items()}
check = TransformedEnv(GymEnv("Pendulum-v1"), statistics)
check.rollout(100)
print(all(torch.equal(value, before[name]) for name, value in statistics.state_dict().items()))  # True

# %%
# While training goes on
# ----------------------
#
# An :class:`~torchrl.collectors.Evaluator` has a copy of the policy. ``trigger_eval`` sends it the
# current weights and returns at once; ``poll`` returns the numbers when they are there. With
# ``backend="process"`` the episodes cost the learner no time; the functions that build environment and
# policy run in that process.

from tensordict.nn import TensorDictModule

from torchrl.collectors import Collector, Evaluator
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE

torch.manual_seed(0)
env = GymEnv("CartPole-v1", num_envs=8)
env.set_seed(0)
actor = ProbabilisticActor(
    TensorDictModule(MLP(4, 2, num_cells=[64]), ["observation"], ["logits"]),
    in_keys=["logits"],
    spec=env.action_spec_unbatched,
    distribution_class=OneHotCategorical,
)
critic = ValueOperator(MLP(4, 1, num_cells=[64]))
gae, loss_module = GAE(gamma=0.99, lmbda=0.95, value_network=critic), A2CLoss(actor, critic)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=2e-3)

evaluator = Evaluator(lambda: GymEnv("CartPole-v1", num_envs=10), actor, num_trajectories=10, backend="process")
found = [evaluator.evaluate(step=0)]  # before training; waits for the result
for number, batch in enumerate(Collector(env, actor, frames_per_batch=80, total_frames=16_000), start=1):
    loss_module(gae(batch)).backward()
    optimizer.step()
    optimizer.zero_grad()
    if number % 50 == 0:
        evaluator.trigger_eval(step=80 * number)  # skipped if the last one still runs
    if (metrics := evaluator.poll()) is not None:
        found.append(metrics)
found.append(evaluator.evaluate(step=16_000))
evaluator.shutdown()
print(sorted(found[0]))  # ['eval/episode_length', 'eval/fps', 'eval/reward', 'eval/reward_std', 'eval/step']
print(f"before training {found[0]['eval/reward']:.0f}, after {found[-1]['eval/reward']:.0f}")

# %%
# A :class:`~torchrl.trainers.Trainer` evaluates with ``LogValidationReward``, :func:`torchrl.train` with
# ``eval_interval``.
#
# What to write below a table of results: the number of training seeds, the number of episodes, whether
# the policy was deterministic, and what the ± is.

folder.cleanup()

# %%
# Read next
# ---------
#
# - :doc:`observation_statistics`: normalisation, from training to deployment;
# - :doc:`checkpoint_resume`: keeping the best;
# - :doc:`debugging`: what the numbers of a run say.
