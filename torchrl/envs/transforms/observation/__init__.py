"""Transforms of observations."""

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

__all__ = [
    "CatFrames",
    "CatTensors",
    "CenterCrop",
    "Crop",
    "ExcludeTransform",
    "ExpandAs",
    "FlattenObservation",
    "FlattenTensorDict",
    "GrayScale",
    "Hash",
    "ObservationNorm",
    "ObservationTransform",
    "PermuteTransform",
    "RandomCrop",
    "RemoveEmptySpecs",
    "RenameTransform",
    "Resize",
    "RunningMeanStd",
    "SelectTransform",
    "SqueezeTransform",
    "Stack",
    "TimeMaxPool",
    "ToTensorImage",
    "Tokenizer",
    "UnsqueezeTransform",
    "VecNorm",
    "VecNormV2",
]
