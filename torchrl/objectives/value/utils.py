"""Trajectories apart, under the path where estimators once had them."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.data.trajectories")
