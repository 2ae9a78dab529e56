"""Some environments of a batch: the same ones, stepped while the others stand still."""

import pytest
import torch

from torchrl.envs import AsyncEnvPool, GymEnv, ParallelEnv, SerialEnv, check_env_specs
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import CountingEnv, MultiAgentEnv, TextEnv

BOTH = pytest.mark.parametrize("make", [SerialEnv, ParallelEnv])


@pytest.fixture
def closing():
    envs = []
    yield lambda env: envs.append(env) or env
    for env in envs:
        env.close()


@BOTH
@pytest.mark.parametrize("index", [1, slice(1, None), [2, 0], torch.tensor([True, False, True])])
def test_rows_step_as_they_do_alone(make, index, closing):
    env = closing(make(3, lambda: GymEnv("CartPole-v1", max_episode_steps=6)))
    view = env[index]
    check_env_specs(view)
    view.set_seed(4)
    torch.manual_seed(0)
    found = view.rollout(15, break_when_any_done=False)
    alone = SerialEnv(len(view.numbers), lambda: GymEnv("CartPole-v1", max_episode_steps=6))
    alone.set_seed(4)
    expected = alone.rollout(15, actions=found["action"].reshape(-1, 15, 2), break_when_any_done=False)
    assert_same(found, expected[0] if isinstance(index, int) else expected)
    assert found["next", "done"].any()


@BOTH
def test_the_others_stand_still(make, closing):
    env = closing(make(3, lambda: CountingEnv(9)))
    root = env.reset()
    before = root["observation"].clone()
    for _ in range(2):
        env[1].rand_step(env[1].reset() if _ == 0 else root[1])
    env.step(env.rand_action(root))
    counts = root["next", "observation"][:, 0].tolist()
    assert counts == [1, 3, 1]
    assert torch.equal(before[0], root["observation"][0])


def test_attributes_and_methods_are_theirs_alone(closing):
    env = closing(ParallelEnv(3, lambda: GymEnv("CartPole-v1"))).start()
    env[1].set_wrapper_attr("gravity", 3.0)
    assert env.get_wrapper_attr("gravity") == [9.8, 3.0, 9.8]
    assert env[1].get_wrapper_attr("gravity") == 3.0
    assert env[1:].get_wrapper_attr("gravity") == [3.0, 9.8]
    assert env[0].env_name == "CartPole-v1"
    with pytest.raises(AttributeError, match="nor environment 2 of it has 'nonsense'"):
        env[2].nonsense  # noqa: B018
    env[0].close()
    assert not env.is_closed
    with pytest.raises(IndexError):
        env[3]


@pytest.mark.parametrize(
    "inner", [lambda: CountingEnv(3, batch_size=[2]), lambda: MultiAgentEnv(root_done=False), TextEnv]
)
def test_rows_of_rows_groups_and_words(inner, closing):
    env = closing(SerialEnv(3, inner))
    for view in (env[0], env[1:]):
        batch = view.rollout(9, break_when_any_done=False)
        assert batch.batch_size == (*view.batch_size, 9)
        check_env_specs(view, break_when_any_done=False)


def test_environments_that_differ_and_pools(closing):
    env = closing(SerialEnv(2, [lambda: GymEnv("CartPole-v1"), lambda: GymEnv("Acrobot-v1")]))
    assert env[1].rollout(3)["observation"].shape == (3, 6)
    assert env[1].action_spec.shape == (3,)
    pool = closing(AsyncEnvPool([CountingEnv] * 2))
    assert pool[0].rollout(2).batch_size == (2,)
