"""Generators of random numbers: the chain of seeds, and the state of those of this process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def next_seed(seed: int) -> int:
    """Return the seed that follows ``seed`` in the chain that every environment uses.

    >>> next_seed(0)
    795726461
    """
    return int.from_bytes(np.random.default_rng(seed).bytes(8), "big") % (2**32 - 1)


class GlobalRNGState:
    """The state of the random generators of Python, numpy and torch, on every device.

    >>> generators = GlobalRNGState()
    >>> state = generators.state_dict()
    >>> first = torch.rand(2)
    >>> generators.load_state_dict(state)
    >>> torch.equal(first, torch.rand(2))
    True
    """

    def state_dict(self) -> State:
        """Return the states of all generators."""
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Set the states of all generators."""
        random.setstate(state_dict["python"])
        np.random.set_state(state_dict["numpy"])
        torch.set_rng_state(state_dict["torch"].cpu())
        if state_dict["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([each.cpu() for each in state_dict["cuda"]])
