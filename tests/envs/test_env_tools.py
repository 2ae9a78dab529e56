"""Actions listed, specs found out, environments compiled, and keywords that all of them take."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl._core.errors import MissingKeyError, SpecError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    ActionMask,
    AutoResetEnv,
    CartPoleEnv,
    EnvBase,
    GymEnv,
    GymWrapper,
    ParallelEnv,
    PendulumEnv,
    SerialEnv,
    StepCounter,
    TicTacToeEnv,
    TransformedEnv,
    check_env_specs,
)
from torchrl.modules import GRUModule
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import CountingEnv, MultiAgentEnv


def test_a_finite_set_of_actions_is_listed():
    env = GymEnv("CartPole-v1")
    assert env.all_actions()["action"].tolist() == [[1, 0], [0, 1]]
    assert env.cardinality() == 2
    agents = MultiAgentEnv(num_agents=2)
    listed = agents.all_actions()["agents", "action"]
    assert len(listed) == len(listed.unique(dim=0)) == agents.cardinality()
    with pytest.raises(SpecError, match="infinitely many"):
        GymEnv("Pendulum-v1").all_actions()
    assert GymEnv("Pendulum-v1").cardinality() == float("inf")


def test_masks_leave_actions_out():
    env = TransformedEnv(TicTacToeEnv(), ActionMask(mask_key="mask"))
    env.reset()
    assert len(env.all_actions()) == 9
    env.rand_step(env.reset())
    assert len(env.all_actions()) == 8
    assert len(env.all_actions(TensorDict())) == 9  # after a reset
    assert env.cardinality(TensorDict()) == 9


class Unspecified(EnvBase):
    """Names no specs at all."""

    def __init__(self, batch_size=()):
        super().__init__(batch_size=batch_size)

    def _reset(self, td):
        batch = self.batch_size
        return TensorDict(count=torch.zeros((*batch, 2)), kept=torch.zeros(batch), batch_size=batch)

    def _step(self, td):
        count = td["count"] + td["move"]
        return TensorDict(
            count=count,
            reward=count.sum(-1),
            truncated=count[..., :1] > 4,
            terminated=count[..., :1] < -4,
            batch_size=self.batch_size,
        )

    def _set_seed(self, seed):
        pass


def push(td):
    return td.set("move", torch.ones(*td.batch_size, 2))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_specs_are_found_out(batch):
    env = Unspecified(batch)
    assert env.auto_specs_(push, action_key="move") is env
    assert env.action_spec.shape == (*batch, 2)
    assert (env.observation_keys, env.state_keys) == (["count"], ["kept"])
    assert env.reward_spec.shape == (*batch, 1)
    assert set(env.done_keys) == {"done", "terminated", "truncated"}
    check_env_specs(env)
    assert env.rollout(9, push)["next", "truncated"].any()


def test_specs_are_found_out_by_name():
    env = Unspecified().auto_specs_(push, action_key=["move"], observation_key=["count"], done_key="terminated")
    assert set(env.done_keys) == {"done", "terminated"}
    with pytest.raises(MissingKeyError, match=r"'mov' is named in auto_specs_\(\) .* mean 'move'"):
        Unspecified().auto_specs_(push, action_key="mov")


def test_the_method_and_the_function_check_alike():
    CountingEnv().check_env_specs(seed=1, break_when_any_done="both")
    env = CountingEnv()
    env.reward_spec = Bounded(90, 91, (1,))
    with pytest.raises(AssertionError, match="outside"):
        env.check_env_specs()


def test_parallel_copies():
    env = EnvBase.make_parallel(lambda: GymEnv("CartPole-v1"), num_envs=2, mp_start_method="fork")
    assert isinstance(env, ParallelEnv)
    assert env.num_workers == 2
    assert env.configure_parallel(use_buffers=False) is env
    assert not env.is_flat()
    with pytest.raises(TypeError, match=r"knows no \['buffers'\]"):
        env.configure_parallel(buffers=False)
    env.reset()
    with pytest.raises(RuntimeError, match="close"):
        env.configure_parallel(use_buffers=True)
    env.close()
    assert EnvBase.make_parallel(CountingEnv).num_envs == 1


@pytest.mark.parametrize("make", [CartPoleEnv, PendulumEnv, lambda: CountingEnv(batch_size=[2])])
def test_compiled_steps_are_the_same(make):
    batches = []
    for compiled in (False, True):
        env = make()
        if compiled:
            assert env.compile(backend="eager") is env
        env.set_seed(0)
        torch.manual_seed(0)
        batches.append(env.rollout(5, break_when_any_done=False))
    assert_same(*batches)
    twin = copy.deepcopy(env)
    twin.set_seed(0)
    torch.manual_seed(0)
    assert_same(twin.rollout(5, break_when_any_done=False), batches[0])
    assert "_step" not in vars(env.eager())
    assert env.rollout(2).batch_size[-1] == 2


def test_who_collects_is_known_while_it_lives():
    class Collector:
        pass

    env, collector = CountingEnv(), Collector()
    assert env.collector is None
    env.register_collector(collector)
    assert env.collector is collector
    del collector
    assert env.collector is None


# --- keywords that all take ----------------------------------------------------------------------


class Plain(EnvBase):
    """Takes one argument of its own."""

    def __init__(self, width):
        super().__init__()
        self.observation_spec = Composite(count=Unbounded((width,)))
        self.action_spec = Bounded(-1, 1, (width,))

    def _reset(self, td):
        return self.observation_spec.zero()

    def _step(self, td):
        return TensorDict(count=td["count"] + 1, reward=torch.ones(1), done=td["count"][:1] > 1)

    def _set_seed(self, seed):
        pass


def test_options_of_every_environment():
    assert not Plain(2, spec_locked=False).observation_spec.is_locked
    assert Plain(2).observation_spec.is_locked
    compiled = Plain(2, compile={"backend": "eager"})
    assert compiled.rollout(9)["next", "count"][:, 0].tolist() == [1, 2, 3]
    with pytest.raises(TypeError, match="unexpected keyword argument 'spec_looked'"):
        Plain(2, spec_looked=False)


class Eager(gymnasium.Env):
    """Begins anew within the step that ends an episode, and shows the new beginning."""

    observation_space = gymnasium.spaces.Box(-99, 99, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.episode, self.count, self.resets = 0, 0, 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.count, self.resets = self.episode + 1, 0, self.resets + 1
        return self._show(), {}

    def _show(self):
        return np.array([10 * self.episode + self.count], np.float32)

    def step(self, action):
        self.count += 1
        done = self.count == 3
        if done:
            self.episode, self.count = self.episode + 1, 0
        return self._show(), 1.0, done, False, {}


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("batched", [False, True])
def test_environments_that_reset_themselves(replace, batched):
    def make():
        return GymWrapper(Eager(), auto_reset=True, auto_reset_replace=replace)

    env = SerialEnv(1, make) if batched else make()
    batch = env.rollout(7, break_when_any_done=False)
    batch = batch[0] if batched else batch
    assert batch["observation"].flatten().tolist() == [10, 11, 12, 20, 21, 22, 30]
    last = batch["next", "observation"].flatten()
    assert last[[0, 1, 3, 4]].tolist() == [11, 12, 21, 22]
    if replace:
        assert last[[2, 5]].isnan().all()
    else:
        assert last[[2, 5]].tolist() == [20, 30]
    assert batched or (isinstance(env, AutoResetEnv) and env.base_env._env.resets == 1)


def test_a_recurrent_policy_gets_what_it_needs():
    core = GRUModule(2, 3, in_key="observation", out_key="hidden")
    head = TensorDictModule(torch.nn.Linear(3, 1), in_keys=["hidden"], out_keys=["action"])
    policy = torch.nn.Sequential(core, head)
    policy.in_keys = core.in_keys
    for env in (CountingEnv(policy=policy), TransformedEnv(CountingEnv(), StepCounter(), policy=policy)):
        assert isinstance(env, TransformedEnv)
        root = env.reset()
        assert root["is_init"].all()
        assert root["recurrent_state"].shape == (1, 3)
    assert isinstance(CountingEnv(), CountingEnv)


def test_options_travel():
    env = pickle.loads(pickle.dumps(CountingEnv(auto_reset=True, compile={"backend": "eager"})))
    assert env.rollout(9, break_when_any_done=False).batch_size == (9,)
