"""Where trajectories in a storage are found, under an older path."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.data.replay_buffers.samplers.episodes")
