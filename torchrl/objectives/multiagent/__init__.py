"""Losses for groups of agents."""

from torchrl.objectives.multiagent.mappo import IPPOLoss, MAPPOLoss
from torchrl.objectives.multiagent.qmixer import QMixerLoss

__all__ = ["IPPOLoss", "MAPPOLoss", "QMixerLoss"]
