"""The losses, under a path of early releases."""

from torchrl import objectives
from torchrl._core.legacy import old_names

__all__ = list(objectives.__all__)
__getattr__ = old_names(__name__, {name: f"torchrl.objectives:{name}" for name in __all__})
