"""Coming from Stable-Baselines3
=============================

What you will learn:

- what the calls and settings that you know are called here;
- to load, evaluate, record and continue an agent;
- what is different in the data: real last observations, ends told apart, no ``VecEnv``;
- where to go when one line is not enough, which is what this library is for.

Five minutes to read, ten seconds to run. The code of Stable-Baselines3 is shown and not run.

Side by side
------------

.. code-block:: python

    # Stable-Baselines3
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=256, n_epochs=20, learning_rate=1e-3, seed=0)
    model.learn(5_120)
    mean, std = evaluate_policy(model, env, n_eval_episodes=10)
"""

import torchrl

curve = []  # frames and returns, for the plot at the end


def watch(trainer):
    """Keep the mean return of the episodes that ended in the batch."""
    curve.append((trainer.collected_frames, float(trainer.metrics.get("episode_return", float("nan")))))


agent = torchrl.train(
    "ppo",
    "CartPole-v1",
    total_frames=5_120,
    num_envs=8,
    frames_per_batch=256,  # of all copies together: n_steps * n_envs
    minibatch_size=256,
    num_epochs=20,
    lr=1e-3,
    seed=0,
    callbacks=[watch],
    log_dir="",  # no folder; else runs/ppo_CartPole-v1_seed0
    progress_bar=False,
    final_episodes=0,
)
result = agent.evaluate(10)
assert result.mean > 40

# %%
# The agent is what ``model`` is after training. ``predict`` takes observations as the task returns
# them, one or a batch, and returns the action and the state of a policy with memory, as there.

action, state = agent.predict([0.0, 0.0, 0.1, 0.0])
print(action in (0, 1), state)  # True None

# %%
# =========================================================  ====================================================
# Stable-Baselines3                                          here
# =========================================================  ====================================================
# ``model.learn(100_000)``                                   ``total_frames=100_000`` of :func:`torchrl.train`
# ``model.predict(obs, deterministic=True)``                 ``agent.predict(obs)``, deterministic by default
# ``evaluate_policy(model, env)``                            ``agent.evaluate(10)``: ``returns``, ``mean``, ``std``
# ``model.save(path)``, ``PPO.load(path)``                   ``agent.save(path)``, ``torchrl.Agent.load(path)``
# ``model.learn(..., reset_num_timesteps=False)``            ``torchrl.resume(folder, total_frames=200_000)``
# ``EvalCallback``, ``StopTrainingOnRewardThreshold``        ``eval_interval=``, ``best.agent``, ``target_return=``
# ``CheckpointCallback``                                     ``save_interval=``; buffer and optimizer included
# a class from ``BaseCallback``                              ``callbacks=[function]``
# ``tensorboard_log=``                                       ``tensorboard=True``; CSV always
# ``make_vec_env(n_envs=8)``, ``SubprocVecEnv``              ``num_envs=8``, :class:`~torchrl.envs.ParallelEnv`
# ``VecNormalize``                                           ``normalize_observations=``, ``normalize_rewards=``
# ``VecNormalize.save``, ``training = False``                in the file of the agent; frozen when it plays
# ``VecFrameStack``, ``VecTransposeImage``                   transforms, such as :class:`~torchrl.envs.CatFrames`
# ``"MlpPolicy"``, ``policy_kwargs=dict(net_arch=...)``      ``num_cells=``, ``depth=``, ``activation=``
# ``"MultiInputPolicy"``                                     nothing to say: networks are made for the specs
# ``RecurrentPPO`` of sb3-contrib                            ``recurrent="lstm"``
# ``HerReplayBuffer``                                        see ``hindsight_replay.py``
# ``rl_zoo3.train --algo ppo --env CartPole-v1``             ``torchrl train ppo CartPole-v1``
# =========================================================  ====================================================
#
# Settings
# --------
#
# Numbers mean the same, with one exception: ``frames_per_batch`` counts the steps of *all* copies of the
# environment.
#
# =====================================  =================================================
# Stable-Baselines3                      here
# =====================================  =================================================
# ``n_steps * n_envs``                   ``frames_per_batch``
# ``batch_size`` (PPO), ``n_epochs``     ``minibatch_size``, ``num_epochs``
# ``learning_rate``, ``gae_lambda``      ``lr`` (SAC: ``lr_actor`` and so on), ``lmbda``
# ``clip_range``, ``ent_coef``           ``clip_epsilon``, ``entropy_coeff``
# ``vf_coef``, ``max_grad_norm``         ``critic_coeff``, ``max_grad_norm``
# ``train_freq``, ``gradient_steps``     ``frames_per_batch``, ``updates_per_frame``
# ``learning_starts``, ``buffer_size``   the same
# =====================================  =================================================
#
# A setting that does not exist is an error, which names the nearest one that does.

