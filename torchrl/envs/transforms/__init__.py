"""Transforms: changes to what environments emit and accept, and replay buffers hand out."""

from torchrl.envs.transforms.action import (
    ActionDiscretizer,
    ActionMask,
    ActionScaling,
    ClipTransform,
    DiscreteActionProjection,
    FlattenAction,
)
from torchrl.envs.transforms.atari import (
    AtariPreprocessing,
    EndOfLifeTransform,
    EpisodicLife,
)
from torchrl.envs.transforms.autoreset import (
    AutoResetEnv,
    AutoResetTransform,
    VecGymEnvTransform,
)
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.batch_size import BatchSizeTransform
from torchrl.envs.transforms.compact import (
    NextObservationDelta,
    NextStateReconstructor,
    PolicyAgeFilter,
)
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.device import (
    DeviceCastTransform,
    FiniteTensorDictCheck,
    PinMemoryTransform,
)
from torchrl.envs.transforms.dtype import (
    DoubleToFloat,
    DTypeCastTransform,
)
from torchrl.envs.transforms.env import TransformedEnv
from torchrl.envs.transforms.episode import (
    InitTracker,
    StepCounter,
)
from torchrl.envs.transforms.functions import (
    Hash,
    ModuleTransform,
    RNDTransform,
    UnaryTransform,
)
from torchrl.envs.transforms.history import (
    CatFrames,
    TimeMaxPool,
)
from torchrl.envs.transforms.keys import (
    ExcludeTransform,
    FlattenTensorDict,
    RemoveEmptySpecs,
    RenameTransform,
    SelectTransform,
)
from torchrl.envs.transforms.mujoco import MujocoPreprocessing
from torchrl.envs.transforms.normalization import ObservationNorm
from torchrl.envs.transforms.pixels import (
    CenterCrop,
    Crop,
    GrayScale,
    ObservationTransform,
    RandomCrop,
    Resize,
    ToTensorImage,
)
from torchrl.envs.transforms.popart import PopArt
from torchrl.envs.transforms.primer import TensorDictPrimer, gSDENoise
from torchrl.envs.transforms.replay import (
    BurnInTransform,
    MultiStepTransform,
    RandomCropTensorDict,
    Reward2GoTransform,
)
from torchrl.envs.transforms.resets import FireReset, NoopResetEnv
from torchrl.envs.transforms.return_norm import ReturnNorm
from torchrl.envs.transforms.reward import (
    BinarizeReward,
    LineariseRewards,
    RewardClipping,
    RewardScaling,
    RewardSum,
    SignTransform,
    SuccessReward,
    TargetReturn,
)
from torchrl.envs.transforms.running_stats import RunningMeanStd
from torchrl.envs.transforms.shape import (
    CatTensors,
    ExpandAs,
    FlattenObservation,
    PermuteTransform,
    SqueezeTransform,
    Stack,
    UnsqueezeTransform,
)
from torchrl.envs.transforms.stepping import (
    ConditionalPolicySwitch,
    ConditionalSkip,
    FrameSkipTransform,
    MultiAction,
)
from torchrl.envs.transforms.text import Tokenizer
from torchrl.envs.transforms.tracking import (
    RandomTruncationTransform,
    TerminateTransform,
    Timer,
    TrajCounter,
)
from torchrl.envs.transforms.vecnorm import VecNorm, VecNormV2

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
