"""`MCTSForest`: trajectories from which trees are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.keys import as_keys, next_key
from torchrl.data.map.tensordict_map import TensorDictMap
from torchrl.data.map.tree import Tree
from torchrl.data.replay_buffers.storages.list import ListStorage
from torchrl.data.replay_buffers.storages.tensor import LazyTensorStorage

DONE_KEYS: tuple[NestedKey, ...] = ("done", "terminated", "truncated")
IGNORED = ("index", "collector", "next", "step_count")


class MCTSForest:
    """Steps by state and action, from which a tree can be made of any state.

    Steps from equal states with equal actions are the same step, whichever trajectory they come
    from. They are kept in :attr:`data_map`, from state and action to the result, and
    :attr:`node_map` leads from a state to the steps that were taken in it.

    Args:
        data_map: Keeps the steps; made from the first ones if ``None``.
        node_map: Leads from states to steps; made likewise.
        max_size: Number of steps; as many as come if ``None``.
        done_keys: End flags; those of ``done``, ``terminated`` and ``truncated`` that are there.
        reward_keys: Rewards; ``reward`` if ``None``.
        observation_keys: What makes a state: if ``None``, what is both at the root and under
            ``"next"``, and none of the others.
        action_keys: Actions; ``action`` if ``None``.
        excluded_keys: Entries that are no part of a state.
        consolidated: Whether rows are kept in one block of memory each; with ``max_size`` they are.

    Reads: the entries named, at the root and under ``next``.

    >>> states = torch.tensor([0, 1, 2])
    >>> done = torch.zeros(2, 1, dtype=torch.bool)
    >>> result = dict(observation=states[1:], reward=torch.ones(2, 1), done=done)
    >>> steps = TensorDict(observation=states[:-1], action=torch.zeros(2), done=done, next=result)
    >>> forest = MCTSForest()
    >>> forest.extend(steps.auto_batch_size_(1))
    >>> forest.get_tree(TensorDict(observation=torch.tensor(0))).rollout["next", "observation"]
    tensor([1, 2])
    """

    def __init__(
        self,
        *,
        data_map: TensorDictMap | None = None,
        node_map: TensorDictMap | None = None,
        max_size: int | None = None,
        done_keys: Sequence[NestedKey] | None = None,
        reward_keys: Sequence[NestedKey] | None = None,
        observation_keys: Sequence[NestedKey] | None = None,
        action_keys: Sequence[NestedKey] | None = None,
        excluded_keys: Sequence[NestedKey] | None = None,
        consolidated: bool | None = None,
    ) -> None:
        if consolidated and max_size is None:
            raise ValueError(describe(self, "consolidated needs the number of steps", hint="Give max_size."))
        self.data_map, self.node_map, self.max_size = data_map, node_map, max_size
        self.done_keys, self.reward_keys = as_keys(done_keys) or None, as_keys(reward_keys) or None
        self.observation_keys, self.action_keys = as_keys(observation_keys) or None, as_keys(action_keys) or None
        self.excluded_keys, self.consolidated = as_keys(excluded_keys), consolidated
        self._taken: list[list[int]] = []  # of each state, the numbers of the steps taken in it
        self._roots: list[TensorDictBase] = []  # of each step, state and action

    def get_keys_from_env(self, env: Any) -> None:
        """Take the names of entries from an environment."""
        self.done_keys, self.reward_keys = list(env.done_keys), list(env.reward_keys)
        self.action_keys = list(env.action_keys)
        self.observation_keys = list(env.full_observation_spec.keys(True, True))

    def _learn(self, steps: TensorDictBase) -> None:
        """Learn the names of entries from the first steps, and make the maps."""
        there = set(steps.keys(True, True))
        if self.done_keys is None:
            self.done_keys = [key for key in DONE_KEYS if next_key(key) in there]
        if self.reward_keys is None:
            self.reward_keys = ["reward"]
        if self.action_keys is None:
            self.action_keys = ["action"]
        if self.observation_keys is None:
            others = {*self.done_keys, *self.reward_keys, *self.action_keys, *self.excluded_keys}
            self.observation_keys = [
                key
                for key in sorted(there, key=str)
                if key not in others and self._root_of(key) not in IGNORED and next_key(key) in there
            ]
        storage: Any = ListStorage if self.max_size is None else LazyTensorStorage
        if self.data_map is None:
            self.data_map = TensorDictMap.from_tensordict_pair(
                steps,
                steps.get("next"),
                in_keys=[*self.observation_keys, *self.action_keys],
                out_keys=[*self.observation_keys, *self.reward_keys, *self.done_keys],
                max_size=self.max_size,
                storage_constructor=storage,
            )
        if self.node_map is None:
            self.node_map = TensorDictMap.from_tensordict_pair(
                steps,
                steps,
                in_keys=self.observation_keys,
                out_keys=self.observation_keys,
                max_size=self.max_size,
                storage_constructor=storage,
            )

    @staticmethod
    def _root_of(key: NestedKey) -> object:
        name = key if isinstance(key, str) else key[0]
        return "index" if isinstance(name, str) and name.startswith("_") else name

    def __len__(self) -> int:
        return 0 if self.data_map is None else len(self.data_map)

    def extend(self, rollout: TensorDictBase, *, return_node: bool = False) -> Tree | None:
        """Add the steps of trajectories.

        Args:
            rollout: Steps ``[*B, T]``.
            return_node: Return the tree from the first state on.

        Raises:
            MissingKeyError: if an entry is missing.
        """
        steps = rollout.reshape(-1)
        if self.data_map is None or self.node_map is None or self.observation_keys is None:
            self._learn(steps)
        assert self.data_map is not None
        assert self.node_map is not None
        self.data_map[steps] = steps.get("next")
        self.node_map[steps] = steps
        numbers = self.data_map.numbers(steps).tolist()
        states = self.node_map.numbers(steps).tolist()
        self._taken.extend([] for _ in range(len(self._taken), len(self.node_map)))
        kept = steps.select(
            *(self.observation_keys or ()), *(self.action_keys or ()), *(self.done_keys or ()), strict=False
        )
        for row, (state, number) in enumerate(zip(states, numbers, strict=True)):
            if number == len(self._roots):  # a new one
                self._roots.append(kept[row].clone())
                self._taken[state].append(number)
        return self.get_tree(steps[0]) if return_node else None

    def add(self, step: TensorDictBase, *, return_node: bool = False) -> Tree | None:
        """Add one step ``[]``; see :meth:`extend`."""
        return self.extend(step.unsqueeze(0), return_node=return_node)

    def _step(self, number: int) -> TensorDictBase:
        """Return a step ``[]`` in the layout of trajectories."""
        assert self.data_map is not None
        return self._roots[number].copy().set("next", self.data_map.storage.get(number))

    def _taken_in(self, state: TensorDictBase) -> list[int]:
        """Return the numbers of the steps that were taken in a state ``[]``."""
        assert self.node_map is not None
        number = int(self.node_map.numbers(state))
        return self._taken[number] if number >= 0 else []

    def get_tree(
        self, root: TensorDictBase, *, recursive: bool = True, max_depth: int | None = None, compact: bool = True
    ) -> Tree:
        """Return the tree of all that was tried from a state on.

        A state that comes back on the way from the root ends its branch.

        Args:
            root: The state ``[]``: its observations.
            recursive: Go on below the first actions.
            max_depth: Number of nodes below each other, at most.
            compact: Make one node of states in which only one action was tried; otherwise one of
                each state.

        Raises:
            MissingKeyError: if no step was taken in this state.
        """
        if self.node_map is None or not self._taken_in(root):
            raise MissingKeyError(describe(self, "holds no step from this state", hint="Add some with extend()."))
        depth = max_depth if recursive else 1
        return self._node(root, [], frozenset(), itertools.count(), compact, depth).link()

    def _node(
        self,
        state: TensorDictBase,
        steps: list[int],
        seen: frozenset[int],
        numbers: Iterator[int],
        compact: bool,
        depth: int | None,
    ) -> Tree:
        """Return the node of the state that ``steps`` lead to, with all below it."""
        ended = False
        while True:
            identity = self._identity(state)
            taken = [] if ended or identity in seen else self._taken_in(state)
            seen |= {identity}
            if len(taken) != 1 or (steps and not compact):
                break
            steps = [*steps, *taken]
            state = self._step(taken[0]).get("next")
            ended = any(bool(state.get(key).any()) for key in self.done_keys or ())
        number = next(numbers)
        children = []
        if depth is None or depth > 0:
            left = None if depth is None else depth - 1
            for step in taken:
                below = self._step(step).get("next")
                children.append(self._node(below, [step], seen, numbers, compact, left))
        steps_td: list[Any] = [self._step(step) for step in steps]
        make: Any = Tree  # a tensorclass
        return make(
            count=torch.zeros((), dtype=torch.int64),
            wins=torch.zeros(()),
            index=torch.tensor(taken, dtype=torch.int64),
            hash=torch.tensor(identity),
            node_id=torch.tensor(number),
            rollout=torch.stack(steps_td) if steps else None,
            node_data=state.select(*(self.observation_keys or ())),
            subtree=TensorDict.lazy_stack(children) if children else None,
            batch_size=[],
        )

    def _identity(self, state: TensorDictBase) -> int:
        """Return the hash of a state ``[]``."""
        assert self.node_map is not None
        query = self.node_map.query_module
        found = query(state.select(*query.in_keys).clone(False), extend=False)
        return int(found.get(query.hash_key))

    def valid_paths(self, root: TensorDictBase) -> list[tuple[int, ...]]:
        """Return the paths of the tree of a state: see :meth:`Tree.valid_paths`."""
        return self.get_tree(root).valid_paths()

    def to_string(self, root: TensorDictBase, node_format_fn: Callable[[Tree], object] | None = None) -> str:
        """Return the text of the tree of a state: see :meth:`Tree.to_string`."""
        return self.get_tree(root).to_string(node_format_fn)
