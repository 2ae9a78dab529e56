"""Slice samplers against a plain list of what is stored."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StreamingSliceSampler,
    TensorDictReplayBuffer,
    find_start_stop_traj,
)


class World:
    """Lanes of episodes, of random lengths, seen as rows; and what is still stored of them."""

    def __init__(self, capacity, lanes, rng):
        self.capacity, self.lanes, self.rng = capacity, lanes, rng
        self.rows, self.episode = [], np.arange(lanes)
        self.left = [self.length() for _ in range(lanes)]
        self.next = lanes

    def length(self):
        return int(self.rng.integers(1, 8))

    def extend(self, count):
        """Return ``count`` new rows ``[N, W]``."""
        new = []
        for _ in range(count):
            row = []
            for lane in range(self.lanes):
                self.left[lane] -= 1
                done = self.left[lane] == 0
                time = len(self.rows) + len(new)
                row.append((time * self.lanes + lane, int(self.episode[lane]), done))
                if done:
                    self.episode[lane], self.left[lane] = self.next, self.length()
                    self.next += 1
            new.append(row)
        self.rows += new
        item, episode, done = (torch.tensor(np.array(new)[..., i]) for i in range(3))
        size = item.shape
        done = done.bool().unsqueeze(-1)
        next_root = TensorDict(done=done, terminated=done.clone(), truncated=torch.zeros_like(done), batch_size=size)
        first = torch.ones(size, dtype=torch.bool).unsqueeze(-1)
        return TensorDict(item=item, episode=episode, is_init=~first, next=next_root, batch_size=size)

    def episodes(self):
        """Items of each stored piece of an episode, in order."""
        pieces = defaultdict(list)
        for row in self.rows[-self.capacity :]:
            for item, episode, _ in row:
                pieces[episode].append(item)
        return list(pieces.values())


def starts_of(world, length):
    """First items of every slice that may be drawn."""
    return {piece[i] for piece in world.episodes() for i in range(len(piece) - length + 1)}


def check_slices(world, sample, length):
    items = sample["item"].view(-1, length)
    assert (items.diff(dim=1) == world.lanes).all(), "steps do not follow each other"
    episode = sample["episode"].view(-1, length)
    assert (episode == episode[:, :1]).all(), "a slice crosses the end of an episode"
    stored = {row[0]: row for rows in world.rows[-world.capacity :] for row in rows}
    done = torch.tensor([stored[item][2] for item in sample["item"].tolist()])
    final = torch.zeros(len(items), length, dtype=torch.bool)
    final[:, -1] = True
    assert (sample["next", "terminated"].squeeze(-1) == done).all()
    assert (sample["next", "truncated"].squeeze(-1) == final.flatten()).all()
    assert (sample["next", "done"].squeeze(-1) == final.flatten() | done).all()
    assert (sample["is_init"].view(-1, length) == final.flip(1)).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 6),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.sampled_from(["done", "number"]),
)
def test_slices_lie_within_episodes_and_every_start_is_reached(seed, capacity, lanes, length, sizes, way):
    world = World(capacity, lanes, np.random.default_rng(seed))
    how = {"traj_key": "episode"} if way == "number" else {"end_key": ("next", "done")}
    ndim = 1 if lanes == 1 else 2
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(capacity * lanes, ndim=ndim),
        sampler=SliceSampler(slice_len=length, **how),
        dim_extend=0,
    )
    for size in sizes:
        rows = world.extend(size)
        buffer.extend(rows if lanes > 1 else rows.squeeze(1))
        possible = starts_of(world, length)
        if not possible:
            with pytest.raises(RuntimeError, match=rf"no stored episode has {length} steps"):
                buffer.sample(length)
            continue
        sample = buffer.sample(4 * length)
        check_slices(world, sample, length)
    if possible:
        pieces = [piece for piece in world.episodes() if len(piece) >= length]
        draws = 30 * len(pieces) * max(len(piece) - length + 1 for piece in pieces)
        sample = buffer.sample(draws * length)
        check_slices(world, sample, length)
        reached = set(sample["item"].view(-1, length)[:, 0].tolist())
        assert reached <= possible
        assert reached == possible or draws < 60


def stored(lengths, capacity=None, rows=None):
    """Episodes of the given lengths, item by item."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    done = torch.cat([torch.arange(n) == n - 1 for n in lengths]).unsqueeze(-1)
    n = len(episode)
    flags = TensorDict(done=done, terminated=done.clone(), truncated=torch.zeros_like(done), batch_size=[n])
    return TensorDict(item=torch.arange(n), episode=episode, next=flags, batch_size=[n])


