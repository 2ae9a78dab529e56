"""Where the sources of chance of this process stand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class GlobalRNGState:
    """The generators of Python, numpy and torch, on every device, as something that has a state.

    >>> chance = GlobalRNGState()
    >>> state = chance.state_dict()
    >>> first = torch.rand(2)
    >>> chance.load_state_dict(state)
    >>> torch.equal(first, torch.rand(2))
    True
    """

    def state_dict(self) -> dict[str, Any]:
        """Return where the generators stand."""
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where the generators stood."""
        random.setstate(state_dict["python"])
        np.random.set_state(state_dict["numpy"])
        torch.set_rng_state(state_dict["torch"].cpu())
        if state_dict["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([each.cpu() for each in state_dict["cuda"]])
