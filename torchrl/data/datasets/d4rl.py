"""`D4RLExperienceReplay`: HDF5 files in the format of D4RL."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.files import naming, replaced
from torchrl._core.legacy import old_keywords
from torchrl._core.optional import require_package
from torchrl.data.datasets.base import BaseDatasetExperienceReplay, OnClass, read_notes, write_dataset

HOME = Path("~/.cache/torchrl/d4rl")
SOURCE = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
TASKS = ("halfcheetah", "hopper", "walker2d", "ant")
KINDS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
NAME = re.compile(rf"({'|'.join(TASKS)})-({'|'.join(KINDS)})-v([012])")


def _names() -> list[str]:
    return [f"{task}-{kind}-v2" for task in TASKS for kind in KINDS]


class D4RLExperienceReplay(BaseDatasetExperienceReplay):
    """The steps of a file in the format of D4RL, as a read-only replay buffer.

    The first time, the file is converted to the layout of :mod:`torchrl.data.datasets.base`, from
    where it is read from then on; if it has changed since, it is converted again.

    Where a file has no ``next_observations``, the next observation of a step is the observation
    after it. The last step of an episode that was cut off has none: it is left out, and the step
    before it is truncated. That of a terminal step is its own observation, which no target uses.

    Args:
        dataset_id: Path of a file, ``.hdf5`` or ``.h5``; or a name of :attr:`available_datasets`, of
            MuJoCo, which is downloaded.
        batch_size: Size of a sample, unless ``sample()`` is told otherwise.
        root: Folder below which datasets are kept; ``~/.cache/torchrl/d4rl`` if ``None``.
        download: Fetch the file of a name if it is not on this machine.
        use_truncated_as_done: Whether ``done`` is set where an episode was cut off; otherwise only
            at terminal steps.
        **kwargs: As for :class:`BaseDatasetExperienceReplay`, such as ``split_trajs``.

    Entries: ``observation``, ``action``, ``episode`` (int64, ``[N]``), the flags ``done``,
    ``terminated``, ``truncated`` ``[N, 1]``; under ``next`` the same but ``action`` and ``episode``,
    and ``reward [N, 1]``; ``info`` at the root, where the file has one.

    Raises:
        FileNotFoundError: if there is no such file, or ``download`` is false and it is needed.
        ValueError: if the name is not known.
        MissingKeyError: if the file lacks an entry of the format.

    Source: Fu et al., 2020, https://arxiv.org/abs/2004.07219.

    >>> import tempfile
    >>> import h5py, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> with h5py.File(f"{folder}/steps.hdf5", "w") as file:
    ...     file["observations"] = np.zeros((4, 3), dtype=np.float32)
    ...     file["actions"] = np.zeros((4, 1), dtype=np.float32)
    ...     file["rewards"] = np.ones(4, dtype=np.float32)
    ...     file["terminals"] = np.array([False, True, False, False])
    ...     file["timeouts"] = np.array([False, False, False, True])
    >>> dataset = D4RLExperienceReplay(f"{folder}/steps.hdf5", batch_size=2, root=folder)
    >>> len(dataset), dataset.sample()["next", "reward"]
    (3, tensor([[1.],
            [1.]]))
    """

    available_datasets = OnClass(_names)

    @old_keywords(direct_download=None, from_env=None)  # files are read as they are
    def __init__(
        self,
        dataset_id: str | Path,
        batch_size: int | None = None,
        *,
        root: str | Path | None = None,
        download: bool = True,
        use_truncated_as_done: bool = True,
        **kwargs: Any,
    ) -> None:
        self.dataset_id = str(dataset_id)
        folder = (HOME if root is None else Path(root)).expanduser()
        file = self._file(folder, download)
        kind = "" if use_truncated_as_done else "_terminal"
        home = folder / f"{file.stem}{kind}"
        notes = {"source": [file.as_posix(), file.stat().st_size, file.stat().st_mtime_ns]}
        if read_notes(home).get("source") != notes["source"]:
            episodes = list(_episodes(self, file, use_truncated_as_done))
            write_dataset(home, episodes, sum(map(len, episodes)), {**notes, "total_episodes": len(episodes)})
        super().__init__(data_path=home, batch_size=batch_size, **kwargs)

    def _file(self, folder: Path, download: bool) -> Path:
        """Return the file, which is fetched if need be."""
        given = Path(self.dataset_id).expanduser()
        if given.suffix in (".hdf5", ".h5"):
            if not given.exists():
                raise FileNotFoundError(describe(self, f"there is no file {given}"))
            return given.resolve()
        match = NAME.fullmatch(self.dataset_id)
        if match is None:
            raise ValueError(
                describe(
                    self,
                    "unknown dataset",
                    expected="a path that ends in .hdf5 or .h5, or a name of available_datasets",
                    found=self.dataset_id,
                    hint="Download other files of D4RL yourself, and pass their path.",
                )
            )
        file = folder / f"{self.dataset_id}.hdf5"
        if not file.exists():
            if not download:
                raise FileNotFoundError(
                    describe(self, f"{self.dataset_id!r} is not on this machine", hint="Fetch it with download=True.")
                )
            task, kind, version = match.groups()
            name = f"{task}_{kind.replace('-', '_')}"
            place = f"gym_mujoco/{name}" if version == "0" else f"gym_mujoco_v{version}/{name}-v{version}"
            folder.mkdir(parents=True, exist_ok=True)
            with replaced(file) as draft:
                urllib.request.urlretrieve(f"{SOURCE}/{place}.hdf5", draft)
        return file


def _episodes(owner: object, file: Path, cut_is_done: bool) -> Iterator[TensorDictBase]:
    """Yield the steps ``[T]`` of each episode of a file."""
    h5py = require_package("h5py", needed_by=owner, extra="offline")
    with naming(file), h5py.File(file) as data:
        absent = [name for name in ("observations", "actions", "rewards", "terminals") if name not in data]
        if absent:
            raise MissingKeyError(describe(owner, f"is not in {file.name}", key=absent[0], found=sorted(data)))
        observation, action = (torch.from_numpy(data[name][()]) for name in ("observations", "actions"))
        count = len(action)
        reward = torch.from_numpy(np.asarray(data["rewards"][()])).reshape(count, 1)
        terminated = _flags(data, "terminals", count)
        truncated = _flags(data, "timeouts", count) & ~terminated
        after = torch.from_numpy(data["next_observations"][()]) if "next_observations" in data else None
        infos = {
            name: torch.from_numpy(value[()])
            for name, value in (data["infos"].items() if "infos" in data else ())
            if isinstance(value, h5py.Dataset) and value.shape[:1] == (count,) and value.dtype.kind in "biufc"
        }
    ends = (terminated | truncated).squeeze(-1).nonzero().squeeze(-1).tolist()
    stops = [end + 1 for end in ends]
    if not stops or stops[-1] < count:
        stops.append(count)
    start = number = 0
    for stop in stops:
        last = stop
        if after is None and not terminated[stop - 1]:
            last -= 1  # its next observation is not known
        if last > start:
            rows = slice(start, last)
            ended, cut = terminated[rows].clone(), truncated[rows].clone()
            cut[-1] |= ~ended[-1]
            yield _steps(
                observation[rows],
                after[rows] if after is not None else _next(observation, start, last, bool(ended[-1])),
                action[rows],
                reward[rows],
                (ended, cut, ended | cut if cut_is_done else ended),
                {name: value[rows] for name, value in infos.items()},
                number,
            )
            number += 1
        start = stop


def _flags(data: Any, name: str, count: int) -> Tensor:
    """Return flags ``[N, 1]``, false if the file has none."""
    if name not in data:
        return torch.zeros(count, 1, dtype=torch.bool)
    return torch.from_numpy(np.asarray(data[name][()])).bool().reshape(count, 1)


def _next(observation: Tensor, start: int, stop: int, is_terminal: bool) -> Tensor:
    """Return the observations after those from ``start`` to ``stop``; of a terminal step, its own."""
    after = torch.arange(start + 1, stop + 1)
    if is_terminal:
        after[-1] = stop - 1
    return observation[after]


def _steps(
    observation: Tensor,
    after: Tensor,
    action: Tensor,
    reward: Tensor,
    flags: tuple[Tensor, Tensor, Tensor],
    infos: dict[str, Tensor],
    number: int,
) -> TensorDictBase:
    """Return the steps ``[T]`` of one episode."""
    size, (terminated, truncated, done) = [len(action)], flags
    td = TensorDict(observation=observation, action=action, episode=torch.full(size, number), batch_size=size)
    for flag in ("done", "terminated", "truncated"):
        td[flag] = torch.zeros_like(done)
    if infos:
        td["info"] = TensorDict(infos, size)
    td["next"] = TensorDict(
        observation=after, reward=reward, terminated=terminated, truncated=truncated, done=done, batch_size=size
    )
    return td