def buffer_of(lengths, kind=TensorDictReplayBuffer, cls=SliceSampler, storage=None, batch_size=None, **kwargs):
    data = stored(lengths)
    storage = storage or LazyTensorStorage(len(data))
    buffer = kind(storage=storage, sampler=cls(**kwargs), batch_size=batch_size)
    buffer.extend(data)
    return buffer


def test_episodes_are_drawn_alike_and_starts_within_them_too():
    buffer = buffer_of([2, 3, 12], slice_len=2)
    first = buffer.sample(2 * 12_000)["item"].view(-1, 2)[:, 0]
    counts = torch.bincount(first, minlength=16)
    expected = torch.zeros(16)
    expected[0] = 4000
    expected[2:4] = 2000
    expected[5:16] = 4000 / 11
    used = expected > 0
    assert (counts[~used] == 0).all()
    chi2 = ((counts - expected)[used] ** 2 / expected[used]).sum()
    assert chi2 < 36.1  # 99.9 % of chi-squared with 13 degrees of freedom


def test_number_or_length_of_slices():
    buffer = buffer_of([10, 10], num_slices=4)
    assert buffer.sample(12)["item"].view(4, 3).diff(dim=1).eq(1).all()
    with pytest.raises(ValueError, match=r"does not divide.*multiple of num_slices=4, found 13"):
        buffer.sample(13)
    with pytest.raises(ValueError, match=r"multiple of slice_len=3, found 4"):
        buffer_of([10], slice_len=3).sample(4)
    with pytest.raises(TypeError, match="either num_slices or slice_len"):
        SliceSampler()
    with pytest.raises(TypeError, match="takes one way to find episodes"):
        SliceSampler(slice_len=2, traj_key="a", ends=torch.zeros(3))
    with pytest.raises(TypeError, match="takes one way to find episodes"):
        SliceSampler(slice_len=2, end_key="a", end_keys=["b"])


@pytest.mark.parametrize("with_numbers", [True, False])
@pytest.mark.parametrize("keys", [{"end_key": "end"}, {"end_keys": ["end", "never"]}])
@pytest.mark.parametrize("cls", [SliceSampler, SliceSamplerWithoutReplacement, StreamingSliceSampler])
def test_numbers_are_used_where_they_are_stored_and_else_flags(cls, keys, with_numbers):
    number = torch.tensor([0, 0, 0, 1, 1, 1])
    flags = {"end": torch.tensor([False, False, True, False, False, True]), "never": torch.zeros(6, dtype=torch.bool)}
    td = TensorDict(step=torch.arange(6), **flags, batch_size=[6])
    if with_numbers:
        td["number"], td["end"] = number, torch.zeros(6, dtype=torch.bool)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(6), sampler=cls(slice_len=3, traj_key="number", **keys), batch_size=3
    )
    buffer.extend(td)
    assert {tuple(buffer.sample()["step"].tolist()) for _ in range(20)} == {(0, 1, 2), (3, 4, 5)}


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 1)])
def test_more_than_one_flag_for_a_step_is_an_error(shape):
    buffer = ReplayBuffer(storage=LazyTensorStorage(6), sampler=SliceSampler(slice_len=2, end_key="end"), batch_size=4)
    buffer.extend(TensorDict(end=torch.zeros(shape, dtype=torch.bool), batch_size=[6]))
    with pytest.raises(ShapeError, match="more than one flag for each step") as error:
        buffer.sample()
    assert isinstance(error.value, RuntimeError)


