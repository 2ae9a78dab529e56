"""Datasets by name: ``"minari:D4RL/door/human-v2"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchrl._core.errors import describe, nearest
from torchrl.data.datasets.base import BaseDatasetExperienceReplay
from torchrl.data.datasets.minari_data import MinariExperienceReplay
from torchrl.data.replay_buffers.buffer import ReplayBuffer

Make = Callable[..., ReplayBuffer]


def _from_folder(path: str, **kwargs: Any) -> BaseDatasetExperienceReplay:
    return BaseDatasetExperienceReplay(data_path=path, **kwargs)


_makers: dict[str, Make] = {"minari": MinariExperienceReplay, "file": _from_folder}


def load_dataset(dataset_id: str, **kwargs: Any) -> ReplayBuffer:
    """Return the dataset of a name ``prefix:rest``, as a replay buffer that nobody writes to.

    Args:
        dataset_id: ``"minari:..."`` for a dataset of Minari, ``"file:..."`` for a folder that
            :func:`~torchrl.data.datasets.write_dataset` wrote, or a prefix that was registered.
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
    prefix, _, rest = dataset_id.partition(":")
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
