"""Prioritized slices: starts in proportion to priority, among those that leave room."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl.data import LazyTensorStorage, PrioritizedSliceSampler, ReplayBuffer, TensorDictReplayBuffer

LENGTHS = [4, 2, 7]


def buffer_of(lengths=LENGTHS, alpha=0.8, **kwargs):
    n = sum(lengths)
    sampler = PrioritizedSliceSampler(n, alpha, 0.6, **kwargs)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(n), sampler=sampler)
    done = torch.cat([torch.arange(k) == k - 1 for k in lengths]).unsqueeze(-1)
    buffer.extend(TensorDict(item=torch.arange(n), next=TensorDict(done=done, batch_size=[n]), batch_size=[n]))
    return buffer


def test_frequencies_and_weights():
    buffer = buffer_of(slice_len=3, dtype=torch.float64)
    priority = np.random.default_rng(0).random(13) * 3 + 0.2
    buffer.update_priority(torch.arange(13), torch.from_numpy(priority))
    sample = buffer.sample(3 * 20_000).view(-1, 3)
    assert (sample["item"].diff(dim=1) == 1).all()
    starts = sample["item"][:, 0]
    valid = np.array([0, 1, 6, 7, 8, 9, 10])
    mass = priority[valid] ** 0.8
    counts = np.bincount(starts, minlength=13)
    assert counts.sum() == counts[valid].sum()
    expected = mass / mass.sum() * 20_000
    assert ((counts[valid] - expected) ** 2 / expected).sum() < 22.5  # 99.9 %, 6 degrees of freedom
    every = (priority + 1e-8) ** 0.8
    weight = (every / every.min()) ** -0.6
    for step in range(3):
        np.testing.assert_allclose(sample["priority_weight"][:, step], weight[starts])
    assert sample["next", "truncated"].squeeze(-1).tolist() == [[False, False, True]] * 20_000


def test_rare_starts_are_found_all_the_same():
    buffer = buffer_of([1] * 4000 + [3], slice_len=3)
    assert buffer.sample(6)["item"].tolist() == [4000, 4001, 4002] * 2
    with pytest.raises(RuntimeError, match="no stored episode has 4 steps"):
        buffer_of(slice_len=4, lengths=[3, 3]).sample(4)


def test_shorter_slices():
    buffer = buffer_of(slice_len=3, strict_length=False)
    sample = buffer.sample(300)
    ends = sample["next", "truncated"].squeeze(-1).nonzero().squeeze(-1) + 1
    lengths = {len(piece) for piece in sample["item"].tensor_split(ends)[:-1]}
    assert lengths == {2, 3}  # an episode of two steps, whole
    assert len(sample["priority_weight"]) == len(sample)
    padded = buffer_of(slice_len=3, strict_length=False, pad_output=True).sample(300)
    assert len(padded) == len(padded["collector", "mask"]) == 300


@pytest.mark.parametrize(
    ("span", "lengths"), [(False, {4}), ((False, True), {1, 2, 3, 4}), ((2, 0), {2, 3, 4}), (1, {3, 4})]
)
def test_span_lets_slices_extend_over_the_ends_of_an_episode(span, lengths):
    torch.manual_seed(0)
    sampler = PrioritizedSliceSampler(6, 1.0, 1.0, slice_len=4, end_key="end", span=span)
    buffer = ReplayBuffer(storage=LazyTensorStorage(6), sampler=sampler, batch_size=4)
    buffer.extend(TensorDict(item=torch.arange(6), end=torch.arange(6) == 5, batch_size=[6]))
    samples = [buffer.sample()["item"] for _ in range(100)]
    assert {len(sample) for sample in samples} == lengths
    assert all((sample.diff() == 1).all() for sample in samples)
    cut_before = {tuple(sample.tolist()) for sample in samples if len(sample) < 4 and sample[-1] < 5}
    assert all(sample[0] == 0 for sample in cut_before)


@pytest.mark.parametrize("wrong", [4, (0, 9), "yes"])
def test_span_leaves_a_step_inside(wrong):
    with pytest.raises(ValueError, match="span must leave at least one step"):
        PrioritizedSliceSampler(6, 1.0, 1.0, slice_len=4, end_key="end", span=wrong)


def test_an_episode_shorter_than_a_slice_is_returned_whole():
    torch.manual_seed(0)
    sampler = PrioritizedSliceSampler(7, 1.0, 1.0, slice_len=4, traj_key="episode", strict_length=False)
    buffer = ReplayBuffer(storage=LazyTensorStorage(7), sampler=sampler, batch_size=4)
    buffer.extend(TensorDict(episode=torch.tensor([0, 0, 1, 1, 1, 1, 1]), item=torch.arange(7), batch_size=[7]))
    drawn = {tuple(buffer.sample()["item"].tolist()) for _ in range(60)}
    assert drawn == {(0, 1), (2, 3, 4, 5), (3, 4, 5, 6)}
