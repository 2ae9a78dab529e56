"""Rollouts: the stepping loop of rollouts, collectors and recorders.

A loop passes one record from step to step. Where environment and policy support it, the record is a
flat dictionary (:mod:`torchrl._core.records.flat_record`), and tensordicts are made once, at the
end; elsewhere it is a tensordict. Both loops do the same and return the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDict, TensorDictBase, is_leaf_nontensor
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingFlagError, ResetError, ShapeError, describe
from torchrl._core.keys import next_key, sibling
from torchrl._core.mdp import TRUNCATED, last_name
from torchrl._core.records.ended_rows import ended_rows
from torchrl._core.records.flat_record import FlatRecord, nested_tensordict, next_root, stack_flat_records
from torchrl._core.records.policies import (
    CompiledPolicy,
    OutputKeys,
    check_states,
    compile_policy,
    explain_policy,
    kept,
    run_network,
)
from torchrl._core.records.policy_output import output_entries, policy_name, with_output
from torchrl._core.records.torch_private import share_out_keys
from torchrl.data import RandomPolicy
from torchrl.envs.stepping.deferred import Deferred
from torchrl.envs.stepping.reused_memory import WATCHED, MemoryWatch, new_watch

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

Act = Callable[[Any], Any]
_WORTH_DEFERRING = 24  # steps, below which it costs more than it saves


def rollout(
    self: EnvBase,
    max_steps: int,
    policy: Callable[..., object] | None = None,
    callback: Callable[[EnvBase, TensorDictBase], object] | None = None,
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
        actions: Taken one after the other, ``[*B, T, *action]``, instead of a policy.
        auto_reset: Reset first; otherwise ``tensordict`` is the first root, and its rows that have
            ended are reset.
        auto_cast_to_device: Move the record to the device of the policy and back at each step.
        break_when_any_done: Stop at the first end of an episode (the default). If ``False``, go on:
            rows that end are reset, but for those that end in the last step.
        break_when_all_done: Stop when all episodes have ended; rows that end are frozen.
        return_contiguous: Raise rather than return a lazy stack where steps differ in shape.
        tensordict: Passed to the first reset, or the first root.
        set_truncated: Mark the last step as truncated.
        out: Filled with the result and returned.
        trust_policy: Call ``policy`` with the record, whatever its signature.
        storing_device: Where to keep the steps.
        set_state: Passed to the first reset.

    Raises:
        TypeError: if ``max_steps`` is not a whole number.
        ValueError: if arguments contradict each other, or there is no step to take.
        ShapeError: if the policy writes an action of another shape than its spec.
    """
    if break_when_any_done and break_when_all_done:
        raise ValueError("rollout: break_when_any_done and break_when_all_done exclude each other.")
    stop = "all" if break_when_all_done else None if break_when_any_done is False else "any"
    max_steps = _number_of_steps(max_steps)
    if actions is not None:
        if policy is not None:
            raise ValueError("rollout: give either a policy or actions, not both.")
        replay = _ReplayActions(self, actions)
        policy, trust_policy, max_steps = replay, True, min(max_steps, len(replay))
    if max_steps < 1:
        raise ValueError(f"rollout: max_steps must be at least 1, found {max_steps}.")
    stepper = Stepper(self, storing_device=storing_device, resets_last=False)
    if auto_reset:
        stepper.reset(tensordict, set_state=set_state)
    elif tensordict is None:
        raise ValueError("rollout: auto_reset=False needs a tensordict to start from.")
    else:
        stepper.root = self.maybe_reset(self.compiled_specs.complete_reset(tensordict.copy()))
    act = PreparedPolicy(self, policy, trust=trust_policy, cast=auto_cast_to_device)
    batch = stepper.run(act, max_steps, stop=stop, callback=callback, dense=return_contiguous)
    if self.omitted_next:
        batch = batch.exclude(*map(next_key, self.omitted_next))
    if set_truncated:
        truncate_last(self, batch)
    return batch if out is None else out.update_(batch)


def _number_of_steps(max_steps: Any) -> int:
    """Return ``max_steps`` as an integer; raise TypeError if it is none."""
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


