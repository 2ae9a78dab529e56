"""Writers against a sorted list; refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl._core.errors import DTypeError, MissingKeyError
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
    TensorStorage,
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(1, 8),
    st.sampled_from([LazyTensorStorage, ListStorage]),
)
def test_the_highest_ranks_stay(batches, capacity, make):
    buffer = TensorDictReplayBuffer(storage=make(capacity), writer=TensorDictMaxValueWriter(rank_key="score"))
    seen = []
    for number, scores in enumerate(batches):
        rows = TensorDict(
            score=torch.tensor(scores, dtype=torch.float32),
            item=torch.arange(len(scores)) + len(seen),
            batch_size=[len(scores)],
        )
        first = len(seen)
        seen += [(score, -item - first) for item, score in enumerate(scores)]
        if number % 2 and len(scores) == 1:
            slot = buffer.add(rows[0])
            slots = torch.tensor([-1 if slot is None else slot])
        else:
            slots = buffer.extend(rows)
        expected = sorted(seen, reverse=True)[:capacity]  # of equals, the first come
        stored = buffer[:]
        assert sorted(stored["item"].tolist()) == sorted(-item for _, item in expected)
        assert stored["index"].tolist() == list(range(len(expected)))
        for item, slot in enumerate(slots.tolist(), first):
            if slot >= 0:
                assert stored["item"][slot] == item
            else:
                assert item not in stored["item"].tolist()


@pytest.mark.parametrize(("reduction", "best"), [("sum", 1), ("max", 0), ("min", 2), ("mean", 1)])
def test_ranks_with_several_numbers(reduction, best):
    writer = TensorDictMaxValueWriter(reduction=reduction)
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(1), writer=writer)
    reward = torch.tensor([[9.0, 0.0, 0.0], [6.0, 6.0, 1.0], [4.0, 4.0, 3.0]])
    next_root = TensorDict(reward=reward.unsqueeze(-1), batch_size=[3, 3])
    slots = buffer.extend(TensorDict(next=next_root, batch_size=[3, 3]))
    assert slots.tolist() == [0 if row == best else -1 for row in range(3)]


def test_bad_rows_are_refused_although_they_would_not_be_kept():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1), writer=TensorDictMaxValueWriter("score"))
    row = TensorDict(score=torch.ones(1), a=torch.zeros(1, 2), batch_size=[1])
    buffer.extend(row)
    before = buffer.state_dict()
    with pytest.raises(DTypeError, match="'a' has the wrong dtype"):
        buffer.extend(TensorDict(score=torch.zeros(1), a=torch.zeros(1, 2).long(), batch_size=[1]))
    with pytest.raises(MissingKeyError, match="'score' is read but absent"):
        buffer.add(TensorDict(a=torch.zeros(2)))
    with pytest.raises(ValueError, match="'score' is not a number"):
        buffer.extend(row.clone().set("score", torch.tensor([float("nan")])))
    assert buffer.state_dict()["_writer"] == before["_writer"]
    assert (buffer[:]["score"] == 1).all()


def test_ranks_travel_with_the_state():
    def make():
        return TensorDictReplayBuffer(storage=LazyTensorStorage(3), writer=TensorDictMaxValueWriter("score"))

    first, second = make(), make()
    first.extend(TensorDict(score=torch.tensor([5.0, 3.0, 8.0, 1.0]), batch_size=[4]))
    second.load_state_dict(first.state_dict())
    for buffer in (first, second):
        buffer.extend(TensorDict(score=torch.tensor([4.0, 2.0]), batch_size=[2]))
        assert buffer[:]["score"].tolist() == [5, 4, 8]


def test_immutable():
    data = TensorDict(a=torch.arange(3), batch_size=[3])
    buffer = ReplayBuffer(storage=TensorStorage(data), writer=ImmutableDatasetWriter())
    for write in (buffer.add, buffer.extend):
        with pytest.raises(RuntimeError, match=r"read-only. Copy what you need"):
            write(data)
    assert buffer.sample(4)["a"].max() < 3


def test_tensordict_writers_take_tensordicts():
    for writer in (None, TensorDictMaxValueWriter()):
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3), writer=writer)
        with pytest.raises(DTypeError, match=r"writes tensordicts only; found Tensor"):
            buffer.extend(torch.zeros(3))
    with pytest.raises(ValueError, match=r"unknown reduction.*found product"):
        TensorDictMaxValueWriter(reduction="product")
    with pytest.raises(RuntimeError, match=r"has no storage. Pass it to a ReplayBuffer"):
        TensorDictMaxValueWriter("a").extend(TensorDict(a=torch.zeros(2), batch_size=[2]))
