"""`MinariExperienceReplay`: the datasets of the Minari collection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.log import logger
from torchrl._core.optional import require_package
from torchrl.data.datasets.base import (
    NOTES,
    BaseDatasetExperienceReplay,
    OnClass,
    key_of_folder,
    read_notes,
    write_dataset,
)

HOME = Path("~/.cache/torchrl/minari")


class MinariExperienceReplay(BaseDatasetExperienceReplay):
    """The steps of a dataset of Minari, as a read-only replay buffer.

    The first time, the dataset is downloaded, if it is not on this machine, and written in the
    layout of :mod:`torchrl.data.datasets.base`, from where it is read from then on. If Minari's own
    files on this machine have changed since, because it was recorded again, say, it is written
    again.

    Args:
        dataset_id: As Minari knows it, ``"D4RL/door/human-v2"``; or the folder that Minari keeps it in.
        batch_size: Size of a sample, unless ``sample()`` is told otherwise.
        root: Folder below which datasets are kept; ``~/.cache/torchrl/minari`` if ``None``.
        download: Fetch it if it is not on this machine; ``"force"`` fetches and writes it again.
        load_from_local_minari: Use Minari's own files on this machine and never fetch anything.
        **kwargs: As for :class:`BaseDatasetExperienceReplay`, such as ``split_trajs``.

    Attributes:
        available_datasets: Names of the datasets that Minari offers, or, without a network, of
            those on this machine.

    Entries: ``observation`` (with the entries of dictionaries below it), ``action``, ``episode``
    (int64, ``[N]``), the flags ``done``, ``terminated``, ``truncated`` ``[N, 1]``; under ``next``
    the same but ``action`` and ``episode``, and ``reward [N, 1]``; ``info`` at both places, where
    the dataset has numbers there.

    Raises:
        FileNotFoundError: if ``download`` is false and the dataset is not on this machine.

    Source: https://minari.farama.org.

    >>> dataset = MinariExperienceReplay("mujoco/hopper/simple-v0", batch_size=256)  # doctest: +SKIP
    >>> dataset.sample()["observation"].shape  # doctest: +SKIP
    torch.Size([256, 11])
    """

    available_datasets = OnClass(lambda: _available())

    def __init__(
        self,
        dataset_id: str | Path,
        batch_size: int | None = None,
        *,
        root: str | Path | None = None,
        download: bool | str = True,
        load_from_local_minari: bool = False,
        **kwargs: Any,
    ) -> None:
        if load_from_local_minari:
            if download == "force":
                raise ValueError(describe(self, "load_from_local_minari fetches nothing, and download is 'force'"))
            download = False
        self.dataset_id = str(dataset_id)
        given = Path(dataset_id).expanduser()
        self._folder = given.resolve() if is_minari(given) else None
        home = (HOME if root is None else Path(root)).expanduser()
        home /= self.dataset_id if self._folder is None else key_of_folder(self._folder)
        if download == "force" or not (home / NOTES).exists() or self._changed(home):
            self._fetch(home, download)
        super().__init__(data_path=home, batch_size=batch_size, **kwargs)

    def _changed(self, home: Path) -> bool:
        """Return whether Minari has other files of the dataset now than when it was written."""
        now = _fingerprint(self._folder or self.dataset_id)
        return bool(now) and read_notes(home).get("source") != now

    def _fetch(self, home: Path, download: bool | str) -> None:
        minari = require_package("minari", needed_by=self, extra="offline")
        if download == "force":
            minari.download_dataset(self.dataset_id, force_download=True)
        try:
            if self._folder is None:
                dataset = minari.load_dataset(self.dataset_id, download=bool(download))
            else:
                dataset = minari.MinariDataset(self._folder / "data")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                describe(
                    self,
                    f"dataset {self.dataset_id!r} is not on this machine",
                    hint="Let it be fetched with download=True.",
                )
            ) from error
        episodes, steps = int(dataset.total_episodes), int(dataset.total_steps)
        notes = {
            "dataset_id": self.dataset_id,
            "total_episodes": episodes,
            "total_steps": steps,
            "source": _fingerprint(self._folder or self.dataset_id),
        }
        write_dataset(home, _episodes(dataset), steps, notes)


def _available() -> list[str]:
    minari = require_package("minari", needed_by="MinariExperienceReplay", extra="offline")
    here = sorted(minari.list_local_datasets())
    try:
        return sorted({*minari.list_remote_datasets(latest_version=True, compatible_minari_version=True), *here})
    except Exception as error:  # whatever the client of their host raises without a network
        logger.info("MinariExperienceReplay: the list of datasets cannot be read: %s", error)
        return here


def is_minari(folder: Path) -> bool:
    """Return whether Minari keeps a dataset in this folder."""
    return (folder / "data" / "metadata.json").is_file()


def _fingerprint(dataset_id: str | Path) -> list[list[object]]:
    """Return names, sizes and times of Minari's files of a dataset; none if it is not here."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()
    files = [file for file in (root / dataset_id).rglob("*") if file.is_file()]
    found = [(file.relative_to(root / dataset_id).as_posix(), file.stat()) for file in files]
    return sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)


def _episodes(dataset: Any) -> Iterator[TensorDictBase]:
    """Yield the steps ``[T]`` of each episode."""
    for episode in dataset.iterate_episodes():
        steps, size = len(episode.rewards), [len(episode.rewards)]
        terminated, truncated = _column(episode.terminations), _column(episode.truncations)
        next_root = TensorDict(
            reward=_column(episode.rewards),
            terminated=terminated,
            truncated=truncated,
            done=terminated | truncated,
            batch_size=size,
        )
        number = torch.full(size, int(episode.id))
        td = TensorDict(action=_tensors(episode.actions), episode=number, batch_size=size)
        for flag in ("done", "terminated", "truncated"):
            td[flag] = torch.zeros_like(terminated)
        states = {"observation": _tensors(episode.observations), "info": _tensors(episode.infos)}
        for name, value in states.items():
            if value is not None:
                td[name] = _narrowed(value, 0, steps)
                next_root[name] = _narrowed(value, 1, steps)
        yield td.set("next", next_root)


def _column(values: np.ndarray) -> Tensor:
    """Return ``[T]`` as ``[T, 1]``."""
    return torch.as_tensor(np.asarray(values)).unsqueeze(-1)


def _tensors(value: object) -> Any:
    """Turn arrays, and dictionaries and tuples of them, into tensors; ``None`` if there is none."""
    if isinstance(value, tuple):
        value = {str(i): part for i, part in enumerate(value)}
    if isinstance(value, dict):
        parts = {name: _tensors(part) for name, part in value.items()}
        parts = {name: part for name, part in parts.items() if part is not None}
        return parts or None
    array = np.asarray(value)
    return torch.as_tensor(array) if array.dtype.kind in "biufc" else None


def _narrowed(value: Any, first: int, steps: int) -> Any:
    """Return ``steps`` steps from number ``first`` on."""
    if isinstance(value, dict):
        parts = {name: _narrowed(part, first, steps) for name, part in value.items()}
        return TensorDict(parts, [steps])
    return value[first : first + steps]
