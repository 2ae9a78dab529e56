"""Frame skip, action chunks, conditional skips, and steps of another policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys
from torchrl._core.records.flat_record import Record
from torchrl._core.records.policy_output import with_output
from torchrl._core.records.rows import expand_right
from torchrl.data import Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.specs import leaf_names
from torchrl.envs.transforms.base import R, State, Transform
from torchrl.envs.transforms.inner_env_info import (
    InnerEnvInfo,
    Reset,
    Step,
    clear_events,
    events_of_step,
    join_flags,
    step_rows,
    where_rows,
)


class FrameSkipTransform(Transform):
    """Repeats each action and sums the rewards, up to the end of the episode.

    Observations are those of the last frame. A flag of an event is set if it was set in any frame:
    the end flags, those of transforms before this one (a life lost, see
    :meth:`Transform.event_flags`), and ``event_keys``.

    Args:
        frame_skip: Number of times that the action is taken.
        event_keys: Flags of the environment that refer to one frame only, such as ``"success"``.

    Raises:
        ValueError: if ``frame_skip`` is not positive.
        UserWarning: at the first reset, if the environment itself repeats its actions.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), FrameSkipTransform(4))
    >>> env.rollout(1)["next", "reward"]
    tensor([[4.]])
    """

    supports_flat_records = True
    _is_checked = False

    def __init__(self, frame_skip: int = 1, *, event_keys: Sequence[NestedKey] | NestedKey | None = None) -> None:
        super().__init__()
        if frame_skip < 1:
            raise ValueError(f"FrameSkipTransform: frame_skip must be at least 1, found {frame_skip}.")
        self.frame_skip, self.event_keys = frame_skip, as_keys(event_keys)

    def _around_step(self, step: Step, tensordict: R) -> R:
        return repeat(self.inner, step, tensordict, self.frame_skip, event_keys=self.event_keys)

    def _around_reset(self, reset: Reset, step: Step, tensordict: R | None) -> R:
        root = reset(tensordict)
        if not self._is_checked:
            self.__dict__["_is_checked"] = True
            inner = self.parent
            repeats = 1 if inner is None else inner.repeats_per_step
            if self.frame_skip > 1 and repeats > 1:
                warnings.warn(
                    describe(
                        self,
                        "skips frames of an environment that skips frames itself",
                        found=f"{self.frame_skip} times {repeats} frames a step",
                        hint="Build the environment without, as with GymEnv(name, frameskip=1), or "
                        "leave this transform out.",
                    ),
                    stacklevel=2,
                )
        return root

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Check the keys; the specs do not change."""
        known = [key for group in specs.values() for key in leaf_names(group)]
        for key in self.event_keys:
            if key not in known:
                raise self._missing(key, known)
        return specs

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flags that refer to one frame only."""
        return dict.fromkeys(self.event_keys, False)


Condition = Callable[[TensorDictBase], bool | Tensor]


def repeat(
    inside: InnerEnvInfo,
    step: Step,
    root: R,
    times: int,
    prepare: Callable[[Record, int], None] | None = None,
    visit: Callable[[dict[NestedKey, Tensor], Record], None] | None = None,
    event_keys: Sequence[NestedKey] = (),
) -> R:
    """Step several times, rows only up to their end; return the last result.

    Args:
        inside: The environment.
        step: Its step.
        root: Root of the first step.
        times: Number of steps.
        prepare: ``(root, t)``, writes the action of step ``t``; that of the first step if ``None``.
        visit: ``(rewards, result)``, called after each step; rewards are zero in rows that ended.
        event_keys: Flags that are set if they were in any step, with end flags and events.

    Returns: the last result, with the rewards summed.
    """
    moving = root.get("_step", None)
    flags = [*inside.flags_to_join, *events_of_step(step), *event_keys]
    result: Any = None
    for t in range(times):
        if prepare is not None:
            root = root.copy()
            prepare(root, t)
        next_root = step_rows(step, root, moving)
        if moving is None:
            moving = torch.ones_like(inside.ended(next_root))
        rewards, are_all = {}, bool(moving.all())  # without rows that have ended nothing is masked
        for key in inside.rewards:
            reward = next_root.get(key)
            if not are_all:
                reward = torch.where(expand_right(moving, reward.shape), reward, torch.zeros_like(reward))
            rewards[key] = reward
            next_root.set(key, reward if result is None else reward + result.get(key))
        # Rows that a mask left out from the start are restored by the caller.
        if result is not None:
            join_flags(next_root, result, flags)
            next_root = next_root if are_all else where_rows(next_root, result, moving)
        result = next_root
        if visit is not None:
            visit(rewards, result)
        moving = moving & ~inside.ended(result)
        if not bool(moving.any()):
            break
        root = inside.next_root(root, result)
    return result


class MultiAction(Transform):
    """Takes a chunk of several actions, chosen at once, one after the other.

    Args:
        dim: The dimension of the chunk: 1 is right after the batch.
        stack_rewards: Return the reward of each step; otherwise their sum.
        stack_observations: Return the observation after each step; otherwise the last.
        action_key: The action; every action if ``None``.
        chunk_key: Name of the chunk outside; that of the action if ``None``. For one action only.
        num_actions: Number of actions in a chunk. If ``None``, its size in the specs is -1, and
            actions have no bounds there.

    Reads: ``action [*B, N, *A]``; actions after the end of an episode are not taken.
    Writes: with ``stack_rewards``, rewards ``[*B, N, 1]``, zero after the end; with ``stack_observations``,
        observations ``[*B, N, *S]``, the last one repeated (at a reset the first one; this needs ``num_actions``).

    Raises:
        ValueError: for ``stack_observations`` without ``num_actions``.
        ShapeError: if a chunk does not have ``num_actions`` actions.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), MultiAction(stack_rewards=False))
    >>> root = env.reset().set("action", torch.zeros(5, 1))
    >>> env.step(root)["next", "reward"].shape
    torch.Size([1])
    """

    supports_flat_records = True
    _actions: list[NestedKey]
    _observations: list[NestedKey]

    def __init__(
        self,
        *,
        dim: int = 1,
        stack_rewards: bool = True,
        stack_observations: bool = False,
        action_key: NestedKey | None = None,
        chunk_key: NestedKey | None = None,
        num_actions: int | None = None,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"MultiAction: dim must be at least 1, found {dim}.")
        if stack_observations and num_actions is None:
            raise ValueError("MultiAction: stack_observations needs num_actions.")
        self.dim, self.num_actions = dim, num_actions
        self.stack_rewards, self.stack_observations = stack_rewards, stack_observations
        self.action_key = None if action_key is None else as_keys(action_key)[0]
        self.chunk_key = None if chunk_key is None else as_keys(chunk_key)[0]

    @property
    def _axis(self) -> int:
        return len(self.inner.batch_size) + self.dim - 1

    def _around_step(self, step: Step, tensordict: R) -> R:
        axis = self._axis
        chunks = {}
        for key in self._actions:
            outer = self.chunk_key or key
            chunk = tensordict.get(outer, None)
            if chunk is None:
                raise self._missing(outer, tensordict)
            chunks[key] = chunk.unbind(axis)
        num = len(chunks[self._actions[0]])
        if self.num_actions not in (None, num):
            raise ShapeError(
                describe(
                    self,
                    "has another number of actions than num_actions",
                    key=self.chunk_key or self._actions[0],
                    expected=self.num_actions,
                    found=num,
                )
            )
        rewards: dict[NestedKey, list[Tensor]] = {key: [] for key in self.inner.rewards}
        frames: dict[NestedKey, list[Tensor]] = {key: [] for key in self._observations}

        def prepare(root: Record, t: int) -> None:
            for key, parts in chunks.items():
                root.set(key, parts[t])

        def visit(now: dict[NestedKey, Tensor], result: Record) -> None:
            for key, kept in rewards.items():
                kept.append(now[key])
            for key, kept in frames.items():
                kept.append(result.get(key))

        root = tensordict.copy()
        for key in self._observations:  # unstacked, as in the inner environment
            root.set(key, root.get(key).select(axis, -1))
        result = repeat(self.inner, step, root, num, prepare, visit)
        for key, kept in rewards.items() if self.stack_rewards else ():
            kept += [torch.zeros_like(kept[0])] * (num - len(kept))
            result.set(key, torch.stack(kept, axis))
        for key, kept in frames.items():
            kept += kept[-1:] * (num - len(kept))
            result.set(key, torch.stack(kept, axis))
        return result

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether the argument of ``reset()`` holds stacked observations."""
        return bool(self._observations)

    def _inv_reset(self, tensordict: R) -> R:
        inner = tensordict.copy()
        for key in self._observations:
            if (value := inner.get(key, None)) is not None:
                inner.set(key, value.select(self._axis, -1))
        return inner

    def _reset(self, tensordict: Record | None, tensordict_reset: R) -> R:
        for key in self._observations:
            frame = tensordict_reset.get(key)
            tensordict_reset.set(key, torch.stack([frame] * int(self.num_actions or 1), self._axis))
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Give actions, and what else is stacked, another dimension."""
        known = leaf_names(specs["action"])
        self.__dict__["_actions"] = known if self.action_key is None else [self.action_key]
        names = leaf_names(specs["observation"]) if self.stack_observations else []
        self.__dict__["_observations"] = names
        if self.action_key is not None and self.action_key not in known:
            raise self._missing(self.action_key, known)
        if self.chunk_key is not None and len(self._actions) != 1:
            raise ValueError(f"MultiAction: chunk_key takes one action, found {self._actions}; give action_key.")
        for key in self._actions:
            wide = self._widened(specs["action"][key])
            if self.chunk_key is not None:
                del specs["action"][key]
            specs["action"][self.chunk_key or key] = wide
        for key in leaf_names(specs["reward"]) if self.stack_rewards else ():
            specs["reward"][key] = self._widened(specs["reward"][key])
        for key in self._observations:
            specs["observation"][key] = self._widened(specs["observation"][key])
        return specs

    def _widened(self, spec: TensorSpec) -> TensorSpec:
        wide = spec.unsqueeze(self._axis)
        shape = [*wide.shape]
        shape[self._axis] = -1 if self.num_actions is None else self.num_actions
        if self.num_actions is not None:
            return wide.expand(*shape)
        dtype = spec.dtype or torch.int64
        if isinstance(spec, OneHot):
            return OneHot(spec.n, shape, spec.device, dtype)
        if isinstance(spec, Categorical):
            return Categorical(spec.n, shape, spec.device, dtype)
        return Unbounded(shape, device=spec.device, dtype=dtype)


class ConditionalSkip(Transform):
    """Skips the steps of an environment where a condition holds.

    Args:
        cond: ``td -> bool``, or a tensor ``[*B, 1]`` of them; called before each step.

    A row that is skipped keeps its observation and its flags; its reward is zero.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> env = env.append_transform(ConditionalSkip(lambda td: td["step_count"] >= 2))
    >>> env.rollout(4)["next", "step_count"].squeeze(-1)
    tensor([1, 2, 2, 2])
    """

    _last: Any = None  # result of the inner environment: later transforms may change entries

    def __init__(self, cond: Condition) -> None:
        super().__init__()
        self.cond = cond

    def _around_step(self, step: Step, tensordict: TensorDictBase) -> TensorDictBase:
        if self._last is None:
            raise RuntimeError("ConditionalSkip: reset the environment first.")
        root = self.inner.next_root(tensordict, self._last)
        shape = self.inner.ended(self._last).shape
        skip = torch.as_tensor(self.cond(root))
        moving = ~(skip.expand(shape) if skip.numel() == 1 else skip.reshape(shape))
        if (asked := tensordict.get("_step", None)) is not None:
            moving = moving & asked
        next_root = self._last.copy()
        for key, spec in self._zeros:
            next_root.set(key, spec.zero())
        if bool(moving.any()):
            next_root = where_rows(step_rows(step, tensordict, moving), next_root, moving)
        self.__dict__["_last"] = next_root.copy()
        return next_root

    def _around_reset(self, reset: Reset, step: Step, tensordict: TensorDictBase | None) -> TensorDictBase:
        root, rows = reset(tensordict), self.inner.reset_rows(tensordict)
        if rows is not None and self._last is not None:
            root = where_rows(root, self._last, rows)
        self.__dict__["_last"] = root.copy()
        return root

    def get_extra_state(self) -> State:
        """Return the last result, that of rows that are skipped."""
        return {"last": self._last}

    def set_extra_state(self, state: State) -> None:
        """Go on from there."""
        self.__dict__["_last"] = state["last"]

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Keep the specs of the rewards; the specs do not change."""
        zeros = [(key, spec.clone()) for key, spec in specs["reward"].items(True, True)]
        self.__dict__["_zeros"] = zeros
        return specs

    _zeros: list[tuple[NestedKey, TensorSpec]]


