"""Networks called with parameters from outside: ``make_functional``, which tensordict once had.

Inside the library ``with params.to_module(module): module(td)`` does the same, without a change to
the module.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import tensordict.nn
from tensordict import TensorDict, TensorDictBase
from torch import nn

from torchrl._core.errors import describe


def make_functional(module: nn.Module) -> TensorDict:
    """Take the parameters out of a module, which from then on is called with some.

    ``module(*args, params)`` runs it with ``params``: those returned here, or any like them, such
    as several sets at once under ``torch.vmap(module, (None, 0))``. The module itself has no
    parameters afterwards, but tensors without data in their places.

    Args:
        module: Any module; it is changed in place.

    Returns: its parameters and buffers.

    Raises:
        TypeError: if the module is then called without parameters.

    >>> import torch
    >>> net = nn.Linear(2, 3)
    >>> params = make_functional(net)
    >>> len(list(net.parameters()))
    0
    >>> torch.vmap(net, (None, 0))(torch.ones(5, 2), params.expand(4)).shape
    torch.Size([4, 5, 3])
    """
    params = TensorDict.from_module(module)
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False, remove_duplicate=False)):
            delattr(layer, name)
            layer.register_buffer(name, parameter.detach().to("meta"), persistent=False)
    module.forward = partial(_call_with, module)  # pickle and deepcopy support a partial
    return params


def _call_with(module: nn.Module, *args: object, **kwargs: Any) -> Any:
    params = kwargs.pop("params", None)
    reads_a_tensordict = hasattr(module, "in_keys")
    if params is None and len(args) > reads_a_tensordict and isinstance(args[-1], TensorDictBase):
        args, params = args[:-1], args[-1]
    if params is None:
        hint = "Call module(*args, params), with what make_functional(module) returned."
        raise TypeError(describe(module, "has no parameters of its own", hint=hint))
    with params.to_module(module):
        return type(module).forward(module, *args, **kwargs)


def install() -> None:
    """Offer :func:`make_functional` as ``tensordict.nn.make_functional`` where there is none.

    Scripts of earlier releases import it from there. This is the one thing that ``import torchrl``
    does to another package.
    """
    if not hasattr(tensordict.nn, "make_functional"):
        tensordict.nn.make_functional = make_functional  # type: ignore[attr-defined]  # so far
