"""Contract checks that every environment must pass.

>>> from torchrl.envs import GymEnv
>>> check_env(lambda: GymEnv("CartPole-v1"))
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection
from typing import Any

import cloudpickle
import torch
from tensordict import LazyStackedTensorDict, TensorDictBase, is_leaf_nontensor
from torch import Tensor

from torchrl._core.errors import SimulatorStateError
from torchrl._core.keys import next_key
from torchrl._core.mdp import step_mdp
from torchrl._core.records.policy_output import with_output
from torchrl._core.records.rows import is_lazy, part_names
from torchrl._core.safe_load import load_file
from torchrl.data import RandomPolicy
from torchrl.envs import EnvBase, check_env_specs
from torchrl.envs.check import HookWatch
from torchrl.testing.report import run_checks

Make = Callable[[], EnvBase]
Policy = Callable[[TensorDictBase], TensorDictBase]
STEPS = 12


def names(record: TensorDictBase) -> set:
    """Return the keys of the leaves of a record, those of non-tensors too."""
    return set(record.keys(True, True, is_leaf=is_leaf_nontensor))


def assert_same(found: TensorDictBase, expected: TensorDictBase) -> None:
    """Assert that two records are equal to the bit: keys, shapes, dtypes, values."""
    assert found.batch_size == expected.batch_size, (found.batch_size, expected.batch_size)
    assert names(found) == names(expected), names(found) ^ names(expected)
    if isinstance(expected, LazyStackedTensorDict):  # its parts may differ in entries and shapes
        dim = expected.stack_dim
        for ours, theirs in zip(found.unbind(dim), expected.unbind(dim), strict=True):
            assert_same(ours, theirs)
        return
    for key in part_names(found):
        ours, theirs = found.get(key), expected.get(key)
        if is_lazy(theirs):
            assert_same(ours, theirs)
        elif isinstance(theirs, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True, msg=str(key))
        else:
            assert ours.tolist() == theirs.tolist(), key


def make_seeded(make: Make, seed: int = 0) -> EnvBase:
    """Return a new environment and seed it and torch's random number generator."""
    env = make()
    env.set_seed(seed)
    torch.manual_seed(seed)
    return env


def step_by_step(
    env: EnvBase, steps: int, *, go_on: bool, policy: Callable[[TensorDictBase], TensorDictBase] | None = None
) -> TensorDictBase:
    """Return the expected result of a rollout, from a loop over ``reset`` and ``step``."""
    record: list[Any] = []
    dim = len(env.batch_size)
    root = env.reset()
    for _ in range(steps):
        acted = env.rand_action(root) if policy is None else policy(root)
        root = with_output(root, acted, "policy")
        env.step(root)
        record.append(root.clone())
        root = step_mdp(
            root,
            exclude_action=False,
            reward_keys=[key for key in env.reward_keys if key not in env.state_keys],
            done_keys=[key for keys in env.done_keys_groups for key in keys],
            action_keys=env.action_keys,
        )
        if env.any_done(root):
            if not go_on:
                break
            root = env.reset(root)
    batch: Any = torch.stack(record, dim)
    return batch


def check_keeps_to_its_specs(make: Make) -> None:
    check_env_specs(make(), seed=0, break_when_any_done="both")


def check_fake_step_is_like_a_real_one(make: Make) -> None:
    env = make_seeded(make)
    fake, real = env.fake_tensordict(), env.rollout(1)[..., 0]
    assert fake.batch_size == real.batch_size
    assert names(fake) == names(real), names(fake) ^ names(real)
    for key in part_names(fake):
        if isinstance(real.get(key), Tensor):
            assert fake.get(key).dtype == real.get(key).dtype, key
            assert fake.get(key).shape == real.get(key).shape, key


def check_same_seed_same_rollout(make: Make) -> None:
    first = make_seeded(make, 3).rollout(STEPS, break_when_any_done=False)
    assert_same(make_seeded(make, 3).rollout(STEPS, break_when_any_done=False), first)
    env = make_seeded(make, 5)
    env.rollout(3)
    env.set_seed(3)
    torch.manual_seed(3)
    assert_same(env.rollout(STEPS, break_when_any_done=False), first)


