"""`get_logger`: a logger by its name; `generate_exp_name`: a unique name of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from torchrl._core.errors import nearest
from torchrl.record.loggers.base import Logger
from torchrl.record.loggers.csv import CSVLogger
from torchrl.record.loggers.mlflow import MLFlowLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger
from torchrl.record.loggers.wandb import WandbLogger


def _wandb(experiment: str, place: str | Path, **kwargs: Any) -> Logger:
    return WandbLogger(experiment, save_dir=place, **kwargs)


def _mlflow(experiment: str, place: str | Path, **kwargs: Any) -> Logger:
    """Track at a server, or in a database in a folder."""
    if "://" not in str(place):
        folder = Path(place).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        kwargs.setdefault("artifact_location", str(folder / "artifacts"))
        place = f"sqlite:///{folder / 'mlflow.db'}"
    return MLFlowLogger(experiment, str(place), **kwargs)


# From the name of an experiment and a place to a logger.
LOGGERS: dict[str, Callable[..., Logger]] = {
    "csv": CSVLogger,
    "mlflow": _mlflow,
    "tensorboard": TensorboardLogger,
    "wandb": _wandb,
}


def get_logger(logger_type: str | None, logger_name: str | Path, experiment_name: str, **kwargs: Any) -> Logger | None:
    """Return a new logger of the given kind.

    Args:
        logger_type: ``"csv"``, ``"mlflow"``, ``"tensorboard"`` or ``"wandb"``; no logger if
            ``""`` or ``None``.
        logger_name: Folder of the experiments; for MLflow also the address of a store.
        experiment_name: Name of the experiment.
        **kwargs: Further arguments of that logger. Arguments for one kind only, for scripts that
            leave the choice to their user: ``csv_kwargs=dict(video_format="mp4")``.

    Raises:
        ValueError: if there is no such logger.

    >>> import tempfile
    >>> get_logger("csv", tempfile.mkdtemp(), "demo", csv_kwargs={"video_fps": 10}).video_fps
    10
    >>> get_logger("", "", "demo") is None
    True
    """
    if not logger_type:
        return None
    if logger_type not in LOGGERS:
        raise ValueError(
            f"get_logger: expected logger_type to be one of {sorted(LOGGERS)} or '', "
            f"found {logger_type!r}. {nearest(logger_type, LOGGERS)}".rstrip()
        )
    own = {f"{name}_kwargs": kwargs.pop(f"{name}_kwargs", {}) for name in LOGGERS}
    make = LOGGERS[logger_type]
    return make(experiment_name, logger_name, **kwargs, **own[f"{logger_type}_kwargs"])


def generate_exp_name(model_name: str, experiment_name: str) -> str:
    """Return a unique name: both names, a random part, date and time.

    Args:
        model_name: Name of the model, or of the algorithm.
        experiment_name: Name of the experiment.

    >>> generate_exp_name("ppo", "cartpole")
    'ppo_cartpole_..._..._..._...-..._..._...'
    """
    now = datetime.now().strftime("%y_%m_%d-%H_%M_%S")
    return f"{model_name}_{experiment_name}_{uuid4().hex[:8]}_{now}"
