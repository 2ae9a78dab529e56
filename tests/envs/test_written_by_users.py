"""Environments as people write them: specs edited in place, flags and rewards left out, closed twice."""

import pickle

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import CountError, MissingFlagError, MissingKeyError, ShapeError
from torchrl.data import Bounded, Categorical, Composite, NonTensor, Unbounded
from torchrl.envs import (
    AutoResetEnv,
    CartPoleEnv,
    EnvBase,
    GymEnv,
    ParallelEnv,
    PendulumEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    check_env_specs,
    libs,
    step_mdp,
)
from torchrl.testing.mocks import CountingEnv, StatelessEnv

KINDS = {
    "plain": lambda: CountingEnv(),
    "rows": lambda: CountingEnv(batch_size=[3]),
    "stateless": lambda: StatelessEnv(),
    "transformed": lambda: TransformedEnv(CountingEnv(), StepCounter()),
    "serial": lambda: SerialEnv(2, CountingEnv),
    "gymnasium": lambda: GymEnv("CartPole-v1"),
}
EVERY_KIND = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


# --- specs ---------------------------------------------------------------------------------------


class Extended(CountingEnv):
    """Adds to its specs in place after its parent has named them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        batch = self.batch_size
        self.observation_spec["late"] = Unbounded((*batch, 2))
        self.full_observation_spec["deep"] = Composite(later=Unbounded((*batch, 1)), shape=batch)
        self.full_done_spec["truncated"] = self.full_done_spec["terminated"].clone()
        self.full_done_spec["agents", "done"] = Categorical(2, shape=(*batch, 4, 1), dtype=torch.bool)

    def _record(self, entries, like):
        batch = self.batch_size
        more = {"late": torch.zeros(*batch, 2), ("deep", "later"): torch.zeros(*batch, 1)}
        record = super()._record(entries, like)
        for key, value in more.items():
            record.set(key, value)
        return record


@pytest.mark.parametrize("cls", [Extended, type("Same", (Extended,), {})])
@pytest.mark.parametrize("batch_size", [(), (2,)])
def test_specs_can_be_edited_until_the_constructor_returns(cls, batch_size):
    env = cls(batch_size=batch_size)
    assert set(env.observation_keys) == {"observation", "late", ("deep", "later")}
    assert {"truncated", ("agents", "terminated")} <= set(env.done_keys)
    check_env_specs(env)
    for spec in (env.observation_spec, env.full_done_spec, env.full_done_spec["agents"], env.output_spec):
        with pytest.raises(RuntimeError):
            spec["even later"] = Unbounded((1,))


@EVERY_KIND
def test_the_lock_of_specs_is_visible(make):
    env = make()
    assert env.is_spec_locked
    assert env.output_spec.is_locked
    assert env.input_spec.is_locked
    assert pickle.loads(pickle.dumps(env)).is_spec_locked
    env.set_spec_lock_(False)
    assert not env.is_spec_locked
    assert not env.full_observation_spec.is_locked
    env.set_spec_lock_()
    assert env.full_observation_spec.is_locked
    env.close()


@EVERY_KIND
def test_batch_locked_belongs_to_the_class(make):
    env = make()
    known = env.batch_locked
    with pytest.raises(RuntimeError, match="batch_locked"):
        env.batch_locked = not known
    assert env.batch_locked is known


# --- what hooks leave out ------------------------------------------------------------------------


class Quiet(EnvBase):
    """Returns what it is told to."""

    def __init__(self, entries, **specs):
        super().__init__()
        self.entries = entries
        for name, spec in specs.items():
            setattr(self, name, spec)

    def _set_seed(self, seed): ...

    def _reset(self, td, **kwargs):
        return TensorDict({key: value for key, value in self.entries.items() if key != "reward"})

    def _step(self, td):
        return TensorDict(self.entries)


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: TransformedEnv(e, StepCounter()), lambda e: SerialEnv(1, e)])
@pytest.mark.parametrize("seen", [False, True])
def test_an_environment_need_not_have_a_reward(wrap, seen):
    specs = {"observation_spec": Composite(x=Unbounded((1,)))} if seen else {}
    env = wrap(Quiet({"x": torch.zeros(1)} if seen else {}, **specs))
    batch = env.rollout(3)
    assert batch.shape[-1] == 3
    assert not batch["next", "done"].any()
    if not isinstance(env, SerialEnv):
        assert "reward" not in batch["next"]
        assert not env.reward_keys
        check_env_specs(env)


def test_a_reward_that_is_named_is_needed():
    env = Quiet({}, reward_spec=Unbounded((1,)))
    with pytest.raises(MissingKeyError, match="'reward'"):
        env.rollout(1)


def test_a_reward_that_is_not_named_is_a_float():
    env = Quiet({"reward": torch.ones(1)}, observation_spec=Composite())
    assert env.rollout(2)["next", "reward"].shape == (2, 1)


# --- rollouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: CountingEnv(3),
        lambda: TransformedEnv(CountingEnv(3), StepCounter()),
        lambda: SerialEnv(1, lambda: CountingEnv(3)),
        lambda: SerialEnv(1, lambda: CountingEnv(3), use_buffers=False),
        lambda: TransformedEnv(SerialEnv(1, lambda: CountingEnv(3)), StepCounter()),
    ],
)
@pytest.mark.parametrize("max_steps", [6, 30])
@pytest.mark.parametrize("by_tensordicts", [False, True])
def test_a_rollout_leaves_the_environment_where_it_ended(make, max_steps, by_tensordicts):
    env = make()
    options = {"callback": lambda env, td: None} if by_tensordicts else {}
    batch = env.rollout(max_steps, break_when_any_done=False, **options)
    assert batch["next", "done"].sum() == max_steps // 3
    count = env.count[0] if isinstance(getattr(env, "base_env", env), SerialEnv) else env.count
    assert count.item() == 3
    again = env.rollout(max_steps, break_when_any_done=False, **options)
    assert torch.equal(again["next", "observation"][..., 0], batch["next", "observation"][..., 0])


def test_a_policy_may_return_its_action_alone():
    def fresh(td):
        return TensorDict(action=torch.ones(*td.shape, 1), batch_size=td.shape)

    env = TransformedEnv(SerialEnv(2, CountingEnv), RewardSum())
    batch = env.rollout(4, fresh, break_when_any_done=False)
    assert {"observation", "episode_reward", "done", "action"} <= set(batch.keys())


# --- environments in other forms -----------------------------------------------------------------


@pytest.mark.parametrize("make", [CountingEnv, CartPoleEnv, lambda **k: GymEnv("CartPole-v1", **k)])
def test_an_environment_that_resets_itself_is_wrapped(make):
    env = make(auto_reset=True)
    assert isinstance(env, AutoResetEnv)
    assert env.transform is not None
    assert not isinstance(make(), AutoResetEnv)


def test_auto_reset_is_an_argument_of_the_environment_itself():
    class Inside(CountingEnv):
        def __init__(self):
            EnvBase.__init__(self, auto_reset=True)

    with pytest.raises(ValueError, match="cannot pass auto_reset"):
        Inside()


@EVERY_KIND
def test_closing_twice(make):
    base = make()
    env = TransformedEnv(base, StepCounter())
    if isinstance(base, SerialEnv):
        assert env.is_closed
    env.reset()
    assert env.is_closed is base.is_closed is False
    env.close()
    base.close()
    env.close()
    assert env.is_closed is base.is_closed is True
    with pytest.raises(RuntimeError, match="closed already"):
        base.close(raise_if_closed=True)


# --- batches -------------------------------------------------------------------------------------

BATCHES = pytest.mark.parametrize("batch", [SerialEnv, ParallelEnv])


class Words(CountingEnv):
    def __init__(self):
        super().__init__()
        self.observation_spec["word"] = NonTensor((), example_data="w")

    def _record(self, entries, like):
        record = TensorDict(entries)
        return record.set("word", f"w{int(self.count)}")


class Rows(CountingEnv):
    def __init__(self, horizon=3):
        super().__init__(horizon)
        self.observation_spec["rows"] = Unbounded((-1, 2))

    def _record(self, entries, like):
        return TensorDict(entries).set("rows", torch.zeros(1 + int(self.count), 2))


@BATCHES
def test_use_buffers_is_a_wish(batch):
    env = batch(2, Words, use_buffers=True)
    try:
        assert env.rollout(3).get("word").tolist() == [["w0", "w1", "w2"]] * 2
    finally:
        env.close()


@pytest.mark.parametrize("use_buffers", [False, None])
def test_environments_whose_observations_grow(use_buffers):
    env = SerialEnv(2, [lambda: Rows(3), lambda: Rows(5)], use_buffers=use_buffers)
    batch = env.rollout(8, break_when_any_done=False)
    assert batch.shape == (2, 8)
    for row, horizon in zip(batch, (3, 5), strict=True):
        sizes = [len(row[t]["next", "rows"]) for t in range(8)]
        assert sizes == [2 + t % horizon for t in range(8)]


@BATCHES
def test_environments_of_one_layout_share_buffers(batch):
    makers = [lambda n=n: TransformedEnv(CountingEnv(99), StepCounter(n)) for n in (2, 3)]
    env = batch(2, makers, share_individual_td=False)
    try:
        assert env.share_individual_td is False
        found = env.rollout(6, break_when_any_done=False)
        assert found["next", "truncated"].sum(1).flatten().tolist() == [3, 2]
        assert found["next", "step_count"][1].flatten().tolist() == [1, 2, 3] * 2
        assert env.is_flat()
    finally:
        env.close()
    assert batch(2, makers).share_individual_td is True
    assert batch(2, CountingEnv).share_individual_td is False
    assert batch(2, CountingEnv, share_individual_td=True).share_individual_td is True


def test_one_worker_may_be_serial():
    assert isinstance(ParallelEnv(1, CountingEnv, serial_for_single=True), SerialEnv)
    several = ParallelEnv(create_env_fn=[CountingEnv] * 3, num_workers=1, serial_for_single=True)
    assert isinstance(several, SerialEnv)
    assert several.num_envs == 3
    for env in (ParallelEnv(1, CountingEnv), ParallelEnv(2, CountingEnv, serial_for_single=True)):
        assert isinstance(env, ParallelEnv)


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda: SerialEnv(2, CountingEnv, create_env_kwargs=[{}, {}]).update_kwargs([{}]), CountError),
        (lambda: ParallelEnv(3, [CountingEnv] * 2), CountError),
        (lambda: SerialEnv(2, [CountingEnv] * 3), CountError),
        (lambda: SerialEnv(2, CountingEnv, create_env_kwargs=[{}] * 3), CountError),
        (lambda: CountingEnv(batch_size=[4]).step(TensorDict(action=torch.zeros(3, 1), batch_size=[3])), ShapeError),
        (lambda: CountingEnv().rollout(3, set_truncated=True), MissingFlagError),
    ],
)
def test_numbers_that_do_not_fit_are_errors_of_both_kinds(misuse, error):
    with pytest.raises(error) as info:
        misuse()
    assert isinstance(info.value, RuntimeError)
    assert isinstance(info.value, ValueError | KeyError)


# --- the next step -------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_other", [True, False])
@pytest.mark.parametrize("exclude_action", [True, False])
def test_the_next_step_of_a_locked_record(keep_other, exclude_action):
    env = PendulumEnv()
    td = env.rollout(2)
    td["g"] = TensorDict(x=torch.zeros(2), kept=torch.ones(2), batch_size=[2])
    td["next", "g"] = TensorDict(x=torch.ones(2), batch_size=[2])
    free = step_mdp(td, keep_other=keep_other, exclude_action=exclude_action)
    td.lock_()
    locked = step_mdp(td, keep_other=keep_other, exclude_action=exclude_action)
    assert set(locked.keys(True, True)) == set(free.keys(True, True))
    assert (locked["g", "x"] == 1).all()
    assert (td["g", "x"] == 0).all()
    assert td.is_locked
    locked["g", "new"] = torch.zeros(2)


# --- libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", libs.__all__)
def test_wrappers_are_also_in_the_package_of_libraries(name):
    import torchrl.envs

    assert getattr(libs, name) is getattr(torchrl.envs, name)


@pytest.mark.parametrize("name", [name for name in libs.__all__ if name.endswith(("Env", "Wrapper"))])
def test_names_of_environments_can_be_asked_for_without_the_library(name, monkeypatch):
    monkeypatch.setattr("torchrl.envs.wrapper.is_installed", lambda module: False)
    found = getattr(libs, name).available_envs
    assert isinstance(found, list)
    assert not found or name.startswith("Gym")


def test_bounds_of_actions_are_those_of_the_specs():
    class Narrow(CountingEnv):
        def __init__(self):
            super().__init__()
            self.action_spec = Bounded(0, 1, (1,))

    assert (Narrow().rollout(9)["action"] >= 0).all()
