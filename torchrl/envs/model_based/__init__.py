"""Environments whose dynamics are learned."""

from torchrl.envs.model_based.common import ModelBasedEnvBase

__all__ = ["ModelBasedEnvBase"]
