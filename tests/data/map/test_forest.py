"""Trees of trajectories, and the forest that makes them."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import LazyTensorStorage, MCTSForest, Tree
from torchrl.envs import PendulumEnv


def path(*states, action=0.0, end=False):
    states, steps = torch.tensor(states), len(states) - 1
    done = torch.zeros(steps, 1, dtype=torch.bool)
    done[-1] = end
    result = TensorDict(observation=states[1:], reward=torch.ones(steps), done=done, batch_size=[steps])
    actions = action + torch.arange(steps) / 10
    return TensorDict(observation=states[:-1], action=actions, next=result, batch_size=[steps])


def forest(**kwargs):
    made = MCTSForest(**kwargs)
    made.extend(path(0, 1, 2, 3, action=1.0))
    made.extend(path(1, 7, 8, action=2.0))
    made.extend(path(3, 9, action=3.0))
    return made


def root(state):
    return TensorDict(observation=torch.tensor(state))


@pytest.mark.parametrize("max_size", [None, 50])
def test_trees_join_what_starts_alike(max_size):
    made = forest(max_size=max_size)
    assert len(made) == 6
    tree = made.get_tree(root(0))
    assert tree.node_data["observation"] == 1  # where it branches
    assert tree.edges() == [(0, 1), (0, 2)]
    assert tree.valid_paths() == [(0,), (1,)]
    assert tree.rollout_from_path((1,))["next", "observation"].tolist() == [1, 7, 8]
    assert tree.rollout_from_path(())["next", "observation"].tolist() == [1]
    assert sorted(tree.selected_actions().tolist()) == pytest.approx([1.1, 2.0])
    first = tree.subtree[0]
    assert first.branching_action == pytest.approx(1.1)
    assert first.prev_action == 3
    assert first.is_terminal
    assert not tree.is_terminal
    assert made.valid_paths(root(0)) == tree.valid_paths()


def test_trees_of_single_steps():
    tree = forest().get_tree(root(0), compact=False)
    assert tree.num_vertices() == 6
    assert tree.max_length() == 3
    assert [len(node.rollout) for _, node in tree.walk()] == [1] * 6
    assert forest().get_tree(root(1), compact=False).rollout is None


@pytest.mark.parametrize(
    ("options", "vertices"), [({"recursive": False}, 3), ({"max_depth": 2}, 5), ({"max_depth": 0}, 1)]
)
def test_depth(options, vertices):
    assert forest().get_tree(root(1), compact=False, **options).num_vertices() == vertices


def test_states_that_are_reached_twice():
    made = MCTSForest()
    for states, action in (((0, 1, 3), 0.0), ((0, 2, 3), 1.0)):
        made.extend(path(*states, action=action))
    tree = made.get_tree(root(0))
    assert tree.num_vertices() == 2
    assert tree.num_vertices(count_repeat=True) == 3


def test_cycles_end():
    made = MCTSForest()
    made.extend(path(0, 1, 0))
    tree = made.get_tree(root(0))
    assert tree.rollout["next", "observation"].tolist() == [1, 0]
    made.extend(path(1, 5, action=9.0))
    assert made.get_tree(root(0)).num_vertices() == 3


def test_ends_have_nothing_below():
    made = MCTSForest()
    made.extend(path(0, 1, 2, end=True))
    made.extend(path(2, 3))
    assert made.get_tree(root(0)).rollout["next", "observation"].tolist() == [1, 2]


def test_unknown_states():
    with pytest.raises(MissingKeyError, match="holds no step from this state"):
        forest().get_tree(root(99))
    with pytest.raises(MissingKeyError):
        MCTSForest().get_tree(root(0))


def test_the_same_steps_are_kept_once():
    made = MCTSForest()
    assert made.extend(path(0, 1, 2), return_node=True).rollout.shape == (2,)
    made.extend(path(0, 1, 2).unsqueeze(0).expand(3, 2))
    assert len(made) == 2
    made.add(path(5, 6)[0])
    assert len(made) == 3


def test_vertices():
    tree = forest().get_tree(root(0))
    for kind in ("id", "hash", "path"):
        assert len(tree.vertices(key_type=kind)) == 3
    with pytest.raises(ValueError, match="unknown kind of key"):
        tree.vertices(key_type="name")
    child = tree.subtree[1]
    assert tree.get_vertex_by_id(2).hash == child.hash
    assert tree.get_vertex_by_hash(int(child.hash)).node_id == 2
    with pytest.raises(MissingKeyError):
        tree.get_vertex_by_id(3)
    assert child in tree
    assert tree not in child
    assert child.parent.node_id == 0
    assert tree.parent is None
    lines = tree.to_string(lambda node: int(node.node_id)).splitlines()
    assert [line.split()[-1] for line in lines] == ["0", "1", "2"]
    assert len(forest().to_string(root(0)).splitlines()) == 3


def test_trees_built_by_hand():
    node = Tree.make_node(TensorDict(o=torch.ones(2)))
    assert node.num_vertices() == 1
    assert node.valid_paths() == [()]
    assert node.rollout_from_path(()) is None
    assert node.selected_actions() is None
    node.subtree = TensorDict.lazy_stack([Tree.make_node(TensorDict(o=torch.full((2,), i))) for i in (3.0, 4.0)])
    assert node.num_children == 2
    node.visits = node.visits + 1
    assert node.count == 1
    node.subtree[1].count += 5
    assert node.subtree.visits.tolist() == [0, 5]
    assert node.edges() == [(0, 1), (0, 2)]


def test_names_of_an_environment():
    env = PendulumEnv()
    made = MCTSForest()
    made.get_keys_from_env(env)
    assert made.action_keys == ["action"]
    assert made.done_keys == list(env.done_keys)
    rollout = env.rollout(4)
    made.extend(rollout)
    tree = made.get_tree(rollout[0], compact=False)
    assert {len(p) for p in tree.valid_paths()} == {len(rollout) - 1}
    assert not tree.fully_expanded(env)


def test_given_names():
    made = MCTSForest(observation_keys=["observation"], excluded_keys=["more"], max_size=5)
    made.extend(path(0, 1).set("more", torch.zeros(1)))
    assert isinstance(made.data_map.storage, LazyTensorStorage)
    with pytest.raises(ValueError, match="consolidated needs the number of steps"):
        MCTSForest(consolidated=True)
