"""A module applied along one batch dimension at a time."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase


class VmapModule(TensorDictModuleBase):
    """Hides one batch dimension from a module, with :func:`torch.vmap`.

    Args:
        module: The module.
        vmap_dim: The batch dimension; the first by default.
        mock: Loop over the dimension instead, for modules that cannot be vectorised.

    Reads and writes: what the module reads and writes, ``[*B, ...]``.

    >>> from tensordict import TensorDict
    >>> from tensordict.nn import TensorDictModule
    >>> module = VmapModule(TensorDictModule(lambda a: a.sum(0), ["a"], ["b"]), vmap_dim=0)
    >>> module(TensorDict(a=torch.ones(5, 3), batch_size=[5]))["b"].shape
    torch.Size([5])
    """

    def __init__(
        self, module: TensorDictModuleBase, vmap_dim: int | None = None, mock: bool = False
    ) -> None:
        super().__init__()
        self.module, self.vmap_dim, self.mock = module, vmap_dim, mock
        self.in_keys, self.out_keys = module.in_keys, module.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Run the module on every slice; return the input with the outputs."""
        dim = 0 if self.vmap_dim is None else self.vmap_dim
        if dim < 0:
            dim += tensordict.ndim
        if self.mock:
            out: Any = torch.stack([self.module(td) for td in tensordict.unbind(dim)], dim)
        else:
            run: Any = torch.vmap(self.module, (dim,), (dim,), randomness="different")
            out = run(tensordict)
        return tensordict.update(out.select(*self.out_keys))
