"""What can be derived from the row in the next slot is not stored, and comes back bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl._core.errors import DTypeError, ShapeError
from torchrl.data import CompactStorage, LazyMemmapStorage, LazyTensorStorage, ReplayBuffer


def steps(lengths, start=0.0):
    """Episodes of given lengths, one after the other; states are numbered, resets jump."""
    states, next_root, done = [], [], []
    for length in lengths:
        run = start + torch.arange(length + 1.0)
        states.append(run[:-1])
        next_root.append(run[1:])
        done.append(torch.arange(length) == length - 1)
        start += 100
    state, after, done = torch.cat(states), torch.cat(next_root), torch.cat(done).unsqueeze(-1)
    td = TensorDict(observation=state.unsqueeze(-1) * torch.ones(3), reward=state, batch_size=[len(state)])
    td["next"] = TensorDict(observation=after.unsqueeze(-1) * torch.ones(3), done=done, batch_size=[len(state)])
    return td


def test_only_ends_and_the_newest_row_are_pooled():
    storage = CompactStorage(LazyTensorStorage(100))
    buffer = ReplayBuffer(storage=storage)
    data = steps([5, 3, 4])
    buffer.extend(data)
    assert (buffer[:] == data).all()
    assert storage.pooled == 3
    assert ("next", "observation") not in storage._inner.get(0).keys(True)
    follow = steps([4], start=204.0)
    follow["observation"][0] = data["next", "observation"][-1]
    buffer.extend(follow)
    assert storage.pooled == 3  # what was newest is followed now
    with pytest.raises(RuntimeError, match="cannot be shared between processes"):
        buffer.share()


def test_not_a_number_and_negative_zero_come_back():
    data = steps([3])
    data["observation"][1] = data["next", "observation"][0] = float("nan")
    data["observation"][2], data["next", "observation"][1] = 0.0, -0.0
    storage = CompactStorage(LazyTensorStorage(10))
    storage.write_run(0, *storage.prepare(data, True))
    got = storage.get(slice(0, 3))["next", "observation"]
    assert (got.view(torch.int32) == data["next", "observation"].view(torch.int32)).all()
    assert storage.pooled == 2


def check_writes(lengths, replaced, make, width):
    """Whatever is written, in or out of order, a storage gives back what a plain one does."""
    plain = LazyTensorStorage(12 * width, ndim=1 + (width > 1))
    compact = CompactStorage(make(12 * width, ndim=1 + (width > 1)))
    buffers = [ReplayBuffer(storage=storage) for storage in (plain, compact)]
    for length, slot in zip(lengths, replaced, strict=True):
        data = steps([length, 2])
        if width > 1:
            data = torch.stack([data, steps([2, length], 1.0)], 0)
        for buffer in buffers:
            buffer.extend(data.clone())
            if slot < buffer.storage.rows:
                at = (slice(None), slot) if width > 1 else slot
                several = (slice(None), [slot, 0, slot]) if width > 1 else [slot, 0, slot]
                buffer[at] = data[..., 0].clone()
                buffer[several] = data[..., :3].clone()
        expected, found = (buffer[:] for buffer in buffers)
        assert (expected == found).all()
        positions = torch.randint(len(plain), (9,))
        assert (plain.take(positions) == compact.take(positions)).all()
        key = ("next", "observation")
        assert (plain.take_entry(key, positions) == compact.take_entry(key, positions)).all()
        assert (plain.entry(key, slice(0, 2)) == compact.entry(key, slice(0, 2))).all()
    assert compact.pooled <= len(compact)


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=6, max_size=6),
    replaced=st.lists(st.integers(0, 11), min_size=6, max_size=6),
    width=st.sampled_from([1, 2]),
)
def test_any_writes_come_back(lengths, replaced, width):
    check_writes(lengths, replaced, LazyTensorStorage, width)


def test_any_writes_come_back_from_files():
    check_writes([5, 12, 1], [3, 0, 11], LazyMemmapStorage, 1)


def test_keys_say_what_is_derived():
    data = steps([4])
    data["extra"] = data["next", "extra"] = torch.arange(4)
    storage = CompactStorage(LazyTensorStorage(10), keys=["observation"])
    storage.write_run(0, *storage.prepare(data, True))
    assert storage.pooled == 1
    assert (storage.get(slice(0, 4)) == data).all()


def test_rows_that_cannot_be_compact_are_refused():
    with pytest.raises(ShapeError, match=r"finds no entry at both places .*found \['a'\]"):
        ReplayBuffer(storage=CompactStorage(LazyTensorStorage(9))).extend(TensorDict(a=torch.zeros(3), batch_size=[3]))
    with pytest.raises(ShapeError, match=r"expected \[\('next', 'observation'\), \('next', 'b'\)\]"):
        ReplayBuffer(storage=CompactStorage(LazyTensorStorage(9), ["observation", "b"])).extend(steps([2]))
    with pytest.raises(DTypeError, match=r"keeps tensordicts only; found Tensor"):
        ReplayBuffer(storage=CompactStorage(LazyTensorStorage(9))).extend(torch.zeros(3))
    buffer = ReplayBuffer(storage=CompactStorage(LazyTensorStorage(9)))
    with pytest.raises(RuntimeError, match="nothing was written yet"):
        buffer[:]


def test_a_save_of_another_size_is_refused():
    small, large = (CompactStorage(LazyTensorStorage(size)) for size in (9, 12))
    large.write_run(0, *large.prepare(steps([4]), True))
    with pytest.raises(ShapeError, match="the saved rows come from another size"):
        small.load_state_dict(large.state_dict())
