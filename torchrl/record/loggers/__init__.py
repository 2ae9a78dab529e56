"""Where the numbers, texts and videos of an experiment go."""

from torchrl.record.loggers.base import Logger
from torchrl.record.loggers.csv import CSVLogger
from torchrl.record.loggers.factory import generate_exp_name, get_logger
from torchrl.record.loggers.tensorboard import TensorboardLogger

__all__ = ["CSVLogger", "Logger", "TensorboardLogger", "generate_exp_name", "get_logger"]
