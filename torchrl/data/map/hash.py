"""Hashes of tensors: `SipHash`, `RandomProjectionHash`; and numbers of hashes, `HashToInt`.

Legend: ``B`` rows, ``*F`` the shape of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import ShapeError, describe

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class BinaryToDecimal(nn.Module):
    """Turn bits into whole numbers, the first bit counting most.

    Args:
        num_bits: Number of bits of a number.
        device: Device of the powers of two.
        dtype: Dtype of the result.
        convert_to_binary: Take features above zero for ones, all others for zeros.

    Returns: ``[*B]`` of features ``[*B, K * num_bits]``; the sum of the ``K`` numbers of a row.

    Raises:
        ShapeError: if the last size is not a multiple of ``num_bits``.

    >>> module = BinaryToDecimal(4, "cpu", torch.int32)
    >>> module(torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0]])).tolist()
    [3, 8]
    """

    bases: Tensor

    def __init__(
        self, num_bits: int, device: torch.device | str | None, dtype: torch.dtype, convert_to_binary: bool = False
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self.num_bits, self.convert_to_binary = num_bits, convert_to_binary
        self.register_buffer("bases", 2 ** torch.arange(num_bits - 1, -1, -1, device=device, dtype=dtype))

    def forward(self, features: Tensor) -> Tensor:
        """Return the numbers ``[*B]`` of features ``[*B, K * num_bits]``."""
        size = features.shape[-1] if features.ndim else 0
        if not size or size % self.num_bits:
            raise ShapeError(
                describe(
                    self, "the bits do not divide into numbers", expected=f"a multiple of {self.num_bits}", found=size
                )
            )
        bits = features > 0 if self.convert_to_binary else features
        parts = bits.to(self.bases.dtype).unflatten(-1, (-1, self.num_bits))  # [*B, K, num_bits]
        return (parts * self.bases).sum((-1, -2), dtype=self.bases.dtype)


class SipHash(nn.Module):
    """Hash each row of a tensor: SipHash-2-4 of its bytes, the same in every process.

    Rows that are equal have the same hash; ``-0.0`` equals ``0.0``. Rows of other dtypes have other
    hashes, whatever their values.

    Args:
        as_tensor: Return numbers; otherwise a list of the bytes that are hashed.

    Returns: int64 ``[B]`` of a tensor ``[B, *F]``.

    Source: Aumasson and Bernstein, 2012, https://www.aumasson.jp/siphash/siphash.pdf, with a key of
    zeros.

    >>> hashes = SipHash()(torch.tensor([[0.1, 0.2], [0.1, 0.2], [0.2, 0.1]]))
    >>> hashes[0] == hashes[1], hashes[0] == hashes[2]
    (tensor(True), tensor(False))
    """

    def __init__(self, as_tensor: bool = True) -> None:
        super().__init__()
        self.as_tensor = as_tensor

    def forward(self, x: Tensor) -> Tensor | list[bytes]:
        """Return one hash for each row of ``x [B, *F]``.

        Raises:
            ShapeError: if ``x`` has no dimension of rows.
        """
        rows = _bytes_of(self, x)
        if not self.as_tensor:
            return [row.tobytes() for row in rows]
        return torch.from_numpy(siphash(rows).view(np.int64)).to(x.device)


class RandomProjectionHash(SipHash):
    """Project rows to a few random directions, and hash the rounded result.

    Rows that are close are likely to have the same hash. The directions are drawn at the first
    call, or by :meth:`fit`, and are part of the state dict.

    Args:
        n_components: Number of directions.
        dtype_cast: Dtype to which the result is rounded.
        as_tensor: As for :class:`SipHash`.
        init_method: Fills the directions ``[F, n_components]`` in place; standard normal if
            ``None``.

    Source: Charikar, 2002, https://doi.org/10.1145/509907.509965. Differs: numbers are rounded to
    ``dtype_cast``, not to their sign.

    >>> module = RandomProjectionHash(n_components=4)
    >>> rows = torch.randn(5, 30)
    >>> bool((module(rows) == module(rows)).all())
    True
    """

    transform: Tensor | None

    def __init__(
        self,
        *,
        n_components: int | None = None,
        dtype_cast: torch.dtype = torch.bfloat16,
        as_tensor: bool = True,
        init_method: Callable[[Tensor], object] | None = None,
    ) -> None:
        super().__init__(as_tensor)
        self.n_components = 16 if n_components is None else n_components
        self.dtype_cast = dtype_cast
        self.init_method = torch.nn.init.normal_ if init_method is None else init_method
        self.register_buffer("transform", None)

    def fit(self, x: Tensor) -> None:
        """Draw the directions for rows ``x [B, *F]``."""
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        transform = torch.zeros(x.flatten(1).shape[1], self.n_components, dtype=dtype, device=x.device)
        self.init_method(transform)
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor | list[bytes]:
        """Return one hash for each row of ``x [B, *F]``.

        Raises:
            ShapeError: if the rows have another size than those before.
        """
        if x.ndim < 2:
            x = x.unsqueeze(-1)
        if self.transform is None:
            self.fit(x)
        assert self.transform is not None
        rows = x.flatten(1).to(self.transform.dtype)
        if rows.shape[1] != self.transform.shape[0]:
            raise ShapeError(
                describe(self, "rows have another size", expected=self.transform.shape[0], found=rows.shape[1])
            )
        return super().forward((rows @ self.transform).to(self.dtype_cast))

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: object) -> None:
        saved = state_dict.get(f"{prefix}transform")
        if saved is not None:
            self.transform = torch.empty_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args)


class HashToInt(nn.Module):
    """Number hashes from zero on, in the order in which they appear.

    >>> numbers = HashToInt()
    >>> numbers(torch.tensor([77, 5, 77]), extend=True), numbers(torch.tensor([5, 6]))
    (tensor([0, 1, 0]), tensor([ 1, -1]))
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def forward(self, key: Tensor, extend: bool = False) -> Tensor:
        """Return the numbers ``[*B]`` of hashes ``[*B]``.

        Args:
            key: Hashes.
            extend: Give hashes that are new a number; otherwise they get -1.
        """
        known, hashes = self._numbers, key.flatten().tolist()
        if extend:
            found = [known.setdefault(item, len(known)) for item in hashes]
        else:
            found = [known.get(item, -1) for item in hashes]
        return torch.tensor(found, dtype=torch.int64, device=key.device).view(key.shape)

    def clear(self) -> None:
        """Forget all hashes."""
        self._numbers.clear()

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the hashes in the order of their numbers."""
        return {"hashes": torch.tensor(list(self._numbers), dtype=torch.int64)}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Load what :meth:`get_extra_state` returned."""
        self._numbers = {item: number for number, item in enumerate(state["hashes"].tolist())}