def check_done_is_terminated_or_truncated(make: Make) -> None:
    batch = make_seeded(make).rollout(STEPS, break_when_any_done=False)
    for group in make().compiled_specs.groups:
        done = batch.get(next_key(group.done))
        either = batch.get(next_key(group.terminated))
        if group.has_truncated:
            either = either | batch.get(next_key(group.truncated))
        assert torch.equal(done, either)


def check_rollout_is_step_by_step(make: Make) -> None:
    for go_on in (False, True):
        expected = step_by_step(make_seeded(make), STEPS, go_on=go_on)
        found = make_seeded(make).rollout(STEPS, break_when_any_done=not go_on)
        assert_same(found, expected)


def check_flat_records_change_nothing(make: Make) -> None:
    for go_on in (False, True):
        flat = make_seeded(make).rollout(STEPS, break_when_any_done=not go_on)
        # With a storing device, records are tensordicts.
        nested = make_seeded(make).rollout(STEPS, break_when_any_done=not go_on, storing_device="cpu")
        assert_same(flat.to("cpu"), nested)


def check_hooks_leave_other_steps_alone(make: Make) -> None:
    """``_step`` and ``_reset`` allocate their output and change neither inputs nor earlier results."""
    env = make_seeded(make)
    with HookWatch(env) as watch:
        root = env.reset()
        for _ in range(STEPS):
            _, root = env.step_and_maybe_reset(env.rand_action(root))
    assert not watch.problems, "\n".join(watch.problems.values())
    env = make_seeded(make)
    with HookWatch(env) as watch:  # flat records are stepped here, where they can be
        env.rollout(STEPS, break_when_any_done=False)
    assert not watch.problems, "\n".join(watch.problems.values())


def check_next_is_the_root_of_the_next_step(make: Make) -> None:
    env = make_seeded(make)
    batch = env.rollout(STEPS, break_when_any_done=False)
    over = torch.stack([env.compiled_specs.rows_over(step["next"], every=False) for step in batch.unbind(-1)])
    for t in range(batch.shape[-1] - 1):
        now, next_root = batch[..., t]["next"], batch[..., t + 1]
        kept = now.select(*env.observation_keys, *env.done_keys)
        rows = ~over[t].squeeze(-1)
        if not env.batch_size:
            if rows:
                assert_same(next_root.select(*names(kept)), kept)
        elif rows.any():
            assert_same(next_root.select(*names(kept))[rows], kept[rows])


def check_partial_reset_touches_nothing_else(make: Make) -> None:
    env = make_seeded(make)
    if env.batch_size.numel() < 2:
        return
    root = env.step_mdp(env.rollout(1)[..., -1])
    before = root.clone()
    group = env.compiled_specs.outermost[0]
    rows = torch.zeros(env.batch_size, dtype=torch.bool)
    rows.view(-1)[0] = True
    mask = rows.reshape(*rows.shape, *(1,) * (len(group.shape) - rows.ndim)).expand(group.shape)
    root.set(group.reset, mask.clone())
    after = env.reset(root)
    assert after is root
    assert group.reset not in names(after)
    assert_same(after[~rows], before[~rows])


def check_ted_layout(make: Make) -> None:
    """Time is the last batch dimension; rewards are only under next, flags on both sides."""
    env = make_seeded(make)
    batch = env.rollout(STEPS, break_when_any_done=False)
    assert batch.batch_size[:-1] == env.batch_size
    assert batch.names[-1] == "time"
    for key in env.reward_keys:
        assert (key in names(batch)) == (key in env.state_keys), key
    for key in env.done_keys:
        flag = batch.get(next_key(key))
        assert flag.dtype is torch.bool
        assert flag.shape[-1] == 1
        assert not batch[..., 0].get(key).any(), key


