"""The value estimators, under a path of early releases."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.objectives.value")
