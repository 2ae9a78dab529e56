"""Transforms of actions, and of how often they are executed."""

from torchrl.envs.transforms.action.discrete import ActionDiscretizer, ActionMask, DiscreteActionProjection
from torchrl.envs.transforms.action.repeat import (
    ConditionalPolicySwitch,
    ConditionalSkip,
    FrameSkipTransform,
    MultiAction,
)
from torchrl.envs.transforms.action.scaling import ActionScaling, ClipTransform, FlattenAction

__all__ = [
    "ActionDiscretizer",
    "ActionMask",
    "ActionScaling",
    "ClipTransform",
    "ConditionalPolicySwitch",
    "ConditionalSkip",
    "DiscreteActionProjection",
    "FlattenAction",
    "FrameSkipTransform",
    "MultiAction",
]
