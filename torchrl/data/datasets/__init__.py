"""Datasets: steps that others collected, as replay buffers that nobody writes to."""

from torchrl.data.datasets.base import BaseDatasetExperienceReplay, write_dataset
from torchrl.data.datasets.minari_data import MinariExperienceReplay

__all__ = ["BaseDatasetExperienceReplay", "MinariExperienceReplay", "write_dataset"]
