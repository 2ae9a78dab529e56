"""The base of loggers, under a path of earlier releases."""

from torchrl.record.loggers.base import Logger

__all__ = ["Logger"]