@pytest.mark.parametrize("cls", [SliceSampler, SliceSamplerWithoutReplacement, StreamingSliceSampler])
@pytest.mark.parametrize("flags", [{"compile": True}, {"use_gpu": True}, {"compile": {"mode": "default"}}])
def test_flags_that_change_nothing_are_checked(cls, flags):
    samples = []
    for more in ({}, flags):
        torch.manual_seed(0)
        sampler = cls(slice_len=2, end_key="end", **more)
        buffer = ReplayBuffer(storage=LazyTensorStorage(6), sampler=sampler, batch_size=4)
        buffer.extend(TensorDict(step=torch.arange(6), end=torch.arange(6) % 3 == 2, batch_size=[6]))
        samples.append(buffer.sample()["step"].tolist())
    assert samples[0] == samples[1]
    with pytest.raises(DTypeError, match="is a flag"):
        cls(slice_len=2, **dict.fromkeys(flags, "maybe"))


def test_shorter_slices_and_padding():
    buffer = buffer_of([2, 9], slice_len=4, strict_length=False)
    lengths = Counter()
    for _ in range(50):
        sample = buffer.sample(4)
        lengths[len(sample)] += 1
        assert sample["item"].diff().eq(1).all()
        assert sample["next", "truncated"].flatten().tolist() == [False] * (len(sample) - 1) + [True]
    assert set(lengths) == {2, 4}
    buffer = buffer_of([2, 9], slice_len=4, strict_length=False, pad_output=True)
    sample = buffer.sample(4 * 50).view(50, 4)
    mask = sample["collector", "mask"]
    assert set(mask.sum(1).tolist()) == {2, 4}
    short = mask.sum(1) == 2
    assert (sample["item"][short] == torch.tensor([0, 1, 1, 1])).all()
    assert mask[short].tolist()[0] == [True, True, False, False]


def test_span_reaches_over_the_edges():
    def firsts(span):
        buffer = buffer_of([6], slice_len=3, span=span)
        seen = set()
        for _ in range(300):
            items = buffer.sample(3)["item"].tolist()
            assert items == list(range(items[0], items[-1] + 1))
            seen.add((items[0], len(items)))
        return seen

    inside = {(i, 3) for i in range(4)}
    assert firsts(False) == inside
    assert firsts((False, True)) == inside | {(4, 2), (5, 1)}
    assert firsts((1, False)) == inside | {(0, 2)}
    assert firsts(True) == inside | {(4, 2), (5, 1), (0, 2), (0, 1)}


def test_flags_are_written_into_plain_samples_too():
    buffer = buffer_of([6], kind=ReplayBuffer, slice_len=3)
    sample = buffer.sample(3)
    assert sample["next", "truncated"].flatten().tolist() == [False, False, True]
    assert "index" not in sample
    buffer = buffer_of([6], slice_len=3, truncated_key=None)
    assert not buffer.sample(3)["next", "truncated"].any()
    bare = TensorDictReplayBuffer(storage=LazyTensorStorage(6), sampler=SliceSampler(slice_len=3, traj_key="episode"))
    bare.extend(stored([6]).exclude("next"))
    assert bare.sample(3)["next", "truncated"].flatten().tolist() == [False, False, True]


def test_explicit_ends_and_numbers():
    data = stored([3, 4])
    for how in (
        {"ends": data["next", "done"].squeeze(-1)},
        {"trajectories": data["episode"]},
        {"end_keys": [("next", "done"), ("next", "truncated")]},
    ):
        buffer = ReplayBuffer(storage=LazyTensorStorage(7), sampler=SliceSampler(slice_len=3, **how))
        buffer.extend(data.clone())
        first = buffer.sample(300)["item"].view(-1, 3)[:, 0]
        assert set(first.tolist()) == {0, 3, 4}


@pytest.mark.parametrize("make", [LazyTensorStorage, LazyMemmapStorage, ListStorage])
def test_rows_that_are_edited_are_looked_at_again(make):
    for trust, expected in ((False, {0, 3}), (True, {0, 1, 2, 3})):
        buffer = buffer_of([6], slice_len=3, storage=make(6), cache_values=trust)
        buffer.sample(3)
        row = buffer[2].clone()
        row["next", "done"] |= True
        buffer[2] = row
        firsts = set(buffer.sample(600)["item"].view(-1, 3)[:, 0].tolist())
        assert firsts == expected


