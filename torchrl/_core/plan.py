"""A policy compiled, once, to a function of a flat record: what it computes, without tensordicts.

A plan equals the ordinary call bit for bit. It exists only where that can be known: for the
classes named here and those that support it, without hooks, overrides or unusual options.

A class that does writes ``entrywise = True`` in its body (see :mod:`.capabilities`); an instance
that needs more than a record offers withdraws with ``self.entrywise = False``. Its work is in
``_run(record)``, and ``forward`` does nothing else; without a ``_run``, it is called itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, is_non_tensor
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
    interaction_type,
    set_interaction_type,
    skip_existing,
)
from torch import Tensor, nn

from torchrl._core.capabilities import is_unchanged
from torchrl._core.direct import call, is_intercepted
from torchrl._core.entries import is_entrywise
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe, nearest
from torchrl._core.keys import groups_of, leaf_keys

Record = Any  # Entries or TensorDictBase
Plan = Callable[[Record], Any]
_WIDTHS = re.compile(r"\((\d+)x(\d+) and (\d+)x(\d+)\)")
# How torch says that an input and the parameters differ in dtype.
_DTYPES = re.compile(r"dtype|share same datatype|type .* should be the same|expected scalar type")


class LayerWidthError(ShapeError, RuntimeError):
    """An entry does not have as many features as the first layer of a network expects."""


class LayerDtypeError(DTypeError, RuntimeError):
    """An entry does not have the dtype of the parameters of a network."""


_SEQUENCES = (TensorDictSequential, ProbabilisticTensorDictSequential)


def plan(policy: object) -> Plan | None:
    """Return the function of a record that equals ``policy``, if there is one.

    Make it anew after changing the policy's structure, its options or its hooks; parameters are
    read at each call, and so is the exploration type.

    Args:
        policy: Any policy.

    Returns: the function, or ``None`` where only a tensordict will do.

    >>> import torch
    >>> from torchrl._core.entries import Entries
    >>> run = plan(TensorDictModule(torch.nn.Identity(), in_keys=["a"], out_keys=["b"]))
    >>> entries = Entries(a=torch.ones(2))
    >>> _ = run(entries)
    >>> entries["b"]
    tensor([1., 1.])
    >>> plan(lambda td: td) is None
    True
    """
    return None if skip_existing() or mixes_groups(policy) else _compile(policy)


def mixes_groups(network: object) -> bool:
    """Whether one module touches a group as a whole and it or another one an entry of that group.

    A flat record has no groups: what is written to ``("params", "loc")`` there is not found by
    reading ``"params"``.
    """
    keys = {*_keys_of(network)}
    return not keys.isdisjoint(groups_of(keys))


def _keys_of(network: object) -> Iterator[NestedKey]:
    """Yield what each module of a network reads and writes."""
    if isinstance(network, TensorDictSequential):
        for module in members(network):
            yield from _keys_of(module)
    else:
        yield from getattr(network, "in_keys", None) or ()
        yield from getattr(network, "out_keys", None) or ()


def _written_by(module: Any) -> list[NestedKey]:
    """Return every entry that a module writes, selected as output or not."""
    keys: list[NestedKey] = getattr(module, "out_keys_source", getattr(module, "out_keys", []))
    return list(keys)


def check_states(policy: object) -> None:
    """Refuse a policy of which two modules keep their state in one entry.

    A module keeps a state where it reads a key and writes it under ``"next"``. Of two modules with
    the same key, each would read what the other one wrote.

    Raises:
        ValueError: if there are such modules.
    """
    if not isinstance(policy, nn.Module):
        return
    owners: dict[NestedKey, list[nn.Module]] = {}
    for part in policy.modules():
        if isinstance(part, TensorDictModuleBase) and not isinstance(part, TensorDictSequential):
            reads = {*(getattr(part, "in_keys", None) or ())}
            nexts = [key[1:] for key in _written_by(part) if key[0] == "next" and len(key) > 1]
            for key in (key[0] if len(key) == 1 else key for key in nexts):
                if key in reads:
                    owners.setdefault(key, []).append(part)
    for key, parts in owners.items():
        # A wrapper has the keys of what it wraps.
        inner = [
            one for one in parts if not any(o is not one and o in one.modules() for o in parts)
        ]
        if len(inner) > 1:
            raise ValueError(
                describe(
                    policy,
                    "has two modules that keep their state in one entry",
                    key=key,
                    found=[type(part).__name__ for part in inner],
                    hint="Give each its own state keys: in_keys=[input, 'state_1'], "
                    "out_keys=[output, ('next', 'state_1')].",
                )
            )


def input_keys(network: Any) -> list[NestedKey]:
    """Return what a network must be given: its ``in_keys``, but those that it fills itself.

    A policy of several heads may read a group (``"params"``) that its own layers write entry by
    entry (``("params", "head", "loc")``); the group then stands in ``in_keys`` all the same.
    """
    if not isinstance(network, TensorDictSequential):
        return list(network.in_keys)
    needed: set[NestedKey] = set()
    written: set[NestedKey] = set()
    begun: set[NestedKey] = set()  # groups of which something is written
    for module in members(network):
        keys = getattr(module, "in_keys", ()) and input_keys(module)
        given = (key for key in keys if key not in begun)
        needed.update(key for key in given if written.isdisjoint({key, *groups_of([key])}))
        writes = _written_by(module)
        written.update(writes)
        begun.update(groups_of(writes))
    return [key for key in network.in_keys if key in needed]


def inputs_of(network: Any, td: TensorDictBase) -> TensorDictBase:
    """Return a tensordict of what a network reads, without what it writes itself.

    The way to run a policy or a critic again on a batch that holds its outputs of before: the
    result depends on the observations and the parameters alone, and the batch stays as it is.
    ``actor.get_dist(inputs_of(actor, batch))`` is the distribution of the policy as it is now,
    for composite distributions too.

    Args:
        network: Has ``in_keys`` and ``out_keys``.
        td: Batch ``[*B]``.

    >>> import torch
    >>> head = TensorDictModule(torch.nn.Linear(2, 1), ["obs"], [("params", "loc")])
    >>> both = TensorDictSequential(head, TensorDictModule(lambda p: p["loc"], ["params"], ["a"]))
    >>> both.in_keys
    ['obs', 'params']
    >>> inputs = inputs_of(both, both(TensorDict(obs=torch.zeros(2))))
    >>> sorted(inputs.keys(True, True))
    ['obs']
    """
    reads = network.in_keys
    inputs = td.select(*reads, strict=False)
    own = [key for key in _written_by(network) if not groups_of([key]).isdisjoint(reads)]
    own = [key for key in own if key not in reads]
    # A selected group is that of the batch itself; to exclude makes another one.
    return inputs.exclude(*own) if own else inputs


def _compile(component: object) -> Plan | None:
    if isinstance(component, nn.Module) and is_intercepted(component):
        return None
    if any(is_unchanged(component, kind) for kind in _SEQUENCES):
        return _sequence(component)  # type: ignore[arg-type]  # by kind
    if is_unchanged(component, TensorDictModule):
        return _network(component)  # type: ignore[arg-type]  # by kind
    if not is_entrywise(component):
        return None
    if isinstance(component, TensorDictSequential):
        return _sequence(component)
    if isinstance(component, TensorDictModule) and not has_plain_call(component):
        return None
    return getattr(component, "_run", component)  # type: ignore[arg-type]  # called like one


def has_plain_call(module: TensorDictModule) -> bool:
    """Return whether a module calls its network with tensors by position and writes in place."""
    return (
        module.inplace is True
        and module.method is None
        and not module.method_kwargs
        and not module.strict
        and getattr(module, "_kwargs", 0) is None
        and not getattr(module, "_get_kwargs", 1)
    )


def _network(module: TensorDictModule) -> Plan | None:
    if not has_plain_call(module):
        return None
    network, in_keys, out_keys = module.module, module.in_keys, module.out_keys_source

    def run(record: Record) -> None:
        run_network(module, network, in_keys, out_keys, record)

    return run


def members(sequence: TensorDictSequential) -> list[Any]:
    """Return the modules of a sequence, named or not."""
    return list(sequence._modules["module"]._modules.values())  # type: ignore[union-attr]  # always there


def _sequence(sequence: TensorDictSequential) -> Plan | None:
    if sequence.partial_tolerant or sequence.inplace is not None:
        return None
    if sequence.out_keys != sequence.out_keys_source:  # some of them are selected
        return None
    modules = members(sequence)
    plans = []
    for module in modules:
        step = _compile(module)
        if step is None:
            return None
        plans.append(step)
    if isinstance(sequence, ProbabilisticTensorDictSequential):
        return _draw_at_the_end(sequence, modules, plans)

    def run(record: Record) -> None:
        for step in plans:
            step(record)

    return run


def _draw_at_the_end(
    sequence: ProbabilisticTensorDictSequential, modules: list[Any], plans: list[Plan]
) -> Plan | None:
    last = modules[-1] if modules else None
    if sequence.return_composite or not isinstance(last, ProbabilisticTensorDictModule):
        return None
    written = {key for module in modules[:-1] for key in module.out_keys}
    if written.issuperset(last.dist_sample_keys):
        return None  # the last module then scores what is there and draws nothing
    *head, draw = plans
    default = last.default_interaction_type

    def run(record: Record) -> None:
        if interaction_type() is None:
            # What runs before the draw sees the draw's own exploration type.
            with set_interaction_type(default):
                for step in head:
                    step(record)
        else:
            for step in head:
                step(record)
        draw(record)

    return run


def run_network(
    component: object,
    network: Callable,
    in_keys: Sequence[NestedKey],
    out_keys: Sequence[NestedKey],
    record: Record,
) -> None:
    """Read entries, call a network, write what it returns; ``"_"`` discards an output.

    Raises:
        MissingKeyError: if the network fails because an entry is absent.
        LayerWidthError: if it fails because an entry has the wrong number of features.
        LayerDtypeError: if it fails because an entry has another dtype than its parameters.
    """
    values = []
    for key in in_keys:
        value = record.get(key)
        values.append(value if type(value) is Tensor else _data(value))
    try:
        out = call(network, *values)
        if type(out) is not Tensor or len(out_keys) != 1:
            _write(record, out, out_keys)
        elif out_keys[0] != "_":
            record.set(out_keys[0], out)
    except Exception as error:
        explained = explain(component, in_keys, values, record, error)
        if explained is None:
            raise
        raise explained from None


def _data(value: Any) -> Any:
    return value.data if is_non_tensor(value) else value


def _write(record: Record, out: Any, out_keys: Sequence[NestedKey]) -> None:
    if not isinstance(out, tuple):
        if isinstance(out, (dict, TensorDictBase)) and all(key in out for key in out_keys):
            out = tuple(out.get(key) for key in out_keys)
        else:
            out = () if out is None else (out,)
    if len(out) != len(out_keys):
        raise RuntimeError(f"The network returned {len(out)} tensors for out_keys {out_keys}.")
    for key, value in zip(out_keys, out, strict=True):
        if key != "_":
            record.set(key, value if type(value) is Tensor else TensorDict.from_any(value))


def explain(
    component: object,
    in_keys: Sequence[NestedKey],
    values: Sequence[Any],
    record: Record,
    error: Exception,
) -> Exception | None:
    """Return a better error than the one that a network raised, if its cause is plain to see."""
    who = type(component).__name__
    inner = getattr(component, "module", None)
    if inner is not None:
        who = f"{who}({type(inner).__name__})"
    for key, value in zip(in_keys, values, strict=True):
        if value is None:
            present = leaf_keys(record)
            hint = f"{nearest(key, present)} Write that entry, or name yours with in_keys.".strip()
            return MissingKeyError(
                describe(
                    who,
                    "is read but absent",
                    key=key,
                    expected="one of the entries at hand",
                    found=present,
                    hint=hint,
                )
            )
    if _DTYPES.search(str(error)) and isinstance(error, (RuntimeError, ValueError)):
        return _other_dtype(component, who, in_keys, values)
    widths = _WIDTHS.search(str(error))
    if widths is None or not isinstance(error, RuntimeError):
        return None
    found, expected = int(widths[2]), int(widths[3])
    last_dims = [value.shape[-1] for value in values if isinstance(value, Tensor) and value.ndim]
    if found != sum(last_dims):
        fact = f"has two layers that do not fit, behind entries {list(in_keys)}"
        hint = "Compare the layers' input and output features."
        return LayerWidthError(describe(who, fact, expected=expected, found=found, hint=hint))
    fact, hint = "has the wrong last dimension", f"Give the network {found} input features."
    names = in_keys[0] if len(in_keys) == 1 else list(in_keys)
    return LayerWidthError(
        describe(who, fact, key=names, expected=expected, found=found, hint=hint)
    )


def explain_policy(policy: Any, record: Record, error: Exception) -> Exception | None:
    """Return a better error than the one that a policy raised on a record, if there is one.

    Tells of entries that are present and do not fit the first of the policy's networks that they
    fail; what earlier networks wrote is in the record by then.
    """
    parts = policy.modules() if isinstance(policy, nn.Module) else ()
    for part in parts:
        if type(part) is TensorDictModule:
            values = [record.get(key, None) for key in part.in_keys]
            if any(value is None for value in values):
                return None  # it was not reached
            explained = explain(part, part.in_keys, values, record, error)
            if isinstance(explained, LayerDtypeError):
                return explained
    return None


def _suspicion(dtype: torch.dtype) -> int:
    return 0 if dtype.is_floating_point else 2 if dtype is torch.bool else 1


def _other_dtype(
    component: object, who: str, in_keys: Sequence[NestedKey], values: Sequence[Any]
) -> Exception | None:
    """Return an error that names an entry whose dtype is not that of the parameters."""
    parameters = component.parameters() if isinstance(component, nn.Module) else ()
    floats = {p.dtype for p in parameters if p.is_floating_point()}
    if len(floats) != 1:
        return None
    (dtype,) = floats
    found = [pair for pair in zip(in_keys, values, strict=True) if isinstance(pair[1], Tensor)]
    # Of several suspects a float is the likeliest; flags and indices may be meant.
    for key, value in sorted(found, key=lambda pair: _suspicion(pair[1].dtype)):
        if value.dtype is dtype:
            continue
        if value.dtype is torch.float64:
            hint = "Append DoubleToFloat() to the environment, or call double() on the network."
        elif value.is_floating_point():
            hint = f"Cast the entry to {dtype}, or the network to {value.dtype} with to()."
        else:
            hint = f"Make it {dtype} before it comes to the network: numbers with "
            hint += "DTypeCastTransform(), categories with OneHot specs or nn.Embedding."
        fact = "has another dtype than the parameters of the network"
        return LayerDtypeError(
            describe(who, fact, key=key, expected=dtype, found=value.dtype, hint=hint)
        )
    return None
