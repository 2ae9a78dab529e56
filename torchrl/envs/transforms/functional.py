"""Functions of tensors that transforms compute.

Shapes: ``*B`` any batch dimensions, ``T`` time, ``C, H, W`` channels, height and width of an image.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from torchrl._core.errors import ShapeError, describe


def affine(x: Tensor, loc: Tensor, scale: Tensor, *, standard_normal: bool) -> Tensor:
    """Return ``x * scale + loc``, or ``(x - loc) / scale`` if ``standard_normal``.

    >>> affine(torch.tensor(3.0), torch.tensor(1.0), torch.tensor(2.0), standard_normal=True)
    tensor(1.)
    """
    return (x - loc) / scale if standard_normal else torch.addcmul(loc, x, scale)


_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as image libraries round it


def rgb_to_grayscale(img: Tensor, num_output_channels: int = 1) -> Tensor:
    """Return the luma of an image.

    Args:
        img: ``[*B, 3, H, W]``.
        num_output_channels: 1, or 3 equal channels.

    Raises:
        ShapeError: if the image does not have three channels.

    >>> rgb_to_grayscale(torch.ones(3, 1, 1)).flatten()
    tensor([0.9999])
    """
    if img.ndim < 3 or img.shape[-3] != 3:
        raise ShapeError(
            describe(
                "rgb_to_grayscale",
                "needs three channels",
                expected="[*B, 3, H, W]",
                found=tuple(img.shape),
                hint="Append ToTensorImage() before, if the channels come last.",
            )
        )
    red, green, blue = img.unbind(-3)
    gray = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue  # [*B, H, W]
    gray = (gray if img.is_floating_point() else gray.round()).to(img.dtype).unsqueeze(-3)
    return gray if num_output_channels == 1 else gray.expand(img.shape)


def resize(img: Tensor, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """Return an image of another size.

    Args:
        img: ``[*B, C, H, W]``; integers are rounded.
        height: New height, pixels.
        width: New width, pixels.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` (both antialiased), or
            ``"area"``: each pixel is the mean of the area that it covers, as is usual for Atari
            games.

    >>> resize(torch.arange(4.0).view(1, 2, 2), 1, 1, "area")
    tensor([[[1.5000]]])
    """
    flat = img.reshape(-1, *img.shape[-3:])
    flat = flat if img.is_floating_point() else flat.to(torch.float32)
    bounds = flat.aminmax()
    if interpolation == "area":
        rows = _cover(img.shape[-2], height).to(flat)  # [height, H]
        columns = _cover(img.shape[-1], width).to(flat)  # [width, W]
        flat = rows @ (flat @ columns.T)
    elif interpolation == "nearest":
        flat = interpolate(flat, (height, width), mode="nearest")
    else:
        flat = interpolate(flat, (height, width), mode=interpolation, antialias=True)
    if interpolation != "bicubic":  # a mean lies between its terms, apart from rounding
        flat = flat.clamp(*bounds)
    if not img.is_floating_point():
        flat = flat.round_().clamp_(0, torch.iinfo(img.dtype).max).to(img.dtype)
    return flat.reshape(*img.shape[:-2], height, width)


@lru_cache(maxsize=16)
def _cover(size: int, new: int) -> Tensor:
    """Return how much of each of ``size`` cells each of ``new`` cells covers, rows summing to 1."""
    edges = torch.arange(new + 1, dtype=torch.float64) * size / new
    cells = torch.arange(size, dtype=torch.float64)
    start = torch.maximum(edges[:-1, None], cells)  # [new, size]
    stop = torch.minimum(edges[1:, None], cells + 1)
    return (stop - start).clamp_min(0) * new / size


def cat_frames(
    tensor: Tensor,
    N: int,  # noqa: N803 - the name that users know
    dim: int,
    *,
    padding: str = "same",
    padding_value: float = 0.0,
    time_dim: int = -1,
    done_mask: Tensor | None = None,
    future: bool = False,
) -> Tensor:
    """Concatenate each frame with the ``N - 1`` before it, the oldest first.

    Args:
        tensor: ``[*B, T, *S]``.
        N: Number of frames.
        dim: Dimension of ``S`` along which to concatenate, negative.
        padding: Frames before the start: ``"same"`` for the first frame, or
            ``"constant"``.
        padding_value: The constant.
        time_dim: Where ``T`` is, negative if ``*B`` is not empty.
        done_mask: ``[*B, T]``: true at the last frame of each trajectory.
        future: Concatenate with the later frames, the nearest first, instead.

    >>> cat_frames(torch.arange(3.0).view(3, 1), 2, -1, time_dim=0)
    tensor([[0., 0.],
            [0., 1.],
            [1., 2.]])
    """
    frames, real = windows(tensor, N, time_dim, done_mask, future=future)  # [T, N, *B, *S]
    if padding == "constant":
        real = real.reshape(*real.shape, *(1,) * (frames.ndim - real.ndim))
        frames = torch.where(real, frames, torch.full_like(frames, padding_value))
    return torch.cat(frames.unbind(1), dim).movedim(0, time_dim)


def windows(
    tensor: Tensor, num_frames: int, time_dim: int, done_mask: Tensor | None = None, *, future: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the window of frames of each step, and which of them are in its trajectory.

    Args:
        tensor: ``[*B, T, *S]``.
        num_frames: Number of frames ``N``, the step's own included.
        time_dim: Where ``T`` is.
        done_mask: ``[*B, T]``: true at the last frame of each trajectory.
        future: Look forward instead of back.

    Returns: frames ``[T, N, *B, *S]``, clamped to the trajectory, and a mask ``[T, N]`` or
        ``[T, N, *B]``, false where they were clamped.
    """
    frames = tensor.movedim(time_dim, 0)  # [T, *B, *S]
    done = None if done_mask is None else done_mask.movedim(-1, 0)  # [T, *B]
    index, real = frame_indices(len(frames), num_frames, done, future=future)
    index, real = index.to(tensor.device), real.to(tensor.device)
    if index.ndim == 2:
        return frames[index], real
    wide = index.reshape(*index.shape, *(1,) * (frames.ndim + 1 - index.ndim))
    source = frames.unsqueeze(1).expand(-1, num_frames, *frames.shape[1:])
    return source.gather(0, wide.expand(*index.shape[:2], *frames.shape[1:])), real


def frame_indices(
    steps: int, num_frames: int, done: Tensor | None = None, *, future: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the indices of the window of frames of each step.

    Args:
        steps: Number of steps ``T``.
        num_frames: Number of frames ``N``.
        done: ``[T, *B]``: true at the last frame of each trajectory.
        future: Look forward instead of back, the nearest first.

    Returns: ``index [T, N]`` or ``[T, N, *B]``, clamped to the trajectory, and a mask of the same
        shape, false where it was clamped.

    >>> frame_indices(3, 2)[0].tolist()
    [[0, 0], [0, 1], [1, 2]]
    """
    step, reach = torch.arange(steps), torch.arange(num_frames) - (0 if future else num_frames - 1)
    if done is None:
        index = step[:, None] + reach  # [T, N]
        first, last = torch.tensor(0), torch.tensor(steps - 1)
    else:
        ones = (1,) * (done.ndim - 1)
        step = step.to(done.device).reshape(-1, *ones).expand(done.shape)
        starts = torch.cat([torch.ones_like(done[:1]), done[:-1]])
        first = torch.where(starts, step, 0).cummax(0).values.unsqueeze(1)  # [T, 1, *B]
        ends = torch.where(done, step, steps - 1)
        last = ends.flip(0).cummin(0).values.flip(0).unsqueeze(1)
        index = step.unsqueeze(1) + reach.to(done.device).reshape(1, -1, *ones)  # [T, N, *B]
    return index.clamp(first, last), (index >= first) & (index <= last)
