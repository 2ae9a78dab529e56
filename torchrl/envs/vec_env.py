"""Environments in batches, under an older path."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.envs.batched_envs")