class ConditionalPolicySwitch(Transform):
    """Steps again with the action of another policy, where a condition holds after a step.

    For games of two players that alternate: the opponent acts within the step of the player.

    Args:
        policy: Writes the actions of the opponent, ``td -> td``.
        condition: ``td -> bool``, or a tensor ``[*B, 1]`` of them; called after each step and each
            reset with the next root.

    Rewards of both steps are added. An episode that has ended is not stepped.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> still = lambda td: td.set("action", torch.zeros(1))
    >>> odd = lambda td: td["step_count"] % 2 == 1
    >>> env = env.append_transform(ConditionalPolicySwitch(still, odd))
    >>> env.rollout(2)["next", "step_count"].squeeze(-1)
    tensor([2, 4])
    """

    def __init__(self, policy: Callable[[TensorDictBase], TensorDictBase], condition: Condition) -> None:
        super().__init__()
        self.policy, self.condition = policy, condition

    def _switched(self, root: TensorDictBase) -> Tensor:
        shape = (*self.inner.batch_size, 1)
        answer = torch.as_tensor(self.condition(root))
        return answer.expand(shape) if answer.numel() == 1 else answer.reshape(shape)

    def _around_step(self, step: Step, tensordict: TensorDictBase) -> TensorDictBase:
        next_root = step(tensordict)
        root = self.inner.next_root(tensordict, next_root)
        moving = self._switched(root) & ~self.inner.ended(next_root)
        if (asked := tensordict.get("_step", None)) is not None:
            moving = moving & asked
        if not bool(moving.any()):
            return next_root
        second = step_rows(step, with_output(root, self.policy(root), self.policy), moving)
        for key in self.inner.rewards:
            second.set(key, second.get(key) + next_root.get(key))
        flags = [*self.inner.flags_to_join, *events_of_step(step)]
        join_flags(second, next_root, flags)
        return where_rows(second, next_root, moving)

    def _around_reset(self, reset: Reset, step: Step, tensordict: TensorDictBase | None) -> TensorDictBase:
        root = reset(tensordict)
        moving = self._switched(root)
        if (rows := self.inner.reset_rows(tensordict)) is not None:
            moving = moving & rows
        if not bool(moving.any()):
            return root
        acting = root.copy()
        acting = with_output(acting, self.policy(acting), self.policy)
        next_root = step_rows(step, acting, moving)
        for key in self.inner.rewards:
            next_root.pop(key)
        root = where_rows(next_root, root, moving)
        ended = self.inner.ended(root) & moving
        if bool(ended.any()):  # the opponent ended the episode
            again = self._around_reset(reset, step, self.inner.select_reset(root, ended))
            root = where_rows(again, root, ended)
        return clear_events(root, step, moving)
