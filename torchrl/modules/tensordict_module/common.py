"""Modules that read and write entries of tensordicts: base class, SafeModule, VmapModule."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
    dispatch,
    set_skip_existing,
    skip_existing,
)

from torchrl._core.errors import MissingSpecError, ShapeError, SpecError, describe, nearest
from torchrl._core.keys import as_keys, sibling
from torchrl._core.mdp import DONE
from torchrl._core.records.ended_rows import ended_rows
from torchrl._core.records.flat_record import Record
from torchrl._core.records.policies import run_network
from torchrl._core.records.torch_private import has_plain_call
from torchrl.data import Composite, TensorSpec
from torchrl.modules.distributions.discrete import NoChoiceError

Spec = TensorSpec | None
R = TypeVar("R")


def is_common(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Return whether a module is called with a tensordict alone, and skips no existing entries."""
    return len(args) == 1 and not kwargs and type(args[0]) is TensorDict and not skip_existing()


def on_tensordict(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``forward(self, tensordict)`` so that it can be called with tensors, or skipped.

    That is what :class:`tensordict.nn.dispatch` and :class:`tensordict.nn.set_skip_existing` do;
    the call with a tensordict alone is faster here.
    """
    general = dispatch(auto_batch_size=False)(set_skip_existing(None)(forward))

    @wraps(general)
    def call(self: TensorDictModuleBase, *args: object, **kwargs: Any) -> Any:
        if is_common(args, kwargs):
            return forward(self, args[0])
        return general(self, *args, **kwargs)

    return call


class RecordModule(TensorDictModuleBase, ABC):
    """Base class of modules that are functions of a record, a tensordict or a flat one.

    Hooks:
        _run: ``record -> None``; reads its entries and writes others.
    """

    in_keys: list[NestedKey]  # type: ignore[override]  # keys of any depth
    out_keys: list[NestedKey]  # type: ignore[override]

    @on_tensordict
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read ``in_keys``, write ``out_keys``, return the input."""
        self._run(tensordict)
        return tensordict

    @abstractmethod
    def _run(self, td: Record) -> None: ...


def is_plain(sequence: TensorDictSequential) -> bool:
    """Return whether a sequence runs every module, on its input, and keeps all outputs."""
    return not sequence.partial_tolerant and sequence.inplace is None and sequence.out_keys == sequence.out_keys_source


def choose(record: Record, near: Iterable[NestedKey], choice: Callable[[], R]) -> R:
    """Return ``choice()``, a choice of actions; rows that are done need no legal action.

    Args:
        record: May hold the flag ``done``.
        near: Entries beside which the flag is looked for, before the root.
        choice: Called again if a row has no legal action; it has drawn nothing then.

    Raises:
        NoChoiceError: if a row that is not done has no legal action.
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


def as_composite(spec: Spec, out_keys: Sequence[NestedKey], owner: object) -> Composite | None:
    """Return the spec of the outputs of a module; a spec that is no composite is that of the first.

    Raises:
        SpecError: if a composite names an entry that the module does not write.
    """
    if spec is None:
        return None
    if not isinstance(spec, Composite):
        return Composite().set(out_keys[0], spec)
    if spec.get("_", None) is not None:
        text = describe(owner, "is never written, so its spec is not used", key="_", hint="Leave it out of the spec.")
        warnings.warn(text, stacklevel=4)
    for key in spec.keys(True, True):
        if key not in out_keys:
            raise SpecError(
                describe(
                    owner,
                    "has a spec but is not written",
                    key=key,
                    expected="one of the out_keys",
                    found=list(out_keys),
                    hint=nearest(key, out_keys),
                )
            )
    return spec


def leaf_specs(spec: Composite | None) -> list[tuple[NestedKey, TensorSpec]]:
    """Return the specs of the entries that have one."""
    if spec is None:
        return []
    return [(key, leaf) for key, leaf in spec.items(True, True) if leaf is not None]


class HasSpec:
    """Mixin of modules that have a spec of their outputs: projection, random outputs."""

    out_keys: list[NestedKey]
    _spec: Composite | None = None
    _projected: Sequence[tuple[NestedKey, TensorSpec]] = ()

    @property
    def spec(self) -> Composite | None:
        """The spec of the outputs, if there is one."""
        return self._spec

    @spec.setter
    def spec(self, spec: Spec) -> None:
        self.register_spec(spec, bool(self._projected))

    def register_spec(self, spec: Spec, safe: bool) -> None:
        """Set the spec of the outputs, and whether outputs are projected on it.

        Raises:
            SpecError: if the spec names an entry that is not written.
            MissingSpecError: if there is none and ``safe``.
        """
        self._spec = as_composite(spec, self.out_keys, self)
        if safe and self._spec is None:
            raise MissingSpecError(describe(self, "is safe only with a spec", hint="Give it a spec."))
        self._projected = leaf_specs(self._spec) if safe else ()

    def project(self, td: Record) -> None:
        """Project the outputs on their spec, if the module is safe."""
        for key, leaf in self._projected:
            value = td.get(key)
            try:
                td.set(key, leaf.project(value))
            except ShapeError:
                raise ShapeError(
                    describe(
                        self,
                        "does not have the shape of the spec on which it is projected",
                        key=key,
                        expected=f"{list(leaf.shape)} after any leading dimensions",
                        found=list(value.shape),
                        hint="For other numbers of environments give the spec of one row, env.action_spec_unbatched.",
                    )
                ) from None

    def random(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write outputs drawn from the spec.

        Raises:
            MissingSpecError: if there is no spec.
        """
        if self._spec is None:
            raise MissingSpecError(describe(self, "draws from its spec", hint="Give it a spec."))
        for key, leaf in leaf_specs(self._spec):
            batch = tensordict.batch_size
            lead = () if leaf.shape[: len(batch)] == batch else batch
            tensordict.set(key, leaf.rand(lead))
        return tensordict

    random_sample = random


class SafeModule(HasSpec, TensorDictModule):
    """A network that reads and writes entries, with a spec of what it writes.

    Args:
        module: The network: any callable of tensors.
        in_keys: Entries that it is called with, in this order; or ``{argument: entry}``.
        out_keys: Entries that its outputs are written to; ``"_"`` discards one.
        spec: Spec of the outputs: a composite, or the spec of the first output.
        safe: Project what the network returns on its spec.
        inplace: See :class:`tensordict.nn.TensorDictModule`, as for all other arguments.

    Reads: ``in_keys``. Writes: ``out_keys``.

    Raises:
        SpecError: if ``safe`` comes without a spec, or the spec names an entry that is not written.
        MissingKeyError: at a call, if the network fails because an entry is absent.
        LayerWidthError: at a call, if an entry does not fit the first layer.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from torchrl.data import Bounded
    >>> layer = torch.nn.Linear(3, 2)
    >>> module = SafeModule(layer, ["obs"], ["action"], spec=Bounded(-1, 1, (2,)), safe=True)
    >>> bool((module(TensorDict(obs=100 * torch.randn(3)))["action"].abs() <= 1).all())
    True
    """

    supports_flat_records = True

    def __init__(
        self,
        module: Callable,
        in_keys: NestedKey | Sequence[NestedKey] | Mapping[str, NestedKey],
        out_keys: NestedKey | Sequence[NestedKey],
        spec: Spec = None,
        safe: bool = False,
        inplace: bool | str = True,
        **kwargs: Any,
    ) -> None:
        reads = dict(in_keys) if isinstance(in_keys, Mapping) else as_keys(in_keys)
        super().__init__(module, reads, as_keys(out_keys), inplace=inplace, **kwargs)
        self.register_spec(spec, safe)

    @on_tensordict
    def forward(
        self, tensordict: TensorDictBase, *args: object, tensordict_out: TensorDictBase | None = None, **kwargs: Any
    ) -> TensorDictBase:
        """Read, call the network, write, project if safe."""
        if tensordict_out is None and not args and not kwargs and has_plain_call(self):
            self._run(tensordict)
            return tensordict
        out = super().forward(tensordict, *args, tensordict_out=tensordict_out, **kwargs)
        self.project(out)
        return out

    @property
    def only_runs_network(self) -> bool:
        """Whether a call writes what the network returns, without a projection on the spec."""
        return not self._projected and type(self)._run is SafeModule._run

    def _run(self, td: Record) -> None:
        run_network(self, self.module, self.in_keys, self.out_keys_source, td)
        if self._projected:
            self.project(td)


def is_tensordict_compatible(module: object) -> bool:
    """Return whether a module reads and writes entries of tensordicts, that is, has ``in_keys`` and ``out_keys``."""
    return hasattr(module, "in_keys") and hasattr(module, "out_keys")


def ensure_tensordict_compatible(
    module: Callable[..., Any],
    in_keys: Sequence[NestedKey] | None = None,
    out_keys: Sequence[NestedKey] | None = None,
    safe: bool = False,
    wrapper_type: Callable[..., Any] = SafeModule,
    **kwargs: Any,
) -> Any:
    """Return a module of tensordicts: ``module`` itself if it is one, or else wrapped with its keys.

    Args:
        module: A module of tensordicts, or a network.
        in_keys: Entries that it reads; for a network, the names of its arguments if ``None``.
        out_keys: Entries that it writes.
        safe: Project outputs on their spec, for a network.
        wrapper_type: Class that wraps a network.
        **kwargs: Further arguments of ``wrapper_type``, such as ``spec``.

    Raises:
        TypeError: if a module of tensordicts has other keys, or a network comes without ``out_keys``.

    >>> ensure_tensordict_compatible(torch.nn.Linear(3, 2), ["obs"], ["action"]).in_keys
    ['obs']
    """
    owner = "ensure_tensordict_compatible"
    if is_tensordict_compatible(module):
        for name, keys in (("in_keys", in_keys), ("out_keys", out_keys)):
            found = as_keys(getattr(module, name))
            if keys is not None and set(as_keys(keys)) != set(found):
                raise TypeError(describe(owner, f"the module has other {name}", expected=list(keys), found=found))
        return module
    if in_keys is None:
        in_keys = list(inspect.signature(getattr(module, "forward", module)).parameters)
    if out_keys is None:
        raise TypeError(describe(owner, "a network of tensors has no entry to write to", hint="Give out_keys."))
    if safe:
        kwargs["safe"] = True
    return wrapper_type(module, in_keys=in_keys, out_keys=out_keys, **kwargs)


class VmapModule(TensorDictModuleBase):
    """Apply a module along one batch dimension, with :func:`torch.vmap`.

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

    def __init__(self, module: TensorDictModuleBase, vmap_dim: int | None = None, mock: bool = False) -> None:
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
