"""What is done to a batch of steps between collecting and storing it."""

from torchrl.data.postprocs.postprocs import DensifyReward, MultiStep

__all__ = ["DensifyReward", "MultiStep"]
