"""Dropout whose masks are kept with the data: a policy is evaluated again as it acted."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.keys import as_keys, require, sibling
from torchrl._core.mdp import last_name
from torchrl._core.plan import Record
from torchrl.data import Composite, Unbounded
from torchrl.modules.tensordict_module.calls import RecordModule


class ConsistentDropout(nn.Module):
    """Dropout that returns its mask and takes one back.

    Args:
        p: Probability of dropping a unit.

    Raises:
        ValueError: unless ``0 <= p < 1``.

    Source: Hausknecht and Wagener, 2022, https://arxiv.org/abs/2202.11818.

    >>> layer = ConsistentDropout(0.5)
    >>> out, mask = layer(torch.ones(1000))
    >>> torch.equal(layer(torch.ones(1000), mask)[0], out)
    True
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(describe(self, "has no such p", expected="0 <= p < 1", found=p))
        self.p = p

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """Return the output and its mask in training, the input alone in evaluation.

        Args:
            x: Input ``[*B, F]``.
            mask: Factor of each unit, 0 or ``1 / (1 - p)``, ``[*B, F]``; drawn if ``None``.
        """
        if not self.training:
            return x
        if mask is None:
            mask = self.make_mask(x)
        return x * mask, mask

    def make_mask(self, like: Tensor) -> Tensor:
        """Return a new mask of the shape of ``like``."""
        keeps = torch.bernoulli(torch.full_like(like, 1 - self.p))
        return keeps / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ConsistentDropoutModule(RecordModule):
    """Dropout of an entry, with its mask as another entry.

    In training, a mask that is there is used, so that a loss sees what the policy did; where there
    is none, one is drawn and written. An environment with the primer of this module draws one at
    each reset.

    Args:
        p: Probability of dropping a unit.
        in_keys: The entry, and where its mask is; ``mask_<entry>`` by default.
        out_keys: Where the output and the mask go; in place by default.
        input_shape: Shape of the entry in one environment, for the primer.
        input_dtype: Its dtype, for the primer.

    Reads: the entry ``[*B, F]``, and the mask ``[*B, F]``.
    Writes: the entry, and in training the mask.

    Source: Hausknecht and Wagener, 2022, https://arxiv.org/abs/2202.11818.

    >>> from tensordict import TensorDict
    >>> module = ConsistentDropoutModule(0.5, ["hidden"])
    >>> sorted(module(TensorDict(hidden=torch.ones(4))).keys())
    ['hidden', 'mask_hidden']
    """

    entrywise = True

    def __init__(
        self,
        p: float,
        in_keys: NestedKey | Sequence[NestedKey],
        out_keys: NestedKey | Sequence[NestedKey] | None = None,
        input_shape: Sequence[int] | None = None,
        input_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        reads: Any = as_keys(in_keys)
        if len(reads) == 1:
            reads = [reads[0], sibling(reads[0], f"mask_{last_name(reads[0])}")]
        writes: Any = reads if out_keys is None else as_keys(out_keys)
        if len(writes) == 1:
            writes = [writes[0], reads[1]]
        self.in_keys, self.out_keys = reads, writes
        self.input_shape, self.input_dtype = input_shape, input_dtype
        self.dropout = ConsistentDropout(p)

    def _run(self, td: Record) -> None:
        """Drop units in training."""
        (read, mask_read), (written, mask_written) = self.in_keys, self.out_keys_source
        x = td.get(read)
        if x is None:
            require(td, [read], self, "Put what writes it before this module.")
        if not self.training:
            td.set(written, x)
            return
        out, mask = self.dropout(x, td.get(mask_read))
        td.set(written, out)
        td.set(mask_written, mask)

    def make_tensordict_primer(self) -> Any:
        """Return the transform that draws a mask at resets of an environment.

        Raises:
            ValueError: if the shape of the entry is not known.
        """
        if self.input_shape is None:
            raise ValueError(
                describe(self, "draws masks of a known shape", hint="Give input_shape.")
            )
        dtype = self.input_dtype or torch.get_default_dtype()
        spec = Unbounded(tuple(self.input_shape), dtype=dtype)
        like = torch.empty(tuple(self.input_shape), dtype=dtype)
        # Environments and modules are strangers; this method of modules is public.
        transforms = importlib.import_module("torchrl.envs.transforms")
        return transforms.TensorDictPrimer(
            Composite().set(self.in_keys[1], spec),
            expand_specs=True,
            default_value=lambda: self.dropout.make_mask(like),
        )
