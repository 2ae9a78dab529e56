"""`Logger`: the base class of loggers of numbers, texts and videos, and functions they share."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, describe
from torchrl._core.log import logger as log
from torchrl._core.optional import require_package

Numbers = Tensor | np.ndarray | Sequence[float]
Pictures = Tensor | np.ndarray


class Logger(ABC):
    """Log named values, each at a step.

    A value without a step gets the next one of its name, counted from zero by this logger. A logger
    is closed at the end of a ``with`` block.

    Args:
        exp_name: Name of the experiment.
        log_dir: Folder of the experiments.

    Hooks:
        _create_experiment: ``() -> object``, the backend: a folder, a writer, a run.
        log_scalar, log_histogram, log_video, and log_str if texts are supported: one named value of
            one step each.
        log_hparams: the settings of the experiment, once.
        log_scalars, flush, close: may be overridden if one call is cheaper than many, or if values
            are buffered or files held open.

    >>> import tempfile
    >>> from torchrl.record import CSVLogger
    >>> with CSVLogger("first", tempfile.mkdtemp()) as logger:
    ...     logger.log_scalar("reward", 1.0, step=0)
    ...     logger.log_scalar("reward", 2.0)  # step 0 of those without one
    ...     logger.exp_name
    'first'
    """

    def __init__(self, exp_name: str, log_dir: str | Path) -> None:
        self.exp_name = exp_name
        self.log_dir = str(log_dir)
        self._counts: dict[str, int] = {}
        self.experiment = self._create_experiment()

    @abstractmethod
    def _create_experiment(self) -> Any: ...

    @abstractmethod
    def log_scalar(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        """Log one number."""

    def log_str(self, name: str, value: str, step: int | None = None) -> None:
        """Log a text, if the logger supports texts.

        Raises:
            TypeError: if it does not.
        """
        raise TypeError(describe(self, "does not support texts", key=name, hint="Write the hook log_str()."))

    @abstractmethod
    def log_histogram(self, name: str, data: Numbers, step: int | None = None, *, bins: int = 64) -> None:
        """Log a histogram of the finite numbers of ``data [*]``, with bins of equal width."""

    @abstractmethod
    def log_video(self, name: str, video: Pictures, step: int | None = None, *, fps: float | None = None) -> None:
        """Log a video.

        Args:
            name: Its name.
            video: Frames ``[T, C, H, W]`` or ``[N, T, C, H, W]``, uint8, ``C`` 1 (grey) or 3 (RGB);
                several videos are shown side by side.
            step: The step at which it was made.
            fps: Frames per second; the logger's own by default.
        """

    @abstractmethod
    def log_hparams(self, cfg: object) -> None:
        """Log the settings of the experiment: a mapping, nested or not, or a dataclass."""

    def log_scalars(self, values: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Log several numbers of one step."""
        for name, value in values.items():
            self.log_scalar(name, value, step)

    def log_metrics(
        self, metrics: Mapping[str, object] | TensorDictBase, step: int | None = None, *, keys_sep: str = "/"
    ) -> dict[str, float]:
        """Log every number of a nested mapping, with the parts of its name joined.

        Args:
            metrics: Numbers by name; a tensordict is moved to the CPU at once.
            step: The step that they belong to.
            keys_sep: Separator of the parts of a nested name.

        Returns: the logged numbers, by joined name.

        >>> import tempfile
        >>> from torchrl.record import CSVLogger
        >>> logger = CSVLogger("demo", tempfile.mkdtemp())
        >>> logger.log_metrics({"loss": {"actor": torch.tensor(0.5), "critic": 2}}, step=1)
        {'loss/actor': 0.5, 'loss/critic': 2.0}
        """
        if isinstance(metrics, TensorDictBase):
            metrics = metrics.detach().cpu().to_dict(convert_tensors=False)
        flat = {name: number(self, name, value) for name, value in flatten(metrics, keys_sep).items()}
        self.log_scalars(flat, step)
        return flat

    def flush(self) -> None:
        """Write what is buffered."""

    def close(self) -> None:
        """Flush, and close open files and connections."""
        self.flush()

    def shutdown(self) -> None:
        """Close, under the name that collectors and trainers use."""
        self.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(exp_name={self.exp_name!r}, log_dir={self.log_dir!r})"

    def _step(self, name: str, step: int | None) -> int:
        """Return the step, or the next one of that name."""
        if step is None:
            step = self._counts.get(name, -1) + 1
        self._counts[name] = step
        return step


def own_folder(run: Logger, take: Callable[[Path], bool]) -> Path:
    """Return the folder of a run, ``log_dir/exp_name``, with a number if that is taken.

    Args:
        run: The logger.
        take: Create a folder and return true, or return false if another run has it.
    """
    first = Path(run.log_dir, run.exp_name)
    for number in itertools.count():
        folder = first.with_name(f"{first.name}_{number}") if number else first
        if take(folder):
            break
    if folder != first:
        text = "%s: %s holds another run, %s is used; pass resume=True to continue it"
        log.warning(text, type(run).__name__, first, folder)
    return folder


