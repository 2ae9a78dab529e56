"""``WandbLogger``: a run of Weights & Biases, online or offline."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import distributions
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from torchrl._core.optional import require_package
from torchrl.record.loggers.base import Logger, Numbers, Pictures, encode_movie, frames, histogram, number, settings

STEP = "global_step"


class WandbLogger(Logger):
    """Log to a run of `Weights & Biases <https://docs.wandb.ai>`_.

    Every number is plotted against ``global_step``, its own step, so that steps may come in any
    order; the run's internal step counts log calls.

    Args:
        exp_name: Name of the run.
        offline: Keep the run on disk; ``wandb sync`` uploads it later.
        save_dir: Folder of wandb's own folder; the working directory if ``None``.
        id: Identifier of the run; an existing run is continued with ``resume="allow"``.
        project: Project of the run.
        base_url: Address of a self-hosted server.
        video_fps: Frames per second of videos.
        log_env_packages: Add the versions of all installed packages to the settings.
        **kwargs: Further arguments of ``wandb.init``.

    Raises:
        ImportError: if wandb is not installed.

    >>> with WandbLogger("first", project="control", offline=True) as logger:  # doctest: +SKIP
    ...     logger.log_scalar("reward", 1.0, step=0)
    """

    def __init__(
        self,
        exp_name: str,
        offline: bool = False,
        save_dir: str | Path | None = None,
        id: str | None = None,
        project: str | None = None,
        base_url: str | None = None,
        *,
        video_fps: int = 32,
        log_env_packages: bool = True,
        **kwargs: Any,
    ) -> None:
        self._wandb = require_package("wandb", needed_by=self, extra="utils")
        self.offline, self.id, self.project, self.video_fps = offline, id, project, video_fps
        self._options = {"base_url": base_url} if base_url else {}
        self._kwargs = kwargs
        super().__init__(exp_name, "." if save_dir is None else save_dir)
        if log_env_packages:
            versions = {package.metadata["Name"]: package.version for package in distributions()}
            self.experiment.config.update({"env_packages": dict(sorted(versions.items()))})

    def _create_experiment(self) -> Any:
        kwargs = dict(self._kwargs)
        if self.offline:
            kwargs["mode"] = "offline"
        if self._options:
            kwargs.setdefault("settings", self._wandb.Settings(**self._options))
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        run = self._wandb.init(name=self.exp_name, dir=self.log_dir, id=self.id, project=self.project, **kwargs)
        run.define_metric("*", step_metric=STEP)
        return run

    def _log(self, name: str, value: object, step: int | None) -> None:
        self.experiment.log({name: value, STEP: self._step(name, step)})

    def log_scalar(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        self._log(name, number(self, name, value), step)

    def log_scalars(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Log several numbers of one step with one call."""
        if step is None:
            super().log_scalars(values, step)
            return
        row = {name: number(self, name, value) for name, value in values.items()}
        self._counts.update(dict.fromkeys(row, step))
        self.experiment.log({**row, STEP: step})

    def log_str(self, name: str, value: str, step: int | None = None) -> None:
        self._log(name, value, step)

    def log_histogram(self, name: str, data: Numbers, step: int | None = None, *, bins: int = 64) -> None:
        lows, highs, counts = zip(*histogram(data, bins), strict=True)
        edges = [*lows, highs[-1]]
        self._log(name, self._wandb.Histogram(np_histogram=(counts, edges)), step)

    def log_video(self, name: str, video: Pictures, step: int | None = None, *, fps: float | None = None) -> None:
        pictures = frames(self, name, video)  # [T, H, W, C]
        gif = encode_movie(pictures, ".gif", fps or self.video_fps, needed_by=self)
        self._log(name, self._wandb.Video(BytesIO(gif), format="gif"), step)

    def log_hparams(self, cfg: object) -> None:
        self.experiment.config.update(settings(self, cfg), allow_val_change=True)

    def close(self) -> None:
        """End the run."""
        self.experiment.finish()