def truncate_last(env: EnvBase, batch: TensorDictBase) -> TensorDictBase:
    """Mark the last step of ``batch [*B, T]`` as truncated, hence done.

    Raises:
        MissingFlagError: if the environment has no ``truncated`` flag.
    """
    last = batch.get("next")[..., -1]
    for group in env.compiled_specs.groups:
        if not group.has_truncated:
            raise MissingFlagError(
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
        env: The environment; names the observations and actions that a plain callable maps.
        policy: As in :func:`rollout`.
        trust: Call ``policy`` with the record, whatever its signature.
        cast: Move the record to the device of the policy and back.
    """

    def __init__(self, env: EnvBase, policy: Act | None, *, trust: bool = False, cast: bool = False) -> None:
        self.given = policy
        if policy is None:
            by_spec = env.compiled_specs.batch_locked and env.draws_from_spec
            policy = RandomPolicy(env.full_action_spec) if by_spec else env.rand_action
        elif not (trust or isinstance(policy, TensorDictModuleBase)):
            policy = as_tensordict_policy(env, policy)
        self.acting = policy
        reads, writes = getattr(policy, "in_keys", None), getattr(policy, "out_keys", None)
        # The entries that the policy reads or writes; None if unknown.
        self.touches = None if reads is None or writes is None else {*reads, *writes}
        # A flat record has no nested tensordicts, which a policy may touch as a whole.
        groups = env.compiled_specs.entry_groups
        needs_groups = self.touches is not None and not groups.isdisjoint(self.touches)
        self.on_flat_record = kept(policy, _check_and_compile)
        if cast or needs_groups:
            self.on_flat_record = None
        self.on_tensordict = _cast(policy, env) if cast else policy


def _check_and_compile(policy: Act) -> CompiledPolicy | None:
    check_states(policy)
    return compile_policy(policy)


def as_tensordict_policy(env: EnvBase, policy: Callable[..., object]) -> Act:
    """Return ``policy`` if it takes a record, else as a map from observations to actions.

    It gets the observations that its arguments name, or all of them in their order.

    Raises:
        TypeError: if its arguments are neither named as observations nor as many.
    """
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
    in_keys = env.observation_keys
    by_name = {last_name(key): key for key in in_keys}
    if required and all(parameter.name in by_name for parameter in required):
        in_keys = [by_name[parameter.name] for parameter in required]
    elif parameters:
        most = len(in_keys) if any(p.kind == 2 for p in parameters) else len([p for p in parameters if p.kind < 2])
        if not len(required) <= len(in_keys) <= most:
            raise TypeError(
                describe(
                    policy_name(policy),
                    "takes other arguments than the observations",
                    expected=f"arguments named as some of {in_keys}, or one for each",
                    found=[parameter.name for parameter in parameters],
                    hint="Wrap it in a TensorDictModule whose in_keys and out_keys name its entries.",
                )
            )
    return ObservationPolicy(policy, in_keys, env.action_keys)


class ObservationPolicy(TensorDictModule):
    """A callable as a policy: a map from observations to actions.

    Args:
        function: Takes the observations, returns the actions and perhaps more.
        in_keys: The observations.
        action_keys: The actions.

    Writes: the actions; what is returned besides, ``output1``, ``output2``...
    """

    supports_flat_records = True
    only_runs_network = True

    def __init__(
        self, function: Callable[..., object], in_keys: Sequence[NestedKey], action_keys: Sequence[NestedKey]
    ) -> None:
        super().__init__(function, in_keys=list(in_keys), out_keys=list(action_keys))
        share_out_keys(self, OutputKeys(action_keys))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the actions."""
        run_network(self, self.module, self.in_keys, self.out_keys_source, tensordict)
        return tensordict


def _cast(policy: Act, env: EnvBase) -> Act:
    parameter = next(iter(policy.parameters()), None) if isinstance(policy, nn.Module) else None
    if parameter is None or env.device == parameter.device:
        return policy
    there, back = parameter.device, env.device or torch.device("cpu")

    return lambda td: td.update(output_entries(policy(td.to(there)), policy).to(back))


class _ReplayActions:
    """A policy that takes given actions ``[*B, T, *action]`` one after the other."""

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
    """Steps an environment with a policy, and keeps the root between runs.

    Args:
        env: The environment.
        storing_device: Where the steps are kept; where they are made if ``None``.
        resets_last: Reset, after the last step of a run, the rows that ended in it, so that the next
            run can go on from there.
    """

    def __init__(
        self, env: EnvBase, *, storing_device: torch.device | str | None = None, resets_last: bool = True
    ) -> None:
        if storing_device is not None:
            check_devices(self, storing_device=storing_device)
            storing_device = torch.device(storing_device)
        self.env, self.storing_device, self.resets_last = env, storing_device, resets_last
        self.root: Any = None
        self._state_version = -1
        self._watch: MemoryWatch | None = None
        self._policy: PreparedPolicy | None = None

    def reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> None:
        """Reset the environment and keep its first root."""
        given = None if tensordict is None else tensordict.copy()
        self.root = self.env.reset(given, **kwargs)
        self._state_version = self.env._state_counter[0]

    def resume(self, root: TensorDictBase) -> None:
        """Go on from a root that was saved with the state of the environment."""
        self.root, self._state_version = root, self.env._state_counter[0]

    def is_stale(self) -> bool:
        """Return whether the environment was stepped or reset by others since the last run."""
        return self._state_version != self.env._state_counter[0]

    def root_tensordict(self) -> TensorDictBase:
        """Return the root as a tensordict."""
        if not isinstance(self.root, FlatRecord):
            return self.root
        values = {key: value.clone() if isinstance(value, Tensor) else value for key, value in self.root.items()}
        return nested_tensordict(values, self.env.batch_size, self.env.device, self.env.compiled_specs.nested)

    def run(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        *,
        stop: str | None = None,
        callback: Callable[[EnvBase, TensorDictBase], object] | None = None,
        dense: bool = False,
        interrupted: Callable[[], bool] | None = None,
    ) -> TensorDictBase:
        """Take at most ``max_steps`` steps from the root; return them, ``[*B, T]``.

        Args:
            policy: Writes the action.
            max_steps: Number of steps.
            stop: ``"any"`` stops at the first end of an episode, ``"all"`` when all have ended
                (rows that end are frozen), ``None`` never: rows that end are reset.
            callback: Called with the environment and each root but the first.
            dense: Raise rather than return a lazy stack.
            interrupted: Called after each step; ``True`` stops.
        """
        env, watch = self.env, self._watch
        if watch is None or policy is not self._policy or watch.has_raised:
            watch = env.__dict__.get("_rollout_watch")
            if watch is None or watch.has_raised or watch.watched() is not policy.given:
                watch = new_watch(env, policy.given, policy.acting)
            self._policy, self._watch = policy, watch
        flat = policy.on_flat_record is not None and env.compiled_specs.takes_flat_records
        flat = flat and callback is None and self.storing_device is None and stop != "all"
        env._state_counter[0] += 1  # after an error the root is stale
        env.expect_resets(stop is None)
        try:
            with nullcontext() if watch.is_idle else watch:
                if flat and not env._run_type_checks:
                    batch = self._run_flat(policy, max_steps, stop, interrupted, watch)
                else:
                    self.root = self.root_tensordict()
                    batch = self._run_tensordicts(policy, max_steps, stop, callback, dense, interrupted, watch)
        finally:
            env.expect_resets(False)
        self._state_version = env._state_counter[0]
        batch.names = [*batch.names[:-1], "time"]
        return batch

    def _run_flat(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        stop: str | None,
        interrupted: Callable[[], bool] | None,
        watch: MemoryWatch,
    ) -> TensorDictBase:
        """Step with flat records; write what is deferred; stack."""
        env, root = self.env, self.root
        if root is None:
            raise ResetError("Stepper: there is no root to step from; reset the environment first.")
        if not isinstance(root, FlatRecord):
            root = FlatRecord(root.items(True, True, is_leaf=is_leaf_nontensor))
        late: list[Deferred] = []
        if policy.touches is not None and max_steps >= _WORTH_DEFERRING:
            late = env.defer(policy.touches)
        first = FlatRecord()  # deferred entries that roots have: all but rewards
        for one in late:
            if one.key in env.compiled_specs.observation_keys:
                if one.key not in root:
                    env.resume()
                    late = []
                    root.update(first)
                    first.clear()
                    break
                first[one.key] = root.pop(one.key)
        try:
            roots, results = self._take_steps(policy, root, max_steps, stop, interrupted, watch)
        finally:
            if late:
                env.resume()
        for key in first:
            if key in results[0]:
                roots[0][key] = results[0][key]  # in its place: of the right shape and dtype
        compiled = env.compiled_specs
        size, device, nested = compiled.batch_size, compiled.device, compiled.nested
        batch = stack_flat_records(roots, size, device, nested)
        batch.set("next", stack_flat_records(results, size, device, nested))
        for one in late:
            one.write(batch, first, self.root, reset_at_end=stop is None and self.resets_last)
        return batch

    def _take_steps(
        self,
        policy: PreparedPolicy,
        root: FlatRecord,
        max_steps: int,
        stop: str | None,
        interrupted: Callable[[], bool] | None,
        watch: MemoryWatch,
    ) -> tuple[list[FlatRecord], list[FlatRecord]]:
        """Return the roots and the results of their steps; keep the next root."""
        env, compiled = self.env, self.env.compiled_specs
        plain: Any = policy.on_flat_record, env.result_of
        act, step = plain if watch.is_over else watch.around(*plain)
        roots: list[FlatRecord] = []
        results: list[FlatRecord] = []
        preset: list[Any] = []  # entries under "next" that the policy writes
        carried: list[Any] = []  # entries of a root that its result lacks: the action
        last = -1 if self.resets_last else max_steps - 1
        for t in range(max_steps):
            if t == WATCHED and watch.is_over:
                act, step = plain
            if t == last:
                env.expect_resets(False)
            act(root)
            if t == 0:
                compiled.check_action(root, values=not watch.is_over and watch.is_new)
                preset = compiled.preset_keys(root)
            result = step(root)
            for key in preset:
                result.setdefault(key[1] if len(key) == 2 else key[1:], root.pop(key))
            if t == 0:
                carried = compiled.carried_keys(root, result)
            roots.append(root)
            results.append(result)
            root = next_root(root, result, compiled.dropped, carried)
            if compiled.ended(result):
                if stop is not None or t == last:
                    break
                root = env.reset_entries(root)
                if watch.watches_resets:
                    watch.after_reset(root)
            if interrupted is not None and interrupted():
                break
        self.root = root
        return roots, results

    def _run_tensordicts(
        self,
        policy: PreparedPolicy,
        max_steps: int,
        stop: str | None,
        callback: Callable[[EnvBase, TensorDictBase], object] | None,
        dense: bool,
        interrupted: Callable[[], bool] | None,
        watch: MemoryWatch,
    ) -> TensorDictBase:
        """Step with tensordicts, and stack them."""
        env, compiled, root = self.env, self.env.compiled_specs, self.root
        plain: Any = partial(_act, policy), env.step
        act, step = plain if watch.is_over else watch.around(*plain)
        steps: list[TensorDictBase] = []
        frozen: Tensor | None = None  # rows whose episode has ended
        last = -1 if self.resets_last else max_steps - 1
        for t in range(max_steps):
            if t == WATCHED and watch.is_over:
                act, step = plain
            if t == last:
                env.expect_resets(False)
            if frozen is None:
                root = act(root)
            else:
                with ended_rows(frozen):
                    root = act(root)
                root.set("_step", ~frozen)
            if t == 0:  # a step that is checked checks the values itself
                compiled.check_action(root, values=watch.is_new and not env._checks_now)
            root = step(root)
            steps.append(root if self.storing_device is None else root.to(self.storing_device))
            root = compiled.step_mdp(root)
            if compiled.ended(root):
                if stop == "any" or (stop == "all" and compiled.all_ended(root)):
                    break
                if stop is None and t != last:
                    root = env.maybe_reset(root)
                    watch.after_reset(root)
            if stop == "all":
                frozen = compiled.rows_over(root)
            if interrupted is not None and interrupted():
                break
            if callback is not None and t < max_steps - 1:
                callback(env, root)
        self.root = root
        return _stack(steps, steps[0].ndim, dense)


def _act(policy: PreparedPolicy, root: TensorDictBase) -> TensorDictBase:
    try:
        output = policy.on_tensordict(root)
    except (RuntimeError, ValueError) as error:
        explained = explain_policy(policy.acting, root, error)
        if explained is None:
            raise
        raise explained from None
    return root if output is root else with_output(root, output, policy.acting)


def _stack(steps: Any, dim: int, dense: bool) -> Any:
    try:
        return torch.stack(steps, dim)
    except RuntimeError:
        if dense:
            raise
    if dim and all(isinstance(step, LazyStackedTensorDict) for step in steps):
        # The environments differ, not the steps of each.
        each = zip(*(step.unbind(0) for step in steps), strict=True)
        return LazyStackedTensorDict.lazy_stack([_stack(row, dim - 1, dense) for row in each], 0)
    return LazyStackedTensorDict.lazy_stack(steps, dim)
