"""`QueryModule`: the number of a combination of entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.keys import require
from torchrl.data.map.hash import HashToInt, SipHash

Hash = Callable[[Tensor], Tensor]


class QueryModule(TensorDictModuleBase):
    """Write the number of a combination of entries: new combinations get the next one.

    Args:
        in_keys: Entries ``[*B, *F]`` that are looked at.
        index_key: Where the number is written.
        hash_key: Where the hash is written.
        hash_module: Hashes an entry ``[B, *F]`` to ``[B]``, or a list of one for each entry;
            :class:`SipHash` if ``None``.
        hash_to_int: Numbers hashes ``[B]``, as :class:`HashToInt` does.
        aggregator: Hashes the hashes ``[B, len(in_keys)]`` of several entries to ``[B]``;
            ``hash_module``, or :class:`SipHash` where that is a list or ``None``.
        clone: Write into a shallow copy of the input.

    Reads: ``in_keys``. Writes: ``index_key [*B]`` and ``hash_key [*B]``, int64.

    Raises:
        ValueError: if there are not as many hash modules as entries.
        MissingKeyError: if an entry is missing.

    >>> from tensordict import TensorDict
    >>> query = QueryModule(["a", "b"], index_key="place")
    >>> td = TensorDict(a=torch.tensor([[1.0], [1.0], [2.0]]), b=torch.zeros(3, 1), batch_size=[3])
    >>> query(td)["place"].tolist()
    [0, 0, 1]
    """

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        index_key: NestedKey = "_index",
        hash_key: NestedKey = "_hash",
        *,
        hash_module: Hash | Sequence[Hash] | None = None,
        hash_to_int: HashToInt | None = None,
        aggregator: Hash | None = None,
        clone: bool = False,
    ) -> None:
        super().__init__()
        self.in_keys: list[Any] = list(in_keys)
        self.out_keys: list[Any] = [index_key, hash_key]
        self.index_key, self.hash_key, self.clone = index_key, hash_key, clone
        several = isinstance(hash_module, Sequence)
        default: Any = SipHash() if several or hash_module is None else hash_module
        modules: list[Any] = list(hash_module) if isinstance(hash_module, Sequence) else [default] * len(self.in_keys)
        if aggregator is None and len(self.in_keys) > 1:
            aggregator = default
        if len(modules) != len(self.in_keys):
            raise ValueError(
                describe(self, "takes one hash module for each entry", expected=len(self.in_keys), found=len(modules))
            )
        self.hash_modules = nn.ModuleList(m if isinstance(m, nn.Module) else _Function(m) for m in modules)
        self.aggregator = aggregator
        self.hash_to_int = HashToInt() if hash_to_int is None else hash_to_int

    def forward(
        self, tensordict: TensorDictBase, extend: bool = True, write_hash: bool = True, clone: bool | None = None
    ) -> TensorDictBase:
        """Write the numbers of the combinations of entries.

        Args:
            tensordict: ``[*B]``.
            extend: Number new combinations; otherwise they get -1.
            write_hash: Write the hashes, too.
            clone: In place of the constructor's.
        """
        require(tensordict, self.in_keys, self)
        lead = tensordict.batch_size
        values = (
            tensordict.get(key).reshape(lead.numel(), *tensordict.get(key).shape[len(lead) :]) for key in self.in_keys
        )
        hashes = [module(value) for module, value in zip(self.hash_modules, values, strict=True)]
        hashed = hashes[0] if self.aggregator is None else self.aggregator(torch.stack(hashes, -1))  # [B]
        out = tensordict.copy() if (self.clone if clone is None else clone) else tensordict
        out.set(self.index_key, self.hash_to_int(hashed, extend=extend).view(lead))
        if write_hash:
            out.set(self.hash_key, hashed.view(lead))
        return out


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Hash) -> None:
        super().__init__()
        self.function = function

    def forward(self, value: Tensor) -> Tensor:
        return self.function(value)
