"""VmasEnv and VmasWrapper, against the simulator itself."""

import pytest
import torch

from torchrl._core.errors import ResetError
from torchrl.data import Categorical, MultiCategorical, OneHot
from torchrl.envs import MarlGroupMapType, VmasEnv, VmasWrapper

vmas = pytest.importorskip("vmas", reason="vmas is not installed")


def test_it_is_the_simulator_step_by_step():
    ours = VmasEnv("balance", num_envs=2, n_agents=3, max_steps=4)
    raw = vmas.make_env("balance", num_envs=2, n_agents=3, max_steps=4, seed=0)
    ours.set_seed(0)
    batch = ours.rollout(4)
    seen = raw.reset(seed=0)  # one source of chance serves both
    for row in batch.unbind(1):
        assert torch.equal(row["agents", "observation"], torch.stack(seen, 1))
        actions = list(row["agents", "action"].unbind(1))
        seen, rewards, done, infos = raw.step(actions)
        assert torch.equal(row["next", "agents", "observation"], torch.stack(seen, 1))
        assert torch.equal(row["next", "agents", "reward"][..., 0], torch.stack(rewards, 1))
        assert torch.equal(row["next", "done"][..., 0], done)
        found = row["next", "agents", "info", "pos_rew"][:, 0, 0]
        assert torch.equal(found, infos[0]["pos_rew"])


def test_infos_are_zero_at_a_reset():
    env = VmasEnv("balance", num_envs=2, max_steps=4)
    env.rollout(3)
    assert not env.reset()["agents", "info", "pos_rew"].any()


class Ending:
    """Says that the first world is done after two steps."""

    def __init__(self, env):
        self.env = env

    def __call__(self):
        return torch.tensor([bool(self.env.steps[0] >= 2), False])


def test_the_end_of_the_task_and_that_of_the_time():
    raw = vmas.make_env("simple", num_envs=2, max_steps=3)
    raw.scenario.done = Ending(raw)
    batch = VmasWrapper(raw).rollout(3, break_when_any_done=False)
    assert batch["next", "terminated"][..., 0].tolist() == [[False, True, False], [False] * 3]
    assert batch["next", "truncated"][..., 0].tolist() == [[False] * 3, [False, False, True]]


def test_a_partial_reset_leaves_other_worlds_where_they_are():
    env = VmasEnv("simple", num_envs=3)
    root = env.step_mdp(env.rollout(2)[..., -1])
    before = root["agents", "observation"].clone()
    root["_reset"] = torch.tensor([True, False, False]).unsqueeze(-1)
    after = env.reset(root)["agents", "observation"]
    assert torch.equal(after[1:], before[1:])
    assert not torch.equal(after[0], before[0])
    assert env._env.steps.tolist() == [0, 2, 2]


def test_worlds_cannot_be_held_in_mid_episode():
    env = VmasEnv("simple", num_envs=2)
    root = env.rand_action(env.reset())
    root["_step"] = torch.tensor([[True], [False]])
    with pytest.raises(ResetError, match=r"cannot hold some back in mid-episode; found \[1\]"):
        env.step(root)


def test_agents_that_differ_share_a_group():
    group = MarlGroupMapType.ALL_IN_ONE_GROUP
    env = VmasEnv("simple_adversary", num_envs=2, group_map=group, max_steps=3)
    batch = env.rollout(5, break_when_any_done=False)
    shapes = {part["observation"].shape for part in batch["agents"].unbind(-1)}
    assert shapes == {(2, 5, 8), (2, 5, 10)}
    names = [agent.name for agent in env._env.agents]
    assert env.group_map == {"agents": names}


def test_groups_by_name():
    tag = VmasEnv("simple_tag", num_envs=1)
    assert {group: len(agents) for group, agents in tag.group_map.items()} == {"adversary": 3, "agent": 1}
    assert tag.rollout(2)["next", "adversary", "reward"].shape == (1, 2, 3, 1)
    assert list(VmasEnv("simple", num_envs=1).group_map) == ["agents"]


@pytest.mark.parametrize(
    ("kwargs", "kind"),
    [
        ({"categorical_actions": True}, Categorical),
        ({"categorical_actions": False}, OneHot),
        ({"multidiscrete_actions": True}, MultiCategorical),
    ],
)
def test_choices_mean_the_same_however_they_are_written(kwargs, kind):
    env = VmasEnv("simple", num_envs=2, continuous_actions=False, **kwargs)
    raw = vmas.make_env("simple", num_envs=2, continuous_actions=False, seed=0)
    spec = env.full_action_spec["agents", "action"]
    assert isinstance(spec, kind)
    env.set_seed(0)
    root = env.reset()
    raw.reset(seed=0)
    choice = torch.tensor([3, 5])  # of 9: (1, 0) and (1, 2)
    written = {
        Categorical: choice.unsqueeze(1),
        OneHot: torch.nn.functional.one_hot(choice, 9).unsqueeze(1),
        MultiCategorical: torch.stack([choice // 3, choice % 3], -1).unsqueeze(1),
    }[kind]
    root["agents", "action"] = written
    expected, *_ = raw.step([choice])
    assert torch.equal(env.step(root)["next", "agents", "observation"][:, 0], expected[0])


def test_what_is_no_simulator_is_refused():
    with pytest.raises(TypeError, match=r"what vmas.make_env returns without wrapper=, found str"):
        VmasWrapper("simple")
    assert "balance" in VmasEnv.available_envs


def test_a_scenario_that_there_is_not():
    with pytest.raises(ValueError, match=r"VmasEnv: knows no scenario 'balanc'.*'balance'"):
        VmasEnv("balanc", num_envs=2)


def test_specs_of_one_world_under_their_old_names():
    env = VmasEnv("balance", num_envs=2, n_agents=3)
    assert env.unbatched_action_spec["agents", "action"] == env.full_action_spec_unbatched["agents", "action"]
    assert env.unbatched_action_spec["agents", "action"].shape == (3, 2)
    assert env.unbatched_observation_spec["agents", "observation"].shape[0] == 3
    assert env.unbatched_reward_spec["agents", "reward"].shape == (3, 1)
    assert env.unbatched_done_spec["done"].shape == (1,)
