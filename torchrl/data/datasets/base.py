"""`BaseDatasetExperienceReplay`: a dataset in a folder, sampled like any other buffer.

A dataset is a folder. Its steps are in the layout of environments: the entries of the root belong
to the state that an action was taken in, those under ``"next"`` to what came of it, rewards and
flags are ``[N, 1]``, ``("next", "done")`` ends an episode, and the steps of an episode follow one
another in order of time.

- ``dataset.json``: what the writer noted, as a JSON object.
- ``storage/``: a :class:`LazyMemmapStorage` of all steps. ``storage.json`` holds ``max_size``,
  ``ndim`` and ``row_shape`` (1 and ``[]`` here), and the ``schema``: a ``tree`` of containers whose
  leaves are numbers, and for each number its shape and dtype. ``counts.memmap`` are int64, the
  second of which is the number of rows. ``rows_<n>.memmap`` are the rows of one block, one after
  the other: in the first, all entries of less than a kilobyte side by side, those of wide dtypes
  first, in the order of their numbers otherwise; each larger entry has a file of its own.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tensordict import NestedKey, TensorDictBase

from torchrl._core.errors import describe
from torchrl._core.files import naming, replaced
from torchrl.data.replay_buffers.data_types import State
from torchrl.data.replay_buffers.storages.memmap import LazyMemmapStorage
from torchrl.data.replay_buffers.tensordict_buffer import TensorDictReplayBuffer
from torchrl.data.replay_buffers.writers import ImmutableDatasetWriter
from torchrl.data.trajectories import split_trajectories

NOTES = "dataset.json"
CHUNK = 1000  # rows that preprocess() writes at a time


def write_dataset(
    path: str | Path, chunks: Iterable[TensorDictBase], num_steps: int, notes: State | None = None, *, ndim: int = 1
) -> Path:
    """Write steps to a folder, for :class:`BaseDatasetExperienceReplay` to read.

    The folder appears when it is complete; what was there before is replaced.

    Args:
        path: The folder.
        chunks: Steps ``[N]``, some at a time; whole episodes one after the other.
        num_steps: Number of steps of all chunks together, at least.
        notes: What to write to ``dataset.json``.
        ndim: Number of leading dimensions ``[T, *W]`` that count steps.

    Returns: the folder.

    >>> import tempfile, torch
    >>> from tensordict import TensorDict
    >>> episodes = (TensorDict(observation=torch.full([3], float(i)), batch_size=[3]) for i in range(2))
    >>> path = write_dataset(tempfile.mkdtemp(), episodes, num_steps=6)
    >>> BaseDatasetExperienceReplay(data_path=path)[:]["observation"]
    tensor([0., 0., 0., 1., 1., 1.])
    """
    home = Path(path)
    with replaced(home) as draft:
        draft.mkdir()
        storage = LazyMemmapStorage(num_steps, scratch_dir=draft, ndim=ndim)
        for chunk in chunks:
            storage.write_run(storage.written, *storage.prepare(chunk, True))
        (draft / NOTES).write_text(json.dumps(notes or {}, indent=2))
    return home


class BaseDatasetExperienceReplay(TensorDictReplayBuffer):
    """A replay buffer of the steps of a dataset, which stay as they are.

    Steps are read from the disk when they are sampled.

    Args:
        data_path: Folder of the dataset, as :func:`write_dataset` makes it.
        split_trajs: Make an item of each trajectory: ``[T]`` steps, padded with zeros to the
            longest, and ``mask [T]``, true for steps. They are written to the folder
            ``trajectories`` in that of the dataset, the first time.
        priority_key: Entry that holds priorities.
        **kwargs: As for :class:`TensorDictReplayBuffer`; without a storage and a writer.

    Raises:
        FileNotFoundError: if there is no dataset in that folder.

    >>> import tempfile, torch
    >>> from tensordict import TensorDict
    >>> folder = tempfile.mkdtemp()
    >>> steps = TensorDict(observation=torch.arange(4.0), batch_size=[4])
    >>> dataset = BaseDatasetExperienceReplay(
    ...     data_path=write_dataset(folder, [steps], 4), batch_size=2
    ... )
    >>> len(dataset), dataset.sample()["observation"].shape
    (4, torch.Size([2]))
    >>> dataset.delete()
    """

    def __init__(
        self, *, data_path: str | Path, split_trajs: bool = False, priority_key: NestedKey = "td_error", **kwargs: Any
    ) -> None:
        self.data_path = Path(data_path)
        kwargs["storage"] = _open(_split(self.data_path) if split_trajs else self.data_path)
        super().__init__(priority_key=priority_key, writer=ImmutableDatasetWriter(), **kwargs)

    @property
    def notes(self) -> State:
        """What ``dataset.json`` says."""
        return read_notes(self.data_path)

    def preprocess(
        self, fn: Callable[[TensorDictBase], TensorDictBase], *, dest: str | Path, **kwargs: Any
    ) -> BaseDatasetExperienceReplay:
        """Write a dataset of what ``fn`` makes of the steps of this one, and return it.

        Args:
            fn: ``steps [N] -> steps [M]``, ``M`` at most ``N``; called on chunks in order, which
                may cut episodes.
            dest: Folder of the new dataset.
            **kwargs: For the buffer that is returned, as in the constructor.
        """
        firsts = range(0, len(self), CHUNK)
        chunks = (fn(self._storage.get(slice(i, i + CHUNK)).clone()) for i in firsts)
        write_dataset(dest, chunks, len(self), self.notes)
        return BaseDatasetExperienceReplay(data_path=dest, **kwargs)

    def delete(self) -> None:
        """Remove the dataset from the disk; this buffer is of no use afterwards."""
        shutil.rmtree(self.data_path)


def read_notes(path: Path) -> State:
    """Return what ``dataset.json`` in a folder says; nothing without it.

    Raises:
        DamagedFileError: if it is no JSON object.
    """
    file = path / NOTES
    with naming(file):
        return dict(json.loads(file.read_text())) if file.exists() else {}


class OnClass:
    """An attribute of a class, and of its instances, that a function returns."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self._fn = fn

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._fn()


def _split(path: Path) -> Path:
    """Write the trajectories of a dataset as items, unless that was done; return their folder."""
    home, storage = path / "trajectories", _open(path)
    if not (home / NOTES).exists() or (home / NOTES).stat().st_mtime_ns < (path / NOTES).stat().st_mtime_ns:
        steps = storage.get(slice(None)).clone()
        pieces = split_trajectories(steps, trajectory_key="episode" if storage.has_entry("episode") else None)
        write_dataset(home, pieces.split(1), len(pieces))
    return home


def key_of_folder(folder: Path) -> str:
    """Return a name for a copy of what is in a folder, in a place where those of other folders are."""
    return f"{folder.stem}-{zlib.crc32(folder.as_posix().encode()):08x}"


def _open(path: Path) -> LazyMemmapStorage:
    meta = path / "storage" / "storage.json"
    if not meta.exists():
        raise FileNotFoundError(
            describe(
                "BaseDatasetExperienceReplay", f"there is no dataset in {path}", hint="Write one with write_dataset()."
            )
        )
    with naming(meta):
        found = json.loads(meta.read_text())
        return LazyMemmapStorage(found["max_size"], scratch_dir=path, ndim=found["ndim"], existsok=True)
