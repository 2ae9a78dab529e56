"""The environments of :mod:`torchrl.envs.batched_envs`, under an older path."""

from torchrl.envs.batched_envs import ParallelEnv, SerialEnv

__all__ = ["ParallelEnv", "SerialEnv"]
