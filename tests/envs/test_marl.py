"""Groups of agents: who is in which, and what stands where."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.marl import Group, group_by_name, resolve_groups
from torchrl.envs.utils import MarlGroupMapType, check_marl_grouping

NAMES = ["wolf_0", "wolf_1", "sheep_0"]


def test_the_two_plainest_ways():
    assert MarlGroupMapType.ALL_IN_ONE_GROUP.get_group_map(NAMES) == {"agents": NAMES}
    each = MarlGroupMapType.ONE_GROUP_PER_AGENT.get_group_map(NAMES)
    assert each == {name: [name] for name in NAMES}


@pytest.mark.parametrize(
    ("groups", "fact"),
    [
        ({}, "no groups"),
        ({"a": NAMES, "b": []}, r"empty groups \['b'\]"),
        ({"a": NAMES, "b": ["wolf_0"]}, r"repeats agents \['wolf_0'\]"),
        ({"a": [*NAMES, "dog"]}, r"do not exist \['dog'\]"),
        ({"a": NAMES[:2]}, r"leaves out \['sheep_0'\]"),
    ],
)
def test_every_agent_is_in_one_group_once(groups, fact):
    with pytest.raises(ValueError, match=fact):
        check_marl_grouping(groups, NAMES)


def test_names_that_are_shared_are_refused():
    with pytest.raises(ValueError, match="one name"):
        check_marl_grouping({"a": ["x"]}, ["x", "x"])


def test_groups_come_from_names_unless_they_are_given():
    default = group_by_name(["wolf_0", "dog", "wolf_10", "red_wolf_1", "_3"])
    assert default == {"wolf": ["wolf_0", "wolf_10"], "dog": ["dog"], "red_wolf": ["red_wolf_1"], "_3": ["_3"]}
    assert resolve_groups(None, NAMES, group_by_name(NAMES)) == group_by_name(NAMES)
    assert resolve_groups({"all": tuple(NAMES)}, NAMES, {}) == {"all": NAMES}
    kind = MarlGroupMapType.ALL_IN_ONE_GROUP
    assert resolve_groups(kind, NAMES, {}) == {"agents": NAMES}


def group(*sizes, batch=()):
    shape = torch.Size(batch)
    specs = {
        "observation": [Composite(observation=Unbounded((*shape, n)), shape=shape) for n in sizes],
        "action": [Composite(action=Categorical(3, shape=shape), shape=shape) for _ in sizes],
    }
    return Group("team", [f"p_{i}" for i in range(len(sizes))], specs, shape)


def test_agents_that_are_alike_are_one_tensor():
    team = group(2, 2, batch=[4])
    record = team.stack([{"observation": torch.full((4, 2), float(i))} for i in range(2)])
    assert team.is_dense
    assert record.batch_size == (4, 2)
    assert record["observation"][0].tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_agents_that_differ_keep_their_shapes():
    team = group(2, 5)
    record = team.stack([{"observation": torch.zeros(2)}, {"observation": torch.ones(5)}])
    assert not team.is_dense
    assert [part["observation"].shape[0] for part in record.unbind(0)] == [2, 5]


@pytest.mark.parametrize("sizes", [(2, 2), (2, 5)])
def test_masks_reach_the_spec_of_the_environment(sizes):
    team = group(*sizes)

    class Env:
        full_action_spec = Composite(team=team.specs["action"])

    masks = [torch.tensor([True, False, False]), torch.tensor([False, False, True])]
    team.mask_actions(Env, masks)
    for _ in range(5):
        assert Env.full_action_spec.rand()["team", "action"].tolist() == [0, 2]


class Pairs(EnvBase):
    """Four environments of two agents each; its steps name no batch size."""

    def __init__(self):
        super().__init__(batch_size=[4])
        agents = Composite(place=Unbounded((4, 2, 3)), shape=(4, 2))
        self.observation_spec = Composite(agents=agents, shape=(4,))
        self.action_spec, self.reward_spec = Unbounded((4, 1)), Unbounded((4, 1))

    def _set_seed(self, seed):
        pass

    def _reset(self, tensordict=None, **kwargs):
        return TensorDict(agents=TensorDict(place=torch.zeros(4, 2, 3)), batch_size=[4])

    def _step(self, tensordict):
        return TensorDict(
            agents=TensorDict(place=torch.ones(4, 2, 3)),
            reward=torch.zeros(4, 1),
            done=torch.zeros(4, 1, dtype=torch.bool),
        )


@pytest.mark.parametrize(
    "make",
    [Pairs, lambda: TransformedEnv(Pairs(), StepCounter()), lambda: SerialEnv(2, Pairs)],
    ids=["alone", "transformed", "batch"],
)
@pytest.mark.parametrize("way", ["step", "rollout", "collector"])
def test_groups_keep_their_agents_if_steps_name_no_batch_size(make, way):
    """A group has the batch size of its spec under "next", whatever batch size ``_step`` gives."""
    env = make()
    if way == "step":
        record = env.step(env.rand_action(env.reset()))
    elif way == "rollout":
        record = env.rollout(3)
    else:
        frames = 3 * env.batch_size.numel()
        record = next(iter(Collector(env, frames_per_batch=frames, total_frames=frames)))
    for side in (record, record["next"]):
        assert side["agents"].batch_size == (*record.batch_size, 2)
