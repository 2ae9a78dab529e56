"""Policies compiled to functions of flat records: their layers called without tensordicts.

A compiled policy equals the ordinary call bit for bit. It exists only for the classes of which that
is known: those named here and those that support flat records, without hooks, overrides or unusual
options.

A class that supports flat records declares ``supports_flat_records = True`` (see
:mod:`.capabilities`) and does its work in ``_run(record)``; its ``forward`` does nothing else. An
object without ``_run`` is called itself. An instance that needs more than a flat record sets
``self.supports_flat_records = False``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, is_non_tensor
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
    set_interaction_type,
    skip_existing,
)
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe, nearest
from torchrl._core.keys import groups_of, leaf_keys
from torchrl._core.records.capabilities import is_unchanged
from torchrl._core.records.flat_record import FlatRecord, Record, takes_flat_records
from torchrl._core.records.torch_private import (
    call,
    call_in_turn,
    has_plain_call,
    has_structure,
    is_intercepted,
    members,
    structure_of,
)

CompiledPolicy = Callable[[Record], object]
# How torch reports that an input and the parameters differ in size, or in dtype.
_SIZES = re.compile(r"\((\d+)x(\d+) and (\d+)x(\d+)\)")
_DTYPES = re.compile(r"dtype|share same datatype|type .* should be the same|expected scalar type")


class LayerWidthError(ShapeError, RuntimeError):
    """An entry does not have as many features as the first layer of a network expects."""


class LayerDtypeError(DTypeError, RuntimeError):
    """An entry does not have the dtype of the parameters of a network."""


class OutputKeys(list[NestedKey]):
    """Keys of the outputs of a function, of which only the first ones are known before it is called.

    >>> keys = OutputKeys(["action"])
    >>> keys.name_others(2)
    >>> keys
    ['action', 'output1', 'output2']
    """

    def name_others(self, count: int) -> None:
        """Add ``count`` keys, ``output1`` and so on."""
        self += [f"output{i + 1}" for i in range(count)]


# --- compilation -------------------------------------------------------------------------------


def compile_policy(policy: object) -> CompiledPolicy | None:
    """Return the function of a record that equals ``policy``, if there is one.

    Parameters and the exploration type are read at each call. After a change of the policy's
    structure, options or hooks it must be compiled again.

    Args:
        policy: Any policy.

    Returns: the function, or ``None`` if the policy needs a tensordict.

    >>> import torch
    >>> from torchrl._core.records.flat_record import FlatRecord
    >>> run = compile_policy(TensorDictModule(torch.nn.Identity(), in_keys=["a"], out_keys=["b"]))
    >>> record = FlatRecord(a=torch.ones(2))
    >>> _ = run(record)
    >>> record["b"]
    tensor([1., 1.])
    >>> compile_policy(lambda td: td) is None
    True
    """
    return None if skip_existing() or mixes_groups(policy) else _compile(policy)


def mixes_groups(network: object) -> bool:
    """Return whether a network uses both a group as a whole and an entry of that group.

    A flat record has no groups: what is written to ``("params", "loc")`` there is not found by
    reading ``"params"``.
    """
    modules = [network]
    keys: set[NestedKey] = set()
    for module in modules:  # grows by the modules of sequences
        if isinstance(module, TensorDictSequential):
            modules += members(module)
        else:
            keys.update(getattr(module, "in_keys", None) or ())
            keys.update(getattr(module, "out_keys", None) or ())
    return not keys.isdisjoint(groups_of(keys))


@cache
def _kind(kind: type) -> type | None:
    """Return the class of tensordict of which a class overrides nothing, if there is one."""
    plain = (TensorDictSequential, ProbabilisticTensorDictSequential, TensorDictModule)
    return next((owner for owner in plain if is_unchanged(kind, owner)), None)


def _compile(component: object) -> CompiledPolicy | None:
    if isinstance(component, nn.Module) and is_intercepted(component):
        return None
    kind = _kind(type(component))  # type: ignore[arg-type]  # a class is hashable
    if kind is None and not takes_flat_records(component):
        return None
    if isinstance(component, TensorDictSequential):
        return _compile_sequence(component)
    if isinstance(component, TensorDictModule):
        if not has_plain_call(component):
            return None
        if kind is TensorDictModule or getattr(component, "only_runs_network", False):
            keys = component.in_keys, component.out_keys_source
            return partial(run_network, component, component.module, *keys)
    return getattr(component, "_run", component)  # type: ignore[arg-type]  # called like one


def _compile_sequence(sequence: TensorDictSequential) -> CompiledPolicy | None:
    if sequence.partial_tolerant or sequence.inplace is not None:
        return None
    if sequence.out_keys != sequence.out_keys_source:  # some of them are selected
        return None
    modules, steps = members(sequence), []
    for module in modules:
        step = _compile(module)
        if step is None:
            return None
        steps.append(step)
    if isinstance(sequence, ProbabilisticTensorDictSequential):
        return _compile_draw(sequence, modules, steps)

    def run(record: Record) -> None:
        for step in steps:
            step(record)

    return run


def _compile_draw(
    sequence: ProbabilisticTensorDictSequential,
    modules: Sequence[TensorDictModuleBase],
    steps: Sequence[CompiledPolicy],
) -> CompiledPolicy | None:
    """Return the function of a sequence that ends in a draw from a distribution."""
    last = modules[-1] if modules else None
    if sequence.return_composite or not isinstance(last, ProbabilisticTensorDictModule):
        return None
    written: set[NestedKey] = set()
    for module in modules[:-1]:
        written.update(module.out_keys)
    if written.issuperset(last.dist_sample_keys):
        return None  # the last module then evaluates the action that is there and draws nothing
    *networks, draw = steps

    def run(record: Record) -> None:
        if interaction_type() is None:
            # The networks see the exploration type of the draw.
            with set_interaction_type(last.default_interaction_type):
                for step in networks:
                    step(record)
        else:
            for step in networks:
                step(record)
        draw(record)

    return run


def run_network(
    component: object,
    network: Callable[..., object],
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
        values.append(value.data if type(value) is not Tensor and is_non_tensor(value) else value)
    try:
        if len(values) == 1 and isinstance(network, nn.Module):
            out = call_in_turn((network,), values[0])
        else:
            out = call(network, *values)
        if type(out) is not Tensor or len(out_keys) != 1:
            _write(record, out, out_keys)
        elif type(record) is FlatRecord and out_keys[0] != "_":
            record[out_keys[0]] = out
        elif out_keys[0] != "_":
            record.set(out_keys[0], out)
    except Exception as error:
        explained = explain(component, in_keys, values, record, error)
        if explained is None:
            raise
        raise explained from None


def _write(record: Record, out: object, out_keys: Sequence[NestedKey]) -> None:
    """Write the outputs of a network, by position or, if it returned a dictionary, by key."""
    if not isinstance(out, tuple):
        if isinstance(out, (dict, TensorDictBase)) and all(key in out for key in out_keys):
            out = tuple(out.get(key) for key in out_keys)
        else:
            out = () if out is None else (out,)
    if len(out) > len(out_keys) and isinstance(out_keys, OutputKeys):
        out_keys.name_others(len(out) - len(out_keys))
    if len(out) != len(out_keys):
        raise RuntimeError(f"The network returned {len(out)} tensors for out_keys {out_keys}.")
    for key, value in zip(out_keys, out, strict=True):
        if key != "_":
            record.set(key, value if type(value) is Tensor else TensorDict.from_any(value))


# --- keys of a network -------------------------------------------------------------------------


def input_keys(network: Any) -> list[NestedKey]:
    """Return the entries that a network needs: its ``in_keys``, without those that it fills itself.

    A policy of several heads may read a group (``"params"``) that its own layers write entry by
    entry (``("params", "head", "loc")``); the group is one of its ``in_keys`` all the same.
    """
    if not isinstance(network, TensorDictSequential):
        return list(network.in_keys)
    needed: set[NestedKey] = set()
    written: set[NestedKey] = set()
    filled: set[NestedKey] = set()  # groups of which an entry is written
    for module in members(network):
        for key in getattr(module, "in_keys", ()) and input_keys(module):
            if key not in filled and written.isdisjoint({key, *groups_of([key])}):
                needed.add(key)
        writes = _written_by(module)
        written.update(writes)
        filled.update(groups_of(writes))
    return [key for key in network.in_keys if key in needed]


def _written_by(module: object) -> list[NestedKey]:
    """Return every entry that a module writes, selected as output or not."""
    return list(getattr(module, "out_keys_source", getattr(module, "out_keys", [])))


def inputs_of(network: Any, td: TensorDictBase) -> TensorDictBase:
    """Return a tensordict of the entries that a network reads, without those that it writes itself.

    Use it to run a policy or a critic again on a batch that holds its earlier outputs: the result
    depends on the observations and the parameters alone, and the batch is not changed.
    ``actor.get_dist(inputs_of(actor, batch))`` is the distribution of the current policy, for
    composite distributions too.

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
    own = [key for key in _written_by(network) if key not in reads and not groups_of([key]).isdisjoint(reads)]
    # A selected group is that of the batch itself; excluding an entry makes another one.
    return inputs.exclude(*own) if own else inputs


