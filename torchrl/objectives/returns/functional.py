"""The estimators as functions, under a path of early releases."""

from torchrl._core.legacy import old_names
from torchrl.objectives.value import functional

__all__ = list(functional.__all__)
__getattr__ = old_names(__name__, {n: f"torchrl.objectives.value.functional:{n}" for n in __all__})
