"""The transforms, under the path of their first home."""

from torchrl.envs.transforms import *  # noqa: F403
from torchrl.envs.transforms import __all__  # noqa: F401
