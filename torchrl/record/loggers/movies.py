"""Frames to files that a browser plays."""

from __future__ import annotations

from torch import Tensor

from torchrl._core.optional import require_package


def encode_movie(pictures: Tensor, suffix: str, fps: float, *, needed_by: object) -> bytes:
    """Return the bytes of a file that shows these pictures one after the other.

    Args:
        pictures: Frames ``[T, H, W, C]``, uint8, with one or three channels.
        suffix: ``".mp4"`` or ``".gif"``. An mp4 has even sides: odd ones grow by their last row or
            column.
        fps: Frames per second.
        needed_by: Who asks, for the message.

    Raises:
        ImportError: if imageio, or for mp4 imageio-ffmpeg, is not installed.
    """
    imageio = require_package("imageio.v3", needed_by=needed_by, extra="rendering")
    if pictures.shape[-1] == 1:
        pictures = pictures.expand(*pictures.shape[:-1], 3)
    if suffix == ".gif":
        return imageio.imwrite(
            "<bytes>", pictures.numpy(), extension=".gif", duration=1000 / fps, loop=0
        )
    require_package("imageio_ffmpeg", needed_by=needed_by, extra="rendering")
    _, height, width, _ = pictures.shape
    pictures = pictures[:, _even(height)][:, :, _even(width)]
    return imageio.imwrite(
        "<bytes>", pictures.numpy(), extension=suffix, fps=fps, macro_block_size=1
    )


def _even(side: int) -> list[int]:
    """Return the indices of a side, the last one twice if they are odd in number.

    The usual encoding halves the resolution of colour, so height and width must be even.
    """
    return [*range(side), side - 1][: side + side % 2]