def flatten(values: Mapping[str, object], sep: str) -> dict[str, object]:
    """Return the leaves of a nested mapping by the joined parts of their names.

    >>> flatten({"a": 1, "b": {"c": 2}}, "/")
    {'a': 1, 'b/c': 2}
    """
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}{sep}{k}": v for k, v in flatten(value, sep).items()})
        else:
            flat[str(name)] = value
    return flat


def number(logger: object, name: str, value: object) -> float:
    """Return a value of one element as a float.

    Raises:
        ShapeError: if it has no element or several.
        DTypeError: if it is not a number.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):
        if math.prod(value.shape) != 1:
            hint = "Log its mean, or its distribution with log_histogram()."
            found = f"shape {list(value.shape)}"
            raise ShapeError(describe(logger, "is no scalar", key=name, found=found, hint=hint))
        value = value.item()
    if not isinstance(value, SupportsFloat):
        hint = "Log a text with log_str()."
        raise DTypeError(describe(logger, "is no scalar", key=name, found=repr(value), hint=hint))
    return float(value)


def finite(data: Numbers) -> Tensor:
    """Return the finite numbers of ``data [*]`` as floats ``[N]`` on the CPU."""
    data = torch.as_tensor(data).detach().cpu().float()
    return data[data.isfinite()]


def histogram(data: Numbers, bins: int) -> list[tuple[float, float, int]]:
    """Return ``(low, high, count)`` of each bin, for the finite numbers of ``data [*]``.

    >>> histogram(torch.tensor([0.0, 1.0, 1.0, float("inf")]), 2)
    [(0.0, 0.5, 1), (0.5, 1.0, 2)]
    """
    counts, edges = torch.histogram(finite(data), bins)
    limits = edges.tolist()
    return list(zip(limits[:-1], limits[1:], counts.long().tolist(), strict=True))


def frames(logger: object, name: str, video: Pictures) -> Tensor:
    """Return the frames of a video as ``[T, H, N * W, C]``, several videos side by side.

    Raises:
        ShapeError: if it is not ``[T, C, H, W]`` or ``[N, T, C, H, W]`` with one or three channels.
        DTypeError: if it is not uint8.
    """
    video = torch.as_tensor(video).detach().cpu()
    if video.ndim not in (4, 5) or video.shape[-3] not in (1, 3) or 0 in video.shape:
        raise ShapeError(
            describe(
                logger,
                "is no video",
                key=name,
                expected="[N, T, C, H, W] with one or three channels",
                found=list(video.shape),
                hint="Move the channels before height and width.",
            )
        )
    if video.dtype != torch.uint8:
        raise DTypeError(
            describe(
                logger,
                "is no video",
                key=name,
                expected=torch.uint8,
                found=video.dtype,
                hint="Scale it to 0..255 and cast it.",
            )
        )
    rows = video.unsqueeze(0) if video.ndim == 4 else video  # [N, T, C, H, W]
    n, t, c, h, w = rows.shape
    return rows.permute(1, 3, 0, 4, 2).reshape(t, h, n * w, c)


def encode_movie(pictures: Tensor, suffix: str, fps: float, *, needed_by: object) -> bytes:
    """Return the bytes of a video file.

    Args:
        pictures: Frames ``[T, H, W, C]``, uint8, with one or three channels.
        suffix: ``".mp4"`` or ``".gif"``. The height and width of an mp4 are even, as its encoding
            halves the resolution of colour: the last row or column of an odd one is repeated.
        fps: Frames per second.
        needed_by: Named by the error message.

    Raises:
        ImportError: if imageio, or for mp4 imageio-ffmpeg, is not installed.
    """
    imageio = require_package("imageio.v3", needed_by=needed_by, extra="rendering")
    if pictures.shape[-1] == 1:
        pictures = pictures.expand(*pictures.shape[:-1], 3)
    if suffix == ".gif":
        return imageio.imwrite("<bytes>", pictures.numpy(), extension=".gif", duration=1000 / fps, loop=0)
    require_package("imageio_ffmpeg", needed_by=needed_by, extra="rendering")
    _, height, width, _ = pictures.shape
    pictures = pictures[:, [*range(height), height - 1][: height + height % 2]]
    pictures = pictures[:, :, [*range(width), width - 1][: width + width % 2]]
    return imageio.imwrite("<bytes>", pictures.numpy(), extension=suffix, fps=fps, macro_block_size=1)


def settings(logger: object, cfg: object) -> dict[str, object]:
    """Return hyperparameters as a plain dictionary, nested as they were.

    Raises:
        DTypeError: if ``cfg`` is neither a mapping nor a dataclass.
    """
    if is_dataclass(cfg) and not isinstance(cfg, type):
        return asdict(cfg)
    if isinstance(cfg, Mapping):
        return {
            str(name): settings(logger, value) if isinstance(value, Mapping) else value for name, value in cfg.items()
        }
    raise DTypeError(
        describe(
            logger,
            "cannot read these hyperparameters",
            expected="a mapping or a dataclass",
            found=type(cfg).__name__,
            hint="Pass vars(cfg), perhaps.",
        )
    )
