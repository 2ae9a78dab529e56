"""What an environment decides once, from its specs, so that a step looks nothing up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import (
    LazyStackedTensorDict,
    NestedKey,
    TensorDictBase,
    is_leaf_nontensor,
    is_non_tensor,
)
from torch import Tensor

from torchrl._core.entries import Entries, as_constant, resize_if_fitting, with_group_sizes
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe, nearest
from torchrl._core.keys import leaf_keys, sibling
from torchrl._core.mdp import DONE, DONE_NAMES, TERMINATED, TRUNCATED, complete_done, last_name
from torchrl.data import Composite, TensorSpec
from torchrl.envs.action_checks import check_choice
from torchrl.envs.spec_access import leaf_names, nested_groups

if TYPE_CHECKING:
    from torchrl.envs.spec_owner import SpecOwner


class FlagGroup:
    """The end flags of one nesting level, and where its ``_reset`` mask stands."""

    def __init__(self, done_key: NestedKey, spec: Composite) -> None:
        self.done, self.terminated, self.truncated = (
            sibling(done_key, name) for name in DONE_NAMES
        )
        self.has_truncated = self.truncated in leaf_names(spec)
        self.reset = sibling(done_key, "_reset")
        self.keys = [key for key in leaf_names(spec) if sibling(key, DONE) == done_key]
        self.shape, self.device = spec[done_key].shape, spec[done_key].device
        self.prefix = () if isinstance(done_key, str) else tuple(done_key[:-1])


class StepPlan:
    """The keys, shapes and checks of an environment's step.

    Args:
        env: Its specs are read here, and never again.
    """

    def __init__(self, env: SpecOwner) -> None:
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
        self.deciding = [group for group in self.groups if not self._is_inner(group)]
        self.reset_keys = [group.reset for group in self.groups]
        self.reward_shapes = [(key, specs["reward"][key].shape) for key in self.reward_keys]
        in_state = {*self.state_keys, *self.observation_keys}
        self._alive = [
            (key, as_constant(torch.zeros(group.shape, dtype=torch.bool, device=group.device)))
            for group in self.groups
            for key in group.keys
        ]
        self.left_behind = [key for key in self.reward_keys if key not in in_state]
        self.not_carried = {"next", "_reset", "_step", *self.reward_keys, *self.done_keys}
        self.batch_locked = env.batch_locked or bool(self.batch_size)
        self.nested = nested_groups(specs, self.batch_size)
        # One flag is one number, which costs less to read than a tensor.
        self.is_single = (
            self.batch_locked and len(self.groups) == 1 and self.groups[0].shape.numel() == 1
        )

    # --- after a step or a reset -----------------------------------------------------------------

    def is_complete(self, following: Any) -> bool:
        """Return whether every reward and every flag is there, in its shape."""
        promised = [(key, group.shape) for group in self.groups for key in group.keys]
        return self.batch_locked and all(
            following.get(key, None) is not None and following.get(key).shape == shape
            for key, shape in (*self.reward_shapes, *promised)
        )

    def complete_step(self, following: Any) -> Any:
        """Give rewards their shape and add the end flags that a ``_step`` left out.

        Raises:
            MissingKeyError: if a reward or every flag of a level is missing.
            ShapeError: if a reward does not have as many elements as its spec.
        """
        lead = () if self.batch_locked else following.batch_size
        for key, shape in self.reward_shapes:
            if lead:
                shape = torch.Size([*lead, *shape])
            reward = following.get(key, None)
            if reward is None:
                raise self._missing(following, key, "is not in what _step() returned")
            if reward.shape != shape and -1 not in shape:
                if reward.numel() != shape.numel():
                    raise self._wrong_shape(key, shape, reward.shape, "reward_spec")
                following.set(key, reward.reshape(shape))
        for group in self.groups:
            self._complete_flags(following, group, torch.Size([*lead, *group.shape]))
        if self.nested and not isinstance(following, Entries):
            if self.batch_locked:  # as it will be under "next"; sizes of groups begin with it
                resize_if_fitting(following, self.batch_size)
            with_group_sizes(following, self.nested)
        return following

    def _complete_flags(self, following: Any, group: FlagGroup, shape: torch.Size) -> None:
        done, terminated = following.get(group.done, None), following.get(group.terminated, None)
        truncated = following.get(group.truncated, None)  # it ends the episode, named or not
        if done is None or terminated is None or (truncated is None and group.has_truncated):
            if done is None and terminated is None and truncated is None:
                raise self._missing(following, group.done, "is not in what _step() returned")
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
                if flag.shape != shape or following.get(key, None) is not flag:
                    following.set(key, flag.reshape(shape))

    def complete_reset(self, root: Any) -> Any:
        """Add the end flags, all false, that a ``_reset`` left out."""
        if isinstance(root, Entries):  # shared: records that leave the loop get copies
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

    def _is_inner(self, group: FlagGroup) -> bool:
        return any(
            outer is not group and outer.prefix == group.prefix[: len(outer.prefix)]
            for outer in self.groups
        )

    def ended(self, following: Any) -> bool:
        """Return whether any episode has ended."""
        if self.is_single:
            return following.get(self.groups[0].done).item()
        return any(bool(following.get(group.done).any()) for group in self.deciding)

    def all_ended(self, following: Any) -> bool:
        """Return whether every episode has ended."""
        return bool(self.rows_over(following).all())

    def rows_over(self, record: Any, *, every: bool = True) -> Tensor:
        """Return which rows ``[*B, 1]`` are over at every level that decides, or at any."""
        over = []
        for group in self.deciding:
            flag = record.get(group.done)  # [*B, *G, 1]
            flag = flag.flatten(flag.ndim - len(group.shape) + len(self.batch_size))
            over.append(flag.all(-1, True) if every else flag.any(-1, True))
        flags = torch.stack(over)
        return flags.all(0) if every else flags.any(0)

    def reset_masks(self, record: Any) -> dict[NestedKey, Tensor]:
        """Return where each level must be reset: where the outermost flag above it is up."""
        masks: dict[NestedKey, Tensor] = {}
        for group in self.groups:
            outer = next(g for g in self.deciding if g.prefix == group.prefix[: len(g.prefix)])
            mask = record.get(outer.done)
            masks[group.reset] = (
                mask if outer is group else expand_flag(mask, record.get(group.done).shape)
            )
        return masks

    def mask_of(self, key: NestedKey, masks: dict[NestedKey, Tensor]) -> Tensor | None:
        """Return the mask that governs an entry; ``None`` if it is to be reset whole.

        It is that of the innermost level that contains the entry. What lies outside of every level
        begins anew where anything in its row does.
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

    def check_action(self, root: Any, *, values: bool = False) -> None:
        """Refuse an action that is absent or does not have the shape of its spec.

        Args:
            root: A root with its actions.
            values: Look at what is chosen, too; see :func:`check_choice`.
        """
        for key in self.action_keys:
            if differs_within(root, key, self.specs["action"][key]):
                continue
            action = root.get(key, None)
            if action is None:
                raise self._missing(root, key, "was not written by the policy", side="policy")
            shape = self.expected(self.specs["action"][key].shape, root)
            if isinstance(action, Tensor) and action.shape != shape and -1 not in shape:
                raise self._wrong_shape(key, shape, action.shape, "action_spec")
            if values and isinstance(action, Tensor):
                check_choice(self.name, key, action, self.specs["action"][key])

    def check_outcome(self, record: Any, groups: tuple[str, ...]) -> None:
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
            raise DTypeError(
                describe(
                    self.name,
                    f"has another dtype than {source} promises",
                    key=key,
                    expected=spec.dtype,
                    found=value.dtype,
                    hint=f"Cast it in the environment, fix {source}, or append DoubleToFloat().",
                )
            )

    def expected(self, shape: torch.Size, record: Any) -> torch.Size:
        """Return the shape of an entry: that of its spec, or ``[*B, *S]`` if ``B`` is free."""
        return shape if self.batch_locked else torch.Size([*record.batch_size, *shape])

    def _missing(
        self, record: Any, key: NestedKey, fact: str, side: str = "environment"
    ) -> MissingKeyError:
        present = leaf_keys(record) if isinstance(record, TensorDictBase) else list(record)
        hint = f"Return {key!r} from the environment, or take it out of its specs."
        if side == "policy":
            hint = (
                f"Write {key!r} in the policy (out_keys), or rename the action of the environment."
            )
        elif any(other[0] == "next" for other in present):
            hint = "Return the entries themselves: who calls _step() puts them under 'next'."
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

    # --- from one step to the next ---------------------------------------------------------------

    def step_mdp(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the root of the following step; the action stays, the reward does not."""
        if isinstance(tensordict, LazyStackedTensorDict):  # its rows may differ in entries
            dim = tensordict.stack_dim
            rows = [self.step_mdp(row) for row in tensordict.unbind(dim)]
            return LazyStackedTensorDict.lazy_stack(rows, dim)
        # Steps share tensors, never nested records: writing to one must not reach another.
        root = tensordict.get("next").exclude(*self.left_behind)
        for key, value in list(root.items()):
            if isinstance(value, TensorDictBase) and not is_non_tensor(value):
                kept = value.copy().filter_empty_()  # where only a reward stood, nothing is left
                root.set(key, kept) if len(kept.keys()) else root.pop(key)
        for key, value in tensordict.items():
            if key in self.not_carried:
                continue
            if root.get(key, None) is None:
                root.set(key, value.copy() if isinstance(value, TensorDictBase) else value)
            elif isinstance(value, TensorDictBase):
                self._carry_nested((key,), value, root.get(key))
        return root

    def _carry_nested(self, path: tuple[str, ...], value: Any, following: Any) -> None:
        """Copy what stands under ``path`` to the following root, unless it has its own."""
        if isinstance(value, LazyStackedTensorDict) and isinstance(
            following, LazyStackedTensorDict
        ):  # its parts may differ in entries and shapes
            dim = value.stack_dim
            for part, into in zip(value.unbind(dim), following.unbind(dim), strict=True):
                self._carry_nested(path, part, into)
            return
        for name in value.keys(True, True, is_leaf=is_leaf_nontensor):
            key = (*path, *((name,) if isinstance(name, str) else name))
            if key not in self.not_carried and following.get(name, None) is None:
                following.set(name, value.get(name))


def expand_flag(flag: Tensor, shape: torch.Size) -> Tensor:
    """Expand a flag ``[*B, 1]`` to ``shape [*B, *S]``: what holds for a row holds for all in it."""
    lead = flag.shape[:-1]
    return flag.reshape((*lead, *(1,) * (len(shape) - len(lead)))).expand(shape)


def legal(record: Any, key: NestedKey) -> Tensor | None:
    """Return a mask ``[*B, n]`` of legal actions; where an episode has ended any action is legal.

    Args:
        record: A root, or the outcome of a step.
        key: The entry that is the mask; ``None`` is returned if it is absent.
    """
    mask = record.get(key, None)
    flags = (record.get(name, None) for name in dict.fromkeys((sibling(key, DONE), DONE)))
    done = next((flag for flag in flags if flag is not None), None)
    return mask if mask is None or done is None else mask | expand_flag(done, mask.shape)


def differs_within(record: Any, key: NestedKey, spec: TensorSpec) -> bool:
    """Return whether rows or agents have shapes of their own for an entry."""
    if -1 not in spec.shape:
        return False
    path = () if isinstance(key, str) else key[:-1]
    levels = [record, *(record.get(path[: i + 1], None) for i in range(len(path)))]
    return any(isinstance(level, LazyStackedTensorDict) for level in levels)


def _depth(key: NestedKey) -> int:
    return 1 if isinstance(key, str) else len(key)
