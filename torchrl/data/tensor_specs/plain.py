"""Specs as plain data, numbers and tensors, and back: for files that are read without running code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torchrl._core.errors import describe
from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.binary import Binary
from torchrl.data.tensor_specs.bounded import Bounded
from torchrl.data.tensor_specs.categorical import Categorical, OneHot
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.multi import MultiCategorical, MultiOneHot
from torchrl.data.tensor_specs.unbounded import Unbounded

Plain = dict[str, Any]

# Arguments of the constructor beside shape and dtype, by kind; a class stands before its base class.
KINDS: dict[str, tuple[type[TensorSpec], Callable[[Any], Plain]]] = {
    "Bounded": (Bounded, lambda spec: {"low": spec.space.low, "high": spec.space.high}),
    "Unbounded": (Unbounded, lambda spec: {}),
    "OneHot": (OneHot, lambda spec: {"n": spec.n, "mask": spec.mask}),
    "Categorical": (Categorical, lambda spec: {"n": spec.n, "mask": spec.mask}),
    "MultiOneHot": (MultiOneHot, lambda spec: {"nvec": spec.counts, "mask": spec.mask}),
    "MultiCategorical": (MultiCategorical, lambda spec: {"nvec": spec.nvec, "mask": spec.mask}),
    "Binary": (Binary, lambda spec: {}),
}


def spec_to_plain(spec: TensorSpec) -> Plain:
    """Return a spec as plain data: its kind and the arguments of its constructor, without the device.

    Raises:
        TypeError: for a kind that cannot be written, such as that of objects.

    >>> from torchrl.data import OneHot
    >>> spec_to_plain(OneHot(3))["kind"]
    'OneHot'
    """
    if isinstance(spec, Composite):
        entries = {name: spec_to_plain(entry) for name, entry in spec.items() if entry is not None}
        return {"kind": "Composite", "shape": list(spec.shape), "entries": entries}
    for kind, (cls, arguments) in KINDS.items():
        if isinstance(spec, cls):
            return {"kind": kind, "shape": list(spec.shape), "dtype": spec.dtype, **arguments(spec)}
    expected = f"one of {['Composite', *KINDS]}"
    raise TypeError(describe("spec_to_plain", "a spec cannot be written", expected=expected, found=type(spec).__name__))


def spec_from_plain(plain: Mapping[str, Any]) -> TensorSpec:
    """Undo :func:`spec_to_plain`.

    Raises:
        ValueError: for an unknown kind.

    >>> from torchrl.data import OneHot
    >>> spec_from_plain(spec_to_plain(OneHot(3))) == OneHot(3)
    True
    """
    arguments = dict(plain)
    kind = arguments.pop("kind")
    if kind == "Composite":
        entries = {name: spec_from_plain(entry) for name, entry in arguments["entries"].items()}
        return Composite(entries, shape=arguments["shape"])
    if kind not in KINDS:
        raise ValueError(describe("spec_from_plain", "no such kind", expected=["Composite", *KINDS], found=kind))
    return KINDS[kind][0](**arguments)
