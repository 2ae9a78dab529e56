"""Datasets: steps that others collected, as replay buffers that nobody writes to."""

from torchrl.data.datasets.base import BaseDatasetExperienceReplay, write_dataset
from torchrl.data.datasets.minari_data import MinariExperienceReplay
from torchrl.data.datasets.registry import load_dataset, register_dataset

__all__ = [
    "BaseDatasetExperienceReplay",
    "MinariExperienceReplay",
    "load_dataset",
    "register_dataset",
    "write_dataset",
]
