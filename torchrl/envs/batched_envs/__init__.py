"""Several environments stepped as one: in this process, or in workers."""

from torchrl.envs.batched_envs.base import BatchedEnvBase
from torchrl.envs.batched_envs.parallel import ParallelEnv
from torchrl.envs.batched_envs.serial import SerialEnv

__all__ = ["BatchedEnvBase", "ParallelEnv", "SerialEnv"]
