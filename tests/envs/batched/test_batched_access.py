"""Recipes, arguments, and access to the environments inside."""

import copy
import inspect
import multiprocessing
import pickle

import cloudpickle
import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import ResetError, SpecError
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    EnvBase,
    EnvCreator,
    GymEnv,
    ParallelEnv,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    vec_env,
    vec_envs,
)
from torchrl.envs.batched.worker import EnvGroup
from torchrl.testing.mocks import CountingEnv

BOTH = pytest.mark.parametrize("make", [SerialEnv, ParallelEnv])


def cartpole(**kwargs):
    return GymEnv("CartPole-v1", **kwargs)


@pytest.fixture
def closing():
    envs = []
    yield lambda env: envs.append(env) or env
    for env in envs:
        env.close()


@BOTH
def test_it_is_a_recipe_until_it_starts(make, closing):
    env = closing(make(2, EnvCreator(lambda: cartpole())))
    assert env.is_closed
    twin = closing(pickle.loads(pickle.dumps(env)))
    assert env.batch_size == twin.batch_size == (2,)
    assert env.is_closed
    results = []
    for each in (env, twin):
        torch.manual_seed(0)
        each.set_seed(0)
        assert not each.is_closed
        results.append(each.rollout(5, break_when_any_done=False)["observation"])
    assert torch.equal(*results)


@BOTH
def test_a_started_one_travels_as_a_recipe(make, closing):
    env = closing(make(2, cartpole))
    env.reset()
    for twin in (cloudpickle.loads(cloudpickle.dumps(env)), copy.deepcopy(env)):
        assert twin.is_closed
        assert closing(twin).rollout(2).batch_size == (2, 2)
    assert not env.is_closed


@BOTH
def test_one_after_the_other_owner(make):
    env = make(2, cartpole)
    for _ in range(2):
        collector = Collector(env, frames_per_batch=10, total_frames=20)
        assert [batch.batch_size for batch in collector] == [(2, 5)] * 2
        collector.shutdown()
        assert env.is_closed


@BOTH
def test_attributes_and_methods(make, closing):
    env = closing(make(2, cartpole))
    with pytest.raises(AttributeError, match=r"has no 'env_name'.*before start\(\)"):
        env.env_name  # noqa: B018
    env.start()
    assert env.env_name == ["CartPole-v1"] * 2
    env.reset()
    env.set_wrapper_attr("gravity", 3.0)
    assert env.get_wrapper_attr("gravity") == [3.0, 3.0]
    assert not hasattr(env, "nonsense")
    with pytest.raises(AttributeError, match="nor environment 0 of it has 'nonsense'"):
        env.nonsense  # noqa: B018
    assert env.rollout(2).batch_size == (2, 2)


@BOTH
def test_state_dict(make, closing):
    def counted():
        env = TransformedEnv(cartpole(), StepCounter())
        env.register_buffer("mark", torch.zeros(1))
        return env

    env = closing(make(2, counted)).start()
    state = {key: value + 1 for key, value in env.state_dict().items()}
    assert list(state) == ["worker0.mark", "worker1.mark"]
    env.load_state_dict(state)
    assert [mark.item() for mark in env.mark] == [1, 1]

    later = closing(make(2, counted))
    later.load_state_dict(state)
    assert dict(later.state_dict()) == state
    assert [mark.item() for mark in later.start().mark] == [1, 1]

    inside = TransformedEnv(env, StepCounter())
    assert "base_env.worker0.mark" in inside.state_dict()
    inside.load_state_dict({f"base_env.{key}": value + 1 for key, value in state.items()})
    assert [mark.item() for mark in env.mark] == [2, 2]


