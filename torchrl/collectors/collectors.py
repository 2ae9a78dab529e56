"""The collectors, under the path where older code looks for them."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.collectors")
