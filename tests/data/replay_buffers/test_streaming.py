"""New slices first, each once."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler, StreamingSliceSampler, TensorDictReplayBuffer

NO_MARKS = {"truncated_key": None, "init_key": None}


def steps(lengths, first=0, lanes=1):
    """Episodes of these lengths, one after the other, in each lane; items number the steps."""
    count = sum(lengths)
    episode = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) + first
    item = torch.arange(count).unsqueeze(-1) + 1000 * torch.arange(lanes)
    done = torch.zeros(count, dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    td = TensorDict(
        item=item,
        episode=episode.unsqueeze(-1).expand(count, lanes),
        next=TensorDict(done=done.view(-1, 1, 1).expand(count, lanes, 1), batch_size=[count, lanes]),
        batch_size=[count, lanes],
    )
    return td if lanes > 1 else td.squeeze(-1)


def buffer_of(sampler, rows, lanes=1):
    ndim = 1 if lanes == 1 else 2
    storage = LazyTensorStorage(rows * lanes, ndim=ndim)
    return ReplayBuffer(storage=storage, sampler=sampler, dim_extend=0)


def expected_slices(lengths, length):
    """The items of the slices that episodes of these lengths are cut into."""
    begin, out = 0, set()
    for size in lengths:
        full = range(0, size - length + 1, length)
        out |= {tuple(range(begin + i, begin + i + length)) for i in full}
        if size % length and size > length:
            out.add(tuple(range(begin + size - length, begin + size)))
        begin += size
    return out


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    length=st.integers(1, 4),
    lanes=st.integers(1, 2),
    by=st.sampled_from(["episode", "done"]),
)
def test_every_slice_comes_once_and_first(lengths, cuts, length, lanes, by):
    key = {"traj_key": "episode"} if by == "episode" else {}
    sampler = StreamingSliceSampler(slice_len=length, **key, **NO_MARKS)
    data = steps([*lengths, 1], lanes=lanes)  # the last step shows that the episode before is over
    buffer, at, seen = buffer_of(sampler, len(data), lanes), 0, Counter()
    while at < len(data):
        size = cuts[at % len(cuts)]
        buffer.extend(data[at : at + size])
        at += size
        while buffer.can_sample(length):
            sampler.sample(buffer.storage, 0)  # cuts what came in, draws nothing
            if not len(sampler._unsampled):
                break
            items = buffer.sample(length)["item"].reshape(-1)
            seen[tuple(items.tolist())] += 1
    pieces = expected_slices([*lengths, 1], length)
    wanted = {tuple(i + 1000 * lane for i in piece) for piece in pieces for lane in range(lanes)}
    assert seen == Counter(wanted)


def test_old_slices_fill_up_the_batch():
    sampler = StreamingSliceSampler(slice_len=2, **NO_MARKS)
    buffer = buffer_of(sampler, 100)
    buffer.extend(steps([4, 4]))
    first = buffer.sample(12)["item"].view(6, 2)
    assert first[:4].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    replayed = torch.cat([first[4:], *(buffer.sample(12)["item"].view(6, 2) for _ in range(30))])
    assert set(replayed[:, 0].tolist()) == {0, 1, 2, 4, 5, 6}
    assert (replayed.diff(dim=1) == 1).all()


def test_slices_that_were_overwritten_are_lost():
    sampler = StreamingSliceSampler(slice_len=2, **NO_MARKS)
    buffer = buffer_of(sampler, 6)
    buffer.extend(steps([6]))
    buffer.sample(2)
    late = steps([4])
    late["item"] += 10
    buffer.extend(late)
    rest = buffer.sample(6)["item"].view(3, 2).tolist()
    assert rest == [[4, 5], [10, 11], [12, 13]]


def test_short_episodes_make_short_slices():
    sampler = StreamingSliceSampler(slice_len=3, strict_length=False, **NO_MARKS)
    buffer = buffer_of(sampler, 20)
    buffer.extend(steps([2, 3, 4]))
    assert buffer.sample(12)["item"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8]


def test_edges_are_marked():
    sampler = StreamingSliceSampler(slice_len=2)
    buffer = buffer_of(sampler, 20)
    buffer.extend(steps([4]))
    assert buffer.sample(4)["next", "truncated"].flatten().tolist() == [False, True] * 2


def test_slices_across_an_end_that_was_set_later_are_dropped():
    sampler = StreamingSliceSampler(slice_len=2, **NO_MARKS)
    buffer = buffer_of(sampler, 20)
    buffer.extend(steps([6]))
    buffer.sample(2)
    row = buffer[2].clone()
    row["next", "done"].fill_(True)
    buffer[2] = row
    assert buffer.sample(2)["item"].tolist() == [4, 5]


@pytest.mark.parametrize("argument", ["fragmented", "num_slices"])
def test_what_makes_no_sense_is_refused(argument):
    with pytest.raises(TypeError, match=r"StreamingSliceSampler: (cuts episodes|takes either)"):
        StreamingSliceSampler(slice_len=2, **{argument: True}, traj_key="episode")


# --- fragments -----------------------------------------------------------------------------------


@pytest.fixture
def torn():
    """Three episodes of 7 steps whose steps lie anywhere; step 3 of the second is missing."""
    order = np.random.default_rng(0).permutation(21)
    order = torch.from_numpy(order[order != 10])
    return TensorDict(item=order, traj=order // 7, step_count=order % 7, batch_size=[20])


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
def test_fragments_are_put_together(kind, torn):
    sampler = SliceSampler(slice_len=3, traj_key="traj", fragmented=True, **NO_MARKS)
    buffer = kind(storage=LazyTensorStorage(20), sampler=sampler, batch_size=30)
    buffer.extend(torn[:9])
    assert not buffer.can_sample() or (buffer.sample()["item"].view(10, 3).diff(dim=1) == 1).all()
    buffer.extend(torn[9:])
    drawn = torch.cat([buffer.sample()["item"].view(10, 3) for _ in range(60)])
    assert (drawn.diff(dim=1) == 1).all()
    starts = {*range(5), 7, 11, *range(14, 19)}
    assert set(drawn[:, 0].tolist()) == starts


def test_fragments_are_looked_at_again_after_a_change(torn):
    sampler = SliceSampler(slice_len=7, traj_key="traj", fragmented=True, **NO_MARKS)
    buffer = ReplayBuffer(storage=LazyTensorStorage(21), sampler=sampler, batch_size=7)
    buffer.extend(torn)
    assert {int(buffer.sample()["item"][0]) for _ in range(20)} == {0, 14}
    buffer.add(TensorDict(item=torch.tensor(10), traj=torch.tensor(1), step_count=torch.tensor(3)))
    assert {int(buffer.sample()["item"][0]) for _ in range(40)} == {0, 7, 14}


def test_fragments_need_a_number():
    with pytest.raises(TypeError, match=r"finds fragments by traj_key, which is not given"):
        SliceSampler(slice_len=2, fragmented=True)
