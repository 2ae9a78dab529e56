"""What every transform must do: laws to point at any transform, one's own included.

>>> from torchrl.envs import StepCounter
>>> check_transform(StepCounter)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl._core.entries import Entries
from torchrl.data import (
    Bounded,
    Categorical,
    Composite,
    LazyTensorStorage,
    OneHot,
    ReplayBuffer,
    Unbounded,
)
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv
from torchrl.envs.rollout import PreparedPolicy, Stepper
from torchrl.testing.env import assert_same, begin, check_env

Make = Callable[[], Transform]
MakeEnv = Callable[[], EnvBase]
STEPS = 64


class World(EnvBase):
    """A small world in which any transform finds something to change.

    Row ``b`` lives ``3 + b`` steps; even rows then terminate, odd ones are truncated. It keeps its
    state to itself, as a simulator does; rows that a ``_step`` mask leaves out stand still.

    Args:
        batch_size: Rows.
        discrete: Choose among three actions, one-hot, of which a changing one is forbidden.

    Reads: ``action [*B, 2]`` in [-2, 1], or ``[*B, 3]`` one-hot.
    Writes: ``observation [*B, 3]``, ``double [*B, 2]`` (float64), ``pixels [*B, 6, 8, 3]`` (uint8),
        ``("agents", "state") [*B, 2, 4]``, ``action_mask [*B, 3]``, ``success [*B, 1]``,
        ``reward [*B, 1]`` and the three flags.

    >>> World([2]).rollout(9, break_when_any_done=False)["next", "terminated"].sum(1).squeeze(-1)
    tensor([3, 0])
    """

    entrywise = True
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
        self.action_spec = (
            OneHot(3, (*batch, 3)) if discrete else Bounded(-2.0, 1.0, shape=(*batch, 2))
        )
        self.reward_spec = Unbounded((*batch, 1))
        self.done_spec = Composite(done=flag(), terminated=flag(), truncated=flag(), shape=batch)
        row = torch.arange(batch.numel()).reshape(*batch, 1)
        self._life, self._is_even = 3 + row, row % 2 == 0  # [*B, 1]
        self._clock = torch.zeros(*batch, 1, dtype=torch.int64)
        self._place = torch.zeros(*batch, 3)
        self._generator = torch.Generator().manual_seed(0)

    def _set_seed(self, seed: int | None) -> None:
        self._generator.manual_seed(0 if seed is None else seed)

    def _rows(self, record: Any, key: str) -> Tensor:
        mask = None if record is None else record.get(key, None)
        return torch.ones_like(self._is_even) if mask is None else mask

    def _reset(self, tensordict: Any, **kwargs: Any) -> Any:
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
        over = self._clock >= self._life
        entries = self._observed() | {
            "reward": self._place[..., :1] - push,
            "done": over,
            "terminated": over & self._is_even,
            "truncated": over & ~self._is_even,
        }
        return self._record(entries, tensordict)

    def _observed(self) -> dict[Any, Tensor]:
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

    def _record(self, entries: dict[Any, Tensor], like: Any) -> Any:
        flat = isinstance(like, Entries)
        return Entries(entries) if flat else TensorDict(entries, self.batch_size)


def check_composed_is_alone(make: Make, make_env: MakeEnv) -> None:
    """Alone, in a composition, after nothing, in an environment seen twice: the same."""
    alone = begin(lambda: TransformedEnv(make_env(), make())).rollout(8, **_ON)
    for place in (
        lambda: TransformedEnv(make_env(), Compose(Compose(), Compose(make()))),
        lambda: TransformedEnv(TransformedEnv(make_env()).append_transform(make())),
    ):
        assert_same(begin(place).rollout(8, **_ON), alone)


def check_split_is_whole(make: Make, make_env: MakeEnv) -> None:
    """A long chain of steps equals itself in two parts."""
    parts: list[Any] = []
    for lengths in ((STEPS,), (STEPS // 2, STEPS // 2)):
        env: Any = begin(lambda: TransformedEnv(make_env(), make()))
        stepper, policy = Stepper(env), PreparedPolicy(env, None)
        stepper.begin()
        parts.append(torch.cat([stepper.run(policy, length) for length in lengths], -1))
    assert_same(parts[1], parts[0])


def check_state_is_carried_over(make: Make, make_env: MakeEnv) -> None:
    """A transform that loads the state of another goes on as that one does."""
    env: Any = begin(lambda: TransformedEnv(make_env(), make()))
    root = env.step_mdp(env.rollout(5, **_ON)[..., -1])
    other = TransformedEnv(copy.deepcopy(env.base_env), make())
    other.transform.load_state_dict(env.transform.state_dict())
    going_on = []
    for each in (env, other):
        torch.manual_seed(1)
        going_on.append(each.rollout(10, auto_reset=False, tensordict=root.clone(), **_ON))
    assert_same(going_on[1], going_on[0])


def check_copies_are_independent(make: Make, make_env: MakeEnv) -> None:
    """A deep copy of an environment goes on alike, and does not disturb the original."""
    env: Any = begin(lambda: TransformedEnv(make_env(), make()))
    root = env.step_mdp(env.rollout(5, **_ON)[..., -1])
    twin = copy.deepcopy(env)
    going_on = []
    for each in (twin, env):
        torch.manual_seed(1)
        going_on.append(each.rollout(10, auto_reset=False, tensordict=root.clone(), **_ON))
    assert_same(going_on[1], going_on[0])


def check_partial_reset_leaves_memory_alone(make: Make, make_env: MakeEnv) -> None:
    """Rows that are not reset go on as if no other row had been."""
    env: Any = begin(lambda: TransformedEnv(make_env(), make()))
    if not env.batch_size:
        return
    root = env.step_mdp(env.rollout(2)[..., -1])
    action = env.rand_action(root.clone()).select(*env.action_keys)
    twin, undisturbed = copy.deepcopy(env), root.clone()
    rows = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    rows[0] = True
    env.reset(root.set("_reset", rows))
    steps = [each.step(td.update(action)) for each, td in ((env, root), (twin, undisturbed))]
    assert_same(steps[0][1:], steps[1][1:])


def check_rows_that_stand_still_keep_their_memory(make: Make, make_env: MakeEnv) -> None:
    """Rows that a step leaves out go on as if no other row had stepped."""
    env: Any = begin(lambda: TransformedEnv(make_env(), make()))
    if not env.batch_size:
        return
    root = env.step_mdp(env.rollout(2)[..., -1])
    action = env.rand_action(root.clone()).select(*env.action_keys)
    copied, undisturbed = copy.deepcopy(env), root.clone()
    rows = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    rows[0] = True
    held = env.step_mdp(env.step(root.update(action).set("_step", rows)))
    names = [*env.observation_keys, *env.done_keys]
    assert_same(held.select(*names)[1:], undisturbed.select(*names)[1:])
    steps = [each.step(td.update(action)) for each, td in ((env, held), (copied, undisturbed))]
    assert_same(steps[0][1:], steps[1][1:])


def check_serves_a_buffer(make: Make, make_env: MakeEnv) -> None:
    """In a replay buffer, entries get the shapes and dtypes that they have in an environment.

    A transform that needs an environment, or whole trajectories, says so.
    """
    env, transform = TransformedEnv(make_env(), make()), make()
    data = begin(make_env).rollout(6, **_ON).reshape(-1)  # [N]
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


def check_clone_has_no_place(make: Make, make_env: MakeEnv) -> None:
    """A clone can be appended elsewhere, the original cannot; the text names the class."""
    transform = make()
    TransformedEnv(make_env(), transform)
    clone = transform.clone()
    assert clone.container is None
    assert clone.parent is None
    TransformedEnv(make_env(), clone)
    assert isinstance(transform.parent, TransformedEnv)
    assert type(transform).__name__ in repr(transform)
    with pytest.raises(ValueError, match="clone"):
        TransformedEnv(make_env(), transform)


_ON: dict[str, Any] = {"break_when_any_done": False}

LAWS = (
    check_composed_is_alone,
    check_split_is_whole,
    check_state_is_carried_over,
    check_copies_are_independent,
    check_partial_reset_leaves_memory_alone,
    check_rows_that_stand_still_keep_their_memory,
    check_serves_a_buffer,
    check_clone_has_no_place,
)


def check_transform(make: Make, make_env: MakeEnv | None = None) -> None:
    """Assert every law, and that the environment seen through the transform obeys those of its own.

    Args:
        make: Builds the transform, each time anew and alike.
        make_env: Builds an environment that it fits; a :class:`World` if ``None``.
    """
    for batch_size in ((), (4,)):
        build = make_env if make_env is not None else _world(batch_size)
        check_env(lambda build=build: TransformedEnv(build(), make()))  # type: ignore[misc]  # bound at once
        for law in LAWS:
            law(make, build)
        if make_env is not None:
            return


def _world(batch_size: Sequence[int]) -> MakeEnv:
    return lambda: World(batch_size)