def test_another_process_may_write():
    storage = LazyTensorStorage(10)
    reader = ReplayBuffer(storage=storage, sampler=SliceSampler(slice_len=2))
    writer = ReplayBuffer(storage=storage)
    writer.extend(stored([3]))
    assert set(reader.sample(100)["item"].tolist()) == {0, 1, 2}
    writer.extend(stored([4]))
    assert set(reader.sample(400)["item"].tolist()) == {0, 1, 2, 3}
    writer.extend(stored([8]))
    items = reader.sample(600)["item"].view(-1, 2)
    assert (items.diff(dim=1) == 1).all()
    assert set(items.flatten().tolist()) == set(range(8))


def test_missing_entry_is_named():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4), sampler=SliceSampler(slice_len=2))
    buffer.extend(TensorDict(a=torch.zeros(4), batch_size=[4]))
    with pytest.raises(MissingKeyError, match=r"\('next', 'done'\) is not stored"):
        buffer.sample(2)


def test_every_episode_once():
    buffer = buffer_of([4, 5, 2, 6, 4], cls=SliceSamplerWithoutReplacement, slice_len=3)
    for _ in range(3):
        buffer.batch_size = 6
        batches = [batch["episode"].view(-1, 3)[:, 0].tolist() for batch in buffer]
        assert [len(batch) for batch in batches] == [2, 2]
        assert sorted(itertools.chain(*batches)) == [0, 1, 3, 4]
    buffer = buffer_of(
        [4, 5, 2, 6], cls=SliceSamplerWithoutReplacement, slice_len=3, drop_last=True, shuffle=False, batch_size=6
    )
    assert [batch["episode"][::3].tolist() for batch in buffer] == [[0, 1]]
    with pytest.raises(ValueError, match="drop_last leaves out the only batch"):
        buffer.sample(30)


def brute_force(end, at_capacity, cursor):
    """Walk every lane from its oldest row on."""
    slots, lanes = end.shape
    order = list(range(slots))
    found = []
    for lane in range(lanes):
        ends = [bool(end[slot, lane]) for slot in order]
        if cursor is not None and at_capacity:
            ends[cursor] = True
        if not at_capacity or not any(ends):
            ends[-1] = True
        stops = [slot for slot in order if ends[slot]]
        for i, stop in enumerate(stops):
            first = (stops[-1] + 1) % slots if at_capacity else 0
            start = stops[i - 1] + 1 if i else first
            found.append(((start, lane), (stop, lane), (stop - start) % slots + 1))
    return found


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 3), st.booleans(), st.booleans())
def test_find_start_stop(seed, slots, lanes, at_capacity, with_cursor):
    rng = np.random.default_rng(seed)
    end = torch.from_numpy(rng.random((slots, lanes)) < 0.3)
    cursor = int(rng.integers(slots)) if with_cursor else None
    got = find_start_stop_traj(end=end, at_capacity=at_capacity, cursor=cursor)
    rows = [(tuple(a), tuple(b), c) for a, b, c in zip(*(x.tolist() for x in got), strict=True)]
    assert rows == brute_force(end, at_capacity, cursor)


def test_find_start_stop_by_number():
    start, stop, length = find_start_stop_traj(trajectory=torch.tensor([5, 5, 7, 7, 7, 5]), at_capacity=True)
    assert start.tolist() == [[5], [2]]
    assert stop.tolist() == [[1], [4]]
    assert length.tolist() == [3, 3]
    with pytest.raises(ValueError, match="either trajectory or end"):
        find_start_stop_traj(at_capacity=True)


def test_items_may_have_batch_dimensions_of_their_own():
    done = torch.zeros(8, 3, 1, dtype=torch.bool)
    done[3] = True
    flags = TensorDict(done=done, truncated=torch.zeros_like(done), batch_size=[8, 3])
    data = TensorDict(item=torch.arange(24).view(8, 3), next=flags, batch_size=[8, 3])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(8), sampler=SliceSampler(slice_len=2))
    buffer.extend(data)
    sample = buffer.sample(8)
    assert sample["next", "truncated"].shape == (8, 3, 1)
    assert (sample["next", "truncated"].view(4, 2, 3) == torch.tensor([[False], [True]])).all()
    assert sample["index"].shape == (8, 3)
    assert (sample["item"].view(4, 2, 3).diff(dim=1) == 3).all()
