"""Agents and groups: who shares an entry of the record.

``A`` agents of a group, each with a record of its own; the group's is their stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data import Composite, StackedComposite, contains_lazy_spec

GroupMap = dict[str, list[str]]


class MarlGroupMapType(Enum):
    """The two plainest ways to group agents.

    >>> MarlGroupMapType.ALL_IN_ONE_GROUP.get_group_map(["ann", "bob"])
    {'agents': ['ann', 'bob']}
    >>> MarlGroupMapType.ONE_GROUP_PER_AGENT.get_group_map(["ann", "bob"])
    {'ann': ['ann'], 'bob': ['bob']}
    """

    ALL_IN_ONE_GROUP = 1
    ONE_GROUP_PER_AGENT = 2

    def get_group_map(self, agent_names: Sequence[str]) -> GroupMap:
        """Return the agents of each group."""
        if self is MarlGroupMapType.ALL_IN_ONE_GROUP:
            return {"agents": list(agent_names)}
        return {name: [name] for name in agent_names}


def check_marl_grouping(group_map: Mapping[str, Sequence[str]], agent_names: Sequence[str]) -> None:
    """Raise ``ValueError`` unless every agent is in one group, once.

    Args:
        group_map: The agents of each group.
        agent_names: All agents.

    >>> check_marl_grouping({"team": ["ann"]}, ["ann", "bob"])
    Traceback (most recent call last):
    ValueError: group_map: leaves out ['bob']; expected each of ['ann', 'bob'] once...
    """
    placed = [name for names in group_map.values() for name in names]
    facts = {
        "has no groups": not group_map and "none",
        "has empty groups": [group for group, names in group_map.items() if not len(names)],
        "repeats agents": sorted({name for name in placed if placed.count(name) > 1}),
        "names agents that do not exist": [name for name in placed if name not in agent_names],
        "leaves out": [name for name in agent_names if name not in placed],
        "has agents of one name": sorted({n for n in agent_names if agent_names.count(n) > 1}),
    }
    for fact, found in facts.items():
        if found:
            fact = f"{fact} {found}"
            expected = f"each of {list(agent_names)} once"
            raise ValueError(describe("group_map", fact, expected=expected, found=group_map))


def group_by_name(agent_names: Sequence[str]) -> GroupMap:
    """Group agents by what stands before the number in their names.

    A name without a number is a group of its own.

    >>> group_by_name(["wolf_0", "wolf_1", "sheep"])
    {'wolf': ['wolf_0', 'wolf_1'], 'sheep': ['sheep']}
    """
    groups: GroupMap = {}
    for name in agent_names:
        kind, _, number = name.rpartition("_")
        groups.setdefault(kind if kind and number.isdigit() else name, []).append(name)
    return groups


def resolve_groups(
    group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None, agent_names: Sequence[str], default: GroupMap
) -> GroupMap:
    """Return the agents of each group, as the caller wished or by default.

    Raises:
        ValueError: if an agent is not in one group, once.
    """
    if group_map is None:
        groups = default
    elif isinstance(group_map, MarlGroupMapType):
        groups = group_map.get_group_map(agent_names)
    else:
        groups = {str(group): list(names) for group, names in group_map.items()}
    check_marl_grouping(groups, agent_names)
    return groups


class Group:
    """Agents whose records are stacked.

    Args:
        name: The group's entry in the record.
        agents: Their names, in order.
        specs: For each kind of spec (``"action"``, ...) what each agent's part of it is.
        batch_size: That of the environment, ``[*B]``.

    >>> from torchrl.data import Unbounded
    >>> observations = [Composite(observation=Unbounded((n,))) for n in (2, 3)]
    >>> duo = Group("duo", ["ann", "bob"], {"observation": observations}, torch.Size([]))
    >>> duo.is_dense, duo.specs["observation"]["observation"].shape
    (False, torch.Size([2, -1]))
    """

    def __init__(
        self, name: str, agents: Sequence[str], specs: Mapping[str, Sequence[Any]], batch_size: torch.Size
    ) -> None:
        self.name, self.agents = name, list(agents)
        self.batch_size, self.dim = batch_size, len(batch_size)
        self._each = {kind: list(each) for kind, each in specs.items()}
        self.specs: dict[str, Any] = {kind: torch.stack(list(each), self.dim) for kind, each in specs.items()}
        # Agents that differ in one kind of entry differ as records.
        self.is_dense = not any(contains_lazy_spec(spec) for spec in self.specs.values())

    def agent_spec(self, kind: str, agent: str) -> Composite:
        """Return one agent's part of a kind of spec."""
        return self._each[kind][self.agents.index(agent)]

    def stack(self, records: Sequence[Mapping[Any, Any]]) -> TensorDictBase:
        """Return the group's record ``[*B, A]``, of the entries ``[*B, ...]`` of its agents."""
        if self.is_dense:
            entries = {key: torch.stack([record[key] for record in records], self.dim) for key in records[0]}
            return TensorDict(entries, [*self.batch_size, len(records)])
        each = [TensorDict(dict(record), self.batch_size) for record in records]
        return LazyStackedTensorDict.lazy_stack(each, self.dim)

    def unbind(self, record: TensorDictBase) -> Sequence[TensorDictBase]:
        """Return the record of each agent in a root."""
        return record.get(self.name).unbind(self.dim)

    def mask_actions(self, env: Any, masks: Sequence[Tensor]) -> None:
        """Make the random actions of an environment legal.

        Args:
            env: Its spec is masked.
            masks: True where an action is legal, one an agent, ``[*B, n]``.
        """
        spec: Any = env.full_action_spec[self.name]
        if isinstance(spec, StackedComposite):
            for one, mask in zip(spec.specs, masks, strict=True):
                one["action"].update_mask(mask)
        else:
            spec["action"].update_mask(torch.stack(list(masks), self.dim))


def group_specs(groups: Iterable[Group], kind: str, batch_size: torch.Size, **shared: Any) -> Composite:
    """Return one kind of spec of an environment: that of each group, and what all share."""
    entries: dict[Any, Any] = {group.name: group.specs[kind] for group in groups}
    return Composite(entries | shared, shape=batch_size)