try:
    torchrl.train("ppo", "CartPole-v1", ent_coef=0.01)
except KeyError as error:
    print(error.args[0].partition(". ")[2])  # Did you mean 'entropy_coeff'?

# %%
# Saving, loading, going on
# -------------------------
#
# The file of an agent has weights, statistics of the normalisation, specs and settings, as text and
# tensors; loading it runs no code of the file.

import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    path = agent.save(Path(folder) / "cartpole.agent")
    same = torchrl.Agent.load(path)
print(same.predict([0.0, 0.0, 0.1, 0.0])[0] == action)  # True

# %%
# What is different in the data
# -----------------------------
#
# There is no ``VecEnv`` and no ``info``: a batch of environments is an environment, and all that a step has
# produced is in one TensorDict, with the step after it under ``next``. At the end of an episode Stable-Baselines3
# returns the first observation of the next one, and the last one hides in ``infos[i]["terminal_observation"]``.
# Here both are where they belong.

import torch

from torchrl.envs import GymEnv

torch.manual_seed(0)
env = GymEnv("CartPole-v1", num_envs=4)
env.set_seed(0)
steps = env.rollout(60, break_when_any_done=False)  # [4, 60]
row, step = steps["next", "done"].squeeze(-1)[:, :-1].nonzero()[0]
last, first = steps["next", "observation"][row, step], steps["observation"][row, step + 1]
print(last[2].abs() > 0.2, first[2].abs() < 0.06)  # tensor(True) tensor(True)

# %%
# ``terminated`` and ``truncated`` are entries of their own, so no loss has to be told about time limits: a
# step that terminates ends the future, one that is truncated is continued by the critic.

print(sorted(steps["next"].keys()))  # ['done', 'observation', 'reward', 'terminated', 'truncated']

# %%
# When one line is not enough
# ---------------------------
#
# To change an algorithm of Stable-Baselines3, you subclass it and override ``train()`` or
# ``collect_rollouts()``. Here the algorithm is a loop of ten lines over parts, and you write it as you like:
#
# =====================================  ==================================================================
# inside Stable-Baselines3               here
# =====================================  ==================================================================
# ``ActorCriticPolicy``                  an actor and a critic, any modules of torch with names for entries
# ``collect_rollouts``                   :class:`~torchrl.collectors.Collector`
# ``RolloutBuffer``, its advantages      the batch itself, :class:`~torchrl.objectives.value.GAE`
# ``ReplayBuffer``                       :class:`~torchrl.data.ReplayBuffer`: storage, sampler, transforms
# ``train()``                            a loss, such as :class:`~torchrl.objectives.ClipPPOLoss`
# ``polyak_update``                      :class:`~torchrl.objectives.SoftUpdate`
# =====================================  ==================================================================
#
# Every trainer is made of these, and they are its attributes. ``torchrl eject ppo CartPole-v1`` writes the
# one line above as such a script.

from torchrl.trainers.algorithms import PPOTrainer

trainer = PPOTrainer.from_env("CartPole-v1", total_frames=512, progress_bar=False)
batch = next(iter(trainer.collector))
print(batch.batch_size, type(trainer.loss_module).__name__)  # torch.Size([8, 32]) ClipPPOLoss
trainer.shutdown()

# %%
# And the curve of the run at the top, which the callback has kept. While it trains, PPO draws its actions; the
# evaluation takes the likeliest, as ``deterministic=True`` does there.

import matplotlib.pyplot as plt

frames, returns = zip(*curve, strict=True)
plt.figure(figsize=(6, 3.5), layout="constrained")
plt.plot(frames, returns)
plt.axhline(result.mean, color="tab:green", linestyle="--", label="after training, without exploration")
plt.xlabel("frames")
plt.ylabel("return")
plt.grid(alpha=0.3)
plt.legend(frameon=False, loc="center left")
plt.show()

# %%
# Read next:
#
# - ``trainers_command_line.py``: the one line, its folder, and the command;
# - ``first_training.py``: the loop without a trainer;
# - ``environments.py`` and ``data.py``: the TensorDict and its keys, step by step;
# - ``export_deployment.py``: agents without this library.
