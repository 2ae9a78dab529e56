"""``timeit`` and the logger, under a path of earlier releases."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl")
