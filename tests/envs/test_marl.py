"""Groups of agents: who is in which, and what stands where."""

import pytest
import torch

from torchrl.data import Categorical, Composite, Unbounded
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
    assert default == {
        "wolf": ["wolf_0", "wolf_10"],
        "dog": ["dog"],
        "red_wolf": ["red_wolf_1"],
        "_3": ["_3"],
    }
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
