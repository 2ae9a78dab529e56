"""Questions about trajectories, against Python."""

import operator

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import Trajectory, TrajectoryPredicate, filter_trajectories, iter_trajectories, traj

REWARD = torch.tensor([[1.0], [-2.0], [4.0]])
STEPS = TensorDict(
    observation=torch.arange(6).view(3, 2),
    next=TensorDict(reward=REWARD, done=torch.tensor([[0], [0], [1]]).bool(), batch_size=[3]),
    batch_size=[3],
)


@pytest.mark.parametrize("name", ["sum", "mean", "std", "max", "min"])
def test_reductions(name):
    assert getattr(traj.reward, name)()(STEPS) == getattr(REWARD, name)()
    value = getattr(traj.observation, name)()(STEPS)
    floats = STEPS["observation"].double()
    assert float(value) == pytest.approx(float(getattr(floats, name)()))


@pytest.mark.parametrize("name", ["gt", "ge", "lt", "le", "eq", "ne"])
def test_comparisons(name):
    compare = getattr(operator, name)
    for bound in (2.0, 3.0, 4.0):
        assert compare(traj.reward.sum(), bound)(STEPS) == compare(3.0, bound)
    assert compare(traj.reward.max(), traj.observation.max())(STEPS) == compare(4.0, 5)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_arithmetic(name):
    compute = getattr(operator, name)
    assert compute(traj.reward.sum(), 2)(STEPS) == compute(3.0, 2)
    assert compute(traj.reward.sum(), traj.length)(STEPS) == compute(3.0, 3)


def test_where_entries_are_found():
    assert traj.reward._keys == [("next", "reward")]
    assert traj.observation._keys == ["observation"]
    assert traj["next", "observation"]._keys == [("next", "observation")]
    assert traj.done[-1](STEPS).item() is True
    assert traj.reward[1:].sum()(STEPS) == 2
    assert traj.length(Trajectory(STEPS, batch_size=[])) == 3
    with pytest.raises(MissingKeyError, match="traj: entry 'observations'"):
        traj.observations(STEPS)


def test_logic():
    yes, no = traj.done.any(), traj.done.all()
    assert yes(STEPS)
    assert not no(STEPS)
    for left in (yes, no):
        assert (~left)(STEPS) != left(STEPS)
        for right in (yes, no):
            assert (left & right)(STEPS) == (left(STEPS) and right(STEPS))
            assert (left | right)(STEPS) == (left(STEPS) or right(STEPS))


def test_what_is_read_and_how_it_is_shown():
    asked = (traj.reward.sum() / traj.length > 0.5) & ~traj.truncated.any()
    assert asked.keys == [("next", "reward"), ("next", "truncated")]
    assert repr(asked) == ("TrajectoryPredicate((next.reward.sum() / length > 0.5) & (~(next.truncated.any())))")
    assert (asked | TrajectoryPredicate(len)).keys is None
    assert repr(traj.reward[0]) == "TrajectoryValue(next.reward[0])"
    with pytest.raises(TypeError, match=r"is a question, not an answer. Combine with &"):
        bool(asked)


@pytest.mark.parametrize("key", [None, "number"])
def test_trajectories_of_a_batch(key):
    number = torch.tensor([[0, 0, 1], [2, 3, 3]])
    ends = torch.tensor([[0, 1, 0], [1, 0, 0]]).bool().unsqueeze(-1)
    item = torch.arange(6).view(2, 3)
    batch = TensorDict(item=item, number=number, next={"done": ends}, batch_size=[2, 3])
    found = [one.data["item"].tolist() for one in iter_trajectories(batch, key)]
    assert found == [[0, 1], [2], [3], [4, 5]]
    long = filter_trajectories(batch, traj.length > 1, trajectory_key=key)
    assert long["item"].tolist() == [0, 1, 4, 5]
    assert filter_trajectories(batch)["item"].tolist() == list(range(6))
    assert len(filter_trajectories(batch, traj.length > 9)) == 0