@BOTH
def test_keyword_arguments(make, closing):
    both = closing(make(2, cartpole, create_env_kwargs={"max_episode_steps": 3}))
    assert both.rollout(10)["next", "truncated"].any()
    each = closing(make(2, cartpole, create_env_kwargs=[{"max_episode_steps": n} for n in (3, 5)]))
    batch = each.rollout(5, break_when_any_done=False)
    assert batch["next", "truncated"][..., 0].nonzero().tolist() == [[0, 2], [1, 4]]
    each.close()
    each.update_kwargs({"max_episode_steps": 2})
    assert each.rollout(10).batch_size == (2, 2)
    with pytest.raises(RuntimeError, match="before changing"):
        each.update_kwargs({})


@BOTH
def test_arguments_of_reset(make, closing):
    env = closing(make(2, cartpole))
    low = env.reset(list_of_kwargs=[{"options": {"low": v, "high": v}} for v in (0.01, 0.03)])
    torch.testing.assert_close(low["observation"][:, 0], torch.tensor([0.01, 0.03]))
    both = env.reset(seed=4)["observation"]
    assert torch.equal(both[0], both[1])
    with pytest.raises(ValueError, match="expected 2 list_of_kwargs"):
        env.reset(list_of_kwargs=[{}])


@BOTH
def test_built_environments(make, closing):
    built = [cartpole(), cartpole()]
    env = closing(make(2, built))
    assert env.rollout(3).batch_size == (2, 3)
    with pytest.raises(TypeError, match="stepped 2 times"):
        make(2, built[0])
    with pytest.raises(TypeError, match="more than once"):
        make(2, [built[0]] * 2)


@BOTH
def test_seeds(make, closing):
    env = closing(make(3, cartpole))
    assert env.set_seed(1, static_seed=True) == 1
    first = env.reset()["observation"]
    assert torch.equal(first[0], first[2])
    env.set_seed(1)
    second = env.reset()["observation"]
    assert torch.equal(second[0], first[0])
    assert not torch.equal(second[0], second[2])


def test_arguments_that_contradict():
    with pytest.raises(TypeError, match=r"num_workers .* comes first, found function. Write \w+\(2"):
        SerialEnv(cartpole, 2)
    with pytest.raises(ValueError, match="at least 1"):
        SerialEnv(0, cartpole)
    with pytest.raises(ValueError, match="each of 3 workers, found 2"):
        ParallelEnv(3, [cartpole] * 2)
    with pytest.raises(ValueError, match=r"2 workers that each step as many, found 3\. Write ParallelEnv\(3"):
        ParallelEnv(2, [cartpole] * 3)
    with pytest.raises(ValueError, match="each of 2 workers, found 3"):
        SerialEnv(2, [cartpole] * 3)
    with pytest.raises(ValueError, match="create_env_kwargs for each of 2"):
        SerialEnv(2, cartpole, create_env_kwargs=[{}])
    with pytest.raises(ValueError, match="needs shared_memory or memmap"):
        ParallelEnv(2, cartpole, shared_memory=False, use_buffers=True)
    with pytest.raises(ValueError, match="expected 'fork' or 'spawn', found 'thread'"):
        ParallelEnv(2, cartpole, mp_start_method="thread")
    with pytest.raises(SpecError, match="different batch sizes"):
        SerialEnv(2, [cartpole, lambda: cartpole(num_envs=2)]).batch_size  # noqa: B018
    with pytest.raises(SpecError, match="common buffers"):
        SerialEnv(2, [cartpole, lambda: GymEnv("Acrobot-v1")], share_individual_td=False).reset()
    with pytest.raises(TypeError, match="expected an EnvBase, found int"):
        SerialEnv(2, lambda: 3).reset()
    with pytest.raises(ResetError, match="not started"):
        SerialEnv(2, cartpole)._step(None)


def test_a_recipe_must_keep_its_word():
    names = iter(["CartPole-v1", "Acrobot-v1"])
    env = SerialEnv(1, lambda: GymEnv(next(names)))
    assert env.batch_size == (1,)
    with pytest.raises(SpecError, match="environment 0 has other specs"):
        env.start()


