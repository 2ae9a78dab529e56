"""`MinariExperienceReplay`: the datasets of the Minari collection."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.optional import require_package
from torchrl.data.datasets.base import NOTES, BaseDatasetExperienceReplay, write_dataset

HOME = Path("~/.cache/torchrl/minari")


class MinariExperienceReplay(BaseDatasetExperienceReplay):
    """The steps of a dataset of Minari, as a replay buffer that nobody writes to.

    The first time, the dataset is downloaded, if it is not on this machine, and written in the
    layout of :mod:`torchrl.data.datasets.base`, from where it is read from then on. If Minari's own
    files on this machine have changed since, because it was recorded again, say, it is written
    again.

    Args:
        dataset_id: As Minari knows it: ``"D4RL/door/human-v2"``.
        batch_size: Size of a sample, unless ``sample()`` is told otherwise.
        root: Folder below which datasets are kept; ``~/.cache/torchrl/minari`` if ``None``.
        download: Fetch it if it is not on this machine; ``"force"`` fetches and writes it anew.
        **kwargs: As for :class:`BaseDatasetExperienceReplay`.

    Entries: ``observation`` (with the entries of dictionaries below it), ``action``, ``episode``
    (int64, ``[N]``), the flags ``done``, ``terminated``, ``truncated`` ``[N, 1]``; under ``next``
    the same but ``action`` and ``episode``, and ``reward [N, 1]``; ``info`` at both places, where
    the dataset has numbers there.

    Raises:
        FileNotFoundError: if ``download`` is false and the dataset is not on this machine.

    Source: https://minari.farama.org.
    """

    def __init__(
        self,
        dataset_id: str,
        batch_size: int | None = None,
        *,
        root: str | Path | None = None,
        download: bool | str = True,
        **kwargs: Any,
    ) -> None:
        self.dataset_id = dataset_id
        home = (HOME if root is None else Path(root)).expanduser() / dataset_id
        if download == "force" or not (home / NOTES).exists() or self._changed(home):
            self._fetch(home, download)
        super().__init__(data_path=home, batch_size=batch_size, **kwargs)

    def _changed(self, home: Path) -> bool:
        """Return whether Minari has other files of the dataset now than when it was written."""
        now = _fingerprint(self.dataset_id)
        return bool(now) and json.loads((home / NOTES).read_text()).get("source") != now

    def _fetch(self, home: Path, download: bool | str) -> None:
        minari = require_package("minari", needed_by=self, extra="offline")
        if download == "force":
            minari.download_dataset(self.dataset_id, force_download=True)
        try:
            dataset = minari.load_dataset(self.dataset_id, download=bool(download))
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
            "source": _fingerprint(self.dataset_id),
        }
        write_dataset(home, _episodes(dataset), steps, notes)


def _fingerprint(dataset_id: str) -> list[list[Any]]:
    """Return names, sizes and times of Minari's files of a dataset; none if it is not here."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()
    files = [file for file in (root / dataset_id).rglob("*") if file.is_file()]
    found = [(file.relative_to(root).as_posix(), file.stat()) for file in files]
    return sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)


def _episodes(dataset: Any) -> Iterator[TensorDictBase]:
    """Yield the steps ``[T]`` of each episode."""
    for episode in dataset.iterate_episodes():
        steps, size = len(episode.rewards), [len(episode.rewards)]
        terminated, truncated = _column(episode.terminations), _column(episode.truncations)
        following = TensorDict(
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
                following[name] = _narrowed(value, 1, steps)
        yield td.set("next", following)


def _column(values: np.ndarray) -> Tensor:
    """Return ``[T]`` as ``[T, 1]``."""
    return torch.as_tensor(np.asarray(values)).unsqueeze(-1)


def _tensors(value: Any) -> Any:
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
