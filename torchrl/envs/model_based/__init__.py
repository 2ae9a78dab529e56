"""Environments whose dynamics are learned."""

from torchrl.envs.model_based.common import ModelBasedEnvBase
from torchrl.envs.model_based.dreamer import DreamerEnv

__all__ = ["DreamerEnv", "ModelBasedEnvBase"]