def check_states(policy: object) -> None:
    """Raise ValueError if two modules of a policy keep their state in one entry.

    A module keeps a state where it reads a key and writes it under ``"next"``. Of two modules with
    the same key, each would read what the other one wrote.
    """
    if not isinstance(policy, nn.Module):
        return
    owners: dict[NestedKey, list[nn.Module]] = {}
    for part in policy.modules():
        if not isinstance(part, TensorDictModuleBase) or isinstance(part, TensorDictSequential):
            continue
        reads = getattr(part, "in_keys", None) or ()
        for key in _written_by(part):
            if key[0] == "next" and len(key) > 1:
                state = key[1] if len(key) == 2 else key[1:]
                if state in reads:
                    owners.setdefault(state, []).append(part)
    for key, parts in owners.items():
        if len(parts) < 2:
            continue
        # A wrapper has the keys of the module that it wraps.
        inner = [one for one in parts if not any(o is not one and o in one.modules() for o in parts)]
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


# --- errors ------------------------------------------------------------------------------------


def explain(
    component: object, in_keys: Sequence[NestedKey], values: Sequence[object], record: Record, error: Exception
) -> Exception | None:
    """Return an error that names the entry at fault, if it is known, in place of that of torch."""
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
                    who, "is read but absent", key=key, expected="one of the entries at hand", found=present, hint=hint
                )
            )
    if _DTYPES.search(str(error)) and isinstance(error, (RuntimeError, ValueError)):
        return _other_dtype(component, who, in_keys, values)
    widths = _SIZES.search(str(error))
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
    return LayerWidthError(describe(who, fact, key=names, expected=expected, found=found, hint=hint))