def test_nothing_is_built_here_if_workers_can_tell(monkeypatch, closing):
    env = closing(ParallelEnv(2, cartpole, metadata_from_workers=True))
    monkeypatch.setattr(EnvCreator, "meta_data", property(lambda self: 1 / 0))
    assert env.batch_size == (2,)
    assert not env.is_closed
    started = closing(ParallelEnv(2, cartpole))
    assert started.rollout(2).batch_size == (2, 2)


def test_a_look_at_an_environment_is_taken_once(closing):
    built = []
    creator = EnvCreator(lambda: built.append(1) or cartpole())
    assert creator.meta_data.batch_size == ()
    assert pickle.loads(pickle.dumps(creator)).meta_data.specs == creator.meta_data.specs
    assert closing(ParallelEnv(2, creator)).batch_size == (2,)
    assert closing(ParallelEnv(3, creator)).batch_size == (3,)
    assert built == [1]


def test_a_single_worker_may_live_here(closing):
    env = closing(ParallelEnv(1, cartpole, serial_for_single=True))
    env.reset()
    assert isinstance(env._pool._env_group, EnvGroup)


def test_threads(closing):
    env = closing(ParallelEnv(1, cartpole, num_threads=2, num_sub_threads=3))
    before = torch.get_num_threads()
    env.start()
    assert torch.get_num_threads() == 2
    env.close()
    assert torch.get_num_threads() == before


class Family(CountingEnv):
    """Says whether its process may have children."""

    def may_have_children(self):
        return not multiprocessing.current_process().daemon


@pytest.mark.parametrize("daemon", [True, False])
def test_daemons_have_no_children(daemon, closing):
    env = closing(ParallelEnv(1, Family, daemon=daemon)).start()
    assert env.may_have_children() == [not daemon]
    assert not multiprocessing.current_process().daemon


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"pin_memory": True},
        {"memmap": True},
        {"non_blocking": True, "device": "cpu"},
        {"shared_memory": False, "consolidate": False},
        {"shared_memory": False, "consolidate": True},
        {"share_individual_td": True},
    ],
)
def test_how_numbers_travel_does_not_change_them(make, options, closing):
    batches = []
    for env in (make(2, CountingEnv, **options), SerialEnv(2, CountingEnv)):
        closing(env).set_seed(0)
        torch.manual_seed(0)
        batches.append(env.rollout(7, break_when_any_done=False)["next", "observation"])
    assert torch.equal(*batches)


def test_either_takes_the_arguments_of_the_other():
    options = inspect.signature(ParallelEnv).parameters
    assert inspect.signature(SerialEnv).parameters == options
    for name in ("mp_start_method", "num_sub_threads", "daemon", "consolidate"):
        assert name in options


def test_other_paths():
    assert vec_env.ParallelEnv is vec_envs.ParallelEnv is ParallelEnv
    assert vec_env.SerialEnv is vec_envs.SerialEnv is SerialEnv


class Unrewarded(EnvBase):
    """An environment without a reward, such as one that only shows what a simulator does."""

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(observation=Unbounded((2,)))
        self.action_spec = Bounded(-1, 1, (1,))
        self.reward_spec = Composite()

    def _reset(self, td):
        return TensorDict(observation=torch.zeros(2))

    def _step(self, td):
        return TensorDict(observation=torch.ones(2), done=torch.zeros(1, dtype=torch.bool))

    def _set_seed(self, seed): ...


@pytest.mark.parametrize("options", [{}, {"use_buffers": False}], ids=["buffers", "records"])
@pytest.mark.parametrize("kind", [SerialEnv, ParallelEnv])
def test_environments_without_reward(kind, options, closing):
    env = closing(kind(2, Unrewarded, **options))
    batch = TransformedEnv(env, StepCounter(2)).rollout(5, break_when_any_done=False)
    assert batch.shape == (2, 5)
    assert ("next", "reward") not in batch.keys(True)
    assert batch["next", "truncated"].sum() == 4
    batch = next(iter(Collector(env, frames_per_batch=6, total_frames=6)))
    assert not [key for key in batch.keys(True, True) if "reward" in key]
