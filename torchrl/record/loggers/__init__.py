"""Loggers: CSV files, TensorBoard, Weights & Biases, MLflow."""

from torchrl._core.legacy import old_names
from torchrl.record.loggers.base import Logger
from torchrl.record.loggers.csv import CSVLogger
from torchrl.record.loggers.factory import generate_exp_name, get_logger
from torchrl.record.loggers.mlflow import MLFlowLogger
from torchrl.record.loggers.monitor import Every, LoggerMonitor
from torchrl.record.loggers.process import ProcessLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger
from torchrl.record.loggers.wandb import WandbLogger

__getattr__ = old_names(__name__, {})  # no old names; suggests the nearest one
__all__ = [
    "CSVLogger",
    "Every",
    "Logger",
    "LoggerMonitor",
    "MLFlowLogger",
    "ProcessLogger",
    "TensorboardLogger",
    "WandbLogger",
    "generate_exp_name",
    "get_logger",
]
