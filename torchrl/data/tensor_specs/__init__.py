"""Specs: what the entries of a tensordict may hold."""

from torchrl._core.legacy import old_names
from torchrl.data.tensor_specs._legacy import OLD
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.continuous import (
    Bounded,
    BoundedContinuous,
    BoundedDiscrete,
    Unbounded,
    UnboundedContinuous,
    UnboundedDiscrete,
)
from torchrl.data.tensor_specs.discrete import Categorical, OneHot
from torchrl.data.tensor_specs.spaces import BinaryBox, Box, BoxList, CategoricalBox, ContinuousBox

__getattr__ = old_names(__name__, OLD)
__all__ = [
    "BinaryBox",
    "Bounded",
    "BoundedContinuous",
    "BoundedDiscrete",
    "Box",
    "BoxList",
    "Categorical",
    "CategoricalBox",
    "Composite",
    "ContinuousBox",
    "OneHot",
    "TensorSpec",
    "Unbounded",
    "UnboundedContinuous",
    "UnboundedDiscrete",
]
