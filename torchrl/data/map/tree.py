"""`Tree`: what was tried from a state on, as a node with the nodes below it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, tensorclass
from torch import Tensor

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.records.torch_private import shared_entries

Path = tuple[int, ...]


@tensorclass
class Tree:
    """A node of a tree of trajectories, with the nodes below it.

    Each node is a state. :attr:`rollout` leads to it, from the state of the node above, and
    the actions taken in it lead to the nodes in :attr:`subtree`.

    Args:
        count: How often the node was visited; see :attr:`visits`.
        wins: Sum of the returns of these visits.
        index: Where the steps that follow are in the data map of a forest, ``[children]``.
        hash: Hash of the state.
        node_id: Number of the node in its tree, from the root on.
        rollout: Steps ``[T]`` that lead to the state from that of the node above.
        node_data: Entries of the state, such as observations.
        subtree: The nodes below, stacked lazily.
        specs: Specs of the entries, for those who build trees by hand.

    >>> from tensordict import TensorDict
    >>> node = Tree.make_node(TensorDict(observation=torch.zeros(2)))
    >>> node.subtree = torch.stack([Tree.make_node(TensorDict(observation=torch.ones(2)))])
    >>> node.num_children, node.num_vertices(), node.valid_paths()
    (1, 2, [(0,)])
    """

    count: Tensor | None = None
    wins: Tensor | None = None
    index: Tensor | None = None
    hash: Tensor | None = None
    node_id: Tensor | None = None
    rollout: TensorDictBase | None = None
    node_data: TensorDictBase | None = None
    subtree: Any = None
    _parent: Any = None
    specs: Any = None

    @classmethod
    def make_node(
        cls,
        data: TensorDictBase,
        *,
        device: torch.device | None = None,
        batch_size: Sequence[int] | None = None,
        specs: Any = None,
    ) -> Tree:
        """Return a node of a state, without nodes below it.

        Args:
            data: Entries of the state.
            device: Device of the node; that of ``data`` if ``None``.
            batch_size: Batch size of the node; that of ``data`` if ``None``.
            specs: As for the class.
        """
        size = data.batch_size if batch_size is None else batch_size
        device = data.device if device is None else device
        make: Any = cls  # a tensorclass
        return make(
            count=torch.zeros(tuple(size), dtype=torch.int64, device=device),
            wins=torch.zeros(tuple(size), device=device),
            node_data=data,
            specs=specs,
            batch_size=size,
            device=device,
        )

    @property
    def visits(self) -> Tensor | None:
        """How often the node was visited: :attr:`count`."""
        return self.count

    @visits.setter
    def visits(self, value: Tensor) -> None:
        self.count = value

    def children(self) -> list[Tree]:
        """Return the nodes below."""
        return [] if self.subtree is None else list(self.subtree.unbind(0))

    @property
    def num_children(self) -> int:
        """Number of nodes below."""
        return 0 if self.subtree is None else len(self.subtree)

    @property
    def is_terminal(self) -> bool:
        """Whether there are no nodes below."""
        return self.num_children == 0

    @property
    def parent(self) -> Tree | None:
        """The node above; ``None`` at the root, and where the tree above is gone."""
        above = None if self._parent is None else self._parent()
        make: Any = Tree  # a tensorclass
        return None if above is None else make.from_tensordict(above)

    def link(self) -> Tree:
        """Tell every node below which one is above it; return this node."""
        for _, node in self.walk():
            reference = weakref.ref(shared_entries(node))
            for child in node.children():
                child._parent = reference
        return self

    def walk(self) -> Iterator[tuple[Path, Tree]]:
        """Yield the path and the node of every node, in the order of their numbers."""
        waiting = deque[tuple[Path, Tree]]([((), self)])
        while waiting:
            path, node = waiting.popleft()
            yield path, node
            waiting.extend(((*path, i), child) for i, child in enumerate(node.children()))

    def vertices(self, *, key_type: str = "hash") -> dict[Any, Tree]:
        """Return all nodes.

        Args:
            key_type: ``"id"``, ``"hash"`` or ``"path"``. Nodes of the same state have the same
                hash, and one of them is kept.

        Raises:
            ValueError: if ``key_type`` is another word.
        """
        if key_type == "path":
            return dict(self.walk())
        if key_type == "id":
            return {node._number(place): node for place, (_, node) in enumerate(self.walk())}
        if key_type == "hash":
            return {node._state(): node for _, node in self.walk()}
        raise ValueError(describe("Tree", "unknown kind of key", expected=["hash", "id", "path"], found=key_type))

    def _number(self, place: int) -> int:
        """Return the number of the node, or its place where it has none."""
        return place if self.node_id is None else int(self.node_id)

    def _state(self) -> int:
        """Return a number that nodes of the same state share."""
        return id(shared_entries(self)) if self.hash is None else int(self.hash)

    def num_vertices(self, *, count_repeat: bool = False) -> int:
        """Return the number of nodes, this one included.

        Args:
            count_repeat: Count nodes of the same state as often as there are.
        """
        return len(self.vertices(key_type="path" if count_repeat else "hash"))

    def __contains__(self, other: Tree) -> bool:
        return any(node._state() == other._state() for _, node in self.walk())

    def edges(self) -> list[tuple[int, int]]:
        """Return the pairs of the numbers of a node and one below it."""
        numbers = {path: node._number(place) for place, (path, node) in enumerate(self.walk())}
        return [(numbers[path[:-1]], number) for path, number in numbers.items() if path]

    def valid_paths(self) -> list[Path]:
        """Return the paths, numbers of children, from here to the nodes without children."""
        return [path for path, node in self.walk() if not node.num_children]

    def max_length(self) -> int:
        """Return the number of nodes of the longest path, this one not included."""
        return max(map(len, self.valid_paths()))

    def get_vertex_by_id(self, id: int) -> Tree:
        """Return the node of a number.

        Raises:
            MissingKeyError: if there is none.
        """
        return self._vertex("id", int(id))

    def get_vertex_by_hash(self, hash: int) -> Tree:
        """Return the node of a state's hash.

        Raises:
            MissingKeyError: if there is none.
        """
        return self._vertex("hash", int(hash))

    def _vertex(self, kind: str, key: int) -> Tree:
        found = self.vertices(key_type=kind)
        if key not in found:
            raise MissingKeyError(describe("Tree", f"has no node of this {kind}", found=key, expected=list(found)))
        return found[key]

    def _along(self, path: Sequence[int]) -> list[Tree]:
        nodes = [self]
        for number in path:
            nodes.append(nodes[-1].subtree[number])
        return nodes

    def rollout_from_path(self, path: Sequence[int]) -> TensorDictBase | None:
        """Return the steps ``[T]`` from the root's rollout on along a path; ``None`` if there are none."""
        parts: list[Any] = [node.rollout for node in self._along(path) if node.rollout is not None]
        joined: Any = torch.cat(parts, -1) if parts else None
        return joined

    @property
    def branching_action(self) -> Tensor | None:
        """The first action of :attr:`rollout`: the one that leads here from the node above."""
        return None if self.rollout is None else self.rollout[..., 0].get("action")

    @property
    def prev_action(self) -> Tensor | None:
        """The last action of :attr:`rollout`: the one that the state of this node came of."""
        return None if self.rollout is None else self.rollout[..., -1].get("action")

    def selected_actions(self, action_key: NestedKey = "action") -> Tensor | None:
        """Return the actions ``[children, *F]`` that were tried in the state of this node."""
        actions = [child.rollout[..., 0].get(action_key) for child in self.children() if child.rollout is not None]
        return torch.stack(actions) if actions else None

    def fully_expanded(self, env: Any) -> bool:
        """Return whether every action of an environment was tried in the state of this node."""
        return self.num_children == env.full_action_spec_unbatched.cardinality()

    def to_string(self, node_format_fn: Callable[[Tree], object] | None = None) -> str:
        """Return a line for each node, indented by its depth.

        Args:
            node_format_fn: ``node -> anything`` that is shown; number and visits if ``None``.
        """
        lines = []
        for path, node in sorted(self.walk(), key=lambda pair: pair[0]):
            shown = f"visits={node.count}" if node_format_fn is None else node_format_fn(node)
            lines.append(f"{'  ' * len(path)}{path} {shown}")
        return "\n".join(lines)