def check_rollout_options(make: Make) -> None:
    """The options of ``rollout()`` have the documented effect."""
    expected = make_seeded(make).rollout(STEPS)
    env = make_seeded(make)
    roots = []
    found = env.rollout(
        STEPS,
        RandomPolicy(env.full_action_spec) if env.compiled_specs.batch_locked else env.rand_action,
        lambda _, root: roots.append(root),
        auto_reset=False,
        tensordict=env.reset(),
    )
    assert_same(found, expected)
    assert len(roots) == found.shape[-1] - 1
    until_all = make_seeded(make).rollout(STEPS, break_when_all_done=True)
    assert bool(env.compiled_specs.all_ended(until_all[..., -1]["next"])) or until_all.shape[-1] == STEPS
    short = make_seeded(make).rollout(2, break_when_any_done=False, return_contiguous=False)
    assert short.shape[-1] == 2


def check_moves_to_a_device(make: Make) -> None:
    expected = make_seeded(make).rollout(3)
    env = make().to("cpu")
    env.set_seed(0)
    torch.manual_seed(0)
    assert env.device == torch.device("cpu")
    found = env.rollout(3)
    assert found.device == env.device
    for spec in env._get_specs().values():
        assert spec.device in (None, env.device)
    assert_same(found, expected.to("cpu"))


def check_pickles_in_mid_episode(make: Make) -> None:
    """An environment pickled in the middle of an episode gives an equal rollout after a seed."""
    env = make_seeded(make)
    env.rollout(2)
    if hasattr(env, "numbers"):  # a view shares its environments, and is not copied
        return
    batches = []
    for each in (env, pickle.loads(cloudpickle.dumps(env))):
        each.set_seed(3)
        torch.manual_seed(3)
        batches.append(each.rollout(5, break_when_any_done=False))
    assert_same(*batches)


def check_goes_on_from_a_saved_state(make: Make) -> None:
    """An environment that is given the state of another in mid-episode takes the same steps, across resets.

    One whose simulator cannot be saved says so.
    """
    env = make_seeded(make)
    if hasattr(env, "numbers"):  # a view shares its environments
        return

    def steps(env: EnvBase, root: TensorDictBase, count: int) -> tuple[list[Any], TensorDictBase]:
        taken = []
        for _ in range(count):
            step, root = env.step_and_maybe_reset(env.rand_action(root))
            taken.append(step.clone())
        return taken, root.clone()

    _, root = steps(env, env.reset(), 5)
    file, generator = io.BytesIO(), torch.get_rng_state()
    try:
        torch.save((env.simulator_state(), env.state_dict()), file)
    except SimulatorStateError:
        return
    expected, _ = steps(env, root.clone(), STEPS)
    other = make_seeded(make, 99)
    other.rollout(2)
    file.seek(0)
    simulator, memory = load_file(file)  # without running code
    other.load_simulator_state(simulator)
    other.load_state_dict(memory)
    torch.set_rng_state(generator)
    found, _ = steps(other, root, STEPS)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


CHECKS = (
    check_keeps_to_its_specs,
    check_fake_step_is_like_a_real_one,
    check_same_seed_same_rollout,
    check_done_is_terminated_or_truncated,
    check_rollout_is_step_by_step,
    check_flat_records_change_nothing,
    check_hooks_leave_other_steps_alone,
    check_next_is_the_root_of_the_next_step,
    check_partial_reset_touches_nothing_else,
    check_ted_layout,
    check_rollout_options,
    check_moves_to_a_device,
    check_pickles_in_mid_episode,
    check_goes_on_from_a_saved_state,
)


def check_env(make: Make, skip: Collection[str] = ()) -> None:
    """Run all contract checks of an environment.

    Args:
        make: Builds the environment, an equal one in each call.
        skip: Names of checks to leave out, without ``check_``.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.testing.mocks import CountingEnv
    >>> check_env(CountingEnv)  # raises if a check fails
    """
    run_checks(CHECKS, make, skip=skip)
