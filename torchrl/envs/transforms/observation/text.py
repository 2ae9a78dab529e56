"""Text and other objects as numbers: tokens and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDictBase, is_non_tensor
from torch import Tensor

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.keys import as_keys
from torchrl._core.optional import require_package
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import Keys, R, Transform
from torchrl.envs.transforms.elementwise import python_value


class Tokenizer(Transform):
    """Converts text to tokens; the inverse pass converts tokens to text.

    Args:
        in_keys: Text of the environment.
        out_keys: Where to write its tokens ``[*B, L]``; in place if ``None``.
        in_keys_inv: Text inputs of the environment.
        out_keys_inv: Their tokens outside.
        tokenizer: An object with ``encode(text) -> list[int]`` and ``decode(list[int]) -> text``,
            or the name of one in the package ``transformers``, which must be installed then.
        max_length: The length ``L``: longer texts are cut, shorter ones padded. If ``None``, the
            longest text of the batch sets it, and specs leave it open.
        pad_token: Padding; the ``pad_token_id`` of the tokenizer if it has one, else 0. Removed
            from the end in the inverse pass.
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
                f"Tokenizer: expected as many mask_keys as texts, found {self.mask_keys} for {self.in_keys}."
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

    def _call(self, tensordict: R) -> R:
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
            if source == destination:  # a tensor is not overwritten by text
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
                specs["observation"][mask_key] = Unbounded(like.shape, dtype=torch.bool, device=like.device)
        return specs


def _stacked(value: Tensor, function: Callable[[Tensor], Any]) -> Any:
    """Return the results of a function for each row of ``value [*B, L]``."""
    if value.ndim > 1:
        return NonTensorStack(*(_stacked(row, function) for row in value))
    return NonTensorData(function(value))


class Hash(Transform):
    """Replaces entries by hashes.

    Args:
        in_keys: Entries to hash: text or any other Python object, or tensors ``[*B, *S]``.
        out_keys: Where to write the hashes, ``[*B, 32]`` bytes with the function of the class.
        in_keys_inv: Entries to restore in the inverse pass, from the repertoire.
        out_keys_inv: Their hashes outside.
        hash_fn: ``object -> tensor``; :meth:`reproducible_hash` if ``None``. A row of a tensor is
            passed as nested lists of numbers.
        seed: Passed to ``hash_fn`` as its second argument, if given.
        use_raw_nontensor: Pass whole entries that are no tensors to ``hash_fn``, as they are in the
            record, instead of the Python object of each row.
        repertoire: Hashes, as tuples of numbers, and the objects that they belong to; new ones are
            added. Kept only if given or if there are ``in_keys_inv``.

    Raises:
        MissingKeyError: in the inverse pass, for a hash that is not in the repertoire.

    >>> from tensordict import TensorDict
    >>> Hash(["a"], ["hash"])(TensorDict(a=torch.zeros(5, 2), batch_size=[5]))["hash"].shape
    torch.Size([5, 32])
    """

    def __init__(
        self,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        hash_fn: Callable[..., Tensor] | None = None,
        seed: object = None,
        use_raw_nontensor: bool = False,
        repertoire: dict[tuple[int, ...], Any] | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        self.hash_fn = self.reproducible_hash if hash_fn is None else hash_fn
        self.seed, self.use_raw_nontensor = seed, use_raw_nontensor
        self.repertoire = {} if repertoire is None and self.in_keys_inv else repertoire
        self._batch_ndim = 0

    @staticmethod
    def reproducible_hash(value: object, seed: object = None) -> Tensor:
        """Return the SHA-256 of an object's text ``[32]``, the same in every process.

        >>> Hash.reproducible_hash("torch").shape
        torch.Size([32])
        """
        text = f"{value}" if seed is None else f"{seed}{value}"
        digest = hashlib.sha256(text.encode()).digest()
        return torch.frombuffer(bytearray(digest), dtype=torch.uint8)

    def _hash(self, value: object) -> Tensor:
        hashed = self.hash_fn(value) if self.seed is None else self.hash_fn(value, self.seed)
        if self.repertoire is not None:
            self.repertoire.setdefault(tuple(hashed.tolist()), value)
        return hashed

    def _rows(self, value: Any, depth: int) -> Tensor:
        if depth:
            return torch.stack([self._rows(row, depth - 1) for row in value])
        if isinstance(value, Tensor):
            return self._hash(value.tolist()).to(value.device)
        return self._hash(value)

    def _apply_transform(self, value: object) -> Tensor:
        if self.use_raw_nontensor and is_non_tensor(value):
            return self._hash(value)
        return self._rows(python_value(value), self._batch_ndim)

    def _inv_apply_transform(self, value: Tensor) -> Any:
        known: Any = self.repertoire
        key = tuple(value.tolist())
        if key not in known:
            raise MissingKeyError(f"Hash: {value.tolist()} is not in the repertoire of {len(known)}.")
        found = known[key]
        return NonTensorData(found) if isinstance(found, str) else torch.as_tensor(found)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Hash the entries of each row."""
        self._batch_ndim = tensordict.ndim
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the specs of the hashes."""
        self._batch_ndim = len(specs["observation"].shape)
        return super().transform_specs(specs)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        example = self._example(spec)
        hashed = self.hash_fn(example) if self.seed is None else self.hash_fn(example, self.seed)
        lead = () if is_non_tensor(example) else spec.shape[: self._batch_ndim]
        shape = (*lead, *hashed.shape)
        if hashed.dtype is torch.uint8:
            return Bounded(0, 255, shape=shape, dtype=torch.uint8, device=spec.device)
        return Unbounded(shape, dtype=hashed.dtype, device=spec.device)

    def _example(self, spec: TensorSpec) -> Any:
        """Return an argument for ``hash_fn``: zeros of one row, or an empty text."""
        if spec.dtype is not None:
            row = [max(size, 1) for size in spec.shape[self._batch_ndim :]]
            return torch.zeros(row, dtype=spec.dtype).tolist()
        if not self.use_raw_nontensor:
            return ""
        entry = NonTensorData("")
        for size in reversed(spec.shape[: self._batch_ndim]):
            entry = NonTensorStack(*[entry] * size)
        return entry
