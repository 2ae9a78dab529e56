"""Actions at random."""

import torch
from tensordict import LazyStackedTensorDict, TensorDict

from torchrl._core.records.flat_record import FlatRecord, takes_flat_records
from torchrl.data import Bounded, Categorical, Composite, OneHot, RandomPolicy, Unbounded


def test_a_leaf_is_written_under_the_action_key():
    spec = OneHot(4, (3, 4))
    for key in ("action", ("agents", "action")):
        policy = RandomPolicy(spec, action_key=key)
        for record in (TensorDict(batch_size=[3]), FlatRecord()):
            out = policy(record)
            assert out is record
            assert spec.is_in(out[key])
        assert policy.out_keys == [key]
        assert policy.in_keys == []


def test_a_composite_is_written_leaf_by_leaf():
    spec = Composite(
        {("agents", "torque"): Bounded(-1, 1, (3, 2)), "gear": Categorical(5, (3,)), "none": None}, shape=(3,)
    )
    policy = RandomPolicy(spec)
    assert spec.is_in(policy(TensorDict(batch_size=[3])))
    entries = policy(FlatRecord())
    assert set(entries) == {("agents", "torque"), "gear"}
    assert spec["gear"].is_in(entries["gear"])


def test_it_takes_flat_records():
    assert takes_flat_records(RandomPolicy(OneHot(2)))


def test_actions_differ_and_masks_count():
    spec = Categorical(1000)
    policy = RandomPolicy(spec)
    drawn = {int(policy(FlatRecord())["action"]) for _ in range(20)}
    assert len(drawn) > 10
    spec.update_mask(torch.arange(1000) == 7)
    assert policy(FlatRecord())["action"] == 7


def test_entries_of_one_composite_alone_are_written_too():
    spec = torch.stack([Composite(a=Categorical(2)), Composite(a=Categorical(3), b=Unbounded())])
    out = RandomPolicy(spec)(LazyStackedTensorDict(TensorDict(), TensorDict()))
    assert spec.is_in(out)
    assert "b" in out[1]
