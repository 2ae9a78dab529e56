"""The stepping loop: rollouts, collectors and recorders all drive this one.

A loop carries one record a step. Where environment and policy support it (see
:mod:`torchrl._core.entries`) the record is a flat dictionary, and tensordicts are made once, at the
end; elsewhere it is a tensordict. Both loops do the same and give the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tensordict import (
    LazyStackedTensorDict,
    NestedKey,
    TensorDict,
    TensorDictBase,
    is_leaf_nontensor,
)
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.ended_rows import ended_rows
from torchrl._core.entries import Entries, is_entrywise, nested_tensordict, stack_entries
from torchrl._core.errors import MissingKeyError, ResetError, ShapeError, describe
from torchrl._core.keys import groups_of, sibling
from torchrl._core.mdp import TRUNCATED
from torchrl._core.plan import check_states, explain_policy
from torchrl._core.plan import plan as plan_policy
from torchrl._core.policy_output import output_entries, with_output
from torchrl.data import RandomPolicy
from torchrl.envs.postponed import Postponed
from torchrl.envs.reused_memory import WATCHED, MemoryWatch, watch_of

if TYPE_CHECKING:
    from torchrl.envs.common import EnvBase

Act = Callable[[Any], Any]
_WORTH_POSTPONING = 24  # steps, below which to decide what can wait costs more than it saves


def rollout(
    self: EnvBase,
    max_steps: int,
    policy: Callable[..., Any] | None = None,
    callback: Callable[[EnvBase, TensorDictBase], Any] | None = None,
    *,
    actions: Tensor | TensorDictBase | None = None,
    auto_reset: bool = True,
    auto_cast_to_device: bool = False,
    break_when_any_done: bool | None = None,
    break_when_all_done: bool | None = None,
    return_contiguous: bool = False,
    tensordict: TensorDictBase | None = None,
    set_truncated: bool = False,
    out: TensorDictBase | None = None,
    trust_policy: bool = False,
    storing_device: torch.device | str | None = None,
    set_state: bool | None = None,
) -> TensorDictBase:
    """Run a policy for at most ``max_steps`` steps and return them, ``[*B, T]``.

    Gradients and the exploration type are those of the context.

    Args:
        self: The environment.
        max_steps: Number of steps, at most.
        policy: Writes the action; acts at random if ``None``. A tensordict module, or a callable of
            one argument that is named or annotated as a tensordict, is called with the record; any
            other callable gets the observations and returns the actions.
        callback: Called with the environment and each root but the first and the last.
        actions: Played one after the other, ``[*B, T, *action]``, instead of a policy.
        auto_reset: Begin with a reset; otherwise ``tensordict`` is where to begin, and its rows
            that have ended are reset.
        auto_cast_to_device: Move the record to the device of the policy and back at each step.
        break_when_any_done: Stop at the first end of an episode (the default). If ``False``, go on:
            rows that end are reset.
        break_when_all_done: Stop when all episodes have ended; rows that end stand still.
        return_contiguous: Raise rather than return a lazy stack where steps differ in shape.
        tensordict: Handed to the first reset, or the root to begin with.
        set_truncated: Mark the last step as truncated.
        out: Filled with the result and returned.
        trust_policy: Call ``policy`` with the record, whatever its signature.
        storing_device: Where to keep the steps.
        set_state: Handed to the first reset.

    Raises:
        TypeError: if ``max_steps`` is not a whole number.
        ValueError: if arguments contradict each other, or there is no step to take.
        ShapeError: if the policy writes an action of another shape than its spec.
    """
    check_devices(self, storing_device=storing_device)
    stop = _stop_rule(self, break_when_any_done, break_when_all_done)
    max_steps = _step_count(max_steps)
    if actions is not None:
        if policy is not None:
            raise ValueError("rollout: give either a policy or actions, not both.")
        replay = _ReplayActions(self, actions)
        policy, trust_policy, max_steps = replay, True, min(max_steps, len(replay))
    if max_steps < 1:
        raise ValueError(f"rollout: max_steps must be at least 1, found {max_steps}.")
    stepper = Stepper(self, storing_device=storing_device)
    if auto_reset:
        stepper.begin(tensordict, set_state=set_state)
    elif tensordict is None:
        raise ValueError("rollout: auto_reset=False needs a tensordict to begin with.")
    else:
        stepper.root = self.maybe_reset(self.plan.complete_reset(tensordict.copy()))
    act = PreparedPolicy(self, policy, trust=trust_policy, cast=auto_cast_to_device)
    batch = stepper.run(act, max_steps, stop=stop, callback=callback, dense=return_contiguous)
    if set_truncated:
        truncate_last(self, batch)
    return batch if out is None else out.update_(batch)


def _step_count(max_steps: Any) -> int:
    try:
        return operator.index(max_steps)
    except TypeError:
        raise TypeError(
            describe(
                "rollout",
                "has no number of steps to stop at",
                key="max_steps",
                expected="an integer",
                found=repr(max_steps),
                hint="To run until episodes end, give a bound that they do not reach: "
                "break_when_any_done and break_when_all_done stop before it.",
            )
        ) from None


def _stop_rule(env: EnvBase, any_done: bool | None, all_done: bool | None) -> str | None:
    if any_done and all_done:
        raise ValueError("rollout: break_when_any_done and break_when_all_done exclude each other.")
    if all_done:
        return "all"
    return None if any_done is False else "any"


def truncate_last(env: EnvBase, batch: TensorDictBase) -> TensorDictBase:
    """Mark the last step of ``batch [*B, T]`` as truncated, hence done.

    Raises:
        MissingKeyError: if the environment has no ``truncated`` flag.
    """
    last = batch.get("next")[..., -1]
    for group in env.plan.groups:
        if not group.has_truncated:
            raise MissingKeyError(
                describe(
                    env,
                    "cannot be marked: the environment has no such flag",
                    key=sibling(group.done, TRUNCATED),
                    hint="Call env.add_truncated_keys() first, or append a StepCounter(max_steps).",
                )
            )
        for key in (group.done, group.truncated):
            last.get(key).fill_(True)
    return batch


class PreparedPolicy:
    """A policy in the two forms that the loops call.

    Args:
        env: Says which observations and actions a plain callable maps.
        policy: As in :func:`rollout`.
        trust: Call ``policy`` with the record, whatever its signature.
        cast: Move the record to the device of the policy and back.
    """

    def __init__(
        self, env: EnvBase, policy: Act | None, *, trust: bool = False, cast: bool = False
    ) -> None:
        self.given = policy
        if policy is None:
            by_spec = env.plan.batch_locked and env.draws_from_spec
            policy = RandomPolicy(env.full_action_spec) if by_spec else env.rand_action
        elif not trust:
            policy = as_tensordict_policy(env, policy)
        self.acting = policy
        check_states(policy)
        self.touches = _keys_of(policy)
        by_tensordict = cast or _touches_groups(self.touches, env)
        self.on_entries = None if by_tensordict else plan_policy(policy)
        self.on_tensordict = _cast(policy, env) if cast else policy


def _keys_of(policy: Any) -> set[NestedKey] | None:
    """Return the entries that a policy reads or writes; ``None`` if unknown."""
    reads, writes = getattr(policy, "in_keys", None), getattr(policy, "out_keys", None)
    return None if reads is None or writes is None else {*reads, *writes}


def _touches_groups(keys: set[NestedKey] | None, env: EnvBase) -> bool:
    """Whether a policy touches a group of entries as a whole, which a flat record does not have."""
    if not keys:
        return False
    specs = (env.full_observation_spec, env.full_state_spec, env.full_done_spec)
    leaves = (key for spec in specs for key in spec.keys(True, True))
    return not keys.isdisjoint(groups_of(leaves))


def as_tensordict_policy(env: EnvBase, policy: Callable[..., Any]) -> Act:
    """Return ``policy`` if it takes a record, else as a map from observations to actions."""
    if isinstance(policy, TensorDictModuleBase):
        return policy
    function = policy.forward if isinstance(policy, nn.Module) else policy
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    required = [p for p in parameters if p.default is p.empty and p.kind not in (2, 4)]
    first = required or parameters
    if len(required) <= 1 and first:
        named = first[0].name in ("td", "tensordict")
        if named or "TensorDict" in str(first[0].annotation):
            return policy
    return TensorDictModule(policy, in_keys=env.observation_keys, out_keys=env.action_keys)


def _cast(policy: Act, env: EnvBase) -> Act:
    parameter = next(iter(policy.parameters()), None) if isinstance(policy, nn.Module) else None
    if parameter is None or env.device == parameter.device:
        return policy
    there, back = parameter.device, env.device or torch.device("cpu")

    return lambda td: td.update(output_entries(policy(td.to(there)), policy).to(back))


class _ReplayActions:
    """A policy that plays given actions ``[*B, T, *action]`` one after the other."""

    def __init__(self, env: EnvBase, actions: Tensor | TensorDictBase) -> None:
        dim = len(env.batch_size)
        if isinstance(actions, Tensor):
            actions = TensorDict({env.action_key: actions}, actions.shape[: dim + 1])
        else:
            actions = actions.select(*env.action_keys)
        if actions.batch_size[:dim] != env.batch_size or actions.ndim <= dim:
            raise ShapeError(
                describe(
                    "rollout",
                    "actions have another batch size than the environment and time",
                    expected=(*env.batch_size, "T"),
                    found=tuple(actions.batch_size),
                )
            )
        self.rows = list(actions.unbind(dim))
        self.step = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        tensordict.update(self.rows[self.step])
        self.step += 1
        return tensordict


class Stepper:
    """Advances an environment and keeps the root where it stands.

    Args:
        env: The environment.
        storing_device: Where the steps are kept; where they are made if ``None``.
    """

    def __init__(self, env: EnvBase, *, storing_device: torch.device | str | None = None) -> None:
        check_devices(self, storing_device=storing_device)
        self.env = env
        self.storing_device = None if storing_device is None else torch.device(storing_device)
        self.root: Any = None
        self._moves = -1
        self._watch: MemoryWatch | None = None
        self._policy: PreparedPolicy | None = None

    def begin(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> None:
        """Reset the environment and stand at its first root."""
        given = None if tensordict is None else tensordict.copy()
        self.root = self.env.reset(given, **kwargs)
        self._moves = self.env.moves

    def is_displaced(self) -> bool:
        """Return whether someone else moved the environment, so that our root is stale."""
        return self._moves != self.env.moves

    def run(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        *,
        stop: str | None = None,
        callback: Callable[[EnvBase, TensorDictBase], Any] | None = None,
        dense: bool = False,
        interrupted: Callable[[], bool] | None = None,
    ) -> TensorDictBase:
        """Take at most ``max_steps`` steps from the root; return them, ``[*B, T]``.

        Args:
            policy: Writes the action.
            max_steps: Number of steps.
            stop: ``"any"`` stops at the first end of an episode, ``"all"`` when all have ended
                (rows that end stand still), ``None`` never: rows that end are reset.
            callback: Called with the environment and each root but the first.
            dense: Raise rather than return a lazy stack.
            interrupted: Asked after each step whether to stop.
        """
        self.env.count_move()  # an error on the way leaves us displaced
        self.env.expect_resets(stop is None)
        try:
            batch = self._run(policy, max_steps, stop, callback, dense, interrupted)
        finally:
            self.env.expect_resets(False)
        self._moves = self.env.moves
        return batch

    def _run(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        stop: str | None,
        callback: Callable[[EnvBase, TensorDictBase], Any] | None,
        dense: bool,
        interrupted: Callable[[], bool] | None,
    ) -> TensorDictBase:
        if policy is not self._policy or self._watch is None or self._watch.has_raised:
            self._policy, self._watch = policy, watch_of(self.env, policy.given, policy.acting)
        with self._watch:
            return self._run_by_kind(policy, max_steps, stop, callback, dense, interrupted)

    def _run_by_kind(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        stop: str | None,
        callback: Callable[[EnvBase, TensorDictBase], Any] | None,
        dense: bool,
        interrupted: Callable[[], bool] | None,
    ) -> TensorDictBase:
        plain = callback is None and self.storing_device is None and stop != "all"
        if plain and policy.on_entries is not None and self._takes_entries():
            return self._run_entries(policy, max_steps, stop, interrupted)
        if isinstance(self.root, Entries):
            self.root = _tensordict(self.root, self.env)
        return self._run_tensordicts(policy, max_steps, stop, callback, dense, interrupted)

    def _takes_entries(self) -> bool:
        env = self.env
        return is_entrywise(env) and env.plan.batch_locked and not env.checks_every_step

    def root_tensordict(self) -> TensorDictBase:
        """Return the root as a tensordict."""
        return _tensordict(self.root, self.env) if isinstance(self.root, Entries) else self.root

    def _run_entries(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        stop: str | None,
        interrupted: Callable[[], bool] | None,
    ) -> TensorDictBase:
        env = self.env
        root = self.root if isinstance(self.root, Entries) else _entries(self.root)
        late = self._postpone(policy, root) if max_steps >= _WORTH_POSTPONING else []
        first = Entries((key, root.pop(key)) for key in self._roots_lack(late))
        try:
            roots, outcomes = self._take_steps(
                root, policy.on_entries, max_steps, stop, interrupted
            )
        finally:
            if late:
                env.resume()
        for key in first.keys() & outcomes[0].keys():
            roots[0][key] = outcomes[0][key]  # stands in: it has the right shape and dtype
        size, device, nested = env.batch_size, env.device, env.plan.nested
        batch = stack_entries(roots, size, device, nested)
        batch.set("next", stack_entries(outcomes, size, device, nested))
        for one in late:
            one.write(batch, first, self.root, reset_at_end=stop is None)
        return _name_time(batch)

    def _postpone(self, policy: PreparedPolicy, root: Entries) -> list[Postponed]:
        late = [] if policy.touches is None else self.env.postpone(policy.touches)
        if all(key in root for key in self._roots_lack(late)):
            return late
        self.env.resume()
        return []

    def _roots_lack(self, late: list[Postponed]) -> set[NestedKey]:
        """Return which entries that are written later stand in roots: all but rewards."""
        return {one.key for one in late}.intersection(self.env.plan.observation_keys)

    def _take_steps(
        self,
        root: Entries,
        act: Any,
        max_steps: int,
        stop: str | None,
        interrupted: Callable[[], bool] | None,
    ) -> tuple[list[Entries], list[Entries]]:
        """Return the roots and their outcomes; stand at the root that follows."""
        env, plan = self.env, self.env.plan
        ended = plan.ended
        roots: list[Entries] = []
        outcomes: list[Entries] = []
        preset: list[Any] = []
        carried: list[Any] = []
        plain = act, env.outcome_of, env.reset_entries
        act, step, reset = self._watched(*plain)
        for t in range(max_steps):
            if t == WATCHED:
                act, step, reset = self._watched(*plain)
            act(root)
            if t == 0:
                plan.check_action(root, values=self._is_first_step())
                preset = [key for key in root if isinstance(key, tuple) and key[0] == "next"]
            outcome = step(root)
            for key in preset:
                outcome.setdefault(key[1] if len(key) == 2 else key[1:], root.pop(key))
            if t == 0:
                carried = [k for k in root if k not in outcome and k not in plan.not_carried]
            roots.append(root)
            outcomes.append(outcome)
            following = outcome.copy()
            for key in plan.left_behind:
                following.pop(key, None)
            for key in carried:
                following[key] = root[key]
            root = following
            if ended(outcome):
                if stop is not None:
                    break
                root = reset(root)
            if interrupted is not None and interrupted():
                break
        self.root = root
        return roots, outcomes

    def _is_first_step(self) -> bool:
        return self._watch is not None and self._watch.is_new

    def _watched(self, act: Act, step: Act, reset: Act) -> tuple[Act, Act, Act]:
        """Return the three with copies of what lies in memory that is written again, if any."""
        assert self._watch is not None
        if self._watch.is_over:
            return act, step, self._watch.around_reset(reset)
        return self._watch.around(act, step, reset)

    def _run_tensordicts(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        stop: str | None,
        callback: Callable[[EnvBase, TensorDictBase], Any] | None,
        dense: bool,
        interrupted: Callable[[], bool] | None,
    ) -> TensorDictBase:
        env, plan, root = self.env, self.env.plan, self.root
        steps: list[TensorDictBase] = []
        held: Tensor | None = None  # rows that stand still
        plain = partial(_act, policy), env.step, env.maybe_reset
        act, step, reset = self._watched(*plain)
        for t in range(max_steps):
            if t == WATCHED:
                act, step, reset = self._watched(*plain)
            if held is None:
                root = act(root)
            else:
                with ended_rows(held):
                    root = act(root)
            if t == 0:
                checked = env._is_checked_now()  # by the step itself
                plan.check_action(root, values=self._is_first_step() and not checked)
            if held is not None:
                root.set("_step", ~held)
            root = step(root)
            steps.append(root if self.storing_device is None else root.to(self.storing_device))
            following = plan.step_mdp(root)
            root = following
            if plan.ended(following):
                if stop == "any" or (stop == "all" and plan.all_ended(following)):
                    break
                if stop is None:
                    root = reset(following)
            if stop == "all":
                held = plan.rows_over(root)
            if interrupted is not None and interrupted():
                break
            if callback is not None and t < max_steps - 1:
                callback(env, root)
        self.root = root
        return _name_time(_stack(steps, steps[0].ndim, dense))


def _act(policy: PreparedPolicy, root: TensorDictBase) -> TensorDictBase:
    try:
        output = policy.on_tensordict(root)
    except (RuntimeError, ValueError) as error:
        explained = explain_policy(policy.acting, root, error)
        if explained is None:
            raise
        raise explained from None
    return root if output is root else with_output(root, output, policy.acting)


def _entries(root: TensorDictBase) -> Entries:
    if root is None:
        raise ResetError("Stepper: there is no root to step from; reset the environment first.")
    return Entries(root.items(True, True, is_leaf=is_leaf_nontensor))


def _tensordict(root: Entries, env: EnvBase) -> TensorDictBase:
    values = {
        key: value.clone() if isinstance(value, Tensor) else value for key, value in root.items()
    }
    return nested_tensordict(values, env.batch_size, env.device, env.plan.nested)


def _stack(steps: Any, dim: int, dense: bool) -> Any:
    try:
        return torch.stack(steps, dim)
    except RuntimeError:
        if dense:
            raise
    if dim and all(isinstance(step, LazyStackedTensorDict) for step in steps):
        # What differs are the environments, so that each has steps alike.
        each = zip(*(step.unbind(0) for step in steps), strict=True)
        return LazyStackedTensorDict.lazy_stack([_stack(row, dim - 1, dense) for row in each], 0)
    return LazyStackedTensorDict.lazy_stack(steps, dim)


def _name_time(batch: TensorDictBase) -> TensorDictBase:
    """Name the last batch dimension "time"."""
    batch.names = [*batch.names[:-1], "time"]
    return batch
