"""What transforms compute, as functions of tensors.

Shapes: ``*B`` any batch dimensions, ``T`` time, ``C, H, W`` channels, height, width of an image.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from torchrl._core.errors import ShapeError, describe

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as image libraries round it


def rgb_to_grayscale(img: Tensor, num_output_channels: int = 1) -> Tensor:
    """Return the luma of an image.

    Args:
        img: ``[*B, 3, H, W]``.
        num_output_channels: 1, or 3 equal ones.

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
                mend="Put ToTensorImage() before, if the channels come last.",
            )
        )
    red, green, blue = img.unbind(-3)
    gray = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue  # [*B, H, W]
    gray = gray.to(img.dtype).unsqueeze(-3)
    return gray if num_output_channels == 1 else gray.expand(img.shape)


def resize(img: Tensor, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """Return an image at another size.

    Args:
        img: ``[*B, C, H, W]``; integers are rounded.
        height: New height, pixels.
        width: New width, pixels.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` (both without aliasing), or
            ``"area"``: each pixel is the mean of the area that it covers, which is what the field
            uses for Atari games.

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
    if interpolation != "bicubic":  # a mean lies between its terms, but for rounding
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
        padding: What stands in for frames before the beginning: ``"same"`` the first frame, or
            ``"constant"``.
        padding_value: The constant.
        time_dim: Where ``T`` is, negative if ``*B`` is not empty.
        done_mask: ``[*B, T]``: true at the last frame of each trajectory.
        future: Concatenate with those that follow, the nearest first, instead.

    >>> cat_frames(torch.arange(3.0).view(3, 1), 2, -1, time_dim=0)
    tensor([[0., 0.],
            [0., 1.],
            [1., 2.]])
    """
    index, inside = frame_indices(tensor.shape[time_dim], N, done_mask, time_dim, future=future)
    frames = tensor.movedim(time_dim, 0)  # [T, *B, *S]
    if index.ndim == 2:
        stacked = frames[index]  # [T, N, *B, *S]
    else:
        lead = index.shape[2:]
        wide = index.reshape(*index.shape, *(1,) * (frames.ndim - 1 - len(lead)))
        source = frames.unsqueeze(1).expand(-1, N, *frames.shape[1:])
        stacked = source.gather(0, wide.expand(*index.shape[:2], *frames.shape[1:]))
    if padding == "constant":
        known = inside.reshape(*inside.shape, *(1,) * (stacked.ndim - inside.ndim))
        stacked = torch.where(known, stacked, torch.full_like(stacked, padding_value))
    return torch.cat(stacked.unbind(1), dim).movedim(0, time_dim)


def frame_indices(
    steps: int,
    num_frames: int,
    done_mask: Tensor | None = None,
    time_dim: int = -1,
    *,
    future: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return which frames each step sees, and which of those lie in its trajectory.

    Returns: ``index [T, N]`` or ``[T, N, *B]``, clamped to the trajectory, and a mask of the same
        shape: false where it was clamped.
    """
    step = torch.arange(steps)
    reach = torch.arange(num_frames) if future else torch.arange(1 - num_frames, 1)
    if done_mask is None:
        index = step[:, None] + reach  # [T, N]
        first, last = torch.tensor(0), torch.tensor(steps - 1)
    else:
        done = done_mask.movedim(time_dim, 0)  # [T, *B]
        step = step.to(done.device).reshape(-1, *(1,) * (done.ndim - 1)).expand(done.shape)
        begins = torch.cat([torch.ones_like(done[:1]), done[:-1]])
        first = torch.where(begins, step, 0).cummax(0).values.unsqueeze(1)
        ends = torch.where(done, step, steps - 1)
        last = ends.flip(0).cummin(0).values.flip(0).unsqueeze(1)
        reach = reach.to(done.device).reshape(1, -1, *(1,) * (done.ndim - 1))
        index = step.unsqueeze(1) + reach  # [T, N, *B]
    inside = (index >= first) & (index <= last)
    return index.clamp(first, last), inside
