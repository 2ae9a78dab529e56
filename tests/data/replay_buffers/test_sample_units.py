"""Windows of steps around what was drawn, against a plain list of episodes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSampler,
    ReplayBuffer,
    Sequence,
    SliceSampler,
    TensorDictPrioritizedReplayBuffer,
    Transition,
)


def steps(lengths, lanes=1):
    """Episodes one after the other, the same in every lane; items number time and lane."""
    count = sum(lengths)
    done = torch.zeros(count, dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    item = torch.arange(count).unsqueeze(-1) + 1000 * torch.arange(lanes)
    td = TensorDict(item=item, next=dict(done=done.view(-1, 1, 1).expand(count, lanes, 1)), batch_size=[count, lanes])
    return td if lanes > 1 else td.squeeze(-1)


def window(lengths, time, unit, oldest):
    """The times of a window, ``None`` where there is no step, by the words of the docstring."""
    ends = list(itertools.accumulate(lengths))
    stop = next(end for end in ends if end > time)
    start = max([0, *(end for end in ends if end <= time)][-1], oldest)
    if unit.episode_boundary == "include_reset":
        start, stop = oldest, ends[-1]
    times = range(
        time - unit.burn_in * unit.dilation, time + (unit.length + unit.bootstrap) * unit.dilation, unit.dilation
    )
    valid = [start <= t < stop for t in times]
    learning = [v and time <= t < time + unit.length * unit.dilation for t, v in zip(times, valid, strict=True)]
    if unit.episode_boundary == "stop":
        kept = [i for i, v in enumerate(valid) if v]
        return [times[i] for i in kept], [True] * len(kept), [learning[i] for i in kept]
    return [min(max(t, start), stop - 1) for t in times], valid, learning


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    capacity=st.integers(1, 40),
    lanes=st.integers(1, 2),
    boundary=st.sampled_from(["pad", "stop", "include_reset"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 2), st.integers(1, 3)),
)
def test_windows_are_what_they_are_said_to_be(lengths, capacity, lanes, boundary, sizes):
    length, burn_in, bootstrap, dilation = sizes
    unit = Sequence(length, boundary, ("next", "done"), burn_in, bootstrap, dilation)
    storage = LazyTensorStorage(capacity * lanes, ndim=min(lanes, 2))
    buffer = ReplayBuffer(storage=storage, sample_unit=unit, dim_extend=0)
    for part in steps(lengths, lanes).split(3):
        buffer.extend(part)
    sample, info = buffer.sample(5, return_info=True)
    anchor, wanted = info["anchor_index"], [[], [], []]
    stored = buffer[:]["item"]
    anchors = stored[anchor] if lanes == 1 else stored[anchor.unbind(-1)]
    for item, group in itertools.groupby(anchors.tolist()):
        times, *masks = window(lengths, item % 1000, unit, max(0, sum(lengths) - capacity))
        found = [t + item // 1000 * 1000 for t in times], *masks
        again, left = divmod(len(list(group)), len(times))  # drawn several times in a row
        assert not left
        for out, values in zip(wanted, found, strict=True):
            out.extend(values * again)
    assert sample["item"].tolist() == wanted[0]
    assert sample["validity_mask"].tolist() == wanted[1]
    assert sample["learning_mask"].tolist() == wanted[2]


@pytest.mark.parametrize("reduction", ["max", "mean", "min", "median"])
@pytest.mark.parametrize("boundary", ["pad", "stop"])
def test_the_priority_of_a_window_is_that_of_its_anchor(reduction, boundary):
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=1.0,
        beta=1.0,
        storage=LazyTensorStorage(20),
        sample_unit=Sequence(3, boundary, burn_in=1),
        reduction=reduction,
        batch_size=16,
    )
    buffer.extend(steps([6, 6]))
    sample = buffer.sample()
    assert sample["priority_weight"].shape == sample.batch_size
    sample["td_error"] = sample["item"] + torch.rand(len(sample))
    buffer.update_tensordict_priority(sample)
    for anchor in sample["anchor_index"].unique().tolist():
        mine = (sample["anchor_index"] == anchor) & sample["learning_mask"]
        wanted = getattr(sample["td_error"][mine].double().numpy(), reduction, None)
        wanted = sample["td_error"][mine].double().quantile(0.5) if wanted is None else wanted()
        assert buffer.sampler._raw[anchor] == pytest.approx(float(wanted))


def test_prefetched_windows_and_items():
    for unit, size in ((Sequence(3), 3), (Transition(), 1), (None, 1)):
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(20),
            sampler=PrioritizedSampler(20, 1.0, 1.0),
            sample_unit=unit,
            prefetch=2,
            batch_size=4,
        )
        buffer.extend(steps([6, 6]))
        for _ in range(4):
            sample, info = buffer.sample(return_info=True)
            assert sample.shape == info["priority_weight"].shape == (4 * size,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"length": 0}, r"length, dilation >= 1 .* found \(0, 1, 0, 0\)"),
        ({"length": 1, "burn_in": -1}, "burn_in, bootstrap >= 0"),
        ({"length": 1, "episode_boundary": "cut"}, r"expected \('pad', .* found cut"),
    ],
)
def test_bad_windows_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Sequence(**arguments)


def test_slices_are_windows_already():
    buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=SliceSampler(slice_len=2), sample_unit=Sequence(2))
    buffer.extend(steps([4]))
    with pytest.raises(TypeError, match=r"SliceSampler draws slices, .* or no sample_unit"):
        buffer.sample(2)