def explain_policy(policy: object, record: Record, error: Exception) -> Exception | None:
    """Return an error that names the entry whose dtype a policy failed on, if there is one.

    The outputs of the networks before the one that failed are in the record.
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


def _other_dtype(
    component: object, who: str, in_keys: Sequence[NestedKey], values: Sequence[object]
) -> Exception | None:
    """Return an error that names an entry whose dtype is not that of the parameters."""
    parameters = component.parameters() if isinstance(component, nn.Module) else ()
    floats = {p.dtype for p in parameters if p.is_floating_point()}
    if len(floats) != 1:
        return None
    (dtype,) = floats
    found = [(k, v) for k, v in zip(in_keys, values, strict=True) if isinstance(v, Tensor)]
    # Of several candidates a float is the likeliest; flags and indices may be intended.
    for key, value in sorted(found, key=lambda pair: (not pair[1].is_floating_point(), pair[1].dtype is torch.bool)):
        if value.dtype is dtype:
            continue
        if value.dtype is torch.float64:
            hint = "Append DoubleToFloat() to the environment, or call double() on the network."
        elif value.is_floating_point():
            hint = f"Cast the entry to {dtype}, or the network to {value.dtype} with to()."
        else:
            hint = f"Convert it to {dtype} before the network: numbers with "
            hint += "DTypeCastTransform(), categories with OneHot specs or nn.Embedding."
        fact = "has another dtype than the parameters of the network"
        return LayerDtypeError(describe(who, fact, key=key, expected=dtype, found=value.dtype, hint=hint))
    return None


# --- networks run on a batch -------------------------------------------------------------------

T = TypeVar("T")
Replaced = Mapping[NestedKey, Tensor]
NOTHING: Replaced = {}


class _Kept:
    """What was built from a network, kept by the network; copies and pickles of it have none."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner, self.structure = owner, structure_of(owner)
        self.built: dict[Callable[..., object], Any] = {}

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple]:
        return type(None), ()


