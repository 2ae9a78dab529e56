"""Less is stored, the same is handed out; what is too old is not."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import NextObservationDelta, NextStateReconstructor, PolicyAgeFilter, TransformedEnv
from torchrl.testing.transform import World


def steps(rows=3, time=12):
    env = World((rows,))
    env.set_seed(0)
    return env.rollout(time, break_when_any_done=False)


def test_a_buffer_stores_differences():
    data = steps().reshape(-1)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(100),
        sampler=SamplerWithoutReplacement(shuffle=False),
        batch_size=len(data),
        transform=NextObservationDelta(),
    )
    buffer.extend(data)
    stored = buffer._storage.get(slice(0, len(data)))
    next_root = stored["next"]
    assert next_root["delta", "observation"].dtype == torch.float16
    assert "observation" not in next_root
    assert next_root["delta", "agents", "state"].dtype == torch.float16
    assert next_root["pixels"].dtype == torch.uint8  # whole numbers are stored whole
    assert next_root["reward"].dtype == torch.float32  # and what is not an observation
    out = buffer.sample()
    for key in ("observation", "double", ("agents", "state")):
        expected = data["next"].get(key)
        found = out["next"].get(key)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert "delta" not in out["next"]


def test_differences_can_be_kept_and_restored_to_another_dtype():
    data = steps(1, 3)
    delta = NextObservationDelta(
        ["observation"], delta_dtype=torch.bfloat16, restore_dtype=torch.float64, drop_delta=False
    )
    out = delta(delta.inv(data))
    assert out["next", "observation"].dtype == torch.float64
    assert out["next", "delta", "observation"].dtype == torch.bfloat16
    assert out["next", "double"].dtype == torch.float64  # not named: not touched
    assert "observation" in data["next"]  # the data given stay as they were
    whole = NextObservationDelta(["observation"], excluded_dtypes=[torch.float32])
    assert "observation" in whole.inv(data)["next"]


def test_a_difference_too_large_is_refused():
    step = TensorDict(x=torch.zeros(1), next=TensorDict(x=torch.full((1,), 1e6)))
    with pytest.raises(ValueError, match=r"'x' changes by more than torch.float16 can hold.*1000000"):
        NextObservationDelta(["x"]).inv(step)
    with pytest.raises(MissingKeyError, match="'y' is read but absent"):
        NextObservationDelta(["y"]).inv(step)
    with pytest.raises(ValueError, match="restore_dtype must be 'root' or a dtype, found 'x'"):
        NextObservationDelta(restore_dtype="x")


def test_next_observations_come_from_the_following_row():
    data = steps(2, 12)
    number = data["next", "done"].squeeze(-1).long().cumsum(1).roll(1, 1)
    number[:, 0] = 0
    data["collector", "traj_ids"] = number
    expected = data["next", "observation"].clone()
    bare = data.exclude(("next", "observation"))
    out = NextStateReconstructor()(bare)["next", "observation"]
    known = ~data["next", "done"].squeeze(-1)
    known[:, -1] = False
    assert torch.equal(out[known], expected[known])
    assert out[~known].isnan().all()


def test_rows_of_another_trajectory_or_a_later_step_do_not_follow():
    data = TensorDict(
        observation=torch.arange(5),
        number=torch.tensor([0, 0, 1, 1, 1]),
        step=torch.tensor([3, 4, 0, 2, 3]),
        batch_size=[5],
    )
    data["next", "done"] = torch.zeros(5, 1, dtype=torch.bool)
    rows = NextStateReconstructor(traj_key="number", step_count_key="step", fill_value=-1.0)
    assert rows(data.clone())["next", "observation"].tolist() == [1, -1, -1, 4, -1]
    with pytest.raises(MissingKeyError, match=r"traj_ids.*strict=False"):
        NextStateReconstructor()(data.clone())
    loose = NextStateReconstructor(strict=False)  # whole numbers cannot be nan
    assert loose(data.clone())["next", "observation"].tolist() == [1, 2, 3, 4, 0]
    with pytest.raises(ShapeError, match="rows in the order of time"):
        loose(data[0])


def test_what_is_too_old_is_left_out():
    now = [3]
    keep = PolicyAgeFilter(lambda: now[0], max_policy_lag=1)
    data = TensorDict(policy_version=torch.tensor([[1, 3], [2, 3], [3, 3]]), batch_size=[3, 2])
    assert keep(data)["policy_version"].tolist() == [[2, 3], [3, 3]]
    now[0] = 5
    assert keep(data).shape == (0, 2)
    empty = TensorDict(x=torch.zeros(3), batch_size=[3])
    assert keep(empty) is empty
    with pytest.raises(MissingKeyError, match="'policy_version' is read but absent"):
        PolicyAgeFilter(0, 1, strict=True)(empty)
    with pytest.raises(ValueError, match="must not be negative, found -1"):
        PolicyAgeFilter(0, -1)


@pytest.mark.parametrize("make", [NextStateReconstructor, lambda: PolicyAgeFilter(0, 1)])
def test_they_are_of_buffers(make):
    with pytest.raises(ValueError, match="append it to a replay buffer"):
        TransformedEnv(World(), make())
