"""What serial and parallel environments compute: the same as one environment after the other."""

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl.data import Bounded, Composite, NonTensor, Unbounded
from torchrl.envs import (
    EnvBase,
    GymEnv,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    check_env_specs,
)
from torchrl.envs.base import next_seed


def cartpole():
    return GymEnv("CartPole-v1")


class Count(EnvBase):
    """Counts up from a drawn start; ends at ``last``. Reads its own observation from the root."""

    def __init__(self, last=4, width=1, batch_size=()):
        super().__init__(batch_size=batch_size)
        self.last, self.generator = last, torch.Generator()
        self.observation_spec = Composite(count=Unbounded((*batch_size, width)), shape=batch_size)
        self.action_spec = Bounded(0, 1, (*batch_size, width))
        self.reward_spec = Unbounded((*batch_size, 1))

    def _reset(self, td):
        shape = self.observation_spec["count"].shape
        return TensorDict(count=torch.rand(shape, generator=self.generator), batch_size=shape[:-1])

    def _step(self, td):
        count = td["count"] + 1
        return TensorDict(
            count=count,
            reward=count.sum(-1, True) * td["action"].sum(-1, True),
            terminated=(count > self.last).any(-1, True),
            batch_size=self.batch_size,
        )

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)


MAKERS = {
    "native": lambda: GymEnv("CartPole-v1", num_envs=4),
    "serial": lambda: SerialEnv(4, cartpole),
    "serial, blocks of their own": lambda: SerialEnv(4, cartpole, share_individual_td=True),
    "serial, records": lambda: SerialEnv(4, cartpole, use_buffers=False),
    "four workers": lambda: ParallelEnv(4, cartpole),
    "two workers": lambda: ParallelEnv(2, [cartpole] * 4),
    "one worker": lambda: ParallelEnv(1, [cartpole] * 4),
    "in this process": lambda: ParallelEnv(1, [cartpole] * 4, serial_for_single=True),
    "file": lambda: ParallelEnv(2, [cartpole] * 4, memmap=True),
    "pickled": lambda: ParallelEnv(2, [cartpole] * 4, shared_memory=False),
    "own blocks": lambda: ParallelEnv(2, [cartpole] * 4, share_individual_td=True),
    "of two each": lambda: ParallelEnv(2, lambda: GymEnv("CartPole-v1", num_envs=2)),
}


@pytest.fixture
def closing():
    envs = []
    yield lambda env: envs.append(env) or env
    for env in envs:
        env.close()


def same(left, right):
    assert set(left.keys(True, True)) == set(right.keys(True, True))
    for key in left.keys(True, True):
        assert left[key].dtype == right[key].dtype, key
        assert torch.equal(left[key].flatten(), right[key].flatten()), key


def sequence(env):
    """Seeds, rollouts and steps by hand; what all makers must agree on."""
    torch.manual_seed(0)
    seed = env.set_seed(5)
    going_on = env.rollout(60, break_when_any_done=False)
    until_end = env.rollout(60)
    td, steps = env.reset(), []
    for _ in range(40):
        step, td = env.step_and_maybe_reset(env.rand_action(td))
        steps.append(step)
    by_hand = torch.stack(steps, len(env.batch_size))
    return seed, going_on, until_end, by_hand


@pytest.fixture(scope="module")
def expected():
    return sequence(MAKERS["native"]())


@pytest.mark.parametrize(
    "make", [pytest.param(m, id=k, marks=[pytest.mark.slow] * (k == "pickled")) for k, m in MAKERS.items()]
)
def test_all_give_the_same_numbers(make, expected, closing):
    seed, *batches = sequence(closing(make()))
    assert seed == expected[0]
    assert batches[0]["next", "done"].any()
    for batch, reference in zip(batches, expected[1:], strict=True):
        same(batch, reference)


@pytest.mark.slow
def test_spawned_workers_give_the_same_numbers(expected, closing):
    env = closing(ParallelEnv(2, [lambda: cartpole()] * 4, mp_start_method="spawn"))
    seed, *batches = sequence(env)
    assert seed == expected[0]
    for batch, reference in zip(batches, expected[1:], strict=True):
        same(batch, reference)


