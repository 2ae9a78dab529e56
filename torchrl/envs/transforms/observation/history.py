"""Frame stacking and the maximum over frames."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ResetError, describe
from torchrl._core.keys import as_keys, next_key
from torchrl._core.records.flat_record import Record
from torchrl._core.records.rows import expand_right
from torchrl.data import Binary, Bounded, Composite, Sampler, SliceSampler, TensorSpec
from torchrl.envs.transforms.base import Keys, R, State, Transform, time_dim
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.derived_specs import rearranged
from torchrl.envs.transforms.episode.tracking import done_keys, nearest_reset
from torchrl.envs.transforms.functional import windows
from torchrl.envs.transforms.observation.pixels import PIXELS

NEXT_DONE = ("next", "done")


class Windowed(Transform):
    """Base of transforms that make one entry of the last frames of an episode.

    The transform keeps a list of frames for each entry. A reset replaces the frames of the rows
    that are reset; rows that do not move keep theirs.

    Args:
        num_frames: Number of frames.
        in_keys: Entries read.
        out_keys: Where the results are written; in place if ``None``.
        reset_key: Name of the mask of rows that are reset; the one nearest to the entry if
            ``None``.

    Hooks:
        _combine: ``N x [*B, *S] -> [*B, *S']``, the oldest frame first.
        _begin: ``[*B, *S] -> N x [*B, *S]``, the frames at a reset; the first, repeated.
        _combine_windows: ``[T, N, *B, *S], [T, N, *B] -> [T, *B, *S']``; the same, all steps at
            once, with a mask of the frames that exist.
    """

    _frames: dict[NestedKey, list[Tensor]]
    _reset_keys: dict[NestedKey, NestedKey]

    def __init__(
        self, num_frames: int, in_keys: Keys, out_keys: Keys = None, reset_key: NestedKey | None = None
    ) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        if num_frames < 1:
            raise ValueError(f"{type(self).__name__}: the number of frames must be at least 1, found {num_frames}.")
        self.num_frames, self.reset_key = num_frames, reset_key
        self.__dict__.update(_frames={}, _reset_keys={})

    @abstractmethod
    def _combine(self, frames: list[Tensor]) -> Tensor: ...

    def _begin(self, frame: Tensor) -> list[Tensor]:
        return [frame] * self.num_frames

    @abstractmethod
    def _combine_windows(self, frames: Tensor, real: Tensor) -> Tensor: ...

    # --- in an environment -----------------------------------------------------------------------

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        moving = tensordict.get("_step", None)
        for source, destination, frame in self._read(next_tensordict):
            before = self._frames.get(source)
            if before is None or before[-1].shape != frame.shape:
                raise ResetError(
                    describe(
                        self,
                        "has no frames before this one",
                        key=source,
                        hint="Reset the environment that this transform belongs to first.",
                    )
                )
            frames = [*before[1:], frame]
            if moving is not None:
                frames = _rows(moving, frames, before)
            self._frames[source] = frames
            next_tensordict.set(destination, self._combine(frames))
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        for source, destination, frame in self._read(tensordict_reset):
            frames, before = self._begin(frame), self._frames.get(source)
            mask = self._mask(source, tensordict)
            if mask is not None and before is not None and before[-1].shape == frame.shape:
                frames = _rows(mask, frames, before)
            self._frames[source] = frames
            tensordict_reset.set(destination, self._combine(frames))
        return tensordict_reset

    def _mask(self, source: NestedKey, tensordict: Record | None) -> Tensor | None:
        if tensordict is None:
            return None
        key = self.reset_key or self._reset_keys.get(source, "_reset")
        mask = tensordict.get(key, None)
        return tensordict.get("_reset", None) if mask is None else mask

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the specs of the results."""
        dones = done_keys(specs)
        self._reset_keys.update({key: nearest_reset(key, dones) for key in self.in_keys})
        return super().transform_specs(specs)

    def get_extra_state(self) -> State:
        """Return the frames."""
        return {"frames": {key: list(frames) for key, frames in self._frames.items()}}

    def set_extra_state(self, state: State) -> None:
        """Restore the frames."""
        self.__dict__["_frames"] = {key: list(frames) for key, frames in state["frames"].items()}

    # --- on a batch of trajectories --------------------------------------------------------------

    done_key: NestedKey | None = None
    future = False

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Combine frames along time, the dimension of that name or the last one of ``[*B, T]``.

        Reads: the entries, and ``("next", "done")``, where trajectories end, if there is one. The
            frames before an entry under ``"next"`` are those at the root.
        """
        time = time_dim(tensordict)
        if time < 0:
            raise ValueError(
                f"{type(self).__name__}: expected a record with a time dimension, found an empty "
                "batch size; sample trajectories, or append the transform to an environment."
            )
        done = tensordict.get(self.done_key or NEXT_DONE, None)
        ends = None if done is None else done.squeeze(-1).movedim(time, -1)  # [*B, T]
        values: dict[NestedKey, Tensor] = {}
        for source, destination, frame in self._read(tensordict):
            values[destination] = self._along_time(tensordict, source, frame, time, ends)
        for destination, value in values.items():
            tensordict.set(destination, value)
        return tensordict

    def _along_time(
        self, td: TensorDictBase, source: NestedKey, frame: Tensor, time: int, ends: Tensor | None
    ) -> Tensor:
        own = source[1:] if isinstance(source, tuple) and source[0] == "next" else None
        root = None if own is None else td.get(own, None)
        if root is None or self.future:
            frames, real = windows(frame, self.num_frames, time, ends, future=self.future)
        else:
            before, real = windows(root, self.num_frames, time, ends)  # [T, N, *B, *S]
            latest = frame.movedim(time, 0).unsqueeze(1)
            frames = torch.cat([before[:, 1:], latest], 1)
            real = torch.cat([real[:, 1:], torch.ones_like(real[:, :1])], 1)
        return self._combine_windows(frames, real).movedim(0, time)


class CatFrames(Windowed):
    """Concatenates the last frames, the oldest first.

    In an environment the frames are kept from step to step; in a batch ``[*B, T]`` of a replay
    buffer they are taken along time, within each trajectory.

    Args:
        N: Number of frames.
        dim: Dimension to concatenate along, negative: -3 for images ``[C, H, W]``.
        in_keys: Entries read; ``pixels`` if ``None``.
        out_keys: Where to write the results; in place if ``None``.
        padding: Frames before the first one: ``"same"`` for the first one, or
            ``"constant"``.
        padding_value: The constant.
        as_inverse: In a buffer, concatenate what is stored instead of samples.
        reset_key: Name of the mask of rows that are reset; the one nearest to the entry if
            ``None``.
        done_key: End of trajectories in a batch; ``("next", "done")`` if ``None``.
        future: Concatenate with the later frames, in batches only.
        mask_key: Where to write which frames exist ``[*B, N]``.

    Raises:
        ValueError: for a ``dim`` that is not negative, or an unknown padding.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), CatFrames(4, -1, in_keys=["observation"]))
    >>> env.rollout(3)["observation"].shape
    torch.Size([3, 12])
    """

    supports_flat_records = True

    def __init__(
        self,
        N: int,  # noqa: N803 - the name that users know
        dim: int,
        in_keys: Keys = None,
        out_keys: Keys = None,
        padding: str = "same",
        padding_value: float = 0,
        as_inverse: bool = False,
        reset_key: NestedKey | None = None,
        done_key: NestedKey | None = None,
        future: bool = False,
        mask_key: NestedKey | None = None,
    ) -> None:
        super().__init__(N, in_keys, out_keys, reset_key)
        if dim >= 0:
            raise ValueError(
                f"CatFrames: expected a negative dim, counted from the end so that it holds for "
                f"any batch size, found {dim}."
            )
        if padding not in ("same", "constant"):
            raise ValueError(f"CatFrames: padding must be 'same' or 'constant', found {padding!r}.")
        self.N, self.dim, self.padding, self.padding_value = N, dim, padding, padding_value
        self.as_inverse, self.done_key, self.future = as_inverse, done_key, future
        self.mask_key = None if mask_key is None else as_keys(mask_key)[0]
        self.__dict__["_real"] = None

    _real: Tensor | None

    def get_extra_state(self) -> State:
        """Return the frames, and which of them exist."""
        return {**super().get_extra_state(), "real": self._real}

    def set_extra_state(self, state: State) -> None:
        """Restore the frames."""
        super().set_extra_state(state)
        self.__dict__["_real"] = state["real"]

    def _combine(self, frames: list[Tensor]) -> Tensor:
        return torch.cat(frames, self.dim)

    def _begin(self, frame: Tensor) -> list[Tensor]:
        if self.padding == "same":
            return [frame] * self.N
        return [torch.full_like(frame, self.padding_value)] * (self.N - 1) + [frame]

    def _combine_windows(self, frames: Tensor, real: Tensor) -> Tensor:
        if self.padding == "constant":
            real = real.reshape(*real.shape, *(1,) * (frames.ndim - real.ndim))
            frames = torch.where(real, frames, torch.full_like(frames, self.padding_value))
        return torch.cat(frames.unbind(1), self.dim)

    def _step(self, tensordict: Record, next_tensordict: R) -> R:
        super()._step(tensordict, next_tensordict)
        if self.mask_key is not None and self._real is not None:
            before = self._real
            real = torch.cat([before[..., 1:], torch.ones_like(before[..., :1])], -1)
            moving = tensordict.get("_step", None)
            self.__dict__["_real"] = real if moving is None else torch.where(moving, real, before)
            next_tensordict.set(self.mask_key, self._real)
        return next_tensordict

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        super()._reset(tensordict, tensordict_reset)
        if self.mask_key is not None:
            rows = self.inner.ended(tensordict_reset)  # [*B, 1]
            real = torch.zeros_like(rows).repeat(*(1,) * (rows.ndim - 1), self.N)
            real[..., -1] = True
            mask = self.inner.reset_rows(tensordict)
            if self.reset_key is not None and tensordict is not None:
                mask = tensordict.get(self.reset_key, mask)
            if mask is not None and self._real is not None:
                real = torch.where(mask, real, self._real)
            self.__dict__["_real"] = real
            tensordict_reset.set(self.mask_key, real)
        return tensordict_reset

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Concatenate along time, unless ``as_inverse``."""
        return tensordict if self.as_inverse else self._concatenated(tensordict)

    def inv(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Concatenate along time, in a copy, with ``as_inverse``."""
        copy = tensordict.copy()
        return self._concatenated(copy) if self.as_inverse else copy

    def _concatenated(self, td: TensorDictBase) -> TensorDictBase:
        super().forward(td)
        if self.mask_key is not None:
            time = time_dim(td)
            done = td.get(self.done_key or NEXT_DONE).squeeze(-1).movedim(time, -1)  # [*B, T]
            _, real = windows(done, self.N, -1, done, future=self.future)
            td.set(self.mask_key, real.movedim(1, -1).movedim(0, time))
        return td

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if self.padding == "constant" and isinstance(spec, Bounded):
            low = spec.low.clamp_max(self.padding_value)
            high = spec.high.clamp_min(self.padding_value)
            spec = Bounded(low, high, shape=spec.shape, dtype=spec.dtype, device=spec.device)
        return rearranged(spec, lambda x: torch.cat([x] * self.N, self.dim))

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the specs of the concatenated frames.

        Raises:
            ValueError: for a transform that only fits a replay buffer.
        """
        if self.future or self.as_inverse:
            raise ValueError(
                "CatFrames: future=True and as_inverse=True are for replay buffers; an environment "
                "does not know what follows."
            )
        super().transform_specs(specs)
        if self.mask_key is not None:
            shape, device = (*specs["done"].shape, self.N), specs["done"].device
            mask = Binary(shape=shape, dtype=torch.bool, device=device)
            specs["observation"][self.mask_key] = mask
        return specs

    def make_rb_transform_and_sampler(self, batch_size: int, **sampler_kwargs: Any) -> tuple[Transform, Sampler]:
        """Return a transform and a sampler for a buffer of single frames.

        The sampler draws slices of ``N`` steps, the transform concatenates each slice into one
        step, at the root and under ``"next"``, so that a frame is stored once.

        Args:
            batch_size: Batch size of the buffer: number of steps in a sample.
            sampler_kwargs: Passed to :class:`~torchrl.data.SliceSampler`. Slices are not marked as ended, which
                would end the episode of each step of the sample.
        """

        def split(td: TensorDictBase) -> TensorDictBase:
            return td.reshape(-1, self.N)

        frames = self.clone()
        frames.in_keys = [*self.in_keys, *map(next_key, self.in_keys)]
        frames.out_keys = [*self.out_keys, *map(next_key, self.out_keys)]
        frames.missing_tolerance = True  # of data without next observations
        transform = Compose(split, frames, _last_step)
        return transform, WindowSampler(slice_len=self.N, **{"truncated_key": None, **sampler_kwargs})


def _last_step(td: TensorDictBase) -> TensorDictBase:
    return td[..., -1]


class WindowSampler(SliceSampler):
    """Draws a slice for each step of a sample: ``slice_len`` times as many steps as asked for."""

    def sizes(self, batch_size: int) -> tuple[int, int]:
        """Return the number of slices, ``batch_size``, and their length."""
        return super().sizes(batch_size * int(self.slice_len or 1))


class TimeMaxPool(Windowed):
    """Returns the elementwise maximum of the last frames: games whose sprites flicker.

    Args:
        in_keys: Entries read; ``pixels`` if ``None``.
        out_keys: Where to write the results; in place if ``None``.
        T: Number of frames.
        reset_key: Name of the mask of rows that are reset; the one nearest to the entry if
            ``None``.

    Source: Mnih et al., 2015, https://doi.org/10.1038/nature14236, "Preprocessing".

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), TimeMaxPool(["observation"], T=2))
    >>> env.rollout(3)["observation"].shape
    torch.Size([3, 3])
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: Keys = None,
        out_keys: Keys = None,
        T: int = 1,  # noqa: N803 - the name that users know
        reset_key: NestedKey | None = None,
    ) -> None:
        super().__init__(T, in_keys, out_keys, reset_key)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the maximum along time of trajectories ``[*B, T]``.

        Raises:
            NotImplementedError: for a record without a dimension named ``"time"`` or
                ``("next", "done")``.
        """
        if "time" not in tensordict.names and tensordict.get(NEXT_DONE, None) is None:
            hint = "Append it to the environment that collects the data, or pass whole trajectories."
            raise NotImplementedError(describe(self, "needs the frames before each one", expected=NEXT_DONE, hint=hint))
        return super().forward(tensordict)

    def _combine(self, frames: list[Tensor]) -> Tensor:
        most = frames[0]
        for frame in frames[1:]:
            most = torch.maximum(most, frame)
        return most

    def _combine_windows(self, frames: Tensor, real: Tensor) -> Tensor:
        return frames.amax(1)


def _rows(mask: Tensor, new: list[Tensor], old: list[Tensor]) -> list[Tensor]:
    rows = expand_right(mask, new[-1].shape)
    return [torch.where(rows, a, b) for a, b in zip(new, old, strict=True)]
