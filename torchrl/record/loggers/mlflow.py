"""``MLFlowLogger``: a run tracked by MLflow, on a server or on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from torchrl._core.optional import require_package
from torchrl.record.loggers.base import (
    Logger,
    Numbers,
    Pictures,
    encode_movie,
    flatten,
    frames,
    histogram,
    number,
    settings,
)


class MLFlowLogger(Logger):
    """Log to a run of `MLflow <https://mlflow.org>`_; view it with ``mlflow ui``.

    Settings become parameters, nested names joined by dots. A parameter never changes: another
    value of the same name is kept as ``<name>_2``. Texts, histograms (a line
    ``low,high,count`` for each bin) and videos become artifacts, in folders of that name.

    Args:
        exp_name: Name of the experiment, to which this adds a run.
        tracking_uri: The store: a server, or ``sqlite:///runs.db``.
        tags: Tags of the run.
        artifact_location: Folder of the artifacts of a new experiment; chosen by the store if
            ``None``.
        video_fps: Frames per second of videos.
        **kwargs: Further arguments of ``MlflowClient.create_run``, such as ``run_name``.

    Raises:
        ImportError: if mlflow is not installed.

    >>> logger = MLFlowLogger("first", tracking_uri="sqlite:///runs.db")  # doctest: +SKIP
    >>> logger.log_scalar("reward", 1.0, step=0)  # doctest: +SKIP
    """

    def __init__(
        self,
        exp_name: str,
        tracking_uri: str,
        tags: Mapping[str, object] | None = None,
        *,
        artifact_location: str | Path | None = None,
        video_fps: int = 30,
        **kwargs: Any,
    ) -> None:
        mlflow = require_package("mlflow", needed_by=self, extra="utils")
        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri)
        self.tags, self.video_fps, self._kwargs = dict(tags or {}), video_fps, kwargs
        self.artifact_location = artifact_location
        self._params: dict[str, list[str]] = {}  # every value that each has had
        super().__init__(exp_name, tracking_uri)

    def _create_experiment(self) -> Any:
        client = self._client
        known = client.get_experiment_by_name(self.exp_name)
        if known is not None:
            experiment = known.experiment_id
        else:
            place = self.artifact_location
            place = str(place.resolve()) if isinstance(place, Path) else place
            experiment = client.create_experiment(self.exp_name, artifact_location=place)
        return client.create_run(experiment, tags=self.tags, **self._kwargs)

    @property
    def run_id(self) -> str:
        """Identifier of the run in the store."""
        return self.experiment.info.run_id

    def log_scalar(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        value = number(self, name, value)
        self._client.log_metric(self.run_id, name, value, step=self._step(name, step))

    def log_scalars(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Log several numbers with one request."""
        now = int(time.time() * 1000)
        flat = {name: number(self, name, value) for name, value in values.items()}
        metrics = [self._entities.Metric(name, value, now, self._step(name, step)) for name, value in flat.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def log_str(self, name: str, value: str, step: int | None = None) -> None:
        path = f"texts/{name}_{self._step(name, step)}.txt"
        self._client.log_text(self.run_id, value, path)

    def log_histogram(self, name: str, data: Numbers, step: int | None = None, *, bins: int = 64) -> None:
        rows = histogram(data, bins)
        text = "".join(f"{low!r},{high!r},{count}\n" for low, high, count in rows)
        path = f"histograms/{name}_{self._step(name, step)}.csv"
        self._client.log_text(self.run_id, text, path)

    def log_video(self, name: str, video: Pictures, step: int | None = None, *, fps: float | None = None) -> None:
        pictures = frames(self, name, video)  # [T, H, W, C]
        gif = encode_movie(pictures, ".gif", fps or self.video_fps, needed_by=self)
        path = Path("videos", f"{name}_{self._step(name, step)}.gif")
        with TemporaryDirectory() as folder:
            file = Path(folder, path.name)
            file.write_bytes(gif)
            self._client.log_artifact(self.run_id, str(file), path.parent.as_posix())

    def log_hparams(self, cfg: object) -> None:
        for name, value in flatten(settings(self, cfg), ".").items():
            values = self._params.setdefault(name, [])
            if str(value) not in values:
                values.append(str(value))
                numbered = f"{name}_{len(values)}" if len(values) > 1 else name
                self._client.log_param(self.run_id, numbered, value)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id)
