"""Transforms: changes to what environments emit and accept, and replay buffers hand out."""

from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.dtype import (
    DoubleToFloat,
    DTypeCastTransform,
)
from torchrl.envs.transforms.env import TransformedEnv
from torchrl.envs.transforms.episode import (
    InitTracker,
    StepCounter,
)
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
from torchrl.envs.transforms.primer import TensorDictPrimer
from torchrl.envs.transforms.resets import (
    AutoResetTransform,
    FireReset,
    NoopResetEnv,
)
from torchrl.envs.transforms.reward import (
    RewardScaling,
    RewardSum,
)
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

__all__ = [
    "AutoResetTransform",
    "CatTensors",
    "CenterCrop",
    "Compose",
    "ConditionalPolicySwitch",
    "ConditionalSkip",
    "Crop",
    "DTypeCastTransform",
    "DoubleToFloat",
    "ExpandAs",
    "FireReset",
    "FlattenObservation",
    "FrameSkipTransform",
    "GrayScale",
    "InitTracker",
    "MultiAction",
    "NoopResetEnv",
    "ObservationNorm",
    "ObservationTransform",
    "PermuteTransform",
    "RandomCrop",
    "Resize",
    "RewardScaling",
    "RewardSum",
    "SqueezeTransform",
    "Stack",
    "StepCounter",
    "TensorDictPrimer",
    "ToTensorImage",
    "Transform",
    "TransformedEnv",
    "UnsqueezeTransform",
]
