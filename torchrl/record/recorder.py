"""Recordings of rollouts, as transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, leaf_keys, require
from torchrl._core.optional import require_package
from torchrl.data import Bounded, Composite, NonTensor, TensorSpec, Unbounded
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
        out_keys: Another name for the frames, under which they go on as well; none if ``None``.
        fps: Frames per second; the logger's own if ``None``.
        max_frames: Keep no more than this many.
        dump_on_done: Write the video at each end of an episode (of all rows at once).

    Reads: ``pixels``. Writes: ``out_keys``.

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
        out_keys: Sequence[NestedKey] | None = None,
        *,
        fps: float | None = None,
        max_frames: int | None = None,
        dump_on_done: bool = False,
    ) -> None:
        super().__init__(["pixels"] if in_keys is None else in_keys, out_keys)
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
        if self.out_keys != self.in_keys:
            tensordict.set(self.out_keys[0], value)
        return tensordict

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        next_tensordict = self._call(next_tensordict)
        if self.dump_on_done and bool(next_tensordict.get("done").all()):
            self.dump()
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Keep the frame of a record, or the frames ``[T]`` of a batch of them."""
        for step in tensordict.unbind(0) if tensordict.ndim else [tensordict]:
            self._call(step.copy())
        if self.out_keys != self.in_keys:
            tensordict.set(self.out_keys[0], tensordict.get(self.in_keys[0]))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Look for the frames, and give their spec to their other name."""
        self._check_keys(specs)
        if self.out_keys != self.in_keys:
            specs["observation"][self.out_keys[0]] = specs["observation"][self.in_keys[0]].clone()
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


class TensorDictRecorder(Transform):
    """Keeps the records of an environment and writes them to a file.

    Args:
        out_file_base: Path of the file, without its ending ``.pt``.
        skip_reset: Leave out what resets return.
        skip: Keep one record in this many.
        in_keys: The entries to keep; all of them if ``None``.

    Reads: ``in_keys``. Writes nothing.

    Raises:
        MissingKeyError: if an entry to keep is absent.

    >>> import tempfile
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> recorder = TensorDictRecorder(tempfile.mkdtemp() + "/run", skip=1, in_keys=["observation"])
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), recorder)
    >>> _ = env.rollout(3)
    >>> torch.load(env.transform.dump())["observation"].shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        out_file_base: str | Path,
        skip_reset: bool = True,
        skip: int = 4,
        in_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(in_keys)
        if skip < 1:
            raise ValueError(f"TensorDictRecorder: skip must be at least 1, found {skip}.")
        self.out_file_base, self.skip_reset, self.skip = str(out_file_base), skip_reset, skip
        self.records: list[TensorDictBase] = []  # [*B]
        self._seen = 0

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        require(tensordict, self.in_keys, self, "Name what there is in in_keys.")
        if self._seen % self.skip == 0:
            kept = tensordict.select(*self.in_keys) if self.in_keys else tensordict
            self.records.append(kept.detach().clone())  # an environment may reuse its tensors
        self._seen += 1
        return tensordict

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return tensordict_reset if self.skip_reset else self._call(tensordict_reset)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Look for the entries to keep; no spec changes."""
        self._check_keys(specs)
        return specs

    def dump(self, suffix: str | None = None) -> Path | None:
        """Write the records, stacked along a first dimension ``[N, *B]``, and forget them.

        Entries that only some records have are left out, such as the reward, which a reset lacks.

        Args:
            suffix: Added to the name of the file.

        Returns: the path of the file, for ``torch.load``, or ``None`` without records.
        """
        if not self.records:
            return None
        name = self.out_file_base if suffix is None else f"{self.out_file_base}_{suffix}"
        path = Path(f"{name}.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        keys: list[Any] = [set(leaf_keys(record)) for record in self.records]
        common = sorted(set.intersection(*keys), key=str)
        torch.save(torch.stack([record.select(*common) for record in self.records]), path)
        self.records, self._seen = [], 0
        return path


class PixelRenderTransform(Transform):
    """Writes a picture of the environment after each reset and step.

    The environment inside is reset once, to see what a picture looks like: seed it afterwards.

    Args:
        out_keys: Where the picture goes, one entry; ``pixels`` if ``None``.
        preproc: Applied to what the environment returns: ``array -> array`` or tensor.
        as_non_tensor: Keep what is drawn as it is, a Python object; made a tensor if ``None``.
        render_method: Name of the method that draws. It returns ``[H, W, C]``, or one such for
            each row of a batched environment.
        pass_tensordict: Hand the record to that method.
        kwargs: Further arguments of that method.

    Writes: ``pixels [*B, H, W, C]``.

    Raises:
        RuntimeError: without an environment, or if that draws nothing.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = GymEnv("CartPole-v1", render_mode="rgb_array")
    >>> TransformedEnv(env, PixelRenderTransform()).rollout(2)["next", "pixels"].shape
    torch.Size([2, 400, 600, 3])
    """

    def __init__(
        self,
        out_keys: Sequence[NestedKey] | None = None,
        preproc: Callable[[Any], Any] | None = None,
        as_non_tensor: bool | None = None,
        *,
        render_method: str = "render",
        pass_tensordict: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.out_keys = ["pixels"] if out_keys is None else as_keys(out_keys)
        if len(self.out_keys) != 1:
            raise ValueError(
                f"PixelRenderTransform: expected one entry to write, found {self.out_keys}."
            )
        self.preproc, self.render_method = preproc, render_method
        self.pass_tensordict, self.kwargs = pass_tensordict, kwargs
        self.as_non_tensor = bool(as_non_tensor)
        self.is_on = True
        self._spec: TensorSpec | None = None

    def switch(self, mode: str | bool | None = None) -> None:
        """Turn drawing ``"on"`` or ``"off"``, or over; the entry and its spec come and go with it.

        Raises:
            ValueError: if ``mode`` is none of these.
        """
        modes = {"on": True, True: True, "off": False, False: False, None: not self.is_on}
        if mode not in modes:
            raise ValueError(
                f"PixelRenderTransform: expected 'on', 'off' or nothing, found {mode!r}."
            )
        self.is_on = modes[mode]
        if self._container is not None:
            self._owner().empty_cache()

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.is_on:
            tensordict.set(self.out_keys[0], self._picture(tensordict))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the picture to the observations, as large as the first one was."""
        if self.is_on:
            if self._spec is None:
                env = self._owner().base_env
                self._spec = _spec_of(self._picture(env.reset()), env.batch_size)
            specs["observation"][self.out_keys[0]] = self._spec.clone()
        return specs

    def _owner(self) -> Any:
        """Return the environment that this is a transform of."""
        place = self._container
        while isinstance(place, Transform):
            place = place.container
        if place is None:
            hint = "Put it into a TransformedEnv."
            raise RuntimeError(describe(self, "has no environment to draw", hint=hint))
        return place

    def _picture(self, tensordict: TensorDictBase) -> Any:
        env = self._owner().base_env
        draw = getattr(env, self.render_method)
        value = draw(tensordict, **self.kwargs) if self.pass_tensordict else draw(**self.kwargs)
        if value is None:
            hint = "Build the environment with render_mode='rgb_array', perhaps."
            fact = f"got nothing from {self.render_method}() of {type(env).__name__}"
            raise RuntimeError(describe(self, fact, hint=hint))
        if isinstance(value, list | tuple) and not self.as_non_tensor:
            value = torch.stack([torch.as_tensor(np.array(row)) for row in value])
        if self.preproc is not None:
            value = self.preproc(value)
        if self.as_non_tensor:
            if not env.batch_size:
                return NonTensorData(value)
            return NonTensorStack(*(NonTensorData(row) for row in value))
        # a copy: simulators reuse and flip their arrays
        return value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))


def _spec_of(picture: Any, batch: torch.Size) -> TensorSpec:
    if not isinstance(picture, Tensor):
        example = picture[0] if batch else picture
        return NonTensor(batch, example_data=example.data, batched=bool(batch))
    if picture.dtype == torch.uint8:
        return Bounded(0, 255, shape=picture.shape, dtype=torch.uint8)
    return Unbounded(picture.shape, dtype=picture.dtype)


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
