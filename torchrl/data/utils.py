"""Small helpers of the data layer: functions that pickle, kinds of devices and indices, stacked specs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor

from torchrl.data.tensor_specs.stacked import check_no_exclusive_keys, consolidate_spec, contains_lazy_spec

__all__ = [
    "DEVICE_TYPING",
    "INDEX_TYPING",
    "CloudpickleWrapper",
    "check_no_exclusive_keys",
    "consolidate_spec",
    "contains_lazy_spec",
]

#: What names a device.
DEVICE_TYPING = torch.device | str | int
#: What indexes a tensordict.
INDEX_TYPING = None | int | slice | str | Tensor | np.ndarray | list | tuple


class CloudpickleWrapper:
    """A function that pickles by value, with what it closes over: a lambda, or one of ``__main__``.

    Args:
        fn: The function; wrapping a wrapper wraps its function.

    >>> add = CloudpickleWrapper(lambda x: x + 1)
    >>> pickle.loads(pickle.dumps(add))(1)
    2
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn: Callable[..., Any] = fn.fn if isinstance(fn, CloudpickleWrapper) else fn

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.fn(*args, **kwargs)

    def __getstate__(self) -> bytes:
        return cloudpickle.dumps(self.fn)

    def __setstate__(self, state: bytes) -> None:
        self.fn = pickle.loads(state)
