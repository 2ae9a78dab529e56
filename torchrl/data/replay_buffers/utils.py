"""An old path: trajectories in a storage are found by ``samplers.episodes``."""

from torchrl.data.replay_buffers.samplers.episodes import find_start_stop_traj

__all__ = ["find_start_stop_traj"]
