"""Contract checks that every transform must pass.

>>> from torchrl.envs import StepCounter
>>> check_transform(StepCounter)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.keys import is_private
from torchrl._core.records.flat_record import FlatRecord, Record
from torchrl._core.records.rows import entry_names
from torchrl.data import Bounded, Categorical, Composite, LazyTensorStorage, OneHot, ReplayBuffer, Unbounded
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv
from torchrl.envs.specs import leaf_names
from torchrl.envs.stepping.rollout import PreparedPolicy, Stepper
from torchrl.testing.env import CHECKS as ENV_CHECKS
from torchrl.testing.env import assert_same, make_seeded
from torchrl.testing.report import raises, remedy, run_checks

Make = Callable[[], Transform]
MakeEnv = Callable[[], EnvBase]
STEPS = 64
MEMORY = (
    "what a transform remembers is an entry of the data, which _reset(td, td_reset) writes into the root and "
    "_step(td, next_td) reads from the root td; statistics over all steps are registered buffers"
)


class World(EnvBase):
    """A small environment with entries for every transform to change.

    An episode of row ``b`` has ``3 + b`` steps; even rows then terminate, odd ones are truncated.
    The state is kept in the environment, as by a simulator; rows that a ``_step`` mask leaves out
    do not move.

    Args:
        batch_size: Batch size.
        discrete: Use three one-hot actions, one of which is masked, a different one in each step.

    Reads: ``action [*B, 2]`` in [-2, 1], or ``[*B, 3]`` one-hot.
    Writes: ``observation [*B, 3]``, ``double [*B, 2]`` (float64), ``pixels [*B, 6, 8, 3]`` (uint8),
        ``("agents", "state") [*B, 2, 4]``, ``action_mask [*B, 3]``, ``success [*B, 1]``,
        ``reward [*B, 1]`` and the three flags.

    >>> World([2]).rollout(9, break_when_any_done=False)["next", "terminated"].sum(1).squeeze(-1)
    tensor([3, 0])
    """

    supports_flat_records = True
    reads_action_only = True

    def __init__(self, batch_size: Sequence[int] = (), *, discrete: bool = False) -> None:
        super().__init__(batch_size=torch.Size(batch_size))
        batch, self.discrete = self.batch_size, discrete

        def flag() -> Categorical:
            return Categorical(2, shape=(*batch, 1), dtype=torch.bool)

        self.observation_spec = Composite(
            observation=Unbounded((*batch, 3)),
            double=Bounded(-5.0, 5.0, shape=(*batch, 2), dtype=torch.float64),
            pixels=Bounded(0, 255, shape=(*batch, 6, 8, 3), dtype=torch.uint8),
            agents=Composite(state=Unbounded((*batch, 2, 4)), shape=batch),
            action_mask=Categorical(2, shape=(*batch, 3), dtype=torch.bool),
            success=flag(),
            shape=batch,
        )
        self.action_spec = OneHot(3, (*batch, 3)) if discrete else Bounded(-2.0, 1.0, shape=(*batch, 2))
        self.reward_spec = Unbounded((*batch, 1))
        self.done_spec = Composite(done=flag(), terminated=flag(), truncated=flag(), shape=batch)
        row = torch.arange(batch.numel()).reshape(*batch, 1)
        self._life, self._is_even = 3 + row, row % 2 == 0  # [*B, 1]
        self._clock = torch.zeros(*batch, 1, dtype=torch.int64)
        self._place = torch.zeros(*batch, 3)
        self._generator = torch.Generator().manual_seed(0)

    def _set_seed(self, seed: int | None) -> None:
        self._generator.manual_seed(0 if seed is None else seed)

    def _rows(self, record: Record | None, key: str) -> Tensor:
        mask = None if record is None else record.get(key, None)
        return torch.ones_like(self._is_even) if mask is None else mask

    def _reset(self, tensordict: Any, **kwargs: object) -> Any:
        rows = self._rows(tensordict, "_reset")
        begin_at = torch.rand(self._place.shape, generator=self._generator)
        self._clock = torch.where(rows, 0, self._clock)
        self._place = torch.where(rows, begin_at, self._place)
        return self._record(self._observed(), tensordict)

    def _step(self, tensordict: Any) -> Any:
        rows, action = self._rows(tensordict, "_step"), tensordict.get("action").float()
        push = action.mean(-1, True)
        self._clock = torch.where(rows, self._clock + 1, self._clock)
        self._place = torch.where(rows, (0.9 * self._place + push).roll(1, -1), self._place)
        ended = self._clock >= self._life
        entries = self._observed() | {
            "reward": self._place[..., :1] - push,
            "done": ended,
            "terminated": ended & self._is_even,
            "truncated": ended & ~self._is_even,
        }
        return self._record(entries, tensordict)

    def _observed(self) -> dict[NestedKey, Tensor]:
        shade = (self._place.sum(-1, True) * 40).abs() % 200  # [*B, 1]
        picture = shade[..., None, None] + torch.arange(48.0).reshape(6, 8, 1)
        colours = torch.cat([picture, picture * 0.5, picture + 5], -1)
        return {
            "observation": self._place.clone(),
            "double": self._place[..., :2].double().clamp(-5, 5),
            "pixels": colours.clamp(0, 255).to(torch.uint8),
            ("agents", "state"): torch.stack([self._place, -self._place], -2)[..., [0, 1, 2, 0]],
            "action_mask": torch.arange(3) != self._clock % 3,
            "success": self._clock == 2,
        }

    def _record(self, entries: dict[NestedKey, Tensor], like: Record | None) -> Record:
        flat = isinstance(like, FlatRecord)
        return FlatRecord(entries) if flat else TensorDict(entries, self.batch_size)


def check_outputs_are_in_the_specs(make: Make, make_env: MakeEnv) -> None:
    """Every entry that the transform writes in a reset or a step has a spec."""
    env = make_seeded(lambda: TransformedEnv(make_env(), make()))
    specs = {key for spec in env._get_specs().values() for key in leaf_names(spec)}
    root = env.reset()
    result = env.step(env.rand_action(root.clone()))["next"]
    for record in (root, result):
        unknown = [key for key in entry_names(record) if key not in specs and not is_private(key)]
        assert not unknown, (
            f"{type(env.transform).__name__} writes {unknown}, which have no spec; add them in "
            "transform_specs() or transform_observation_spec()"
        )


def check_parent_is_the_environment_before(make: Make, make_env: MakeEnv) -> None:
    """``parent`` is the environment without this transform, in a nested composition, too."""
    alone, nested = make(), make()
    for transform, outer in ((alone, alone), (nested, Compose(Compose(), Compose(nested)))):
        TransformedEnv(make_env(), outer)
        parent = transform.parent
        assert isinstance(parent, TransformedEnv), type(parent)
        assert parent.specs == TransformedEnv(make_env()).specs, "parent has other specs"


def check_composed_is_alone(make: Make, make_env: MakeEnv) -> None:
    """A rollout is the same alone, in a nested composition, and around a TransformedEnv."""
    alone = make_seeded(lambda: TransformedEnv(make_env(), make())).rollout(8, break_when_any_done=False)
    for build in (
        lambda: TransformedEnv(make_env(), Compose(Compose(), Compose(make()))),
        lambda: TransformedEnv(TransformedEnv(make_env()).append_transform(make())),
    ):
        with remedy("a transform in a composition differs from the same one alone"):
            assert_same(make_seeded(build).rollout(8, break_when_any_done=False), alone)


def check_split_is_whole(make: Make, make_env: MakeEnv) -> None:
    """A long run of steps equals itself in two parts."""
    parts: list[Any] = []
    for lengths in ((STEPS,), (STEPS // 2, STEPS // 2)):
        env = make_seeded(lambda: TransformedEnv(make_env(), make()))
        stepper, policy = Stepper(env), PreparedPolicy(env, None)
        stepper.reset()
        parts.append(torch.cat([stepper.run(policy, length) for length in lengths], -1))
    with remedy(f"a rollout in two parts differs from a whole one; {MEMORY}"):
        assert_same(parts[1], parts[0])


def check_state_is_carried_over(make: Make, make_env: MakeEnv) -> None:
    """A transform that loads the state of another continues as the other does."""

    def loaded(env: Any) -> TransformedEnv:
        other = TransformedEnv(copy.deepcopy(env.base_env), make())
        other.transform.load_state_dict(env.transform.state_dict())
        return other

    with remedy(f"after loading the state dict, with the same root; {MEMORY}", AttributeError, TypeError):
        _assert_continues(make, make_env, loaded)


def check_copies_are_independent(make: Make, make_env: MakeEnv) -> None:
    """A deep copy of an environment continues as the original and does not change it."""
    with remedy(f"a deep copy and the original continue differently; {MEMORY}", AttributeError, TypeError):
        _assert_continues(make, make_env, copy.deepcopy)


def _assert_continues(make: Make, make_env: MakeEnv, copied: Callable[[Any], Any]) -> None:
    """Assert that a copy continues as the original does, in an episode and later."""
    for steps in (2, 5):
        env: Any = make_seeded(lambda: TransformedEnv(make_env(), make()))
        root = env.step_mdp(env.rollout(steps, break_when_any_done=False)[..., -1])
        continued = []
        for each in (copied(env), env):
            torch.manual_seed(1)
            continued.append(each.rollout(10, auto_reset=False, tensordict=root.clone(), break_when_any_done=False))
        assert_same(*continued)


def check_partial_reset_leaves_memory_alone(make: Make, make_env: MakeEnv) -> None:
    """Rows that are not reset continue as if no other row had been, in an environment in the same state."""
    env = make_seeded(lambda: TransformedEnv(make_env(), make()))
    if not env.batch_size:
        return
    root = env.step_mdp(env.rollout(2)[..., -1])
    action = env.rand_action(root.clone()).select(*env.action_keys)
    copied, undisturbed = copy.deepcopy(env), root.clone()
    rows = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    rows[0] = True
    env.reset(root.set("_reset", rows))
    with remedy(f"in a row that a partial reset leaves out; {MEMORY}"):
        _assert_same_step(env, root, copied, undisturbed, action)


def check_reset_rows_start_anew(make: Make, make_env: MakeEnv) -> None:
    """A row that is reset does not depend on the steps before: with another past of that row, it starts alike."""
    env = make_seeded(lambda: TransformedEnv(make_env(), make()))
    root = env.step_mdp(env.rollout(1)[..., -1])
    other = copy.deepcopy(env)
    later = other.step_mdp(other.rollout(1, auto_reset=False, tensordict=root.clone())[..., -1])
    other_root: Any = torch.cat([later[:1], root[1:]]) if env.batch_size else later
    other.base_env.__dict__ = copy.deepcopy(env.base_env).__dict__
    other.transform.load_state_dict(env.transform.state_dict())
    action = env.rand_action(root.clone()).select(*env.action_keys)
    rows = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    rows[0] = True  # all, without a batch
    found = []
    for each, td in ((env, root), (other, other_root)):
        torch.manual_seed(0)
        step = each.step(each.reset(td.set("_reset", rows)).update(action))
        found.append(step[0] if env.batch_size else step)
    with remedy("after a reset, steps before it still count; _reset(td, td_reset) starts from td_reset, not from td"):
        assert_same(*found)


def check_masked_rows_keep_their_memory(make: Make, make_env: MakeEnv) -> None:
    """Rows that a ``_step`` mask leaves out continue as if no other row had stepped."""
    env = make_seeded(lambda: TransformedEnv(make_env(), make()))
    if not env.batch_size:
        return
    root = env.step_mdp(env.rollout(2)[..., -1])
    action = env.rand_action(root.clone()).select(*env.action_keys)
    copied, undisturbed = copy.deepcopy(env), root.clone()
    rows = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    rows[0] = True
    held = env.step_mdp(env.step(root.update(action).set("_step", rows)))
    names = [*env.observation_keys, *env.done_keys]
    with remedy(f"in a row that a '_step' mask leaves out; {MEMORY}"):
        assert_same(held.select(*names)[1:], undisturbed.select(*names)[1:])
        _assert_same_step(env, held, copied, undisturbed, action)


def _assert_same_step(
    env: Any, root: TensorDictBase, other: Any, other_root: TensorDictBase, action: TensorDictBase
) -> None:
    """Assert that all rows but the first step alike, from ``root`` in ``env`` and ``other_root`` in ``other``.

    The environment inside ``other`` gets the state of that inside ``env``: its rows may share a
    random generator, from which what happened to the first row has drawn.
    """
    other.base_env.__dict__ = copy.deepcopy(env.base_env).__dict__
    steps = []
    for each, td in ((env, root), (other, other_root)):
        torch.manual_seed(0)
        steps.append(each.step(td.update(action)))
    assert_same(steps[0][1:], steps[1][1:])


def check_serves_a_buffer(make: Make, make_env: MakeEnv) -> None:
    """In a replay buffer, entries have the shapes and dtypes that they have in an environment.

    A transform that needs an environment, or whole trajectories, raises an error that says so: one
    with a ``_step`` and no ``_call`` does.
    """
    env, transform = TransformedEnv(make_env(), make()), make()
    data = make_seeded(make_env).rollout(6, break_when_any_done=False).reshape(-1)  # [N]
    data.update(data["next"])  # so that what is read of a step is at the root too
    actions: Any = torch.stack([env.full_action_spec.rand() for _ in range(len(data))])
    data.update(actions.reshape(-1)[: len(data)])
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(data)), transform=transform, batch_size=5)
    try:
        buffer.extend(data)
        sample = buffer.sample()
    except (RuntimeError, ValueError) as error:
        if "append" in str(error) or "environment" in str(error):
            return
        raise
    outer = env.observation_spec
    for key in {*transform.out_keys} & {*outer.keys(True, True)}:
        spec, found = outer[key], sample.get(key, None)
        found = sample["next"].get(key) if found is None else found
        assert found.shape[1:] == spec.shape[len(env.batch_size) :], (key, found.shape, spec.shape)
        assert found.dtype == spec.dtype, (key, found.dtype, spec.dtype)


def check_clone_has_no_container(make: Make, make_env: MakeEnv) -> None:
    """A clone can be appended elsewhere, the original cannot; ``repr`` names the class."""
    transform = make()
    TransformedEnv(make_env(), transform)
    clone = transform.clone()
    assert clone.container is None
    assert clone.parent is None
    TransformedEnv(make_env(), clone)
    assert isinstance(transform.parent, TransformedEnv)
    assert type(transform).__name__ in repr(transform)
    with raises(ValueError, match="clone"):
        TransformedEnv(make_env(), transform)


CHECKS = (
    check_outputs_are_in_the_specs,
    check_parent_is_the_environment_before,
    check_composed_is_alone,
    check_split_is_whole,
    check_state_is_carried_over,
    check_copies_are_independent,
    check_partial_reset_leaves_memory_alone,
    check_reset_rows_start_anew,
    check_masked_rows_keep_their_memory,
    check_serves_a_buffer,
    check_clone_has_no_container,
)


def check_transform(make: Make, make_env: MakeEnv | None = None, *, skip: Collection[str] = ()) -> None:
    """Run all contract checks of a transform, and those of the environment seen through it.

    Args:
        make: Builds the transform, an equal one in each call.
        make_env: Builds an environment that it fits; if ``None``, a :class:`World`, once without a
            batch and once with four rows.
        skip: Names of checks to leave out, without ``check_``.

    Raises:
        ContractError: after the last check, with the name of the transform and every failure.

    >>> from torchrl.envs import RewardSum
    >>> from torchrl.testing.mocks import CountingEnv
    >>> check_transform(RewardSum, CountingEnv)  # raises if a check fails
    """
    checks = (*CHECKS, *map(_seen_through, ENV_CHECKS))
    for build in [make_env] if make_env else [World, lambda: World((4,))]:
        run_checks(checks, make, build, skip=skip, name=type(make()).__name__)


def _seen_through(check: Callable[..., None]) -> Callable[[Make, MakeEnv], None]:
    """Return a contract check of environments as one of transforms."""

    @wraps(check)
    def check_seen_through(make: Make, make_env: MakeEnv) -> None:
        check(lambda: TransformedEnv(make_env(), make()))

    return check_seen_through
