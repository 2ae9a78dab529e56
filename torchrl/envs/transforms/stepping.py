"""How often the environment inside is stepped: several times, not at all, or for someone else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys
from torchrl._core.policy_output import with_output
from torchrl.data import Categorical, Composite, OneHot, TensorSpec, Unbounded
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.step_plan import expand_flag
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.inside import (
    Inside,
    Reset,
    Step,
    begin_events,
    events_of_step,
    join_flags,
    step_rows,
    take_rows,
)


class FrameSkipTransform(Transform):
    """Repeats each action and sums the rewards, up to the end of the episode.

    Observations are those of the last frame. A flag that tells what happened in a frame is raised
    if it was in any of them: the end flags, those of transforms before this one (a life lost, see
    :meth:`Transform.event_flags`), and those that are named here.

    Args:
        frame_skip: How often the action is taken.
        event_keys: Flags of the environment that hold for one frame alone, such as ``"success"``.

    Raises:
        ValueError: if ``frame_skip`` is not positive.
        UserWarning: at the first reset, if the environment itself repeats its actions.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), FrameSkipTransform(4))
    >>> env.rollout(1)["next", "reward"]
    tensor([[4.]])
    """

    entrywise = True
    _inside: Inside
    _is_checked = False

    def __init__(
        self, frame_skip: int = 1, *, event_keys: Sequence[NestedKey] | NestedKey | None = None
    ) -> None:
        super().__init__()
        if frame_skip < 1:
            raise ValueError(
                f"FrameSkipTransform: frame_skip must be at least 1, found {frame_skip}."
            )
        self.frame_skip, self.event_keys = frame_skip, as_keys(event_keys)

    def _around_step(self, step: Step, tensordict: Any) -> Any:
        return repeat(self._inside, step, tensordict, self.frame_skip, event_keys=self.event_keys)

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        root = reset(tensordict)
        if not self._is_checked:
            self.__dict__["_is_checked"] = True
            self._warn_of_repeats()
        return root

    def _warn_of_repeats(self) -> None:
        env = self._environment()
        repeats = env.repeats_per_step
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

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Note the names of the rewards; the specs stay."""
        self.__dict__["_inside"] = Inside(specs)
        known = [key for group in specs.values() for key in leaf_names(group)]
        for key in self.event_keys:
            if key not in known:
                raise self._missing(key, known)
        return specs

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flags that hold for one frame."""
        return dict.fromkeys(self.event_keys, False)


def repeat(
    inside: Inside,
    step: Step,
    root: Any,
    times: int,
    prepare: Callable[[Any, int], None] | None = None,
    visit: Callable[[dict[NestedKey, Tensor], Any], None] | None = None,
    event_keys: Sequence[NestedKey] = (),
) -> Any:
    """Step several times; a row stands still after its end. Return the last outcome.

    Args:
        inside: The environment.
        step: Its step.
        root: Where to begin.
        times: How often.
        prepare: ``(root, t)``, writes the action of step ``t``; the first one's stays if ``None``.
        visit: ``(rewards, outcome)``, sees the rewards of each step, zero in rows that stand still.
        event_keys: Flags that are raised if they were in any step, with end flags and events.

    Returns: the last outcome, with the rewards summed.
    """
    moving = root.get("_step", None)
    flags = [*inside.flags_to_join, *events_of_step(step), *event_keys]
    outcome: Any = None
    for t in range(times):
        if prepare is not None:
            root = root.copy()
            prepare(root, t)
        following = step_rows(step, root, moving)
        if moving is None:
            moving = torch.ones_like(inside.over(following))
        rewards = {key: _zeroed(following.get(key), moving) for key in inside.rewards}
        for key, reward in rewards.items():
            following.set(key, reward if outcome is None else reward + outcome.get(key))
        # Rows that did not move at all hold nothing: whoever masked them keeps what they had.
        if outcome is not None:
            join_flags(following, outcome, flags)
            following = take_rows(following, outcome, moving)
        outcome = following
        if visit is not None:
            visit(rewards, outcome)
        moving = moving & ~inside.over(outcome)
        if not bool(moving.any()):
            break
        root = inside.root_after(root, outcome)
    return outcome


def _zeroed(reward: Tensor, moving: Tensor) -> Tensor:
    return torch.where(expand_flag(moving, reward.shape), reward, torch.zeros_like(reward))


class MultiAction(Transform):
    """Plays several actions, chosen at once, one after the other.

    Args:
        dim: Where the actions are lined up: 1 is right after the batch.
        stack_rewards: Return the reward of each step; otherwise their sum.
        stack_observations: Return the observation after each step; otherwise the last.
        action_key: The action; every action if ``None``.
        chunk_key: Name, seen from outside, of the actions that are lined up; that of the action
            if ``None``. It takes one action only.
        num_actions: How many. If ``None``, the specs leave it open, and the bounds of the actions
            with it.

    Reads: ``action [*B, N, *A]``; what follows the end of an episode is not played.
    Writes: with ``stack_rewards``, rewards ``[*B, N, 1]``, zero after the end; with
        ``stack_observations``, observations ``[*B, N, *S]``, the last one repeated (at a reset all
        are the first one; this needs ``num_actions``).

    Raises:
        ValueError: for ``stack_observations`` without ``num_actions``.
        ShapeError: if there are not ``num_actions`` of them.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), MultiAction(stack_rewards=False))
    >>> root = env.reset().set("action", torch.zeros(5, 1))
    >>> env.step(root)["next", "reward"].shape
    torch.Size([1])
    """

    entrywise = True
    _inside: Inside
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
        return len(self._inside.batch_size) + self.dim - 1

    def _around_step(self, step: Step, tensordict: Any) -> Any:
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
                    "does not hold as many actions as it should",
                    key=self.chunk_key or self._actions[0],
                    expected=self.num_actions,
                    found=num,
                )
            )
        rewards: dict[NestedKey, list[Tensor]] = {key: [] for key in self._inside.rewards}
        frames: dict[NestedKey, list[Tensor]] = {key: [] for key in self._observations}

        def prepare(root: Any, t: int) -> None:
            for key, parts in chunks.items():
                root.set(key, parts[t])

        def visit(now: dict[NestedKey, Tensor], outcome: Any) -> None:
            for key, kept in rewards.items():
                kept.append(now[key])
            for key, kept in frames.items():
                kept.append(outcome.get(key))

        root = tensordict.copy()
        for key in self._observations:  # as the environment inside knows them
            root.set(key, root.get(key).select(axis, -1))
        outcome = repeat(self._inside, step, root, num, prepare, visit)
        for key, kept in rewards.items() if self.stack_rewards else ():
            kept += [torch.zeros_like(kept[0])] * (num - len(kept))
            outcome.set(key, torch.stack(kept, axis))
        for key, kept in frames.items():
            kept += kept[-1:] * (num - len(kept))
            outcome.set(key, torch.stack(kept, axis))
        return outcome

    def inverts_at_reset(self, actions: Collection[NestedKey]) -> bool:
        """Return whether what reset() is given holds observations that are lined up."""
        return bool(self._observations)

    def _inv_reset(self, tensordict: Any) -> Any:
        inner = tensordict.copy()
        for key in self._observations:
            if (value := inner.get(key, None)) is not None:
                inner.set(key, value.select(self._axis, -1))
        return inner

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        for key in self._observations:
            frame = tensordict_reset.get(key)
            tensordict_reset.set(key, torch.stack([frame] * int(self.num_actions or 1), self._axis))
        return tensordict_reset

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Give actions, and what else is stacked, another dimension."""
        self.__dict__["_inside"] = Inside(specs)
        known = leaf_names(specs["action"])
        self.__dict__["_actions"] = known if self.action_key is None else [self.action_key]
        names = leaf_names(specs["observation"]) if self.stack_observations else []
        self.__dict__["_observations"] = names
        if self.action_key is not None and self.action_key not in known:
            raise self._missing(self.action_key, known)
        if self.chunk_key is not None and len(self._actions) != 1:
            raise ValueError(
                f"MultiAction: chunk_key takes one action, found {self._actions}; give action_key."
            )
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
    """Lets an environment stand still where a condition holds.

    Args:
        cond: ``td -> bool``, or a tensor ``[*B, 1]`` of them; asked before each step.

    A row that stands still keeps its observation and its flags; its reward is zero.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> env = env.append_transform(ConditionalSkip(lambda td: td["step_count"] >= 2))
    >>> env.rollout(4)["next", "step_count"].squeeze(-1)
    tensor([1, 2, 2, 2])
    """

    _inside: Inside
    _last: Any = None  # as the environment inside showed it: later transforms may change entries

    def __init__(self, cond: Callable[[Any], Any]) -> None:
        super().__init__()
        self.cond = cond

    def _around_step(self, step: Step, tensordict: Any) -> Any:
        if self._last is None:
            raise RuntimeError("ConditionalSkip: reset the environment first.")
        root = self._inside.root_after(tensordict, self._last)
        shape = self._inside.over(self._last).shape
        skip = torch.as_tensor(self.cond(root))
        moving = ~(skip.expand(shape) if skip.numel() == 1 else skip.reshape(shape))
        if (asked := tensordict.get("_step", None)) is not None:
            moving = moving & asked
        following = self._last.copy()
        for key, spec in self._zeros:
            following.set(key, spec.zero())
        if bool(moving.any()):
            following = take_rows(step_rows(step, tensordict, moving), following, moving)
        self.__dict__["_last"] = following.copy()
        return following

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        root, rows = reset(tensordict), self._inside.being_reset(tensordict)
        if rows is not None and self._last is not None:
            root = take_rows(root, self._last, rows)
        self.__dict__["_last"] = root.copy()
        return root

    def get_extra_state(self) -> Any:
        """Return what rows that stand still show."""
        return {"last": self._last}

    def set_extra_state(self, state: Any) -> None:
        """Go on from there."""
        self.__dict__["_last"] = state["last"]

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Note the specs of the rewards; all specs stay."""
        self.__dict__["_inside"] = Inside(specs)
        zeros = [(key, spec.clone()) for key, spec in specs["reward"].items(True, True)]
        self.__dict__["_zeros"] = zeros
        return specs

    _zeros: list[tuple[NestedKey, Any]]


class ConditionalPolicySwitch(Transform):
    """Lets another policy act, and steps again, where a condition holds after a step.

    Two players take turns so: the environment is stepped for the opponent before the policy outside
    sees anything.

    Args:
        policy: Writes the actions of the other one, ``td -> td``.
        condition: ``td -> bool``, or a tensor ``[*B, 1]`` of them; asked after each step and each
            reset, of what the next step begins from.

    Rewards of both steps are added up. An episode that has ended is not stepped.

    >>> from torchrl.envs import GymEnv, StepCounter, TransformedEnv
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter())
    >>> still = lambda td: td.set("action", torch.zeros(1))
    >>> odd = lambda td: td["step_count"] % 2 == 1
    >>> env = env.append_transform(ConditionalPolicySwitch(still, odd))
    >>> env.rollout(2)["next", "step_count"].squeeze(-1)
    tensor([2, 4])
    """

    _inside: Inside

    def __init__(self, policy: Callable[[Any], Any], condition: Callable[[Any], Any]) -> None:
        super().__init__()
        self.policy, self.condition = policy, condition

    def _switched(self, root: Any) -> Tensor:
        shape = (*self._inside.batch_size, 1)
        answer = torch.as_tensor(self.condition(root))
        return answer.expand(shape) if answer.numel() == 1 else answer.reshape(shape)

    def _around_step(self, step: Step, tensordict: Any) -> Any:
        following = step(tensordict)
        root = self._inside.root_after(tensordict, following)
        moving = self._switched(root) & ~self._inside.over(following)
        if (asked := tensordict.get("_step", None)) is not None:
            moving = moving & asked
        if not bool(moving.any()):
            return following
        second = step_rows(step, with_output(root, self.policy(root), self.policy), moving)
        for key in self._inside.rewards:
            second.set(key, second.get(key) + following.get(key))
        flags = [*self._inside.flags_to_join, *events_of_step(step)]
        join_flags(second, following, flags)
        return take_rows(second, following, moving)

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        root = reset(tensordict)
        moving = self._switched(root)
        if (rows := self._inside.being_reset(tensordict)) is not None:
            moving = moving & rows
        if not bool(moving.any()):
            return root
        acting = root.copy()
        acting = with_output(acting, self.policy(acting), self.policy)
        following = step_rows(step, acting, moving)
        for key in self._inside.rewards:
            following.pop(key)
        root = take_rows(following, root, moving)
        ended = self._inside.over(root) & moving
        if bool(ended.any()):  # the other player ended it: begin another
            again = self._around_reset(reset, step, self._inside.select_reset(root, ended))
            root = take_rows(again, root, ended)
        return begin_events(root, step, moving)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Note the names of the rewards; the specs stay."""
        self.__dict__["_inside"] = Inside(specs)
        return specs
