"""Transforms of images: to tensor, grayscale, resize, crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl.data import Bounded, TensorSpec, Unbounded
from torchrl.envs.transforms.base import Keys, Transform
from torchrl.envs.transforms.derived_specs import Function, rearranged
from torchrl.envs.transforms.functional import resize, rgb_to_grayscale

PIXELS: list[NestedKey] = ["pixels"]


class ObservationTransform(Transform):
    """Base of transforms of observations: ``observation`` and ``pixels`` by default.

    Args:
        in_keys: Entries read; ``observation`` and ``pixels``, those that exist, if ``None``.
        out_keys: Where the results are written; in place if ``None``.
        in_keys_inv: Entries mapped back in the inverse pass.
        out_keys_inv: Their names outside.

    Hooks:
        As of :class:`Transform`.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> class Halve(ObservationTransform):
    ...     def _apply_transform(self, value):
    ...         return value / 2
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), Halve())
    >>> bool((env.reset()["observation"][..., :2].abs() <= 0.5).all())
    True
    """

    def __init__(
        self, in_keys: Keys = None, out_keys: Keys = None, in_keys_inv: Keys = None, out_keys_inv: Keys = None
    ) -> None:
        keys = ["observation", "pixels"] if in_keys is None else in_keys
        super().__init__(keys, out_keys, in_keys_inv, out_keys_inv)
        self.missing_tolerance = in_keys is None


class ToTensorImage(Transform):
    """Moves channels first and scales bytes to numbers between 0 and 1.

    Args:
        from_int: Divide by 255; if ``None``, where entries are integers.
        unsqueeze: Add a leading dimension of size 1.
        dtype: Dtype of the result; torch's default if ``None``.
        in_keys: The images ``[*B, H, W, C]``; ``pixels`` if ``None``.
        out_keys: Where to write them, ``[*B, C, H, W]``; in place if ``None``.
        shape_tolerant: Leave the channels where they are if they are first already.

    >>> from tensordict import TensorDict
    >>> frame = torch.full((4, 6, 3), 255, dtype=torch.uint8)
    >>> image = ToTensorImage()(TensorDict(pixels=frame))["pixels"]
    >>> image.shape, image.max()
    (torch.Size([3, 4, 6]), tensor(1.))
    """

    supports_flat_records = True

    def __init__(
        self,
        from_int: bool | None = None,
        unsqueeze: bool = False,
        dtype: torch.dtype | None = None,
        *,
        in_keys: Keys = None,
        out_keys: Keys = None,
        shape_tolerant: bool = False,
    ) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        self.from_int, self.unsqueeze, self.dtype = from_int, unsqueeze, dtype
        self.shape_tolerant = shape_tolerant

    def _apply_transform(self, value: Tensor) -> Tensor:
        keeps = self.shape_tolerant and value.shape[-3] in (1, 3) and value.shape[-1] > 4
        image = value if keeps else value.movedim(-1, -3)
        image = image.unsqueeze(-4) if self.unsqueeze else image
        dtype = self.dtype or torch.get_default_dtype()
        scaled = not value.is_floating_point() if self.from_int is None else self.from_int
        # Contiguous in one pass: a permuted view would slow down later transforms.
        image = image.to(dtype, memory_format=torch.contiguous_format)
        return image / 255 if scaled else image.contiguous()

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if len(spec.shape) < 3:
            raise ShapeError(describe(self, "needs images", expected="[*B, H, W, C]", found=tuple(spec.shape)))
        if isinstance(spec, Bounded):
            low, high = self._apply_transform(spec.low), self._apply_transform(spec.high)
            return Bounded(low, high, shape=low.shape, dtype=low.dtype, device=spec.device)
        image = self._apply_transform(spec.zero())
        if spec.dtype is torch.uint8 and self.from_int is not False:
            return Bounded(0.0, 1.0, shape=image.shape, dtype=image.dtype, device=spec.device)
        return Unbounded(image.shape, dtype=image.dtype, device=spec.device)


class GrayScale(Transform):
    """Converts colours to gray.

    Args:
        in_keys: The images ``[*B, 3, H, W]``; ``pixels`` if ``None``.
        out_keys: Where to write them, ``[*B, 1, H, W]``; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> GrayScale()(TensorDict(pixels=torch.zeros(3, 4, 6)))["pixels"].shape
    torch.Size([1, 4, 6])
    """

    supports_flat_records = True

    def __init__(self, in_keys: Keys = None, out_keys: Keys = None) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)

    def _apply_transform(self, value: Tensor) -> Tensor:
        return rgb_to_grayscale(value)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return _pixel_spec(spec, self._apply_transform)


class Resize(Transform):
    """Resizes images.

    Args:
        w: Width, pixels; a pair is ``(w, h)``.
        h: Height, pixels; ``w`` if ``None``.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``; see
            :func:`~torchrl.envs.transforms.functional.resize`.
        in_keys: The images ``[*B, C, H, W]``; ``pixels`` if ``None``.
        out_keys: Where to write them; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> Resize(84)(TensorDict(pixels=torch.zeros(3, 210, 160)))["pixels"].shape
    torch.Size([3, 84, 84])
    """

    supports_flat_records = True

    def __init__(
        self,
        w: int | Sequence[int],
        h: int | None = None,
        interpolation: str = "bilinear",
        in_keys: Keys = None,
        out_keys: Keys = None,
    ) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        self.w, self.h = _size(w, h)
        interpolation = str(getattr(interpolation, "value", interpolation))
        known = ("bilinear", "bicubic", "nearest", "area")
        if interpolation not in known:
            raise ValueError(f"Resize: expected an interpolation among {known}, found {interpolation!r}.")
        self.interpolation = interpolation

    def _apply_transform(self, value: Tensor) -> Tensor:
        if value.shape[-2:] == (self.h, self.w):
            return value
        return resize(value, self.h, self.w, self.interpolation)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        if self.interpolation == "bicubic":  # it overshoots the bounds
            shape = (*spec.shape[:-2], self.h, self.w)
            return Unbounded(shape, dtype=spec.dtype, device=spec.device)
        return _pixel_spec(spec, self._apply_transform)


class Crop(Transform):
    """Crops images to a rectangle.

    Args:
        w: Width, pixels.
        h: Height, pixels; ``w`` if ``None``.
        top: First row.
        left: First column.
        in_keys: The images ``[*B, C, H, W]``; ``pixels`` if ``None``.
        out_keys: Where to write them; in place if ``None``.

    Raises:
        ShapeError: if the rectangle is not inside the image.

    >>> from tensordict import TensorDict
    >>> Crop(2, 3)(TensorDict(pixels=torch.zeros(3, 8, 8)))["pixels"].shape
    torch.Size([3, 3, 2])
    """

    supports_flat_records = True

    def __init__(
        self, w: int, h: int | None = None, top: int = 0, left: int = 0, in_keys: Keys = None, out_keys: Keys = None
    ) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        self.w, self.h = _size(w, h)
        self.top, self.left = top, left

    def _apply_transform(self, value: Tensor) -> Tensor:
        return _cut(self, value, self.top, self.left, self.h, self.w)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return rearranged(spec, self._apply_transform)


class CenterCrop(Transform):
    """Crops images to their centre.

    Args:
        w: Width, pixels.
        h: Height, pixels; ``w`` if ``None``.
        in_keys: The images ``[*B, C, H, W]``; ``pixels`` if ``None``.
        out_keys: Where to write them; in place if ``None``.

    >>> from tensordict import TensorDict
    >>> CenterCrop(2)(TensorDict(pixels=torch.arange(16).view(1, 4, 4)))["pixels"]
    tensor([[[ 5,  6],
             [ 9, 10]]])
    """

    supports_flat_records = True

    def __init__(self, w: int, h: int | None = None, in_keys: Keys = None, out_keys: Keys = None) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        self.w, self.h = _size(w, h)

    def _apply_transform(self, value: Tensor) -> Tensor:
        top, left = (value.shape[-2] - self.h) // 2, (value.shape[-1] - self.w) // 2
        return _cut(self, value, top, left, self.h, self.w)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return rearranged(spec, self._apply_transform)


class RandomCrop(Transform):
    """Crops each image to a rectangle at a random position.

    Args:
        w: Width, pixels.
        h: Height, pixels; ``w`` if ``None``.
        in_keys: The images ``[*B, C, H, W]``; ``pixels`` if ``None``.
        out_keys: Where to write them; in place if ``None``.

    Source: Laskin et al., 2020, https://arxiv.org/abs/2004.14990, section 4.1.

    >>> from tensordict import TensorDict
    >>> RandomCrop(2)(TensorDict(pixels=torch.zeros(5, 3, 4, 4)))["pixels"].shape
    torch.Size([5, 3, 2, 2])
    """

    supports_flat_records = True

    def __init__(self, w: int, h: int | None = None, in_keys: Keys = None, out_keys: Keys = None) -> None:
        super().__init__(PIXELS if in_keys is None else in_keys, out_keys)
        self.w, self.h = _size(w, h)

    def _apply_transform(self, value: Tensor) -> Tensor:
        _cut(self, value, 0, 0, self.h, self.w)  # raises an error if it does not fit
        images = value.reshape(-1, *value.shape[-3:])  # [N, C, H, W]
        count, device = len(images), value.device
        top = torch.randint(value.shape[-2] - self.h + 1, (count, 1), device=device)
        left = torch.randint(value.shape[-1] - self.w + 1, (count, 1), device=device)
        rows = top + torch.arange(self.h, device=device)  # [N, h]
        columns = left + torch.arange(self.w, device=device)  # [N, w]
        each = torch.arange(count, device=device)[:, None, None]
        crops = images.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]]  # [N, h, w, C]
        return crops.movedim(-1, 1).reshape(*value.shape[:-2], self.h, self.w)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return _pixel_spec(spec, self._apply_transform)


def _size(w: int | Sequence[int], h: int | None) -> tuple[int, int]:
    if isinstance(w, Sequence):
        w, h = w
    return int(w), int(w if h is None else h)


def _cut(who: object, value: Tensor, top: int, left: int, h: int, w: int) -> Tensor:
    height, width = value.shape[-2:]
    if not (0 <= top <= height - h and 0 <= left <= width - w):
        raise ShapeError(
            describe(
                who,
                f"cannot be cropped to {h} x {w} pixels at ({top}, {left})",
                expected=f"an image of {h + max(top, 0)} x {w + max(left, 0)} pixels or more",
                found=tuple(value.shape),
            )
        )
    return value[..., top : top + h, left : left + w]


def _pixel_spec(spec: TensorSpec, function: Function) -> TensorSpec:
    """Return the spec of images of means of pixels, which keep the widest bounds."""
    shape = function(spec.zero()).shape
    if isinstance(spec, Bounded):
        low, high = spec.low.min(), spec.high.max()
        return Bounded(low, high, shape=shape, dtype=spec.dtype, device=spec.device)
    return Unbounded(shape, dtype=spec.dtype, device=spec.device)
