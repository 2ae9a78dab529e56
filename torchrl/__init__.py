"""A modular reinforcement-learning library for PyTorch, with TensorDict as its data carrier."""

from torchrl._core.log import logger

__version__ = "0.1.0"
__all__ = ["logger"]
