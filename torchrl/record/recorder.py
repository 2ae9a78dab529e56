"""Transforms that record videos and data of an environment, or render its images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys, leaf_keys, require
from torchrl._core.optional import require_package
from torchrl._core.records.flat_record import Record
from torchrl.data import Bounded, Composite, NonTensor, TensorSpec, Unbounded
from torchrl.envs.transforms.base import Transform
from torchrl.record.loggers import Logger

R = TypeVar("R", bound=Record)


class VideoRecorder(Transform):
    """Record the frames of an environment and log them as a video.

    A frame is recorded at each reset and after each step.

    Args:
        logger: The logger.
        tag: Name of the video.
        in_keys: The frames, ``[*B, H, W, C]`` or ``[*B, C, H, W]``, bytes or floats in [0, 1]; one
            entry; ``pixels`` if ``None``.
        skip: Record every ``skip``-th frame.
        center_crop: Height and width of a crop at the centre, or one number for both.
        make_grid: Arrange the frames of a batched environment in a grid (the default), rather than
            one video each.
        out_keys: Another entry to which the frames are copied; none if ``None``.
        fps: Frames per second; that of the logger if ``None``.
        max_frames: Record at most this many.
        dump_on_done: Write the video when an episode ends (in all rows at once).

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

    supports_flat_records = True

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

    def _call(self, tensordict: R) -> R:
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

    def _step(self, tensordict: R, next_tensordict: R) -> R:
        next_tensordict = self._call(next_tensordict)
        if self.dump_on_done and bool(next_tensordict.get("done").all()):
            self.dump()
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Record the frame of one step, or the frames of ``[T]`` steps."""
        for step in tensordict.unbind(0) if tensordict.ndim else [tensordict]:
            self._call(step.copy())
        if self.out_keys != self.in_keys:
            tensordict.set(self.out_keys[0], tensordict.get(self.in_keys[0]))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Check that the frames exist, and copy their spec to ``out_keys``."""
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
            height, width = self.center_crop
            top, left = max(0, (value.shape[-2] - height) // 2), max(0, (value.shape[-1] - width) // 2)
            value = value[..., top : top + height, left : left + width]
        value = value.clone() if value.ndim == 3 else value.reshape(-1, *value.shape[-3:])
        return grid(value) if value.ndim == 4 and self.make_grid else value

    def dump(self, suffix: str | None = None, step: int | None = None) -> Tensor | None:
        """Write the video and drop its frames.

        Args:
            suffix: Added to the name of the video.
            step: Step of the video; a count of the videos if ``None``.

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
        """Return the frames so far as a matplotlib animation, for notebooks.

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
    """Record the data of each step of an environment and write them to a file.

    Args:
        out_file_base: Path of the file, without its suffix ``.pt``.
        skip_reset: Do not record resets.
        skip: Record every ``skip``-th step.
        in_keys: The entries to record; all of them if ``None``.

    Reads: ``in_keys``. Writes nothing.

    Raises:
        MissingKeyError: if an entry to record is absent.

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
        require(tensordict, self.in_keys, self, "Choose in_keys among the entries.")
        if self._seen % self.skip == 0:
            kept = tensordict.select(*self.in_keys) if self.in_keys else tensordict
            self.records.append(kept.detach().clone())  # an environment may reuse its tensors
        self._seen += 1
        return tensordict

    def _reset(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return tensordict_reset if self.skip_reset else self._call(tensordict_reset)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Check that the entries exist; specs are unchanged."""
        self._check_keys(specs)
        return specs

    def dump(self, suffix: str | None = None) -> Path | None:
        """Write the records, stacked along a first dimension ``[N, *B]``, and drop them.

        Entries that only some records have are omitted, such as the reward, which a reset lacks.

        Args:
            suffix: Added to the name of the file.

        Returns: the path of the file, for ``torch.load``, or ``None`` without records.
        """
        if not self.records:
            return None
        name = self.out_file_base if suffix is None else f"{self.out_file_base}_{suffix}"
        path = Path(f"{name}.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = [set(leaf_keys(record)) for record in self.records]
        common = sorted(set.intersection(*keys), key=str)
        torch.save(torch.stack([record.select(*common) for record in self.records]), path)
        self.records, self._seen = [], 0
        return path


class PixelRenderTransform(Transform):
    """Render the environment after each reset and step.

    The base environment is reset once, to get the shape of its images: seed it afterwards.

    Args:
        out_keys: The entry of the images, one key; ``pixels`` if ``None``.
        preproc: Applied to the rendered image: ``array -> array`` or tensor.
        as_non_tensor: Keep the rendered image as a Python object; convert it to a tensor if
            ``None``.
        render_method: Name of the method that renders. It returns ``[H, W, C]``, or one such image
            for each row of a batched environment.
        pass_tensordict: Pass the tensordict of the step to that method.
        kwargs: Further arguments of that method.

    Writes: ``pixels [*B, H, W, C]``.

    Raises:
        RuntimeError: without an environment, or if it renders nothing.

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
            raise ValueError(f"PixelRenderTransform: expected one entry to write, found {self.out_keys}.")
        self.preproc, self.render_method = preproc, render_method
        self.pass_tensordict, self.kwargs = pass_tensordict, kwargs
        self.as_non_tensor = bool(as_non_tensor)
        self.is_on = True
        self._spec: TensorSpec | None = None

    def switch(self, mode: str | bool | None = None) -> None:
        """Turn rendering ``"on"`` or ``"off"``, or toggle it; when off, the entry has no spec.

        Raises:
            ValueError: if ``mode`` is none of these.
        """
        modes = {"on": True, True: True, "off": False, False: False, None: not self.is_on}
        if mode not in modes:
            raise ValueError(f"PixelRenderTransform: expected 'on', 'off' or nothing, found {mode!r}.")
        self.is_on = modes[mode]
        if self._container is not None:
            self._owner().empty_cache()

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.is_on:
            tensordict.set(self.out_keys[0], self._picture(tensordict))
        return tensordict

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the images to the observations, with the shape of a first one."""
        if self.is_on:
            if self._spec is None:
                env = self._owner().base_env
                self._spec = _spec_of(self._picture(env.reset()), env.batch_size)
            specs["observation"][self.out_keys[0]] = self._spec.clone()
        return specs

    def _owner(self) -> Any:
        """Return the environment that this transform is part of."""
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
        # a copy, as simulators reuse their arrays, some with negative strides
        return value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))


def _spec_of(picture: Any, batch: torch.Size) -> TensorSpec:
    if not isinstance(picture, Tensor):
        example = picture[0] if batch else picture
        return NonTensor(batch, example_data=example.data, batched=bool(batch))
    if picture.dtype == torch.uint8:
        return Bounded(0, 255, shape=picture.shape, dtype=torch.uint8)
    return Unbounded(picture.shape, dtype=picture.dtype)


def grid(pictures: Tensor) -> Tensor:
    """Arrange ``pictures [N, C, H, W]`` in one image ``[C, rows * H, columns * W]``.

    >>> grid(torch.zeros(5, 3, 4, 6)).shape
    torch.Size([3, 8, 18])
    """
    n, c, h, w = pictures.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    padded = torch.cat([pictures, pictures.new_zeros(rows * columns - n, c, h, w)])
    return padded.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, -1)
