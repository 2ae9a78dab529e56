"""Read the folder of a training run: its settings, and its metrics as arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrl._core.errors import describe

Array = NDArray[np.float64]
Folders = str | Path | Iterable[str | Path]

SETTINGS = ("settings.json", "hparams.json")  # the first one that exists is read
GROUPS = ("train/", "", "eval/")  # where a metric is looked up by its plain name, in this order
NAME = re.compile(r"(?P<algorithm>[^_]+)_(?P<env>.+)_seed(?P<seed>\d+)(?:_\d+)?")


@dataclass(frozen=True)
class Run:
    """Settings and metrics of one training run.

    Args:
        folder: Where it was read.
        settings: The settings by name; empty if the run wrote none.
        metrics: For each metric an array ``[N, 2]`` of steps and values, ordered by step.

    >>> run = Run(Path("ppo_CartPole-v1_seed0"), {}, {"train/loss": np.array([[10.0, 0.5], [20.0, 0.25]])})
    >>> run.algorithm, run.env, run.seed
    ('ppo', 'CartPole-v1', 0)
    >>> run.values("loss")
    array([0.5 , 0.25])
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Array] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def algorithm(self) -> str:
        """The algorithm, of the settings or the name ``<algorithm>_<env>_seed<n>`` of the folder."""
        return str(self.settings.get("algorithm") or self._part("algorithm") or self.name)

    @property
    def env(self) -> str:
        """The name of the environment; empty if unknown."""
        return str(self.settings.get("env") or self._part("env") or "")

    @property
    def seed(self) -> int | None:
        """The seed; ``None`` if unknown."""
        seed = self.settings.get("seed", self._part("seed"))
        return None if seed is None else int(seed)

    def _part(self, name: str) -> str | None:
        found = NAME.fullmatch(self.name)
        return found[name] if found else None

    def series(self, *names: str) -> Array | None:
        """Return steps and values ``[N, 2]`` of the first of these metrics that was logged.

        Args:
            names: Metrics, each with its group (``"train/loss"``) or without (``"loss"``).
        """
        for name in names:
            for group in GROUPS:
                found = self.metrics.get(group + name)
                if found is not None and len(found):
                    return found
        return None

    def has(self, *names: str) -> bool:
        """Return whether one of these metrics was logged; ``*`` in a name is any text."""
        logged = [name for name, series in self.metrics.items() if len(series)]
        return any(fnmatch(name, group + each) for name in logged for each in names for group in GROUPS)

    def values(self, *names: str) -> Array | None:
        """Return the finite values ``[N]`` of the first of these metrics that was logged."""
        found = self.series(*names)
        if found is None:
            return None
        values = found[np.isfinite(found[:, 1]), 1]
        return values if len(values) else None

    def setting(self, *names: str) -> float | None:
        """Return the first of these settings that is a number."""
        inner = self.settings.get("settings")  # those of the algorithm, in a folder of torchrl.train()
        known = {**self.settings, **inner} if isinstance(inner, dict) else self.settings
        for name in names:
            value = known.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        return None

    @property
    def last_step(self) -> float:
        """The largest step of any metric; zero without metrics."""
        return max((float(each[-1, 0]) for each in self.metrics.values() if len(each)), default=0.0)


def read_run(folder: str | Path) -> Run:
    """Read the run in a folder written by :class:`~torchrl.record.Experiment` or a :class:`~torchrl.record.CSVLogger`.

    Metrics are named by their files below ``scalars``: ``scalars/train/loss.csv`` is ``"train/loss"``. Of
    several values of one step, such as those of a run that was resumed, the last one counts. An incomplete
    last line, of a run that still goes on, is skipped.

    Args:
        folder: The folder of the run.

    Raises:
        FileNotFoundError: if the folder has no ``scalars``.
        ValueError: if a file has another line than ``step,value``, or the settings are no JSON object.

    >>> import tempfile
    >>> from torchrl.record import CSVLogger
    >>> logger = CSVLogger("dqn", tempfile.mkdtemp())
    >>> logger.log_hparams({"env": "CartPole-v1", "seed": 3})
    >>> logger.log_scalar("train/loss", 0.5, step=10)
    >>> run = read_run(logger.experiment)
    >>> run.algorithm, run.env, run.seed, run.metrics
    ('dqn', 'CartPole-v1', 3, {'train/loss': array([[10. ,  0.5]])})
    """
    folder = Path(folder)
    scalars = folder / "scalars"
    if not scalars.is_dir():
        inside = [path.name for path in runs_below(folder)] if folder.is_dir() else []
        hint = f"It holds the runs {inside[:5]}." if inside else "Pass the folder of a run."
        raise FileNotFoundError(describe("read_run", f"there is no run in {str(folder)!r}", hint=hint))
    files = sorted(scalars.rglob("*.csv"))
    metrics: dict[str, Array] = {}
    for path in files:
        found = {step: value for step, value, _ in read_rows(path)}  # of several values of a step the last
        values = np.array(sorted(found.items()), dtype=np.float64).reshape(-1, 2)  # [N, 2]
        metrics[path.relative_to(scalars).with_suffix("").as_posix()] = values
    settings: dict[str, Any] = {}
    for name in SETTINGS:
        if (path := folder / name).exists():
            settings = read_settings(path)
            break
    return Run(folder.resolve(), settings, metrics)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in the JSON file of a run.

    Raises:
        ValueError: if it is no JSON object.
    """
    try:
        settings = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(describe("read_run", f"{path} is damaged: it is no JSON", found=str(error))) from None
    if not isinstance(settings, dict):
        raise ValueError(describe("read_run", f"{path} holds no settings by name", found=type(settings).__name__))
    return settings


def read_rows(path: Path) -> list[tuple[float, float, str]]:
    """Return steps, values and lines of the file of a metric, without an incomplete last line.

    Raises:
        ValueError: for another line than ``step,value``.
    """
    text = path.read_text(errors="replace")
    lines = text.splitlines()
    rows: list[tuple[float, float, str]] = []
    for i, line in enumerate(lines):
        try:
            step, value = map(float, line.split(","))
        except ValueError:
            if i == len(lines) - 1 and not text.endswith("\n"):
                break
            fact, hint = f"line {i + 1} of {path} is no number at a step", "Remove that line, or the file."
            raise ValueError(describe("read_run", fact, expected="step,value", found=repr(line), hint=hint)) from None
        rows.append((step, value, line))
    return rows


def runs_below(folder: str | Path) -> list[Path]:
    """Return the folders of runs among a folder and those directly in it, ordered by name."""
    folder = Path(folder)
    if (folder / "scalars").is_dir() or not folder.is_dir():
        return [folder]
    return sorted(path for path in folder.iterdir() if (path / "scalars").is_dir())


def read_runs(folders: Folders) -> list[Run]:
    """Read several runs.

    Args:
        folders: Folders of runs, or of several runs each; one, or any number of them.

    Raises:
        FileNotFoundError: if a folder holds no run.
    """
    several: Iterable[str | Path] = [folders] if isinstance(folders, str | Path) else folders
    return [read_run(path) for folder in several for path in runs_below(folder) or [Path(folder)]]


def grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return runs by algorithm and environment: those that differ in their seeds only."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.algorithm, run.env), []).append(run)
    return groups
