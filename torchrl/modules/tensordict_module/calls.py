"""Calls of modules: the common one, with a tensordict alone, goes straight to the work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    TensorDictModuleBase,
    TensorDictSequential,
    dispatch,
    set_skip_existing,
    skip_existing,
)

from torchrl._core.ended_rows import ended_rows
from torchrl._core.keys import sibling
from torchrl._core.mdp import DONE
from torchrl._core.plan import Record
from torchrl.modules.distributions.discrete import NoChoiceError


def is_common(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a module is called with a tensordict and nothing else, in no special mode."""
    return len(args) == 1 and not kwargs and type(args[0]) is TensorDict and not skip_existing()


def on_tensordict(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a ``forward(self, tensordict)`` be called with tensors too, or skipped.

    That is what :class:`tensordict.nn.dispatch` and :class:`tensordict.nn.set_skip_existing` do;
    the common call does not pay for them.
    """
    general = dispatch(auto_batch_size=False)(set_skip_existing(None)(forward))

    @wraps(general)
    def call(self: TensorDictModuleBase, *args: Any, **kwargs: Any) -> Any:
        if is_common(args, kwargs):
            return forward(self, args[0])
        return general(self, *args, **kwargs)

    return call


class RecordModule(TensorDictModuleBase, ABC):
    """A module that is a function of a record, be it a tensordict or flat.

    Hooks:
        _run: ``record``, read from and written to.
    """

    @on_tensordict
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read ``in_keys``, write ``out_keys``, return the input."""
        self._run(tensordict)
        return tensordict

    @abstractmethod
    def _run(self, td: Record) -> None: ...


def is_plain(sequence: TensorDictSequential) -> bool:
    """Return whether a sequence runs every module, on its input, and keeps all that they write."""
    return (
        not sequence.partial_tolerant
        and sequence.inplace is None
        and sequence.out_keys == sequence.out_keys_source
    )


def run_in_turn(modules: Iterable[Any], td: TensorDictBase) -> TensorDictBase:
    """Call one module after the other."""
    for module in modules:
        td = module(td)
    return td


def choose(record: Record, near: Iterable[NestedKey], choice: Callable[[], Any]) -> Any:
    """Return ``choice()``; where it fails for want of a legal action, rows that are done need none.

    Args:
        record: May hold the flag ``done``.
        near: Entries beside which the flag may stand; it is that of the whole row otherwise.
        choice: Called again if it fails, before it has drawn anything.

    Raises:
        NoChoiceError: if a row that is not done allows nothing.
    """
    try:
        return choice()
    except NoChoiceError:
        flags = (record.get(key, None) for key in (*(sibling(key, DONE) for key in near), DONE))
        flag = next((flag for flag in flags if flag is not None), None)
        if flag is None:
            raise
    with ended_rows(flag):
        return choice()
