"""Specs: shapes, dtypes, devices and sets of values of the entries of a tensordict."""

from torchrl._core.legacy import old_names
from torchrl.data.tensor_specs._legacy import OLD
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.binary import Binary
from torchrl.data.tensor_specs.bounded import Bounded, BoundedContinuous, BoundedDiscrete
from torchrl.data.tensor_specs.categorical import Categorical, OneHot
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.from_data import make_composite_from_td
from torchrl.data.tensor_specs.multi import MultiCategorical, MultiOneHot
from torchrl.data.tensor_specs.nontensor import Choice, NonTensor
from torchrl.data.tensor_specs.spaces import BinaryBox, Box, BoxList, CategoricalBox, ContinuousBox
from torchrl.data.tensor_specs.stacked import (
    Stacked,
    StackedComposite,
    check_no_exclusive_keys,
    consolidate_spec,
    contains_lazy_spec,
)
from torchrl.data.tensor_specs.unbounded import Unbounded, UnboundedContinuous, UnboundedDiscrete

__getattr__ = old_names(__name__, OLD)
__all__ = [
    "Binary",
    "BinaryBox",
    "Bounded",
    "BoundedContinuous",
    "BoundedDiscrete",
    "Box",
    "BoxList",
    "Categorical",
    "CategoricalBox",
    "Choice",
    "Composite",
    "ContinuousBox",
    "MultiCategorical",
    "MultiOneHot",
    "NonTensor",
    "OneHot",
    "Stacked",
    "StackedComposite",
    "TensorSpec",
    "Unbounded",
    "UnboundedContinuous",
    "UnboundedDiscrete",
    "check_no_exclusive_keys",
    "consolidate_spec",
    "contains_lazy_spec",
    "make_composite_from_td",
]
