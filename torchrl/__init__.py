"""A modular reinforcement-learning library for PyTorch, with TensorDict as its data carrier."""

from torchrl._core.functional import install as _offer_make_functional
from torchrl._core.legacy import old_names as _old_names
from torchrl._core.legacy import old_paths as _old_paths
from torchrl._core.log import logger
from torchrl._core.script_tools import (
    auto_unwrap_transformed_env,
    compile_with_warmup,
    get_available_device,
    implement_for,
    set_auto_unwrap_transformed_env,
)
from torchrl._core.timing import set_profiling_enabled, timeit
from torchrl._legacy import LAZY as _LAZY
from torchrl._legacy import OLD as _OLD
from torchrl._legacy import OLD_PATHS as _OLD_PATHS

_offer_make_functional()
_old_paths(__name__, _OLD_PATHS)

__version__ = "0.1.0"
__getattr__ = _old_names(__name__, {**_OLD, **_LAZY})
__all__ = [
    "Agent",
    "auto_unwrap_transformed_env",
    "compile_with_warmup",
    "explain",
    "get_available_device",
    "implement_for",
    "logger",
    "resume",
    "set_auto_unwrap_transformed_env",
    "set_profiling_enabled",
    "timeit",
    "train",
]
