"""A modular reinforcement-learning library for PyTorch, with TensorDict as its data carrier."""

from torchrl._core.functional import install as _offer_make_functional
from torchrl._core.log import logger

_offer_make_functional()

__version__ = "0.1.0"
__all__ = ["logger"]
