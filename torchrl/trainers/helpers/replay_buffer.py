"""Replay buffers, under the path of early recipes."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.data")
