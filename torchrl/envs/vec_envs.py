"""The environments of :mod:`torchrl.envs.batched_envs`, under another older path."""

from torchrl.envs.batched_envs import ParallelEnv, SerialEnv

__all__ = ["ParallelEnv", "SerialEnv"]
