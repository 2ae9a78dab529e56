"""``CSVLogger``: an experiment as a folder of plain files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from torchrl.record.loggers.base import (
    Logger,
    Numbers,
    Pictures,
    encode_movie,
    frames,
    histogram,
    number,
    own_folder,
    settings,
)


class CSVLogger(Logger):
    """Write every value to a file under ``log_dir/exp_name``, without buffering.

    ==================================  ==========================================================
    ``scalars/<name>.csv``              a line ``step,value`` for each number
    ``histograms/<name>.csv``           a line ``step,low,high,count`` for each bin
    ``texts/<name>_<step>.txt``         a text
    ``videos/<name>_<step>.<format>``   a video
    ``hparams.json``                    the settings; ``texts/hparams<n>.txt``, as lines ``name: value``
    ==================================  ==========================================================

    A ``/`` in a name makes a folder. A second run of that name gets another folder,
    ``exp_name_1`` and so on, unless it resumes the first.

    Args:
        exp_name: Name of the experiment, and of its folder.
        log_dir: Folder of the experiments; ``"csv_logs"`` by default.
        video_format: ``"pt"`` (a tensor, read with ``torch.load``) or ``"memmap"`` (the same,
            memory-mapped) keep the frames unchanged; ``"mp4"`` and ``"gif"`` are encoded and need
            imageio.
        video_fps: Frames per second of encoded videos.
        resume: Append to the files of the run of that name.

    Raises:
        ValueError: if ``video_format`` is none of these, or a name leads out of the folder.

    >>> import tempfile
    >>> with CSVLogger("demo", tempfile.mkdtemp()) as logger:
    ...     for step in range(3):
    ...         logger.log_scalar("train/reward", step / 2, step)
    >>> print((logger.experiment / "scalars/train/reward.csv").read_text())
    0,0.0
    1,0.5
    2,1.0
    """

    VIDEO_FORMATS = ("pt", "memmap", "mp4", "gif")

    def __init__(
        self,
        exp_name: str,
        log_dir: str | Path | None = None,
        video_format: str = "pt",
        video_fps: float = 30,
        *,
        resume: bool = False,
    ) -> None:
        if video_format not in self.VIDEO_FORMATS:
            raise ValueError(
                f"CSVLogger: expected video_format to be one of {self.VIDEO_FORMATS}, found {video_format!r}."
            )
        self.video_format = video_format
        self.video_fps, self.resume = video_fps, resume
        self._scalar_files: dict[str, Path] = {}
        super().__init__(exp_name, "csv_logs" if log_dir is None else log_dir)

    def _create_experiment(self) -> Path:
        def take(folder: Path) -> bool:
            try:
                (folder / "scalars").mkdir(parents=True, exist_ok=self.resume)
            except FileExistsError:
                return False
            return True

        return own_folder(self, take)

    def log_scalar(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        value = number(self, name, value)
        if name not in self._scalar_files:
            self._scalar_files[name] = self._file("scalars", f"{name}.csv")
        with self._scalar_files[name].open("a") as file:
            file.write(f"{self._step(name, step)},{value!r}\n")

    def log_str(self, name: str, value: str, step: int | None = None) -> None:
        self._file("texts", f"{name}_{self._step(name, step)}.txt").write_text(value)

    def log_histogram(self, name: str, data: Numbers, step: int | None = None, *, bins: int = 64) -> None:
        rows, step = histogram(data, bins), self._step(name, step)
        with self._file("histograms", f"{name}.csv").open("a") as file:
            file.writelines(f"{step},{low!r},{high!r},{count}\n" for low, high, count in rows)

    def log_video(self, name: str, video: Pictures, step: int | None = None, *, fps: float | None = None) -> None:
        pictures = frames(self, name, video)  # [T, H, W, C]
        plain = torch.as_tensor(video).detach().cpu().clone()  # a view would save its whole storage
        step = self._step(name, step)
        path = self._file("videos", f"{name}_{step}.{self.video_format}")
        if self.video_format == "pt":
            torch.save(plain, path)
        elif self.video_format == "memmap":
            path.write_bytes(plain.contiguous().numpy().tobytes())  # a full disk is an error
        else:
            path.write_bytes(encode_movie(pictures, path.suffix, fps or self.video_fps, needed_by=self))

    def log_hparams(self, cfg: object) -> None:
        named = settings(self, cfg)
        text = json.dumps(named, indent=2, default=str)
        (self.experiment / "hparams.json").write_text(text + "\n")
        lines = [f"{name}: {named[name]}" for name in sorted(named)]
        self._file("texts", f"hparams{self._step('hparams', None)}.txt").write_text("\n".join(lines))

    def print_log_dir(self) -> None:
        """Write the paths of all files of the run to standard output."""
        files = sorted(path for path in self.experiment.rglob("*") if path.is_file())
        sys.stdout.writelines(f"{path}\n" for path in files)

    def _file(self, kind: str, name: str) -> Path:
        """Return the file of that name, in a folder that exists."""
        folder = (self.experiment / kind).resolve()
        path = (folder / name).resolve()
        if folder not in path.parents:
            raise ValueError(f"CSVLogger: the name {name!r} leads out of {folder}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