def siphash(rows: np.ndarray, key: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return the SipHash-2-4, uint64 ``[B]``, of rows of bytes, uint8 ``[B, n]``.

    >>> message = np.arange(15, dtype=np.uint8)[None]
    >>> hex(int(siphash(message, (0x0706050403020100, 0x0F0E0D0C0B0A0908))[0]))  # of the paper
    '0xa129ca6149be45e5'
    """
    count, length = rows.shape
    padded = np.zeros((count, length // 8 * 8 + 8), dtype=np.uint8)
    padded[:, :length] = rows
    padded[:, -1] = length % 256
    text = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    first, second, third, fourth = (np.full(count, c ^ key[i % 2], dtype=np.uint64) for i, c in enumerate(text))
    state = (first, second, third, fourth)
    for word in padded.view("<u8").T:
        v0, v1, v2, v3 = _rounds((*state[:3], state[3] ^ word), 2)
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = _rounds((state[0], state[1], state[2] ^ np.uint64(0xFF), state[3]), 4)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(state: Words, count: int) -> Words:
    v0, v1, v2, v3 = state
    for _ in range(count):
        v0, v2 = v0 + v1, v2 + v3
        v1, v3 = _rotated(v1, 13) ^ v0, _rotated(v3, 16) ^ v2
        v0 = _rotated(v0, 32)
        v2, v0 = v2 + v1, v0 + v3
        v1, v3 = _rotated(v1, 17) ^ v2, _rotated(v3, 21) ^ v0
        v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


def _rotated(words: np.ndarray, bits: int) -> np.ndarray:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _bytes_of(owner: object, x: Tensor) -> np.ndarray:
    """Return the bytes ``[B, n]`` of the rows of a tensor ``[B, *F]``."""
    if not x.ndim:
        raise ShapeError(describe(owner, "hashes rows", expected="[B, *F]", found=[], hint="Unsqueeze a lone value."))
    if x.is_floating_point() or x.is_complex():
        x = x + 0.0  # makes 0.0 of -0.0
    flat = x.detach().reshape(len(x), -1).cpu().contiguous()
    if not flat.numel():
        return np.zeros((len(x), 0), dtype=np.uint8)
    return flat.view(torch.uint8).numpy()
