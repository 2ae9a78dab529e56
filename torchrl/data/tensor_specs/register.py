"""Any values as categories: numbered in the order in which they appear."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from torch import Tensor

from torchrl._core.errors import SpecError, describe


class Register(dict[Any, int]):
    """Numbers hashable values in the order in which they appear.

    Args:
        size: How many there is room for.

    >>> register = Register(2)
    >>> [register.number(value, "OneHot") for value in ("left", "right", "left")]
    [0, 1, 0]
    >>> register.value(1)
    'right'
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def number(self, value: Any, who: object) -> int:
        """Return the number under which a value was first seen.

        Args:
            value: What is numbered; an array or tensor of one element stands for that.
            who: The spec that asks, for the message.

        Raises:
            SpecError: if a new value finds no room.
        """
        item = value.item() if isinstance(value, np.ndarray | np.generic | Tensor) else value
        if item not in self and len(self) == self.size:
            raise SpecError(
                describe(
                    who,
                    "has no category left for a new value",
                    expected=f"one of {list(self)}",
                    found=repr(item),
                    hint="Raise n.",
                )
            )
        return self.setdefault(item, len(self))

    def value(self, number: SupportsIndex) -> Any:
        """Return the value that has a number."""
        return list(self)[number]
