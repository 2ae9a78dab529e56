"""Contract checks of loggers: what is logged can be read back.

>>> import csv
>>> from torchrl.record import CSVLogger
>>> def read(logger):
...     folder, kept = logger.experiment / "scalars", {}
...     for path in folder.rglob("*.csv"):
...         rows = csv.reader(path.read_text().splitlines())
...         name = path.relative_to(folder).with_suffix("").as_posix()
...         kept[name] = [(int(step), float(value)) for step, value in rows]
...     return kept
>>> check_logger(lambda folder: CSVLogger("demo", folder), read)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from torchrl._core.errors import DTypeError, ShapeError
from torchrl.record.loggers.base import Logger
from torchrl.testing.report import raises, run_checks

Make = Callable[[Path], Logger]
Read = Callable[[Logger], dict[str, list[tuple[int, float]]]]
Check = Callable[[Make, Read, Path], None]


def check_logger(make: Make, read: Read, skip: Collection[str] = ()) -> None:
    """Run every check of this file.

    Args:
        make: Builds a logger that keeps its files in the given folder.
        read: Returns the numbers that a closed logger kept, ``{name: [(step, value), ...]}``.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.record import CSVLogger
    >>> def read(logger):
    ...     folder = Path(logger.log_dir, logger.exp_name, "scalars")
    ...     rows = {file: np.loadtxt(file, delimiter=",", ndmin=2) for file in folder.rglob("*.csv")}
    ...     return {str(file.relative_to(folder).with_suffix("")): [tuple(row) for row in rows[file]] for file in rows}
    >>> check_logger(lambda folder: CSVLogger("run", folder), read)
    """

    def in_own_folder(check: Check) -> Callable[[Make, Read], None]:
        @wraps(check)
        def run(make: Make, read: Read) -> None:
            with tempfile.TemporaryDirectory() as folder:
                check(make, read, Path(folder))

        return run

    run_checks([in_own_folder(check) for check in CHECKS], make, read, skip=skip)


def numbers_come_back(make: Make, read: Read, folder: Path) -> None:
    with make(folder) as logger:
        for step in range(5):
            logger.log_scalar("loss", step / 4, step)
            logger.log_scalar("train/reward", -step, 10 * step)
    assert read(logger) == {
        "loss": [(step, step / 4) for step in range(5)],
        "train/reward": [(10 * step, -step) for step in range(5)],
    }


def every_kind_of_number_is_one(make: Make, read: Read, folder: Path) -> None:
    kinds: list[Any] = [1, 1.0, True, np.float32(1), np.ones(1), torch.ones(()), torch.ones(1, 1)]
    with make(folder) as logger:
        for step, value in enumerate([*kinds, torch.ones((), requires_grad=True)]):
            logger.log_scalar("one", value, step)
    assert read(logger) == {"one": [(step, 1.0) for step in range(len(kinds) + 1)]}


def steps_count_themselves(make: Make, read: Read, folder: Path) -> None:
    with make(folder) as logger:
        for value in range(3):
            logger.log_scalar("a", value)
        logger.log_scalar("b", 5)
        logger.log_scalar("a", 3, 10)
        logger.log_scalar("a", 4)
    assert read(logger) == {"a": [(0, 0), (1, 1), (2, 2), (10, 3), (11, 4)], "b": [(0, 5)]}


def nested_metrics_get_joined_names(make: Make, read: Read, folder: Path) -> None:
    nested = {"loss": {"actor": torch.tensor(1.0), "critic": 2}, "fps": 3.0}
    with make(folder) as logger:
        flat = logger.log_metrics(nested, 7)
        logger.log_metrics(TensorDict(loss=TensorDict(actor=torch.tensor(5.0))), 8)
        logger.log_metrics({"x": {"y": 1}}, 9, keys_sep=".")
    assert flat == {"loss/actor": 1.0, "loss/critic": 2.0, "fps": 3.0}
    assert read(logger) == {
        "loss/actor": [(7, 1.0), (8, 5.0)],
        "loss/critic": [(7, 2.0)],
        "fps": [(7, 3.0)],
        "x.y": [(9, 1.0)],
    }


def what_is_no_number_is_refused_and_not_written(make: Make, read: Read, folder: Path) -> None:
    with make(folder) as logger:
        with raises(ShapeError, match=r"'loss' is no scalar.*\[3\].*log_histogram"):
            logger.log_scalar("loss", torch.ones(3), 0)
        with raises(DTypeError, match=r"'loss' is no scalar.*'high'.*log_str"):
            logger.log_metrics({"fine": 1, "loss": "high"}, 0)
        logger.log_scalar("other", 1, 0)
    assert read(logger) == {"other": [(0, 1.0)]}


def all_else_is_accepted(make: Make, read: Read, folder: Path) -> None:
    """Settings, texts, histograms and videos are accepted, and are no numbers."""

    @dataclass
    class Args:
        lr: float = 1e-3
        env: str = "CartPole-v1"

    with make(folder) as logger:
        for cfg in ({"lr": 0.1, "net": {"cells": [64, 64]}, "device": torch.device("cpu")}, Args()):
            logger.log_hparams(cfg)
        if type(logger).log_str is not Logger.log_str:  # texts are optional
            logger.log_str("notes", "two\nlines", 1)
        for data in (torch.tensor([0.0, 1.0, float("nan")]), np.arange(5), [1.0, 2.0]):
            logger.log_histogram("weights", data, 1, bins=4)
        logger.log_video("grey", torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8), 1)
        logger.log_video("array", np.zeros((3, 1, 8, 8), np.uint8), 1)
        logger.log_video("colour", torch.zeros(3, 3, 9, 7, dtype=torch.uint8), 1, fps=5)
        logger.flush()
    assert read(logger) == {}


def what_is_no_video_is_refused(make: Make, read: Read, folder: Path) -> None:
    with make(folder) as logger:
        with raises(ShapeError, match=r"'v' is no video.*\[3, 8, 8, 3\].*before height"):
            logger.log_video("v", torch.zeros(3, 8, 8, 3, dtype=torch.uint8))
        with raises(DTypeError, match=r"'v' is no video.*torch.uint8.*torch.float32"):
            logger.log_video("v", torch.zeros(3, 3, 8, 8))
        with raises(DTypeError, match=r"cannot read these hyperparameters.*found int"):
            logger.log_hparams(3)


def its_repr_names_class_and_experiment(make: Make, read: Read, folder: Path) -> None:
    with make(folder) as logger:
        assert type(logger).__name__ in repr(logger)
        assert repr(logger.exp_name) in repr(logger)
        assert logger.experiment is not None


CHECKS: list[Check] = [
    numbers_come_back,
    every_kind_of_number_is_one,
    steps_count_themselves,
    nested_metrics_get_joined_names,
    what_is_no_number_is_refused_and_not_written,
    all_else_is_accepted,
    what_is_no_video_is_refused,
    its_repr_names_class_and_experiment,
]
