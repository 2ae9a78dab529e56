"""Datasets by name: ``"minari:D4RL/door/human-v2"``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchrl._core.errors import describe, nearest
from torchrl.data.datasets.base import NOTES, BaseDatasetExperienceReplay
from torchrl.data.datasets.d4rl import D4RLExperienceReplay
from torchrl.data.datasets.minari_data import MinariExperienceReplay, is_minari
from torchrl.data.datasets.tables import TableExperienceReplay
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.tables import is_table

Make = Callable[..., ReplayBuffer]


def _from_folder(path: str, **kwargs: Any) -> BaseDatasetExperienceReplay:
    return BaseDatasetExperienceReplay(data_path=path, **kwargs)


_makers: dict[str, Make] = {
    "minari": MinariExperienceReplay,
    "d4rl": D4RLExperienceReplay,
    "file": _from_folder,
    "parquet": TableExperienceReplay,
    "huggingface": TableExperienceReplay,
}


def _kind_of(path: Path) -> str:
    """Return the prefix of what is in a file or a folder."""
    if (path / NOTES).exists():
        return "file"
    if is_minari(path):
        return "minari"
    return "parquet" if is_table(path) else "file" if path.is_dir() else "d4rl"


def load_dataset(dataset_id: str | Path, **kwargs: Any) -> ReplayBuffer:
    """Return the dataset of a name ``prefix:rest``, as a read-only replay buffer.

    Args:
        dataset_id: ``"minari:..."`` for a dataset of Minari, ``"file:..."`` for a folder that
            :func:`~torchrl.data.datasets.write_dataset` wrote, ``"d4rl:..."`` for a file of D4RL,
            ``"parquet:..."`` and ``"huggingface:..."`` for what :meth:`ReplayBuffer.export` or another
            program wrote in these formats, or a prefix that was registered. Of a path without a prefix,
            the files tell which of these it is.
        **kwargs: For the class of the dataset.

    Raises:
        ValueError: if the prefix is not known.

    >>> import tempfile, torch
    >>> from tensordict import TensorDict
    >>> from torchrl.data.datasets import write_dataset
    >>> steps = TensorDict(observation=torch.arange(4.0), batch_size=[4])
    >>> path = write_dataset(tempfile.mkdtemp(), [steps], 4)
    >>> dataset = load_dataset(f"file:{path}", batch_size=2)
    >>> len(dataset)
    4
    >>> dataset.delete()
    """
    if Path(dataset_id).exists():
        dataset_id = f"{_kind_of(Path(dataset_id))}:{dataset_id}"
    prefix, _, rest = str(dataset_id).partition(":")
    if not rest or prefix not in _makers:
        raise ValueError(
            describe(
                "load_dataset",
                "unknown kind of dataset",
                expected=[f"{known}:..." for known in sorted(_makers)],
                found=dataset_id,
                hint=f"{nearest(prefix, _makers)} Add yours with register_dataset().".strip(),
            )
        )
    return _makers[prefix](rest, **kwargs)


def register_dataset(prefix: str, dataset: Make, *, replace: bool = False) -> None:
    """Let :func:`load_dataset` find datasets of one more kind.

    Args:
        prefix: What stands before the colon.
        dataset: ``(rest, **kwargs) -> ReplayBuffer``; a class, or a function.
        replace: Take the place of what is registered under that prefix.

    Raises:
        ValueError: if the prefix is taken, or has a colon.

    >>> import torch
    >>> from torchrl.data import LazyTensorStorage
    >>> def numbers(rest, batch_size=None):
    ...     buffer = ReplayBuffer(storage=LazyTensorStorage(int(rest)), batch_size=batch_size)
    ...     buffer.extend(torch.arange(int(rest)))
    ...     return buffer
    >>> register_dataset("numbers", numbers, replace=True)
    >>> len(load_dataset("numbers:100"))
    100
    """
    if ":" in prefix or not prefix or (prefix in _makers and not replace):
        raise ValueError(
            describe(
                "register_dataset",
                "the prefix is taken, or none",
                expected="a name without a colon",
                found=prefix,
                hint="Choose another, or pass replace=True.",
            )
        )
    _makers[prefix] = dataset
