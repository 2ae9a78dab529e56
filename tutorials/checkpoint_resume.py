"""Checkpoint and resume
=====================

Machines are taken away, clusters end jobs after a day, someone presses Ctrl-C. A run that can go on
from where it stopped loses minutes; one that cannot starts again, or goes on as another run without
anybody noticing: with a cold optimizer, an empty buffer, or random numbers that repeat.

What you will learn:

- how a run of :func:`torchrl.train` is stopped, resumed and prolonged;
- what belongs in a checkpoint of a loop of your own, and how to prove that nothing is missing;
- how to keep the last few checkpoints and the best one;
- what happens to damaged files, and why loading is safe.

Five minutes to read, half a minute to run.
"""

import os
import tempfile
from pathlib import Path

import torch

import torchrl
from torchrl.trainers import read_run

folder = Path(tempfile.mkdtemp())

# %%
# A run that is stopped
# ---------------------
#
# With a ``log_dir``, :func:`torchrl.train` saves its state at intervals and at the end; also at the end
# that Ctrl-C brings. Here a callback ends the run when half of its frames are there, as a cluster
# would.


def stop_at_half(trainer):
    """Return False, which ends the run, when half of the frames are there."""
    return trainer.collected_frames < 5_000


quiet = {"progress_bar": False, "video": False, "final_episodes": 0, "eval_interval": 10**9}
torchrl.train("ppo", "CartPole-v1", total_frames=10_240, seed=0, log_dir=folder, callbacks=[stop_at_half], **quiet)
run = folder / "ppo_CartPole-v1_seed0"
print("checkpoint" in os.listdir(run), "last.agent" in os.listdir(run))  # True True

# %%
# ``checkpoint`` is the state of everything that changes; ``last.agent`` is the policy alone, for use.
# :func:`torchrl.resume` needs nothing but the folder: settings and task are in ``settings.json``.

torchrl.resume(run)
steps, returns = read_run(run).series("episode_return").T
print(steps[0] < 1_000, steps[-1] > 5_120)  # True True

# %%
# One curve, and no step is logged twice. The dip behind each stop is no loss of skill: episodes that
# were under way are replaced by new ones, and of these the short ones end first.
#
# With ``total_frames`` a run goes on beyond its end. What depends on that number is that of the longer
# run from there on: the learning rate of PPO, which had fallen to zero, is a third of its first value
# again.

agent = torchrl.resume(run, total_frames=15_360)
print(agent.config.total_frames)  # 15360

from matplotlib import pyplot as plt

steps, returns = read_run(run).series("episode_return").T
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
axes.plot(steps, returns)
for frames, what in ((5_120, "stopped, resumed"), (10_240, "prolonged")):
    axes.axvline(frames, color="grey", linestyle=":")
    axes.text(frames, max(returns), f" {what}", va="top")
axes.set(xlabel="frames", ylabel="return", title="PPO on CartPole-v1, in three sittings")

# %%
# In a loop of your own
# ---------------------
#
# :class:`~torchrl.checkpoint.Checkpoint` saves named components together: whatever has a
# ``state_dict``, buffers with their storages, and plain values. What belongs in it:
#
# ========================  ====================================================================
# Component                 Without it
# ========================  ====================================================================
# loss module               the policy is another one; its target networks are part of it
# optimizer                 Adam starts cold: the first steps are too large
# scheduler                 the learning rate starts at the top again
# replay buffer             off-policy learning starts from nothing
# collector                 frames are counted from zero
# exploration               the policy is random again
# random generators         the same random numbers a second time
# ========================  ====================================================================

from tensordict.nn import TensorDictSequential

from torchrl.checkpoint import Checkpoint, CheckpointRotation, GlobalRNGState
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate


