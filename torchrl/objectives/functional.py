"""Functions that losses are made of, under an older path."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl._core.math")
