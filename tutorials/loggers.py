"""Loggers: what happened, kept
=============================

What you will learn: how numbers, settings, texts and videos are logged, how an environment is
filmed, and how to switch from one kind of logger to another. Five minutes to read, a few seconds to
run.
"""

import tempfile
from pathlib import Path

import torch

from torchrl.record import CSVLogger

folder = Path(tempfile.mkdtemp())

# %%
# One interface
# -------------
#
# A logger takes a name, a value and a step. ``CSVLogger`` keeps plain files, which need nothing but
# an editor to be read.

logger = CSVLogger("first", log_dir=folder, video_format="gif")
logger.log_hparams({"lr": 1e-3, "net": {"depth": 2}})
for step in range(3):
    logger.log_scalar("train/reward", 1.5 * step, step=step)
print((folder / "first/scalars/train/reward.csv").read_text().split())  # ['0,0.0', '1,1.5', '2,3.0']

# %%
# Many numbers at once, nested as they come: ``log_metrics`` joins the names.

logged = logger.log_metrics({"loss": {"actor": torch.tensor(0.5), "critic": 2.0}}, step=3)
print(logged)  # {'loss/actor': 0.5, 'loss/critic': 2.0}

# %%
# Films
# -----
#
# A video is a tensor of frames, ``[T, C, H, W]``, uint8.

logger.log_video("noise", torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), step=0)
print((folder / "first/videos/noise_0.gif").exists())  # True

# %%
# To film an environment, let it emit its pictures, and append a ``VideoRecorder``. It watches every
# step, and hands what it saw to the logger when told to.

from torchrl.envs import GymEnv, TransformedEnv
from torchrl.record import VideoRecorder

env = GymEnv("CartPole-v1", from_pixels=True, pixels_only=False)
recorder = VideoRecorder(logger, tag="random", skip=4)
env = TransformedEnv(env, recorder)
env.rollout(20)
recorder.dump(step=0)
print((folder / "first/videos/random_0.gif").exists())  # True

# %%
# An environment that draws itself in another way, by any method, gets its pictures from
# ``PixelRenderTransform``; ``TensorDictRecorder`` keeps the steps themselves.
#
# Other loggers
# -------------
#
# ``get_logger`` builds one by its name, so that a script can leave the choice to its user. All of
# them are used as above; those for services need the package of that service.

from torchrl.record.loggers import generate_exp_name, get_logger

name = generate_exp_name("DQN", "CartPole")
with get_logger("csv", logger_name=str(folder), experiment_name=name) as other:
    other.log_scalar("reward", 1.0)
print(type(other).__name__, name.startswith("DQN"))  # CSVLogger True

# %%
# Read next: ``first_training.py``, where a logger has something to say, and
# ``torchrl.record.Experiment``, which writes the results of our examples.
