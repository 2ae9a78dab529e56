"""Specs made from data."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import LazyStackedTensorDict, NonTensorStack, is_non_tensor, is_tensor_collection, is_tensorclass

from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.helpers import Value
from torchrl.data.tensor_specs.nontensor import NonTensor
from torchrl.data.tensor_specs.stacked import stack_specs
from torchrl.data.tensor_specs.unbounded import Unbounded


def make_composite_from_td(
    data: Value, *, unsqueeze_null_shapes: bool = True, dynamic_shape: bool = False
) -> Composite:
    """Return a composite of unbounded specs that ``data`` is in.

    Args:
        data: A tensordict or tensorclass ``[*B]``; a tensorclass is what the spec then draws.
        unsqueeze_null_shapes: Give an entry of shape ``[]`` the shape ``[1]``.
        dynamic_shape: Let the last size of each entry vary, if it is not a batch dimension.

    >>> from tensordict import TensorDict
    >>> data = TensorDict(a=torch.zeros(3), b=torch.zeros((), dtype=torch.int64))
    >>> spec = make_composite_from_td(data)
    >>> spec["a"].shape, spec["b"].shape, spec["b"].dtype
    (torch.Size([3]), torch.Size([1]), torch.int64)
    """
    options = {"unsqueeze_null_shapes": unsqueeze_null_shapes, "dynamic_shape": dynamic_shape}
    if isinstance(data, LazyStackedTensorDict):
        parts = [make_composite_from_td(part, **options) for part in data.unbind(data.stack_dim)]
        stacked: Any = stack_specs(parts, data.stack_dim)
        return stacked
    cls = type(data) if is_tensorclass(data) else None
    specs = {name: _spec_of(data.get(name), data.ndim, options) for name in data.keys()}  # noqa: SIM118 - else rows
    return Composite(specs, shape=data.batch_size, device=data.device, data_cls=cls)


def _spec_of(value: Value, batch_ndim: int, options: dict[str, bool]) -> TensorSpec:
    if is_non_tensor(value):
        example = value.tolist() if isinstance(value, NonTensorStack) else value.data
        return NonTensor(value.batch_size, value.device, example_data=example, feature_dims=0)
    if is_tensor_collection(value):
        return make_composite_from_td(value, **options)
    shape = value.shape
    if options["dynamic_shape"] and len(shape) > batch_ndim:
        shape = torch.Size((*shape[:-1], -1))
    if options["unsqueeze_null_shapes"] and not shape:
        shape = torch.Size((1,))
    return Unbounded(shape, device=value.device, dtype=value.dtype)
