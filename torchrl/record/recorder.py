"""Recordings of rollouts, as transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.optional import require_package
from torchrl.data import Composite
from torchrl.envs.transforms.base import Transform
from torchrl.record.loggers import Logger


class VideoRecorder(Transform):
    """Keeps the frames of an environment and hands them to a logger as a video.

    Every root is a frame: that of each reset, and that after each step.

    Args:
        logger: Receives the video.
        tag: Name of the video.
        in_keys: The frames, ``[*B, H, W, C]`` or ``[*B, C, H, W]``, bytes or floats in [0, 1]; one
            entry; ``pixels`` if ``None``.
        skip: Keep one frame in this many.
        center_crop: Height and width of the centre that is kept, or one number for both.
        make_grid: Lay the frames of a batched environment out as a grid (the default), instead of
            one video each.
        fps: Frames per second; the logger's own if ``None``.
        max_frames: Keep no more than this many.
        dump_on_done: Write the video at each end of an episode (of all rows at once).

    Reads: ``pixels``. Writes nothing.

    >>> import tempfile
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> from torchrl.record import CSVLogger
    >>> logger = CSVLogger("demo", tempfile.mkdtemp())
    >>> env = GymEnv("CartPole-v1", from_pixels=True)
    >>> env = TransformedEnv(env, VideoRecorder(logger, "cartpole"))
    >>> _ = env.rollout(3)
    >>> env.transform.dump(step=0).shape
    torch.Size([4, 3, 400, 600])
    """

    entrywise = True

    def __init__(
        self,
        logger: Logger,
        tag: str,
        in_keys: Sequence[NestedKey] | None = None,
        skip: int | None = None,
        center_crop: int | tuple[int, int] | None = None,
        make_grid: bool | None = None,
        *,
        fps: float | None = None,
        max_frames: int | None = None,
        dump_on_done: bool = False,
    ) -> None:
        super().__init__(["pixels"] if in_keys is None else in_keys)
        if len(self.in_keys) != 1:
            raise ValueError(f"VideoRecorder: expected one entry to record, found {self.in_keys}.")
        for name, value in (("skip", skip), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ValueError(f"VideoRecorder: {name} must be at least 1, found {value}.")
        self.logger, self.tag = logger, tag
        self.skip, self.max_frames, self.fps = skip or 1, max_frames, fps
        if isinstance(center_crop, int):
            center_crop = (center_crop, center_crop)
        self.center_crop = center_crop
        self.make_grid = True if make_grid is None else make_grid
        self.dump_on_done = dump_on_done
        self.frames: list[Tensor] = []  # [C, H, W] or [N, C, H, W], uint8
        self._seen = self._dumps = 0

    def _call(self, tensordict: Any) -> Any:
        value = tensordict.get(self.in_keys[0], None)
        if value is None:
            raise self._missing(self.in_keys[0], tensordict)
        keep = self._seen % self.skip == 0
        self._seen += 1
        if keep and (self.max_frames is None or len(self.frames) < self.max_frames):
            self.frames.append(self._picture(value))
        return tensordict

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        next_tensordict = self._call(next_tensordict)
        if self.dump_on_done and bool(next_tensordict.get("done").all()):
            self.dump()
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Keep the frame of a record, or the frames ``[T]`` of a batch of them."""
        for step in tensordict.unbind(0) if tensordict.ndim else [tensordict]:
            self._call(step)
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Look for the frames; no spec changes."""
        self._check_keys(specs)
        return specs

    def _picture(self, value: Tensor) -> Tensor:
        """Return one frame as bytes ``[C, H, W]``, or ``[N, C, H, W]``."""
        value = value.detach().cpu()
        if value.shape[-1] in (1, 3):
            value = value.movedim(-1, -3)
        elif value.shape[-3] not in (1, 3):
            raise ShapeError(
                describe(
                    self,
                    "is not an image",
                    key=self.in_keys[0],
                    expected="[*B, H, W, C] or [*B, C, H, W] with one or three channels",
                    found=list(value.shape),
                )
            )
        if value.is_floating_point():
            value = (value.clamp(0, 1) * 255).round()
        value = value.to(torch.uint8)
        if self.center_crop is not None:
            value = _crop(value, *self.center_crop)
        value = value.clone() if value.ndim == 3 else value.reshape(-1, *value.shape[-3:])
        return grid(value) if value.ndim == 4 and self.make_grid else value

    def dump(self, suffix: str | None = None, step: int | None = None) -> Tensor | None:
        """Write the video and forget its frames.

        Args:
            suffix: Added to the name of the video.
            step: When it was made; a count of the videos if ``None``.

        Returns: the video ``[T, C, H, W]`` or ``[N, T, C, H, W]``, or ``None`` without frames.
        """
        if not self.frames:
            return None
        dim = 0 if self.frames[0].ndim == 3 else 1
        video = torch.stack(self.frames, dim)
        name = self.tag if suffix is None else f"{self.tag}_{suffix}"
        step = self._dumps if step is None else step
        self.logger.log_video(name, video, step, fps=self.fps)
        self.frames, self._seen, self._dumps = [], 0, self._dumps + 1
        return video

    def to_animation(self) -> Any:
        """Return the frames so far as a matplotlib animation, for a notebook.

        Raises:
            RuntimeError: if there are none.
        """
        if not self.frames:
            raise RuntimeError("VideoRecorder: there are no frames yet; run a rollout first.")
        plt = require_package("matplotlib.pyplot", needed_by=self, extra="rendering")
        animation = require_package("matplotlib.animation", needed_by=self, extra="rendering")
        pictures = [f if f.ndim == 3 else grid(f) for f in self.frames]
        figure, axes = plt.subplots()
        axes.axis("off")
        artists = [[axes.imshow(p.movedim(0, -1).squeeze(-1), animated=True)] for p in pictures]
        return animation.ArtistAnimation(figure, artists, interval=1000 / (self.fps or 30))


def _crop(picture: Tensor, height: int, width: int) -> Tensor:
    top = max(0, (picture.shape[-2] - height) // 2)
    left = max(0, (picture.shape[-1] - width) // 2)
    return picture[..., top : top + height, left : left + width]


def grid(pictures: Tensor) -> Tensor:
    """Lay ``pictures [N, C, H, W]`` out as one, ``[C, rows * H, columns * W]``.

    >>> grid(torch.zeros(5, 3, 4, 6)).shape
    torch.Size([3, 8, 18])
    """
    n, c, h, w = pictures.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = torch.cat([pictures, pictures.new_zeros(rows * columns - n, c, h, w)])
    return padded.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, -1)
