"""``TensorboardLogger``: event files for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from torchrl._core.optional import require_package
from torchrl.record.loggers.base import (
    Logger,
    Numbers,
    Pictures,
    encode_movie,
    finite,
    flatten,
    frames,
    number,
    own_folder,
    settings,
)


class TensorboardLogger(Logger):
    """Write event files under ``log_dir/exp_name``; view them with ``tensorboard --logdir``.

    A second run of that name gets another folder, ``exp_name_1`` and so on, unless it resumes
    the first. Settings become a text and a row of the table of hyperparameters; videos become
    animated pictures.

    Args:
        exp_name: Name of the experiment, and of its folder.
        log_dir: Folder of the experiments.
        resume: Continue in the folder of the run of that name.

    Raises:
        ImportError: if tensorboard is not installed.

    >>> with TensorboardLogger("first", log_dir="tb_logs") as logger:  # doctest: +SKIP
    ...     logger.log_scalar("reward", 1.0, step=0)
    """

    VIDEO_FPS = 30

    def __init__(self, exp_name: str, log_dir: str | Path = "tb_logs", *, resume: bool = False) -> None:
        self.resume = resume
        require_package("tensorboard", needed_by=self, extra="utils")
        super().__init__(exp_name, log_dir)

    def _create_experiment(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        def take(folder: Path) -> bool:
            folder.mkdir(parents=True, exist_ok=True)
            return self.resume or not any(folder.glob("events.out.tfevents*"))

        return SummaryWriter(str(own_folder(self, take)))

    def log_scalar(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        value = number(self, name, value)
        self.experiment.add_scalar(name, value, self._step(name, step))

    def log_str(self, name: str, value: str, step: int | None = None) -> None:
        self.experiment.add_text(name, value, self._step(name, step))

    def log_histogram(self, name: str, data: Numbers, step: int | None = None, *, bins: int = 64) -> None:
        numbers = finite(data)
        if len(numbers):
            self.experiment.add_histogram(name, numbers.numpy(), self._step(name, step), bins=bins)

    def log_video(self, name: str, video: Pictures, step: int | None = None, *, fps: float | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        pictures = frames(self, name, video)  # [T, H, W, C]
        _, height, width, _ = pictures.shape
        gif = encode_movie(pictures, ".gif", fps or self.VIDEO_FPS, needed_by=self)
        image = Summary.Image(height=height, width=width, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.experiment.file_writer.add_summary(summary, self._step(name, step))

    def log_hparams(self, cfg: object) -> None:
        nested = settings(self, cfg)
        text = json.dumps(nested, indent=2, default=str)
        self.experiment.add_text("hparams", f"```json\n{text}\n```", 0)
        flat = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flatten(nested, "/").items()
        }
        self.experiment.add_hparams(flat, {}, run_name=".")

    def flush(self) -> None:
        self.experiment.flush()

    def close(self) -> None:
        self.experiment.close()
