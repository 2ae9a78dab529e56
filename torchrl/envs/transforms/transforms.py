"""The transforms, under the path of their first home."""

from torchrl._core.legacy import moved

__getattr__ = moved(__name__, "torchrl.envs.transforms")
