"""A modular reinforcement-learning library for PyTorch, with TensorDict as its data carrier."""

from torchrl._core.functional import install as _offer_make_functional
from torchrl._core.legacy import old_names as _old_names
from torchrl._core.log import logger
from torchrl._core.timing import timeit
from torchrl._legacy import OLD as _OLD

_offer_make_functional()

__version__ = "0.1.0"
__getattr__ = _old_names(__name__, _OLD)
__all__ = ["logger", "timeit"]
