"""Text as numbers, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import as_keys
from torchrl._core.optional import require_package
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.pixels import Keys


class Tokenizer(Transform):
    """Turns text into tokens on the way out, and tokens into text on the way in.

    Args:
        in_keys: Text of the environment.
        out_keys: Where to write its tokens ``[*B, L]``; in place if ``None``.
        in_keys_inv: Text that the environment takes.
        out_keys_inv: Its tokens, seen from outside.
        tokenizer: Anything with ``encode(text) -> list[int]`` and ``decode(list[int]) -> text``, or
            the name of one of the package ``transformers``, which must be installed then.
        max_length: The length ``L``: longer texts are cut, shorter ones padded. If ``None``, the
            longest text of the batch sets it, and specs leave it open.
        pad_token: What fills up; the tokenizer's ``pad_token_id`` if it has one, else 0. Cut off
            the end again on the way in.
        mask_keys: Where to write which tokens are real ``[*B, L]``; nowhere if ``None``.

    >>> from tensordict import TensorDict
    >>> class Letters:
    ...     vocab_size = 128
    ...     encode = staticmethod(lambda text: [ord(letter) for letter in text])
    ...     decode = staticmethod(lambda tokens: "".join(map(chr, tokens)))
    >>> tokenizer = Tokenizer(["text"], ["tokens"], tokenizer=Letters(), max_length=4)
    >>> tokenizer(TensorDict(text="abc"))["tokens"]
    tensor([97, 98, 99,  0])
    """

    _batch_ndim = 0

    def __init__(
        self,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        tokenizer: Any,
        max_length: int | None = None,
        pad_token: int | None = None,
        mask_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        if isinstance(tokenizer, str):
            transformers = require_package("transformers", needed_by=self)
            tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
        if not (hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
            raise TypeError(
                describe(
                    self,
                    "needs a tokenizer",
                    expected="an object with encode(text) and decode(tokens), or a name",
                    found=type(tokenizer).__name__,
                )
            )
        self.tokenizer, self.max_length = tokenizer, max_length
        own = getattr(tokenizer, "pad_token_id", None)
        self.pad_token = int((own or 0) if pad_token is None else pad_token)
        self.mask_keys = as_keys(mask_keys)
        if self.mask_keys and len(self.mask_keys) != len(self.in_keys):
            raise ValueError(
                f"Tokenizer: expected as many mask_keys as texts, found {self.mask_keys} for "
                f"{self.in_keys}."
            )

    def _tokens(self, value: Any) -> tuple[Tensor, Tensor]:
        """Return tokens ``[*B, L]`` and which of them are real."""
        texts = value.tolist() if hasattr(value, "tolist") else value
        rows, shape = [texts], []
        while isinstance(rows[0], list):
            shape.append(len(rows[0]))
            rows = [each for row in rows for each in row]
        encoded = [list(self.tokenizer.encode(text)) for text in rows]
        size = self.max_length or max(map(len, encoded))
        out = torch.full((len(encoded), size), self.pad_token)
        real = torch.zeros(len(encoded), size, dtype=torch.bool)
        for i, tokens in enumerate(encoded):
            kept = tokens[:size]
            out[i, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
            real[i, : len(kept)] = True
        return out.reshape(*shape, size), real.reshape(*shape, size)

    def _call(self, tensordict: Any) -> Any:
        masks = dict(zip(self.in_keys, self.mask_keys, strict=False))
        for source, destination, value in self._read(tensordict):
            device = getattr(tensordict, "device", None)
            tokens, real = (x.to(device) for x in self._tokens(value))
            if source == destination:
                tensordict.pop(source)
            tensordict.set(destination, tokens)
            if source in masks:
                tensordict.set(masks[source], real)
        return tensordict

    def _text(self, tokens: Tensor) -> str:
        real = (tokens != self.pad_token).nonzero()
        count = int(real[-1]) + 1 if len(real) else 0
        return str(self.tokenizer.decode(tokens[:count].tolist()))

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        for destination, source in zip(self.in_keys_inv, self.out_keys_inv, strict=True):
            tokens = tensordict.get(source, None)
            if tokens is None:
                if self.missing_tolerance:
                    continue
                raise self._missing(source, tensordict)
            if source == destination:  # text does not go where a tensor stands
                tensordict.pop(source)
            tensordict.set(destination, _stacked(tokens, self._text))
        return tensordict

    def _token_spec(self, spec: TensorSpec) -> TensorSpec:
        size = getattr(self.tokenizer, "vocab_size", None)
        length = -1 if self.max_length is None else self.max_length
        shape, device = (*spec.shape[: self._batch_ndim], length), spec.device
        if size is None or self.max_length is None:
            return Unbounded(shape, dtype=torch.int64, device=device)
        return Bounded(0, int(size) - 1, shape=shape, dtype=torch.int64, device=device)

    _transform_spec = _token_spec
    _inv_transform_spec = _token_spec

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the specs of the tokens."""
        self._batch_ndim = len(specs["observation"].shape)
        specs = super().transform_specs(specs)
        for out_key, mask_key in zip(self.out_keys, self.mask_keys, strict=False):
            if out_key in leaf_names(specs["observation"]):
                like = specs["observation"][out_key]
                specs["observation"][mask_key] = Unbounded(
                    like.shape, dtype=torch.bool, device=like.device
                )
        return specs


def _stacked(value: Tensor, function: Callable[[Tensor], Any]) -> Any:
    """Return what a function makes of each row of ``value [*B, L]``."""
    if value.ndim > 1:
        return NonTensorStack(*(_stacked(row, function) for row in value))
    return NonTensorData(function(value))
