"""Helpers for collected data, under the path where older code looks for them."""

from torchrl.data.trajectories import split_trajectories

__all__ = ["split_trajectories"]
