"""Datasets: recorded steps as read-only replay buffers."""

from torchrl.data.datasets.base import BaseDatasetExperienceReplay, write_dataset
from torchrl.data.datasets.d4rl import D4RLExperienceReplay
from torchrl.data.datasets.minari_data import MinariExperienceReplay
from torchrl.data.datasets.registry import load_dataset, register_dataset
from torchrl.data.datasets.tables import TableExperienceReplay

__all__ = [
    "BaseDatasetExperienceReplay",
    "D4RLExperienceReplay",
    "MinariExperienceReplay",
    "TableExperienceReplay",
    "load_dataset",
    "register_dataset",
    "write_dataset",
]
