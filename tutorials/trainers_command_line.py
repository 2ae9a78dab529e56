"""Trainers and the command line
=============================

What you will learn:

- to train an agent in one line, and what the folder of its run holds;
- where the settings of a run come from;
- to add to a training loop without writing it: callbacks, hooks, parts of your own;
- to do the same from the shell, and to compare the runs;
- to leave: ``eject`` turns the one line into a script that is yours.

Five minutes to read, a quarter of a minute to run.
"""

import tempfile
from pathlib import Path

import torchrl

scratch = tempfile.TemporaryDirectory()
runs = Path(scratch.name)

# %%
# One line
# --------
#
# An algorithm, a task, and what should differ from the defaults. :func:`torchrl.train` builds the
# environment, the networks, the loss and the collector, trains, evaluates on the way, and returns an
# :class:`~torchrl.trainers.Agent`.

quiet = {"log_dir": runs, "video": False, "progress_bar": False, "eval_interval": 1_280, "final_episodes": 20}
agent = torchrl.train("ppo", "CartPole-v1", total_frames=5_120, seed=0, **quiet)

# %%
# A random policy keeps the pole up for about 22 steps. An agent takes observations as the task
# returns them, and returns actions as the task takes them.

result = agent.evaluate(10)
assert result.mean > 60
action, _ = agent.predict([0.0, 0.0, 0.1, 0.0])  # the pole leans to the right
print(action in (0, 1))  # True

# %%
# The folder of a run has all that is needed to know what was done, to look at it, and to go on: the
# settings, the versions of the packages, each logged number as a CSV file, a checkpoint for
# :func:`torchrl.resume`, and the best and the last agent.

folder = runs / "ppo_CartPole-v1_seed0"
print(sorted(path.name for path in folder.iterdir())[:3])  # ['best.agent', 'checkpoint', 'last.agent']
print(len(list(folder.glob("scalars/eval/*.csv"))) > 0)  # True

# %%
# Where settings come from
# ------------------------
#
# Three places, the first one that knows a setting wins: what you pass; a table of tuned settings for
# tasks of this name; the defaults of the algorithm, which are those of its paper.

from torchrl.trainers.algorithms import PPOConfig, tuned_settings

print(PPOConfig().lr, tuned_settings("ppo", "CartPole-v1")["lr"], agent.config.lr)  # 0.0003 0.001 0.001

# %%
# A setting that does not exist is an error, not a silent default.

try:
    torchrl.train("ppo", "CartPole-v1", entropy_coef=0.01)
except KeyError as error:
    print(error.args[0].partition(". ")[2])  # Did you mean 'entropy_coeff'?

# %%
# Into the loop
# -------------
#
# Between the one line and a loop of your own there are two steps, and each is made of the next:
#
# ==============================  =============================================================
# you want                        use
# ==============================  =============================================================
# an agent                        ``torchrl.train(name, task)``
# to watch, to stop early         the same, with ``callbacks=[function]``
# another log, schedule or part   ``PPOTrainer.from_env(task)`` and its like, and hooks
# another loss or data flow       :class:`~torchrl.trainers.Trainer` around your own parts
# another loop                    ``for batch in collector``, as in ``first_training.py``
# ==============================  =============================================================
#
# A callback gets the trainer after each batch. One that returns ``False`` ends training.

returns = []


def until_forty(trainer):
    """Stop once the episodes of a batch have a mean return of forty."""
    returns.append(trainer.metrics.get("episode_return", 0.0))
    return returns[-1] < 40


torchrl.train("ppo", "CartPole-v1", seed=0, log_dir="", progress_bar=False, final_episodes=0, callbacks=[until_forty])
assert returns[-1] >= 40 > max(returns[:-1])

# %%
# ``from_env`` builds the trainer and does not run it, so that you can change it first. A hook is a
# function at one of the stages of the loop: this one looks at each batch, before anything is learned
# from it, and returns numbers to log. The list of stages is at
# :meth:`~torchrl.trainers.Trainer.register_op`.

from torchrl.trainers.algorithms import PPOTrainer

trainer = PPOTrainer.from_env("CartPole-v1", total_frames=2_048, progress_bar=False)


def cart_speed(batch):
    """Return what is to be logged."""
    return {"cart_speed": batch["observation"][..., 1].abs().mean()}


trainer.register_op("pre_steps_log", cart_speed)

# %%
# The parts are attributes, and are those that you would build by hand. This freezes the first layer
# of the policy; anything that torch can do to a module is fair.

print(type(trainer.collector).__name__, type(trainer.loss_module).__name__)  # Collector ClipPPOLoss
first_layer = next(trainer.loss_module.actor_network.parameters()).requires_grad_(False)
before = first_layer.clone()
trainer.train()
print((first_layer == before).all().item(), "cart_speed" in trainer.metrics)  # True True

# %%
# From the shell
# --------------
#
# The command ``torchrl train ppo CartPole-v1 --seed 1`` is the same function, its flags are the same
# settings, and its result is the same agent. ``torchrl list`` shows the algorithms, and
# ``torchrl train ppo CartPole-v1 --help`` each setting with its default for this task. In a shell
# one would write ``--seeds 2``, which runs the seeds in processes side by side; here, every command is
# also a function of its words.

from torchrl.cli import main

flags = f"--total-frames 5120 --eval-interval 1280 --final-episodes 20 --no-video --no-progress-bar --log-dir {runs}"
assert main(["train", "ppo", "CartPole-v1", "--seed", "1", *flags.split()]) == 0

# %%
# Agents are saved in the folders, so looking at them needs no training script. Here ten episodes of
# the second agent, and what stands out in the numbers of both runs.

assert main(["eval", str(runs / "ppo_CartPole-v1_seed1"), "--episodes", "10"]) == 0
assert main(["doctor", str(runs)]) == 0

# %%
# Runs of one algorithm on one task are seeds of one curve. ``plot`` draws their mean and the 95 %
# bootstrap interval: one seed is an anecdote.

assert main(["plot", str(runs), "--out", str(runs / "curve.png"), "--title", "PPO, two seeds"]) == 0

import matplotlib.pyplot as plt

plt.figure(figsize=(6, 4.5)).subplots_adjust(0, 0, 1, 1)
plt.imshow(plt.imread(runs / "curve.png"))
plt.axis("off")
plt.show()

# %%
# Leave
# -----
#
# When no hook reaches what you want to change, ``eject`` prints the command as a script: settings,
# environment, networks, loss, trainer and a ``main``, some two hundred lines.
# It gives the same parameters as the command, bit for bit, until you change it.

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()) as script:
    assert main(["eject", "ppo", "CartPole-v1", "--total-frames", "512"]) == 0
lines = script.getvalue().splitlines()
print(len(lines) < 300, any(line.startswith("    total_frames: int = 512") for line in lines))  # True True

# %%
# The parts that matter, in the script: where policy and loss are made.

print("\n".join(line for line in lines if line.startswith(("class ", "def "))))

# %%
# Nothing of a run is outside its folder.

scratch.cleanup()

# %%
# Read next:
#
# - ``debugging.py``: when the curve does not rise;
# - ``checkpoint_resume.py``: stop and go on, number by number;
# - ``first_training.py``: the same without a trainer;
# - the page :doc:`/command_line`, with ``tune``, ``export``, ``record`` and exit codes.
