"""The trainer and its hooks, under a path of earlier releases."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.trainers")
