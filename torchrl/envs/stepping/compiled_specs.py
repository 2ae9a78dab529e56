"""The specs of an environment, compiled: keys, shapes and checks, decided once for all steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase, is_leaf_nontensor
from torch import Tensor

from torchrl._core.errors import DTypeError, MissingKeyError, ResetError, ShapeError, describe, nearest
from torchrl._core.keys import groups_of, leaf_keys, sibling
from torchrl._core.mdp import DONE, DONE_NAMES, TERMINATED, TRUNCATED, complete_done, last_name, own_groups
from torchrl._core.records.flat_record import (
    FlatRecord,
    Record,
    as_constant,
    resize_if_fitting,
    takes_flat_records,
    with_group_sizes,
)
from torchrl._core.records.rows import expand_right
from torchrl.data import Composite, TensorSpec
from torchrl.envs.specs import leaf_names, nested_groups
from torchrl.envs.stepping.validation import check_choice

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase


class FlagGroup:
    """The end flags of one nesting level, and the key of its ``_reset`` mask."""

    def __init__(self, done_key: NestedKey, spec: Composite) -> None:
        self.done, self.terminated, self.truncated = (sibling(done_key, name) for name in DONE_NAMES)
        self.has_truncated = self.truncated in leaf_names(spec)
        self.reset = sibling(done_key, "_reset")
        self.keys = [key for key in leaf_names(spec) if sibling(key, DONE) == done_key]
        self.shape, self.device = spec[done_key].shape, spec[done_key].device
        self.prefix = () if isinstance(done_key, str) else tuple(done_key[:-1])


class CompiledSpecs:
    """The keys, shapes and checks of an environment's step.

    Args:
        env: Its specs are read here, and never again.
    """

    def __init__(self, env: EnvBase) -> None:
        specs = env._get_specs()
        self.name, self.batch_size, self.device = type(env).__name__, env.batch_size, env.device
        self.specs: dict[str, Composite] = specs
        self.action_keys, self.state_keys, self.observation_keys, self.reward_keys = (
            leaf_names(specs[group]) for group in ("action", "state", "observation", "reward")
        )
        self.done_keys = leaf_names(specs["done"])
        done = [key for key in self.done_keys if last_name(key) == DONE]
        self.groups = [FlagGroup(key, specs["done"]) for key in sorted(done, key=_depth)]
        # The outermost flags decide when an episode is over; those below say who in it is.
        self.outermost = [
            group
            for group in self.groups
            if not any(
                outer is not group and outer.prefix == group.prefix[: len(outer.prefix)] for outer in self.groups
            )
        ]
        self.reset_keys = [group.reset for group in self.groups]
        self.actions = [  # and whether rows or agents may differ in shape
            (key, specs["action"][key], -1 in specs["action"][key].shape) for key in self.action_keys
        ]
        self.reward_shapes = [(key, specs["reward"][key].shape) for key in self.reward_keys]
        in_state = {*self.state_keys, *self.observation_keys}
        self._alive = [
            (key, as_constant(torch.zeros(group.shape, dtype=torch.bool, device=group.device)))
            for group in self.groups
            for key in group.keys
        ]
        self.dropped = [key for key in self.reward_keys if key not in in_state]
        self.not_carried = {"next", "_reset", "_step", *self.reward_keys, *self.done_keys}
        self.has_batch_lock = env.batch_locked
        self.batch_locked = env.batch_locked or bool(self.batch_size)
        self.takes_flat_records = self.batch_locked and takes_flat_records(env)
        # Nested tensordicts, which a flat record does not have.
        self.entry_groups = groups_of([*self.observation_keys, *self.state_keys, *self.done_keys])
        self.nested = nested_groups(specs, self.batch_size)
        # One flag is one number, which costs less to read than a tensor.
        self.is_single = self.batch_locked and len(self.groups) == 1 and self.groups[0].shape.numel() == 1

    # --- after a step or a reset -----------------------------------------------------------------

    def is_complete(self, next_root: Record) -> bool:
        """Return whether every reward and every flag is there, in its shape."""
        promised = [(key, group.shape) for group in self.groups for key in group.keys]
        return self.batch_locked and all(
            next_root.get(key, None) is not None and next_root.get(key).shape == shape
            for key, shape in (*self.reward_shapes, *promised)
        )

    def complete_step(self, next_root: Any) -> Any:
        """Give rewards their shape and add the end flags that a ``_step`` left out: they are false.

        Raises:
            MissingKeyError: if a reward is missing.
            ShapeError: if a reward does not have as many elements as its spec.
        """
        lead = () if self.batch_locked else next_root.batch_size
        for key, shape in self.reward_shapes:
            if lead:
                shape = torch.Size([*lead, *shape])
            reward = next_root.get(key, None)
            if reward is None:
                raise self._missing(next_root, key, "is not in what _step() returned")
            if reward.shape != shape and -1 not in shape:
                if reward.numel() != shape.numel():
                    raise self._wrong_shape(key, shape, reward.shape, "reward_spec")
                next_root.set(key, reward.reshape(shape))
        for group in self.groups:
            self._complete_flags(next_root, group, torch.Size([*lead, *group.shape]))
        if self.nested and not isinstance(next_root, FlatRecord):
            if self.batch_locked:  # as it will be under "next"
                resize_if_fitting(next_root, self.batch_size)
            with_group_sizes(next_root, self.nested)
        return next_root

    def _complete_flags(self, next_root: Any, group: FlagGroup, shape: torch.Size) -> None:
        done, terminated = next_root.get(group.done, None), next_root.get(group.terminated, None)
        truncated = next_root.get(group.truncated, None)  # it ends the episode, named or not
        if done is None or terminated is None or (truncated is None and group.has_truncated):
            if done is None and terminated is None and truncated is None:  # it has not ended
                terminated = torch.zeros(shape, dtype=torch.bool, device=group.device)
            flags = complete_done(done, terminated, truncated)
            if group.has_truncated and truncated is None:
                flags[TRUNCATED] = torch.zeros_like(flags[DONE])
            done, terminated, truncated = flags[DONE], flags[TERMINATED], flags.get(TRUNCATED)
        # An end that one of them reports is an end.
        for flag in (terminated, truncated):
            if flag is None or flag is done or flag.numel() != done.numel():
                continue
            if flag.dtype == done.dtype == torch.bool:
                done = done | flag.reshape(done.shape)
        found = ((group.done, done), (group.terminated, terminated), (group.truncated, truncated))
        for key, flag in found:
            if flag is not None:
                if flag.numel() != shape.numel():
                    raise self._wrong_shape(key, shape, flag.shape, "done_spec")
                if flag.shape != shape or next_root.get(key, None) is not flag:
                    next_root.set(key, flag.reshape(shape))

    def complete_reset(self, root: Any) -> Any:
        """Add the end flags, all false, that a ``_reset`` left out."""
        if isinstance(root, FlatRecord):  # shared: records that leave the loop get copies
            for key, flag in self._alive:
                root.setdefault(key, flag)
            return root
        lead = () if self.batch_locked else root.batch_size
        for group in self.groups:
            shape = (*lead, *group.shape)
            for key in group.keys:
                if root.get(key, None) is None:
                    root.set(key, torch.zeros(shape, dtype=torch.bool, device=group.device))
        return with_group_sizes(root, self.nested) if self.nested else root

    def check_alive(self, root: Record, masks: dict[NestedKey, Tensor]) -> None:
        """Raise :class:`ResetError` if an episode that was reset is over."""
        for group in self.groups:
            for key in group.keys:
                over = root.get(key)
                if group.reset in masks:
                    over = over & masks[group.reset]
                if over.any():
                    raise ResetError(
                        describe(
                            self.name,
                            "is true after reset()",
                            key=key,
                            expected="an episode that is not over",
                            found=over.tolist(),
                            hint="Return episodes that are not over, or build the environment with "
                            "allow_done_after_reset=True.",
                        )
                    )

    def ended(self, next_root: Record) -> bool:
        """Return whether any episode has ended."""
        if self.is_single:
            return next_root.get(self.groups[0].done).item()
        return any(bool(next_root.get(group.done).any()) for group in self.outermost)

    def all_ended(self, next_root: Record) -> bool:
        """Return whether every episode has ended."""
        return bool(self.rows_over(next_root).all())

    def rows_over(self, record: Record, *, every: bool = True) -> Tensor:
        """Return which rows ``[*B, 1]`` are over at every level that decides, or at any."""
        over = []
        for group in self.outermost:
            flag = record.get(group.done)  # [*B, *G, 1]
            flag = flag.flatten(flag.ndim - len(group.shape) + len(self.batch_size))
            over.append(flag.all(-1, True) if every else flag.any(-1, True))
        flags = torch.stack(over)
        return flags.all(0) if every else flags.any(0)

    def reset_masks(self, record: Record) -> dict[NestedKey, Tensor]:
        """Return where each level must be reset: where the outermost flag above it is up."""
        masks: dict[NestedKey, Tensor] = {}
        for group in self.groups:
            outer = next(g for g in self.outermost if g.prefix == group.prefix[: len(g.prefix)])
            mask = record.get(outer.done)
            masks[group.reset] = mask if outer is group else expand_right(mask, record.get(group.done).shape)
        return masks

    def mask_of(self, key: NestedKey, masks: dict[NestedKey, Tensor]) -> Tensor | None:
        """Return the mask that governs an entry; ``None`` if it is to be reset whole.

        It is that of the innermost level that contains the entry. An entry outside of every level
        is reset where anything in its row is.
        """
        path = (key,) if isinstance(key, str) else key
        levels = [group for group in self.groups if group.prefix == path[: len(group.prefix)]]
        if levels:
            return masks.get(levels[-1].reset)  # outermost first
        if len(masks) < len(self.groups):
            return None
        rows = []
        for group in self.groups:
            mask = masks[group.reset]
            rows.append(mask.flatten(mask.ndim - len(group.shape) + len(self.batch_size)))
        return torch.cat(rows, -1).any(-1, True)

    # --- validation of the first step ------------------------------------------------------------

    def check_action(self, root: Record, *, values: bool = False) -> None:
        """Refuse an action that is absent or does not have the shape of its spec.

        Args:
            root: A root with its actions.
            values: Check the values, too; see :func:`check_choice`.
        """
        for key, spec, may_differ in self.actions:
            if may_differ and differs_within(root, key, spec):
                continue
            action = root.get(key, None)
            is_tensor = isinstance(action, Tensor)
            if not (is_tensor and action.shape == spec.shape):
                if action is None:
                    raise self._missing(root, key, "was not written by the policy", side="policy")
                shape = self.expected(spec.shape, root)
                if is_tensor and action.shape != shape and -1 not in shape:
                    raise self._wrong_shape(key, shape, action.shape, "action_spec")
            if values and is_tensor:
                check_choice(self.name, key, action, spec)

    def check_result(self, record: Any, groups: tuple[str, ...]) -> None:
        """Refuse a first reset or step whose entries differ from the specs in shape or dtype."""
        for name in groups:
            spec = self.specs[name]
            for key in leaf_names(spec):
                self._check_entry(record, key, spec[key], f"{name}_spec")

    def _check_entry(self, record: Any, key: NestedKey, spec: TensorSpec, source: str) -> None:
        if differs_within(record, key, spec):
            return
        value = record.get(key, None)
        if value is None:
            raise self._missing(record, key, f"is promised by {source} but absent")
        if not isinstance(value, Tensor) or spec.dtype is None:
            return
        shape = self.expected(spec.shape, record)
        if value.shape != shape and -1 not in shape:
            raise self._wrong_shape(key, shape, value.shape, source)
        if value.dtype != spec.dtype:
            transform = ", or append DoubleToFloat()" if value.dtype == torch.float64 else ""
            raise DTypeError(
                describe(
                    self.name,
                    f"has another dtype than {source} promises",
                    key=key,
                    expected=spec.dtype,
                    found=value.dtype,
                    hint=f"Cast it in the environment, or fix {source}{transform}.",
                )
            )

    def expected(self, shape: torch.Size, record: Any) -> torch.Size:
        """Return the shape of an entry: that of its spec, or ``[*B, *S]`` if ``B`` is free."""
        return shape if self.batch_locked else torch.Size([*record.batch_size, *shape])

    def _missing(self, record: Any, key: NestedKey, fact: str, side: str = "environment") -> MissingKeyError:
        present = leaf_keys(record) if isinstance(record, TensorDictBase) else list(record)
        hint = f"Return {key!r} from the environment, or take it out of its specs."
        if side == "policy":
            hint = f"Write {key!r} in the policy (out_keys), or rename the action of the environment."
        elif any(other[0] == "next" for other in present):
            hint = "Return the entries themselves: the caller of _step() puts them under 'next'."
        return MissingKeyError(
            describe(
                self.name,
                fact,
                key=key,
                expected="an entry of that name",
                found=present,
                hint=f"{nearest(key, present)} {hint}".strip(),
            )
        )

    def _wrong_shape(self, key: NestedKey, expected: Any, found: Any, source: str) -> ShapeError:
        return ShapeError(
            describe(
                self.name,
                f"has another shape than {source} promises",
                key=key,
                expected=tuple(expected),
                found=tuple(found),
                hint=(
                    "Fix the width of the policy's last layer, or the action_spec."
                    if source == "action_spec"
                    else f"Return that shape, or fix {source}."
                ),
            )
        )

    def preset_keys(self, root: FlatRecord) -> list[tuple[NestedKey, ...]]:
        """Return the entries under ``"next"`` that a policy wrote."""
        found = []
        for key in root:
            if isinstance(key, tuple) and key[0] == "next":
                found.append(key)  # noqa: PERF401 - a comprehension is a call
        return found

    def carried_keys(self, root: FlatRecord, result: FlatRecord) -> list[NestedKey]:
        """Return the entries of a root that its result lacks and the next root has."""
        found = []
        for key in root:
            if key not in result and key not in self.not_carried:
                found.append(key)  # noqa: PERF401 - a comprehension is a call
        return found

    # --- from one step to the next ---------------------------------------------------------------

    def step_mdp(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the root of the next step; the action stays, the reward does not."""
        next_root = tensordict.get("next")
        lazy = tensordict if isinstance(tensordict, LazyStackedTensorDict) else next_root
        if isinstance(lazy, LazyStackedTensorDict):  # its rows may differ in entries and shapes
            rows = [self.step_mdp(row) for row in tensordict.unbind(lazy.stack_dim)]
            return LazyStackedTensorDict.lazy_stack(rows, lazy.stack_dim)
        root = own_groups(next_root.exclude(*self.dropped))
        for key, value in tensordict.items():
            if key in self.not_carried:
                continue
            if root.get(key, None) is None:
                root.set(key, value.copy() if isinstance(value, TensorDictBase) else value)
            elif isinstance(value, TensorDictBase):
                self._carry_nested((key,), value, root.get(key))
        return root

    def _carry_nested(self, path: tuple[str, ...], value: Any, next_root: Any) -> None:
        """Copy the entries under ``path`` to the next root, unless it has its own."""
        if isinstance(value, LazyStackedTensorDict) and isinstance(
            next_root, LazyStackedTensorDict
        ):  # its parts may differ in entries and shapes
            dim = value.stack_dim
            for part, into in zip(value.unbind(dim), next_root.unbind(dim), strict=True):
                self._carry_nested(path, part, into)
            return
        for name in value.keys(True, True, is_leaf=is_leaf_nontensor):
            key = (*path, *((name,) if isinstance(name, str) else name))
            if key not in self.not_carried and next_root.get(name, None) is None:
                next_root.set(name, value.get(name))


def legal(record: Record, key: NestedKey) -> Tensor | None:
    """Return a mask ``[*B, n]`` of legal actions; where an episode has ended any action is legal.

    Args:
        record: A root, or the result of a step.
        key: The entry that is the mask; ``None`` is returned if it is absent.
    """
    mask = record.get(key, None)
    flags = (record.get(name, None) for name in dict.fromkeys((sibling(key, DONE), DONE)))
    done = next((flag for flag in flags if flag is not None), None)
    return mask if mask is None or done is None else mask | expand_right(done, mask.shape)


def differs_within(record: Any, key: NestedKey, spec: TensorSpec) -> bool:
    """Return whether rows or agents have shapes of their own for an entry."""
    if -1 not in spec.shape:
        return False
    path = () if isinstance(key, str) else key[:-1]
    levels = [record, *(record.get(path[: i + 1], None) for i in range(len(path)))]
    return any(isinstance(level, LazyStackedTensorDict) for level in levels)


def _depth(key: NestedKey) -> int:
    return 1 if isinstance(key, str) else len(key)
