"""Calls of networks on entries of a batch, which stays as it is.

``N`` networks of an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    interaction_type,
    set_interaction_type,
)
from torch import Tensor, nn
from torch.distributions import Distribution

from torchrl._core.entries import Entries
from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.keys import groups_of
from torchrl._core.plan import Plan, Record, input_keys, inputs_of, plan
from torchrl.modules import SafeProbabilisticModule, SafeProbabilisticTensorDictSequential
from torchrl.modules.tensordict_module.probabilistic import distribution_of

_DRAWS = (ProbabilisticTensorDictModule.get_dist, SafeProbabilisticModule.get_dist)
_SEQUENCES = (
    ProbabilisticTensorDictSequential.get_dist,
    SafeProbabilisticTensorDictSequential.get_dist,
)
Replaced = Mapping[NestedKey, Tensor]
NOTHING: Replaced = {}


def outputs(network: Any, td: TensorDictBase, replaced: Replaced = NOTHING) -> Record:
    """Run a network on its entries of ``td``, some of them replaced, and return what it wrote.

    Modules that offer a plan run on a flat record, which is the same at a fraction of the cost.
    """
    run = None if torch.compiler.is_compiling() else plan(network)
    if run is None or _reads_group_of(network, replaced):
        return network(merge(td, network, replaced))
    record = flat(td, network.in_keys, replaced)
    run(record)
    return record


def flat(td: TensorDictBase, keys: list[NestedKey], replaced: Replaced = NOTHING) -> Entries:
    """Return those of the entries that are there, some of them replaced."""
    found = ((key, replaced[key] if key in replaced else td.get(key, None)) for key in keys)
    return Entries({key: value for key, value in found if value is not None})


def merge(td: TensorDictBase, network: Any, replaced: Replaced = NOTHING) -> TensorDictBase:
    """Return the inputs that a network finds in ``td``, some of them replaced.

    What it wrote under a group that it then reads as a whole is left out: a batch holds it as it
    was when the batch was collected.
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
    """Run a network and return one output ``[*B, ...]``; of an ensemble ``[N, *B, ...]``."""
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


def value_of(
    network: Any, td: TensorDictBase, key: NestedKey, replaced: Replaced = NOTHING
) -> Tensor:
    """Return a value ``[*B]`` of each sample; of an ensemble ``[N, *B]``."""
    return take(network, td, key, replaced).squeeze(-1)


def distribution(actor: Any, td: TensorDictBase) -> Distribution:
    """Return the distribution of a policy over its actions, as the policy is now."""
    steps = None if torch.compiler.is_compiling() else _steps_to_parameters(actor)
    if steps is None:
        return distribution_of(actor, td)
    last, record = actor.module[-1], flat(td, input_keys(actor))
    with set_interaction_type(interaction_type() or last.default_interaction_type):
        for step in steps:
            step(record)
    if all(key in record for key in last.in_keys):
        return last.get_dist(record)
    params = TensorDict({}, td.batch_size)  # of heads that are read as one group
    for key, value in record.items():
        params.set(key, value)
    return last.get_dist(params)


def _steps_to_parameters(actor: Any) -> list[Plan] | None:
    """Return what runs before the distribution, if that is all that a policy is made of."""
    kind, plain = type(actor), ProbabilisticTensorDictSequential
    if not isinstance(actor, plain) or actor.return_composite or actor.partial_tolerant:
        return None
    if kind.get_dist not in _SEQUENCES or kind.get_dist_params is not plain.get_dist_params:
        return None
    *networks, last = actor.module.children()
    if getattr(type(last), "get_dist", None) not in _DRAWS:
        return None
    filled = set(actor.in_keys).difference(input_keys(actor))
    read_before = {key for network in networks for key in getattr(network, "in_keys", ())}
    if filled & read_before:
        return None
    steps = [plan(network) for network in networks]
    return None if None in steps else steps  # type: ignore[return-value]  # none is None