class Run:
    """The parts of a DQN run, and its checkpoint."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        env = GymEnv("CartPole-v1")
        env.set_seed(seed)
        q_network = QValueActor(MLP(4, 2, num_cells=[64]), spec=env.action_spec)
        self.explore = EGreedyModule(env.action_spec, annealing_num_steps=1_000)
        policy = TensorDictSequential(q_network, self.explore)
        self.collector = Collector(env, policy, frames_per_batch=50, total_frames=1_000)
        self.loss = DQNLoss(q_network)
        self.updater = HardUpdate(self.loss, value_network_update_interval=30)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=1e-3)
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=32)
        self.frames = 0
        self.checkpoint = Checkpoint(
            loss=self.loss,
            updater=self.updater,
            optimizer=self.optimizer,
            explore=self.explore,
            collector=self.collector,
            buffer=self.buffer,
            generators=GlobalRNGState(),
        )

    def learn(self, count):
        for _ in range(count):
            self.loss(self.buffer.sample()).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.updater.step()

    def train(self, rotation, until):
        for batch in self.collector:
            self.frames += batch.numel()
            self.explore.step(batch.numel())
            self.buffer.extend(batch)
            self.learn(5)
            if self.frames % 200 == 0:
                score = -batch["next", "done"].sum().item()  # fewer falls are better
                rotation.save(self.checkpoint, self.frames, metadata={"frames": self.frames, "score": score})
            if self.frames == until:
                return


# %%
# A rotation keeps the latest checkpoints, here two, and the best by a number of the metadata. The run
# is "killed" at 600 frames; the same script, started again, loads the latest checkpoint that can be
# read, if there is one.

rotation = CheckpointRotation(folder / "dqn", keep_last=2, keep_best=("score", "max"))
first = Run(seed=0)
first.train(rotation, until=600)

second = Run(seed=1)  # another seed: everything must come from the checkpoint
result = rotation.load_latest(second.checkpoint)
if result is not None:
    second.frames = result.manifest["metadata"]["frames"]
print(second.frames, len(second.buffer))  # 600 600

# %%
# Prove it
# --------
#
# A resumed run that looks right may still be another run. The proof: let both go on, and compare bits.

weights = {}
for name, each in (("first", first), ("second", second)):
    rotation.load_latest(each.checkpoint)  # the same random numbers for both
    each.learn(50)
    weights[name] = torch.cat([value.flatten() for value in each.loss.state_dict().values()])
print(torch.equal(weights["first"], weights["second"]))  # True

# %%
# The proof finds what is missing. Leave the optimizer out:

careless = Run(seed=2)
rotation.load_latest(
    careless.checkpoint, components=[name for name in careless.checkpoint.components if name != "optimizer"]
)
careless.learn(50)
weights["careless"] = torch.cat([value.flatten() for value in careless.loss.state_dict().values()])
print(torch.equal(weights["first"], weights["careless"]))  # False

# %%
# One thing is not in any checkpoint: the state of the simulator, which belongs to another library.
# Unfinished episodes are replaced by new ones. The collector goes on counting where it was.

second.train(rotation, until=1_000)
print(second.frames)  # 1000
print([path.name for path in rotation.paths()])  # ['checkpoint_200', 'checkpoint_800', 'checkpoint_1000']

# %%
# Files that cannot be trusted
# ----------------------------
#
# A checkpoint is text and tensors, with checksums; loading one runs no code from it. A save that is
# interrupted leaves the last one in place. A file that has changed since is an error that names it,
# and ``load_latest`` falls back to the checkpoint before, with a warning in the log.

latest = rotation.latest()
victim = max((file for file in latest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
data = bytearray(victim.read_bytes())
data[len(data) // 2] ^= 1  # a single bit
victim.write_bytes(data)
try:
    second.checkpoint.load(latest)
except RuntimeError as error:
    message = str(error)
result = rotation.load_latest(second.checkpoint)
print(victim.name in message, result.manifest["metadata"]["frames"])  # True 800

# %%
# Clean up:

import shutil

shutil.rmtree(folder)

# %%
# Read next
# ---------
#
# - :doc:`evaluation`: which checkpoint is the best one;
# - :doc:`export_deployment`: from a saved agent to a program;
# - :doc:`trainers_command_line`: ``torchrl resume`` in a terminal.
