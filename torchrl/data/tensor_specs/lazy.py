"""Lazy stacks of composites whose entries differ: find them, fill them up."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey

from torchrl.data.tensor_specs.base import TensorSpec
from torchrl.data.tensor_specs.composite import Composite
from torchrl.data.tensor_specs.continuous import Unbounded
from torchrl.data.tensor_specs.stacked import Stacked, StackedComposite


def contains_lazy_spec(spec: TensorSpec) -> bool:
    """Return whether a spec is a lazy stack or holds one.

    >>> contains_lazy_spec(Composite(a=Unbounded()))
    False
    """
    if isinstance(spec, Stacked | StackedComposite):
        return True
    return isinstance(spec, Composite) and any(
        contains_lazy_spec(inner) for inner in spec.values() if inner is not None
    )


def check_no_exclusive_keys(spec: TensorSpec, recurse: bool = True) -> bool:
    """Return whether stacked composites all have the same entries.

    Args:
        spec: A spec.
        recurse: Look into nested composites too.

    >>> import torch
    >>> check_no_exclusive_keys(torch.stack([Composite(a=Unbounded()), Composite()]))
    False
    """
    if isinstance(spec, StackedComposite):
        names = set(spec.specs[0])
        if any(set(other) != names for other in spec.specs):
            return False
        inside = spec.specs
    else:
        inside = list(spec.values()) if isinstance(spec, Composite) else []
    if not recurse:
        return True
    # Two nested composites may each have what the other lacks: look at them stacked as well.
    stacked = list(spec.values()) if isinstance(spec, StackedComposite) else []
    return all(check_no_exclusive_keys(s) for s in (*inside, *stacked) if s is not None)


def consolidate_spec(
    spec: Composite, recurse_through_entries: bool = True, recurse_through_stack: bool = True
) -> Composite:
    """Return a spec in which stacked composites all have the same entries.

    What a composite lacks is added as an :class:`Unbounded` of the dtype and the batch size, whose
    other sizes are zero; an entry without other dimensions keeps its shape.

    Args:
        spec: A composite, perhaps lazily stacked.
        recurse_through_entries: Look into nested composites.
        recurse_through_stack: Look into the composites that are stacked.

    >>> import torch
    >>> whole = consolidate_spec(torch.stack([Composite(a=Unbounded((3,))), Composite()]))
    >>> whole[1]["a"].shape
    torch.Size([0])
    """
    options = (recurse_through_entries, recurse_through_stack)
    if isinstance(spec, StackedComposite):
        specs = [part.clone() for part in spec.specs]
        if recurse_through_stack:
            specs = [consolidate_spec(part, *options) for part in specs]
        _fill_up(specs)
        return StackedComposite(*specs, dim=spec.dim)
    spec = spec.clone()
    if recurse_through_entries:
        for name, inner in spec.items():
            if isinstance(inner, Composite):
                spec.set(name, consolidate_spec(inner, *options))
    return spec


def _fill_up(composites: list[Composite]) -> None:
    """Give each composite, in place, a placeholder for what it lacks."""
    entries: dict[NestedKey, tuple[Any, int]] = {}
    for composite in composites:
        for key, leaf in composite.items(True, True):
            if leaf is not None:
                entries.setdefault(key, (leaf, len(composite.shape)))
    for composite in composites:
        for key, (leaf, batch_ndim) in entries.items():
            if composite.get(key, None) is None:
                features = tuple(0 for _ in leaf.shape[batch_ndim:])
                shape = (*composite.shape, *features)
                composite.set(key, Unbounded(shape, leaf.device, leaf.dtype))
