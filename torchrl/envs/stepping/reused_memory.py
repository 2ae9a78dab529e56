"""Reused memory: which entries of a step are overwritten by a later one, and copies of those.

Steps then keep what they held when they were taken.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase, is_non_tensor
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl._core.records.flat_record import FlatRecord, Record, is_constant
from torchrl._core.records.policy_output import policy_name
from torchrl._core.records.torch_private import version_of

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

Path = tuple[object, ...]
WATCHED = 3  # steps


def leaf_tensors(record: Any, path: Path = ()) -> Iterator[tuple[Path, Any, NestedKey, Tensor]]:
    """Find the tensors of a record: where each is, what holds it, its name there, the tensor.

    Entries under ``"next"`` are left out; the parts of a lazy stack are numbered.
    """
    if isinstance(record, LazyStackedTensorDict):
        for i, part in enumerate(record.tensordicts):
            yield from leaf_tensors(part, (*path, i))
        return
    for name, value in record.items():
        if isinstance(value, Tensor):
            key = name if isinstance(name, tuple) else (name,)
            yield (*path, *key), record, name, value
        elif is_record(value) and (path or name != "next"):
            yield from leaf_tensors(value, (*path, name))


def is_record(value: object) -> bool:
    """Return whether an entry is a record itself."""
    return isinstance(value, TensorDictBase) and not is_non_tensor(value)


def records_in(record: Any) -> Iterator[TensorDictBase]:
    """Find a record and all that it holds."""
    yield record
    parts = record.tensordicts if isinstance(record, LazyStackedTensorDict) else record.values()
    for part in parts:
        if is_record(part):
            yield from records_in(part)


def same_content(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers, as far as can be known; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or one.is_meta:
        return one.shape == other.shape and one.dtype == other.dtype
    try:
        return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())
    except RuntimeError:  # under torch.vmap no value can be looked at
        return True


def key_of(path: Path) -> NestedKey:
    """Return the key of an entry from its path, which may lead through parts of lazy stacks."""
    names = tuple(part for part in path if isinstance(part, str))
    return names[0] if len(names) == 1 else names


class MemoryWatch:
    """Watches the first steps of a loop for entries whose memory is written again, and copies them.

    An environment may return the same tensors at each step, or edit what it is given; a policy may
    write into one tensor, or edit what it reads. The first step is copied whole. Entries of the
    following ones that lie where its entries lay are copied from then on, for good. All others,
    which are those of nearly every environment and policy, are copied no more.

    Args:
        env: The environment.
        policy: The policy.
    """

    def __init__(self, env: EnvBase, policy: object) -> None:
        # Names only: a watch that is kept must keep neither alive.
        self._env_name, self._policy_name = type(layers(env)[-1]).__name__, policy_name(policy)
        self.has_raised = False  # then the next loop looks again
        self.watched: object = None  # returns the policy while it exists
        self.is_over = False  # nothing to watch or to copy any more, but for resets
        self.is_idle = False  # nor anything to check after the last step
        self.watches_resets = True
        self._steps = 0
        self._read: dict[Path, tuple[Tensor, int]] = {}  # by the policy, and the versions
        self._edited_by_policy: set[Path] = set()
        self._edited_by_env: set[Path] = set()
        self._reused_roots: set[Path] = set()
        self._reused_results: set[Path] = set()
        # Of the first step: what was returned, and its copy.
        self._root: dict[Path, tuple[Tensor, Tensor]] = {}
        self._result: dict[Path, tuple[Tensor, Tensor]] = {}
        self._kept: dict[Path, tuple[Tensor, Tensor]] = {}  # what was given, and its copy
        self._records: list[TensorDictBase] = []  # that the first step was returned in
        self._reuses_records = False
        self._taken: list[tuple[object, object]] = []  # records of this batch
        self._earlier: dict[Path, list[Tensor]] = {}  # what the first resets returned
        self._resets = 0
        self._reused_resets: set[Path] = set()

    def __reduce__(self) -> tuple[object, ...]:
        return type(None), ()  # a copy of the environment has none

    @property
    def is_new(self) -> bool:
        """Whether no step was taken yet."""
        return self._steps == 0

    def around(self, act: Any, step: Any) -> tuple[Any, Any]:
        """Return the first two functions of the loop, with what has to be copied copied.

        Args:
            act: ``root -> root``; flat records are changed in place.
            step: ``root -> result`` for a flat record, else ``root -> root`` with its result.
        """

        def copying_act(root: Record) -> Record:
            self.before_policy(root)
            acted = act(root)
            self.before_step(root if isinstance(root, FlatRecord) else acted)
            return acted

        def copying_step(root: Record) -> Record:
            out = step(root)
            if isinstance(root, FlatRecord):
                return self.after_step(root, out)
            result = out.get("next")
            kept = self.after_step(out, result)
            return out if kept is result else out.set("next", kept)

        return copying_act, copying_step

    def after_reset(self, root: Any) -> None:
        """Look at, and copy where necessary, the root that a reset returned."""
        if not self.watches_resets:
            return
        if self._resets < WATCHED:
            self._resets += 1
            for path, holder, name, value in list(leaf_tensors(root)):
                earlier = self._earlier.setdefault(path, [])
                if any(_share((one, one), value) for one in earlier):
                    self._reused_resets.add(path)
                earlier.append(value)
                holder.set(name, value.clone())
            if self._resets == WATCHED:
                self._earlier = {}
                self._note_whether_over()
            return
        _copy(root, self._reused_results | self._reused_resets)

    def forget(self) -> None:
        """Hold on to no step any more."""
        self._root, self._result, self._records, self._taken = {}, {}, [], []
        self._note_whether_over()

    def _note_whether_over(self) -> None:
        edited = self._edited_by_policy or self._edited_by_env
        reused = self._reused_roots or self._reused_results or self._reuses_records
        self.is_over = self._steps >= WATCHED and not (edited or reused)
        self.is_idle = self.is_over and not self._root
        reused = self._reused_resets or self._reused_results
        self.watches_resets = self._resets < WATCHED or bool(reused)

    def __enter__(self) -> None:
        self._taken = []

    def __exit__(self, kind: object, *_: object) -> None:
        self._taken = []
        if kind is None and self._steps >= WATCHED and self._root:
            self._check()

    def step(self, step: object, root: Record) -> TensorDictBase:
        """Step once, in a loop that calls nothing else of the watch.

        Args:
            step: As in :meth:`around`.
            root: With its actions.
        """
        self.before_step(root)
        _, copying_step = self.around(None, step)
        stepped = copying_step(root)
        if self._steps >= WATCHED and self._taken:
            self.forget()
        return stepped

    def before_policy(self, root: Record) -> None:
        """Look at, and copy where necessary, what the policy is about to read."""
        _copy(root, self._edited_by_policy)
        if self._steps < WATCHED:
            self._read = {path: (x, version_of(x)) for path, _, _, x in leaf_tensors(root)}

    def before_step(self, root: Any) -> None:
        """Look at, and copy where necessary, what the policy wrote."""
        if self._steps < WATCHED:
            for path, _, _, value in leaf_tensors(root):
                read, version = self._read.get(path, (None, 0))
                is_edited = read is value and version_of(value) != version
                if is_edited and path not in self._edited_by_policy:
                    self._note_edit(path)
                if self._steps == 0:
                    self._root[path] = (value, value.clone())
                    self._earlier.setdefault(path, []).append(value)
                elif _share(self._root.get(path), value):
                    self._note_reuse(self._reused_roots, 0, path)
            self._read = {}
        _copy(root, self._reused_roots)
        if self._edited_by_env:
            for path, holder, name, value in list(leaf_tensors(root)):
                if path in self._edited_by_env:
                    given = value.clone()  # the step before may hold the other one
                    self._kept[path] = (given, value.clone())
                    holder.set(name, given)

    def after_step(self, root: Any, result: TensorDictBase) -> TensorDictBase:
        """Look at what the environment returned; return it, copied where necessary."""
        if self._steps == 0:
            for path, (value, copy) in self._root.items():
                if not same_content(value, copy):
                    self._edited_by_env.add(path)
            self._kept = self._root
        if self._kept:
            for path, holder, name, value in list(leaf_tensors(root)):
                given, copy = self._kept.get(path, (None, value))
                if value is given:  # another one was written there, by a transform
                    holder.set(name, copy)
            self._kept = {}
        if self._steps < WATCHED:
            result = self._look_at(root, result)
        elif self._reuses_records:
            result = result.copy()
        _copy(result, self._reused_results)
        return result

    def _look_at(self, root: TensorDictBase, result: TensorDictBase) -> TensorDictBase:
        first = self._steps == 0
        if first:
            self._records = list(records_in(result))
        elif not self._reuses_records:
            seen = {id(record) for record in self._records}
            self._reuses_records = any(id(record) in seen for record in records_in(result))
        if first or self._reuses_records:
            result = result.copy()  # the environment may write into the one that it returned
        for path, holder, name, value in list(leaf_tensors(result)):
            if _share(self._root.get(path), value) or _share(self._result.get(path), value):
                self._note_reuse(self._reused_results, 1, path)
            if first:
                copy = value.clone()
                self._result[path] = (value, copy)
                holder.set(name, copy)
        self._taken.append((root, result))
        self._steps += 1
        self._note_whether_over()
        return result

    def _check(self) -> None:
        """Raise :class:`SpecError` if what the first step held was overwritten later."""
        root, result = self._root, self._result
        self._root, self._result, self._records = {}, {}, []
        self._note_whether_over()
        known = self._edited_by_policy | self._edited_by_env | self._reused_results
        for path, (value, copy) in result.items():
            if path not in known and not same_content(value, copy):
                raise self._overwritten(self._env_name, path)
        known |= self._reused_roots | self._reused_resets
        for path, (value, copy) in root.items():
            if path not in known and not same_content(value, copy):
                by_env = path in result
                who = self._env_name if by_env else self._policy_name
                raise self._overwritten(who, path)

    def _note_edit(self, path: Path) -> None:
        if self._steps:
            self.has_raised = True
            raise SpecError(
                describe(
                    self._policy_name,
                    "is edited in place by the policy, which changes the step before",
                    key=key_of(path),
                    hint="Compute a new tensor and write it into the record, or edit a clone().",
                )
            )
        self._edited_by_policy.add(path)

    def _note_reuse(self, found: set[Path], side: int, path: Path) -> None:
        """Note an entry that lies where that of the first step lay; copy those in between."""
        if path not in found:
            found.add(path)
            for records in self._taken[1:]:
                _copy(records[side], {path})

    def _overwritten(self, who: str, path: Path) -> SpecError:
        self.has_raised = True
        return SpecError(
            describe(
                who,
                "was overwritten after it had been returned",
                key=key_of(path),
                expected="a tensor of its own for each step",
                hint="Return a clone() of memory that is written again.",
            )
        )


def new_watch(env: EnvBase, policy: object, acting: object) -> MemoryWatch:
    """Return a new watch of an environment and a policy, and keep it in the environment.

    Many short rollouts of the same two then cost what a long one does.

    Args:
        env: The environment.
        policy: As it was given; ``None`` for random actions.
        acting: What is called.
    """
    watch = MemoryWatch(env, acting)
    try:
        watch.watched = _no_policy if policy is None else weakref.ref(policy)
    except TypeError:  # such a policy cannot be recognised
        env.__dict__.pop("_rollout_watch", None)
    else:
        env.__dict__["_rollout_watch"] = watch
    return watch


def _no_policy() -> None:
    return None


def _copy(record: Any, paths: set[Path]) -> None:
    if paths:
        for path, holder, name, value in list(leaf_tensors(record)):
            if path in paths:
                holder.set(name, value.clone())


def _share(first: tuple[Tensor, Tensor] | None, value: Tensor) -> bool:
    if first is None or is_constant(value) or not value.numel():
        return False
    try:
        return first[0].data_ptr() == value.data_ptr() and not value.is_meta
    except RuntimeError:  # a tensor of a transformation of functions has no memory
        return False


def layers(env: Any) -> list[Any]:
    """Return an environment and those that it wraps, outermost first."""
    found = []
    while hasattr(type(env), "_step"):
        found.append(env)
        env = env.__dict__.get("_modules", {}).get("base_env")
    return found


def own_actions(record: Record, keys: list[NestedKey]) -> list[tuple[TensorDictBase, NestedKey, Tensor]]:
    """Put copies of the actions into a record; return what holds each, its name, the action.

    Args:
        record: A root with its actions.
        keys: Their keys.
    """
    actions = []
    for key in keys:
        for holder, name in _holders(record, key):
            value = holder.get(name, None)
            if isinstance(value, Tensor):
                holder.set(name, value.clone())
                actions.append((holder, name, value))
    return actions


def _holders(record: Record, key: NestedKey) -> Iterator[tuple[Any, NestedKey]]:
    if isinstance(record, LazyStackedTensorDict):
        for part in record.tensordicts:
            yield from _holders(part, key)
    elif isinstance(key, str) or isinstance(record, FlatRecord):
        yield record, key
    elif len(key) == 1:
        yield record, key[0]
    elif isinstance(inner := record.get(key[0], None), TensorDictBase):
        yield from _holders(inner, key[1:])