def kept(network: Any, build: Callable[[Any], T | None]) -> T | None:
    """Return ``build(network)``, built again only if modules, keys or hooks of the network changed.

    >>> module = TensorDictModule(nn.Identity(), in_keys=["a"], out_keys=["b"])
    >>> kept(module, compile_policy) is kept(module, compile_policy)
    True
    """
    found = getattr(network, "__dict__", {}).get("_kept")
    if found is not None and found.owner is network and build in found.built:
        if not skip_existing() and has_structure(found.structure):
            return found.built[build]
        found = None
    built = build(network)
    if built is not None and isinstance(network, nn.Module):
        if found is None or found.owner is not network:
            found = network.__dict__["_kept"] = _Kept(network)
        found.built[build] = built
    return built


def outputs(network: Any, td: TensorDictBase, replaced: Replaced = NOTHING) -> Record:
    """Run a network on its entries of ``td``, some of them replaced, and return what it wrote.

    A network that can be compiled runs on a flat record, which gives the same in less time. The
    batch stays as it is.
    """
    run = None if torch.compiler.is_compiling() else kept(network, compile_policy)
    if run is None or (replaced and _reads_group_of(network, replaced)):
        return network(merge(td, network, replaced))
    record = FlatRecord()
    for key in network.in_keys:
        value = replaced[key] if key in replaced else td.get(key, None)
        if value is not None:
            record[key] = value
    run(record)
    return record


def merge(td: TensorDictBase, network: Any, replaced: Replaced = NOTHING) -> TensorDictBase:
    """Return the inputs that a network finds in ``td``, some of them replaced.

    Entries that the network wrote into a group when the batch was collected, and that it reads as
    part of that group, are left out.
    """
    inputs = inputs_of(network, td)
    if _reads_group_of(network, replaced):
        inputs = inputs.copy()  # the group is that of the batch
    for key, value in replaced.items():
        inputs.set(key, value)
    return inputs


def _reads_group_of(network: Any, replaced: Replaced) -> bool:
    """Return whether a network reads a group as a whole of which an entry is replaced."""
    return any(key in network.in_keys for key in groups_of(replaced))


def take(network: Any, td: TensorDictBase, key: NestedKey, replaced: Replaced = NOTHING) -> Tensor:
    """Run a network and return one output ``[*B, ...]``; of an ensemble ``[N, *B, ...]``.

    Args:
        network: Reads and writes entries; a ``ModuleList`` is an ensemble of ``N`` networks.
        td: Batch ``[*B]``; nothing is written to it.
        key: The output.
        replaced: Inputs that take the place of those in ``td``.

    Raises:
        MissingKeyError: if the network does not write ``key``.
    """
    if isinstance(network, nn.ModuleList):
        return torch.stack([take(one, td, key, replaced) for one in network])
    value = outputs(network, td, replaced).get(key)
    if value is None:
        raise MissingKeyError(
            describe(
                network,
                "is no output of the network",
                key=key,
                expected=f"one of {list(network.out_keys)}",
                hint="Name the network's output with set_keys().",
            )
        )
    return value


def value_of(network: Any, td: TensorDictBase, key: NestedKey, replaced: Replaced = NOTHING) -> Tensor:
    """Return a value ``[*B]`` of each sample; of an ensemble ``[N, *B]``."""
    return take(network, td, key, replaced).squeeze(-1)
