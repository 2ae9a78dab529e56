"""`RunFolder`: the folder of one training run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

import torchrl
from torchrl._core.errors import describe
from torchrl._core.files import replaced
from torchrl._core.log import logger as log
from torchrl.record import CSVLogger, Logger, TensorboardLogger, plot_curves
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig, with_settings
from torchrl.trainers.algorithms.config import typed
from torchrl.trainers.runs import read_rows, read_settings

SETTINGS, VERSIONS, CHECKPOINT = "settings.json", "versions.json", "checkpoint"
BEST, LAST = "best.agent", "last.agent"
PACKAGES = ("torch", "tensordict", "numpy", "gymnasium")


@dataclass
class RunConfig:
    """What surrounds training: the folder, evaluations, saves.

    >>> RunConfig(eval_episodes=20).log_dir
    'runs'
    """

    log_dir: str = "runs"  # folder of the run's own folder; empty: nothing is written
    eval_interval: int = 0  # environment steps between evaluations; 0: a twentieth of total_frames
    eval_episodes: int = 10  # episodes of an evaluation
    final_episodes: int = 100  # episodes of the evaluation after training; 0: none
    target_return: float | None = None  # end training once the mean return of an evaluation reaches it
    save_interval: int = 0  # environment steps between checkpoints; 0: a tenth of total_frames
    tensorboard: bool = False  # write TensorBoard files too
    video: bool = True  # write a film of an episode after training
    progress_bar: bool = True  # show one
    num_threads: int = 1  # threads of torch; one is fastest for small networks; 0: as they are

    def __post_init__(self) -> None:
        self.log_dir = str(self.log_dir)  # a path, too
        least = {"eval_episodes": 1, "eval_interval": 0, "final_episodes": 0, "save_interval": 0, "num_threads": 0}
        for name, number in least.items():
            if getattr(self, name) < number:
                fact, found = f"{name} is too small", getattr(self, name)
                raise ValueError(describe(self, fact, expected=f"at least {number}", found=found))


class RunFolder:
    """The folder of one training run, ``<log_dir>/<algorithm>_<task>_seed<seed>``.

    ======================  ===========================================================
    ``settings.json``       algorithm, task, settings of the algorithm and of the run
    ``versions.json``       versions of Python and of the packages
    ``scalars/train``       a CSV file for each number of the trainer
    ``scalars/eval``        returns and lengths of the evaluations
    ``checkpoint``          the last state of the trainer, to resume from
    ``best.agent``          the :class:`~torchrl.trainers.Agent` with the best evaluation
    ``last.agent``          the agent at the end
    ``learning_curve.png``  returns of training and evaluations
    ``video.gif``           an episode of the trained agent
    ======================  ===========================================================

    Args:
        folder: Path of the folder, which exists.
        algorithm: Name of the algorithm.
        task: Name of the environment.
        config: Settings of the algorithm.
        options: Settings of the run.
        resume: Append to its logs.

    >>> import tempfile
    >>> from torchrl.trainers.algorithms import PPOConfig
    >>> run = RunFolder.create("ppo", "CartPole-v1", PPOConfig(), RunConfig(log_dir=tempfile.mkdtemp()))
    >>> run.log("eval", {"return": 12.5}, frames=1000)
    >>> run.folder.name, run.curve("eval/return")
    ('ppo_CartPole-v1_seed0', [(1000, 12.5)])
    """

    def __init__(
        self,
        folder: Path,
        algorithm: str,
        task: str,
        config: AlgorithmConfig,
        options: RunConfig,
        *,
        resume: bool = False,
    ) -> None:
        self.folder, self.algorithm, self.task = folder, algorithm, task
        self.config, self.options = config, options
        self.loggers: list[Logger] = [CSVLogger(folder.name, folder.parent, resume=True)]
        if options.tensorboard:
            self.loggers.append(TensorboardLogger(folder.name, folder.parent))

    @classmethod
    def create(cls, algorithm: str, task: str, config: AlgorithmConfig, options: RunConfig) -> RunFolder:
        """Make the folder of a new run; a second one of the same name gets a number behind it.

        Raises:
            OSError: if it cannot be made.
        """
        name = f"{algorithm}_{task.replace('/', '-')}_seed{config.seed}"
        number, folder = 1, Path(options.log_dir, name)
        while True:
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
                folder = Path(options.log_dir, f"{name}_{number}")
            except OSError as error:
                fact, hint = f"cannot make a folder in log_dir={options.log_dir!r}", "Pass another log_dir."
                expected, found = "a folder that can be written to", error.strerror
                raise OSError(describe("RunFolder", fact, expected=expected, found=found, hint=hint)) from error
        run = cls(folder, algorithm, task, config, options)
        run.write_settings()
        _write(folder / VERSIONS, versions())
        return run

    @classmethod
    def open(cls, folder: str | Path, **changes: Any) -> RunFolder:
        """Open the folder of a run to go on with it.

        Args:
            folder: Its path.
            **changes: Settings of the run in place of those that it had.

        Raises:
            FileNotFoundError: if it is not the folder of a run.
            ValueError: if its settings are damaged.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            hint = f"Expected a folder that torchrl.train() has made, with a file {SETTINGS}."
            raise FileNotFoundError(describe("RunFolder", f"{folder} is not the folder of a run", hint=hint))
        found = read_settings(folder / SETTINGS)
        try:
            config = with_settings(ALGORITHMS[found["algorithm"]].config_class(), found["settings"])
            options = RunConfig(**typed(RunConfig, {**found["run"], **changes}))
            return cls(folder, found["algorithm"], found["env"], config, options)
        except KeyError as error:  # a setting that is absent, or unknown
            fact = f"{folder / SETTINGS} is not what torchrl.train() has written"
            raise ValueError(describe("RunFolder", fact, key=error.args[0])) from error

    def write_settings(self) -> None:
        """Write the settings of the algorithm and of the run."""
        settings, options = asdict(self.config), asdict(self.options)
        parts = {"algorithm": self.algorithm, "env": self.task, "settings": settings, "run": options}
        _write(self.folder / SETTINGS, parts)

    def log(self, group: str, values: Mapping[str, float | Tensor], frames: int) -> None:
        """Log numbers by name, such as those of ``"train"`` and ``"eval"``."""
        for each in self.loggers:
            each.log_metrics({group: values}, frames)

    def log_scalars(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Log numbers of training, as the trainer does."""
        self.log("train", values, step or 0)

    def flush(self) -> None:
        """Write what loggers have buffered."""
        for each in self.loggers:
            each.flush()

    def forget_after(self, frames: int) -> None:
        """Remove what was logged after a number of frames, and of an end before it: a resumed run logs both again."""
        for file in (self.folder / "scalars").rglob("*.csv"):
            last = -1 if file.stem.startswith("final_") else frames
            lines = [line for step, _, line in read_rows(file) if step <= last]
            with replaced(file) as draft:
                draft.write_text("".join(f"{line}\n" for line in lines))

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return the logged values of a number, as ``(frames, value)``."""
        file = self.folder / "scalars" / f"{name}.csv"
        return [(int(step), value) for step, value, _ in read_rows(file)] if file.exists() else []

    def plot(self) -> None:
        """Draw the learning curve, if matplotlib is installed."""
        curves = {"training": self.curve("train/episode_return"), "evaluation": self.curve("eval/return")}
        title = f"{self.algorithm.upper()} on {self.task}, seed {self.config.seed}"
        try:
            plot_curves(
                {name: curve for name, curve in curves.items() if curve}, self.folder / "learning_curve.png", title
            )
        except ImportError as error:
            log.warning("RunFolder: no learning curve: %s", error)


def versions() -> dict[str, str]:
    """Return the versions of Python, the packages and the machine.

    >>> versions()["torch"] == metadata.version("torch")
    True
    """
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["torchrl"] = torchrl.__version__
    return {**found, **{name: metadata.version(name) for name in PACKAGES}}


def _write(file: Path, content: Mapping[str, object]) -> None:
    with replaced(file) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")
