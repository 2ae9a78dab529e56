"""Modules of tensordicts whose outputs are known, and if wished made, to obey a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule

from torchrl._core.errors import ShapeError, SpecError, describe, nearest
from torchrl._core.keys import as_keys
from torchrl._core.plan import Record, has_plain_call, run_network
from torchrl.data import Composite, TensorSpec
from torchrl.modules.tensordict_module.calls import on_tensordict

Spec = TensorSpec | None


def as_composite(spec: Spec, out_keys: Sequence[NestedKey], owner: object) -> Composite | None:
    """Return the spec of a module's outputs: a spec that is no composite is that of the first.

    Raises:
        SpecError: if a composite names an entry that the module does not write.
    """
    if spec is None or isinstance(spec, Composite):
        if spec is not None:
            _check_named(spec, out_keys, owner)
        return spec
    return Composite().set(out_keys[0], spec)


def _check_named(spec: Composite, out_keys: Sequence[NestedKey], owner: object) -> None:
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


def leaf_specs(spec: Composite | None) -> list[tuple[NestedKey, TensorSpec]]:
    """Return the specs of the entries that have one."""
    if spec is None:
        return []
    return [(key, leaf) for key, leaf in spec.items(True, True) if leaf is not None]


class HasSpec:
    """What modules with a spec share: ``spec``, projection, random outputs."""

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
        """Set the spec of the outputs, and whether they are projected on it.

        Raises:
            SpecError: if the spec names an entry that is not written, or is needed and missing.
        """
        self._spec = as_composite(spec, self.out_keys, self)
        if safe and self._spec is None:
            raise SpecError(describe(self, "is safe only with a spec", hint="Give it a spec."))
        self._projected = leaf_specs(self._spec) if safe else ()

    def project(self, td: Record) -> None:
        """Bring the outputs back into their spec, where the module is safe."""
        for key, leaf in self._projected:
            value = td.get(key)
            try:
                td.set(key, leaf.project(value))
            except ShapeError:
                raise self._misfit(key, leaf, value) from None

    def _misfit(self, key: NestedKey, leaf: TensorSpec, value: Any) -> ShapeError:
        return ShapeError(
            describe(
                self,
                "does not have the shape of the spec on which it is projected",
                key=key,
                expected=f"{list(leaf.shape)} after any leading dimensions",
                found=list(value.shape),
                hint="For other numbers of environments give the spec of one row, "
                "env.action_spec_unbatched.",
            )
        )

    def random(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write outputs drawn from the spec, instead of computed.

        Raises:
            SpecError: if there is no spec.
        """
        if self._spec is None:
            raise SpecError(describe(self, "draws from its spec", hint="Give it a spec."))
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

    entrywise = True

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
        reads: Any = dict(in_keys) if isinstance(in_keys, Mapping) else as_keys(in_keys)
        writes: Any = as_keys(out_keys)
        super().__init__(module, reads, writes, inplace=inplace, **kwargs)
        self.register_spec(spec, safe)

    @on_tensordict
    def forward(
        self,
        tensordict: TensorDictBase,
        *args: Any,
        tensordict_out: TensorDictBase | None = None,
        **kwargs: Any,
    ) -> TensorDictBase:
        """Read, call the network, write, project if safe."""
        if tensordict_out is None and not args and not kwargs and has_plain_call(self):
            self._run(tensordict)
            return tensordict
        out = super().forward(tensordict, *args, tensordict_out=tensordict_out, **kwargs)
        self.project(out)
        return out

    def _run(self, td: Record) -> None:
        run_network(self, self.module, self.in_keys, self.out_keys_source, td)
        if self._projected:
            self.project(td)