@pytest.mark.parametrize("make", [MAKERS["serial"], MAKERS["two workers"]], ids=["serial", "two"])
def test_agrees_with_gymnasium_by_hand(make, closing):
    env = closing(make())
    env.set_seed(3)
    batch = env.rollout(80, break_when_any_done=False)
    seed = 3
    for row in batch.unbind(0):
        raw = gymnasium.make("CartPole-v1")
        observation = raw.reset(seed=seed)[0]
        for step in row.unbind(0):
            np.testing.assert_array_equal(step["observation"], observation)
            observation, reward, terminated, truncated, _ = raw.step(int(step["action"].argmax()))
            np.testing.assert_array_equal(step["next", "observation"], observation)
            assert step["next", "reward"].item() == reward
            assert step["next", "terminated"].item() == terminated
            assert step["next", "truncated"].item() == truncated
            if terminated or truncated:
                observation = raw.reset()[0]
        seed = next_seed(seed)


def counting(kind):
    recipes = [Count] * 3
    if kind == "serial":
        return SerialEnv(3, recipes)
    return ParallelEnv(len(recipes), recipes, use_buffers=kind == "parallel")


KINDS = ["serial", "parallel", "pickled"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_reset_touches_nothing_else(kind, closing):
    env = closing(counting(kind))
    env.set_seed(0)
    td = env.reset()
    td = env.step_mdp(env.step(env.rand_action(td)))
    before = td["count"].clone()
    td["_reset"] = torch.tensor([[True], [False], [True]])
    after = env.reset(td)["count"]
    assert after[1] == before[1]
    assert (after[[0, 2]] < 1).all()
    assert td.get("_reset", None) is None
    td = env.step(env.rand_action(td))
    assert torch.equal(td["next", "count"], after + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_step_leaves_the_others_where_they_are(kind, closing):
    env = closing(counting(kind))
    td = env.rand_action(env.reset())
    td["_step"] = torch.tensor([[False], [True], [False]])
    before = td["count"].clone()
    after = env.step(td)["next"]
    assert torch.equal(after["count"], before + torch.tensor([[0.0], [1.0], [0.0]]))
    assert (after["reward"][[0, 2]] == 0).all()
    assert after["reward"][1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_ended_stand_still_until_all_have(kind, closing):
    recipes = [lambda: Count(2), lambda: Count(4)]
    env = SerialEnv(2, recipes) if kind == "serial" else ParallelEnv(2, recipes)
    batch = closing(env).rollout(20, break_when_all_done=True)
    assert batch["next", "done"].squeeze(-1).tolist() == [[False, True, True, True], [False, False, False, True]]
    assert (batch["next", "count"][0, 1:] == batch["next", "count"][0, 1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_outside_may_end_other_rows(kind, closing):
    """The counter ends rows that the workers have not reset; both kinds of ends are told apart."""
    base = closing(counting(kind))
    one = TransformedEnv(base, StepCounter(3))
    one.set_seed(0)
    batch = one.rollout(12, break_when_any_done=False)
    seed = 0
    for row in batch.unbind(0):
        alone = TransformedEnv(Count(), StepCounter(3))
        alone.set_seed(seed)
        again = alone.rollout(12, actions=row["action"], break_when_any_done=False)
        same(row, again)
        seed = next_seed(seed)


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_transforms_inside_equal_transforms_outside(kind, closing):
    def inside():
        return TransformedEnv(cartpole(), RewardSum()).append_transform(StepCounter(15))

    env = closing(SerialEnv(3, inside) if kind == "serial" else ParallelEnv(3, [inside] * 3))
    outside = TransformedEnv(SerialEnv(3, cartpole), RewardSum()).append_transform(StepCounter(15))
    batches = []
    for each in (env, outside):
        torch.manual_seed(1)
        each.set_seed(1)
        batches.append(each.rollout(50, break_when_any_done=False))
    same(*batches)
    assert batches[0]["next", "truncated"].any()
    assert batches[0]["step_count"].max() == 14


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_environments_with_batch_sizes_reset_row_by_row(kind, closing):
    recipes = [lambda: Count(batch_size=(2,))] * 2
    env = closing(SerialEnv(2, recipes) if kind == "serial" else ParallelEnv(2, recipes))
    assert env.batch_size == (2, 2)
    env.set_seed(0)
    batch = TransformedEnv(env, StepCounter(3)).rollout(9, break_when_any_done=False)
    assert batch.batch_size == (2, 2, 9)
    for row in batch.flatten(0, 1):
        for t in range(8):
            if row["next", "done"][t]:
                assert row["count"][t + 1] < 1
                assert row["step_count"][t + 1] == 0
            else:
                assert torch.equal(row["count"][t + 1], row["next", "count"][t])


def test_one_trip_a_step(closing, monkeypatch):
    env = closing(ParallelEnv(2, [cartpole] * 4))
    env.reset()
    resets = []
    scatter = type(env._pool).scatter
    monkeypatch.setattr(
        type(env._pool), "scatter", lambda self, name, *args: resets.append(name) or scatter(self, name, *args)
    )
    batch = env.rollout(100, break_when_any_done=False)
    assert batch["next", "done"].sum() > 5
    assert resets == ["reset"]


def test_a_rollout_that_stops_leaves_no_row_ahead(closing):
    env = closing(ParallelEnv(2, [cartpole] * 2))
    env.set_seed(0)
    first = env.rollout(100)
    last = env.step_mdp(first[..., -1])
    second = env.rollout(30, auto_reset=False, tensordict=last, break_when_any_done=False)
    ended = first["next", "done"][:, -1, 0]
    assert torch.equal(second["observation"][~ended, 0], first["next", "observation"][~ended, -1])
    assert (second["observation"][ended, 0].abs() < 0.05).all()


@pytest.mark.parametrize("buffers", [None, False], ids=["buffers", "records"])
@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_environments_may_differ(kind, buffers, closing):
    makers = [lambda: Count(width=2), lambda: Count(width=3)]
    make = SerialEnv if kind == "serial" else ParallelEnv
    env = closing(make(2, makers, use_buffers=buffers))
    env.set_seed(0)
    batch = env.rollout(10, break_when_any_done=False)
    assert batch.batch_size == (2, 10)
    assert batch["next", "done"].any()
    seed = 0
    for row, maker in zip(batch.unbind(0), makers, strict=True):
        alone = maker()
        alone.set_seed(seed)
        same(row, alone.rollout(10, actions=row["action"], break_when_any_done=False))
        seed = next_seed(seed)


class Talk(Count):
    """Says something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(count=Unbounded((1,)), word=NonTensor(shape=(), example_data="a"))

    def _reset(self, td):
        return super()._reset(td).set("word", "begin")

    def _step(self, td):
        return super()._step(td).set("word", f"{td['count'].item():.0f}")


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_words_travel(kind, closing):
    env = closing(SerialEnv(2, Talk) if kind == "serial" else ParallelEnv(2, Talk))
    td = env.reset()
    assert td[0]["word"] == "begin"
    td = env.step(env.rand_action(td))
    assert td["next"][1]["word"] == f"{td['count'][1].item():.0f}"


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_words_of_rows_that_are_not_reset_stay(kind, closing):
    env = closing(SerialEnv(2, Talk) if kind == "serial" else ParallelEnv(2, Talk))
    td = env.step_mdp(env.step(env.rand_action(env.reset())))
    td["_reset"] = torch.tensor([[True], [False]])
    words = [row["word"] for row in env.reset(td).unbind(0)]
    assert words[0] == "begin"
    assert words[1] != "begin"


def test_a_fake_step_of_environments_that_differ(closing):
    env = closing(SerialEnv(2, [lambda: Count(width=2), lambda: Count(width=3)]))
    shapes = [row["next", "count"].shape for row in env.fake_tensordict().unbind(0)]
    assert shapes == [(2,), (3,)]
    check_env_specs(env)


def test_gradients_flow_through_records():
    env = SerialEnv(2, Count, use_buffers=False)
    td = env.reset()
    action = torch.ones(2, 1, requires_grad=True)
    env.step(td.set("action", action))["next", "reward"].sum().backward()
    torch.testing.assert_close(action.grad, td["next", "count"].detach())


@pytest.mark.parametrize("make", [*MAKERS.values(), lambda: counting("serial")])
def test_specs_hold(make, closing):
    check_env_specs(closing(make()))


def test_device(closing):
    env = closing(ParallelEnv(2, cartpole, device="cpu"))
    assert env.reset().device == torch.device("cpu")
    assert env.rollout(3).device == torch.device("cpu")
    assert closing(SerialEnv(2, cartpole)).reset().device is None


def test_what_was_handed_out_does_not_change(closing):
    env = closing(ParallelEnv(2, cartpole))
    first = env.reset()
    kept = first.clone()
    env.rollout(5)
    same(first, kept)
