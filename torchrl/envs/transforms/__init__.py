"""Transforms of what environments return and accept, and of what replay buffers store and sample.

By what they change: ``observation``, ``reward``, ``action``, ``episode`` (resets, ends, counts) and
``buffer``; ``casting`` (dtypes, devices), ``elementwise`` (functions of the user) and ``presets``.
"""

from torchrl.envs.transforms.action.discrete import ActionDiscretizer, ActionMask, DiscreteActionProjection
from torchrl.envs.transforms.action.repeat import (
    ConditionalPolicySwitch,
    ConditionalSkip,
    FrameSkipTransform,
    MultiAction,
)
from torchrl.envs.transforms.action.scaling import ActionScaling, ClipTransform, FlattenAction
from torchrl.envs.transforms.base import Transform, _apply_to_composite, _apply_to_composite_inv, _set_missing_tolerance  # noqa: F401 - of the API
from torchrl.envs.transforms.buffer.compact import NextObservationDelta, NextStateReconstructor, PolicyAgeFilter
from torchrl.envs.transforms.buffer.trajectories import (
    BurnInTransform,
    MultiStepTransform,
    RandomCropTensorDict,
    Reward2GoTransform,
)
from torchrl.envs.transforms.casting import (
    BatchSizeTransform,
    DeviceCastTransform,
    DoubleToFloat,
    DTypeCastTransform,
    FiniteTensorDictCheck,
    PinMemoryTransform,
)
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.elementwise import ModuleTransform, UnaryTransform
from torchrl.envs.transforms.episode.autoreset import AutoResetEnv, AutoResetTransform, VecGymEnvTransform
from torchrl.envs.transforms.episode.last_reward import LastRewardPrimer
from torchrl.envs.transforms.episode.resets import FireReset, NoopResetEnv, TensorDictPrimer, gSDENoise
from torchrl.envs.transforms.episode.termination import (
    EndOfLifeTransform,
    EpisodicLife,
    RandomTruncationTransform,
    TerminateTransform,
)
from torchrl.envs.transforms.episode.tracking import InitTracker, RewardSum, StepCounter, Timer, TrajCounter
from torchrl.envs.transforms.observation.history import CatFrames, TimeMaxPool
from torchrl.envs.transforms.observation.keys import (
    ExcludeTransform,
    FlattenTensorDict,
    RemoveEmptySpecs,
    RenameTransform,
    SelectTransform,
)
from torchrl.envs.transforms.observation.normalization import ObservationNorm, RunningMeanStd, VecNorm, VecNormV2
from torchrl.envs.transforms.observation.pixels import (
    CenterCrop,
    Crop,
    GrayScale,
    ObservationTransform,
    RandomCrop,
    Resize,
    ToTensorImage,
)
from torchrl.envs.transforms.observation.shape import (
    CatTensors,
    ExpandAs,
    FlattenObservation,
    PermuteTransform,
    SqueezeTransform,
    Stack,
    UnsqueezeTransform,
)
from torchrl.envs.transforms.observation.text import Hash, Tokenizer
from torchrl.envs.transforms.presets import AtariPreprocessing, MujocoPreprocessing
from torchrl.envs.transforms.reward.scaling import (
    BinarizeReward,
    PopArt,
    ReturnNorm,
    RewardClipping,
    RewardScaling,
    SignTransform,
)
from torchrl.envs.transforms.reward.shaping import LineariseRewards, RNDTransform, SuccessReward, TargetReturn
from torchrl.envs.transforms.transformed_env import TransformedEnv

__all__ = [
    "ActionDiscretizer",
    "ActionMask",
    "ActionScaling",
    "AtariPreprocessing",
    "AutoResetEnv",
    "AutoResetTransform",
    "BatchSizeTransform",
    "BinarizeReward",
    "BurnInTransform",
    "CatFrames",
    "CatTensors",
    "CenterCrop",
    "ClipTransform",
    "Compose",
    "ConditionalPolicySwitch",
    "ConditionalSkip",
    "Crop",
    "DTypeCastTransform",
    "DeviceCastTransform",
    "DiscreteActionProjection",
    "DoubleToFloat",
    "EndOfLifeTransform",
    "EpisodicLife",
    "ExcludeTransform",
    "ExpandAs",
    "FiniteTensorDictCheck",
    "FireReset",
    "FlattenAction",
    "FlattenObservation",
    "FlattenTensorDict",
    "FrameSkipTransform",
    "GrayScale",
    "Hash",
    "InitTracker",
    "LastRewardPrimer",
    "LineariseRewards",
    "ModuleTransform",
    "MujocoPreprocessing",
    "MultiAction",
    "MultiStepTransform",
    "NextObservationDelta",
    "NextStateReconstructor",
    "NoopResetEnv",
    "ObservationNorm",
    "ObservationTransform",
    "PermuteTransform",
    "PinMemoryTransform",
    "PolicyAgeFilter",
    "PopArt",
    "RNDTransform",
    "RandomCrop",
    "RandomCropTensorDict",
    "RandomTruncationTransform",
    "RemoveEmptySpecs",
    "RenameTransform",
    "Resize",
    "ReturnNorm",
    "Reward2GoTransform",
    "RewardClipping",
    "RewardScaling",
    "RewardSum",
    "RunningMeanStd",
    "SelectTransform",
    "SignTransform",
    "SqueezeTransform",
    "Stack",
    "StepCounter",
    "SuccessReward",
    "TargetReturn",
    "TensorDictPrimer",
    "TerminateTransform",
    "TimeMaxPool",
    "Timer",
    "ToTensorImage",
    "Tokenizer",
    "TrajCounter",
    "Transform",
    "TransformedEnv",
    "UnaryTransform",
    "UnsqueezeTransform",
    "VecGymEnvTransform",
    "VecNorm",
    "VecNormV2",
    "gSDENoise",
]
